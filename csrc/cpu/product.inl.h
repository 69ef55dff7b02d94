// The matrix product of the CPU scan: a tile is up to kTileRows rows times four vectors of columns,
// with its sums in registers; a strip is the tiles of some rows, in L1. Included once per ISA.
//
// S is what tensors hold. Factors are read as words of kPair numbers that follow each other along K
// (words.inl.h); sums are of ValueOf<S>.
#pragma once

#include "cpu/words.inl.h"

namespace lf::LF_ISA {

// 6 x 4 accumulators, 6 broadcasts and a weight fill 31 of 32 registers; 3 x 4 + 3 + 1 all of 16.
constexpr int kTileRows = LF_VECTOR_REGISTERS == 32 ? 6 : 3;

// Packed weights: panels of four vectors of columns, [panel][words of K][4][W][kPair]. What lies
// past the matrix is zero.
template <class S>
constexpr int64_t kPanel = 4 * VecOf<S>::kWidth;
// The numbers S of one word of K in a panel.
template <class S>
constexpr int64_t kWordRow = kPanel<S> * kPair<S>;

// Words that one chain of additions takes in. Longer chains lose accuracy: with 4096 terms in one
// chain a gradient was 1.4 times further off than the one rule of the tests allows. It is also the
// block of K for which a panel stays in L1 (16 KiB on AVX2; on AVX-512 twice that, but its tiles
// read half as many bytes per product) while the rows of a strip pass by.
constexpr int64_t kChain = 128;

// What products leave for the code around them: up to so many rows of four vectors, in L1.
constexpr int64_t kStripRows = 66;
static_assert(kStripRows % kTileRows == 0);
template <class S>
struct alignas(64) Strip {
  ValueOf<S> numbers[kStripRows * kPanel<S>];

  LF_FN VecOf<S> at(int64_t row, int vector) const {
    return VecOf<S>::load(numbers + row * kPanel<S> + vector * VecOf<S>::kWidth);
  }
};

// Rows of the left side of a product, one stride after the other. A functor: the target pragma does
// not reach the body of a lambda.
template <class S>
struct RowsAt {
  const S* first;
  int64_t stride;
  LF_FN const S* operator()(int64_t r) const { return first + r * stride; }
};

// The right side of a product: word k of K is the first vectors at b + k * step. far: no cache
// holds the weights that it is a part of. Where a product takes two panels, the second lies `apart`
// numbers behind.
template <class S>
struct Right {
  const S* b;
  int64_t K;
  int64_t step = kWordRow<S>;
  bool far = false;
  int64_t apart = 0;
};

// Are so many numbers, all that a step of one direction multiplies by, too many for a cache? Half
// of an L3 cache of 32 MiB; nobody has it for himself.
template <class S>
constexpr bool is_far(int64_t numbers) {
  return numbers * int64_t(sizeof(S)) >= 16 << 20;
}

// K in blocks of as many words as a chain takes in, about equally long; one even if K is 0.
template <class S>
struct Blocks {
  int64_t count, size;  // numbers of each but the last

  explicit LF_FN Blocks(int64_t K) {
    const int64_t all = words<S>(K);
    count = all > kChain ? ceil_div(all, kChain) : 1;
    size = ceil_div(all, count) * kPair<S>;
  }
  LF_FN Right<S> of(const Right<S>& right, int64_t block) const {
    const int64_t first = block * size, left = right.K - first;
    Right<S> part = right;
    part.b += first / kPair<S> * right.step;
    part.K = left < size ? left : size;
    return part;
  }
};

// Lines of the next block of a panel that a tile brings closer with every four words: 1, 2, 4 or 8,
// the fewest by which all tiles of a strip bring the whole block, and at most 4 where a cache holds
// the weights. With 16 registers a word takes 6 cycles: 4 lines for each tile of many rows filled
// the queue of misses, and backward took a tenth longer; 1 line for few rows cost forward as much.
// With 32 registers a word takes 12 to 24. 8 lines cost 3 % where a cache holds the weights and win
// up to a quarter where none does (bench/NOTES.md).
constexpr int kFewestLines = LF_VECTOR_REGISTERS == 32 ? 4 : 1, kMostLines = 8;
static_assert((kFewestLines & (kFewestLines - 1)) == 0 && kFewestLines <= 4 && kMostLines == 8);
template <class S>
constexpr int kBlockLines = kWordRow<S> * sizeof(S) / 16;
template <class S>
LF_FN int64_t lines_ahead(int64_t rows, bool far) {
  const int64_t tiles = rows < kTileRows ? 1 : rows / kTileRows;
  const int64_t wanted = ceil_div(kBlockLines<S>, tiles), most = far ? kMostLines : 4;
  return wanted < most ? wanted : most;
}

template <class S>
alignas(64) static constexpr ValueOf<S> kZeroPanels[2 * kPanel<S>] = {};

// Sums of R rows and J vectors of columns, those of one panel or of two.
template <class S, int R, int J>
struct Sums {
  using T = ValueOf<S>;
  using V = Vec<T>;
  V at[R][J];

  explicit LF_FN Sums(const T* start) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) at[r][j] = V::load(start + j * V::kWidth);
  }

  LF_FN void add(const WordsOf<S> (&x)[R], const S* b, int64_t apart) {
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) {
      const auto w = WordsOf<S>::load(b + j / 4 * apart + j % 4 * V::kWidth * kPair<S>);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) at[r][j] = fma(x[r], w, at[r][j]);
    }
  }

  LF_FN void add_word(const S* const (&rows)[R], int64_t from, const S* b, int64_t apart) {
    WordsOf<S> x[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) x[r] = Stored<S>::broadcast(rows[r] + from);
    add(x, b, apart);
  }

  // at += a b; word k of row r of a is at a[r] + k * kStep words. Meanwhile brings kLines lines per
  // four words from `ahead` on closer.
  //
  // Where four words share one line or two, they are one body. Elsewhere the loop is over single
  // words, which GCC unrolls late: of four in one body it read the weights of two rows twice.
  template <int kStep, int kLines>
  LF_FN void add(const S* const (&a)[R], const Right<S>& right, const S* ahead) {
    constexpr int64_t kApart = kStep * kPair<S>, kLine = 64 / sizeof(S);
    const S* b = right.b;
    const S* rows[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) rows[r] = a[r];
    const int64_t all = right.K / kPair<S>;
    int64_t k = 0;
    if constexpr (kLines == 1 || kLines == 2)
      for (; k + 4 <= all; k += 4, ahead += kLines * kLine) {
#pragma GCC unroll 4
        for (int word = 0; word < 4; ++word, b += right.step) {
          if (word < kLines) __builtin_prefetch(ahead + word * kLine);
          add_word(rows, (k + word) * kApart, b, right.apart);
        }
      }
#pragma GCC unroll 4
    for (; k < all; ++k, b += right.step) {
      if constexpr (kLines >= 4) __builtin_prefetch(ahead);
      if constexpr (kLines == 8) __builtin_prefetch(ahead + kLine);
      ahead += kLines / 4 * kLine;
      add_word(rows, k * kApart, b, right.apart);
    }
    if constexpr (kPair<S> > 1)
      if (right.K % kPair<S>) {
        WordsOf<S> x[R];
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) x[r] = Stored<S>::broadcast_first(rows[r] + k * kApart);
        add(x, b, right.apart);
      }
  }

  LF_FN void store(T* out, bool add) const {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) {
        T* const to = out + r * kPanel<S> + j * V::kWidth;
        (add ? at[r][j] + V::load(to) : at[r][j]).store(to);
      }
  }
};

// out [R][4][W] = start + a b, plus out if add; at most kChain words. Of one row and two panels
// [8][W].
//
// A function of its own, so that the compiler has all registers for the accumulators: inlined into
// the cell's code it kept a third of them on the stack, at half the speed.
template <class S, int R, int J, int kStep, int kLines>
[[gnu::noinline]] static void multiply(ValueOf<S>* out, const S* const (&a)[R],
                                       const Right<S>& right, const ValueOf<S>* start, bool add,
                                       const S* ahead) {
  static_assert(J <= 4 || R == 1);
  Sums<S, R, J> sums(start);
  sums.template add<kStep, kLines>(a, right, ahead);
  sums.store(out, add);
}

// The same of two products in one chain.
template <class S, int R>
[[gnu::noinline]] static void multiply_both(ValueOf<S>* out, const S* const (&a0)[R],
                                            const Right<S>& right0, const S* const (&a1)[R],
                                            const Right<S>& right1, const ValueOf<S>* start) {
  Sums<S, R, 4> sums(start);
  sums.template add<1, 0>(a0, right0, nullptr);
  sums.template add<1, 0>(a1, right1, nullptr);
  sums.store(out, false);
}

// Calls tile.run<R>(b) for the rows [0, rows), kTileRows at a time.
template <int R, class Tile>
LF_FN void for_rows_left(const Tile& tile, int64_t b, int64_t left) {
  if (left == R)
    tile.template run<R>(b);
  else if constexpr (R > 1)
    for_rows_left<R - 1>(tile, b, left);
}
template <class Tile>
static void for_tiles(const Tile& tile, int64_t rows) {
  int64_t b = 0;
  for (; b + kTileRows <= rows; b += kTileRows) tile.template run<kTileRows>(b);
  if (b < rows) for_rows_left<kTileRows - 1>(tile, b, rows - b);
}

// What is done beside a product: called with the first row and the number of rows of each tile of
// the last block of K, if there are several. A product of one block is over too soon for what is
// brought closer meanwhile to pay: at H = 32 it cost 1 %.
struct Nothing {
  LF_FN void operator()(int64_t, int64_t) const {}
};

template <class S, int J, int kStep, class RowOf, class Beside>
struct ProductTile {
  ValueOf<S>* out;
  const RowOf& row_of;
  Right<S> right;
  const ValueOf<S>* start;
  bool add;
  int64_t k0;
  const S* next;         // the block of the right side that comes next
  const Beside* beside;  // nullptr: not now
  int64_t lines;         // lines_ahead

  template <int R>
  LF_FN void run(int64_t b) const {
    const S* a[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) a[r] = row_of(b + r) + k0 * kStep;
    if (beside) (*beside)(b, R);
    // Panels of gradients are never far.
    constexpr int kMost = kStep == 1 && kBlockLines<S> > 4 ? kMostLines : 4;
    add_tile<kMost>(out + b * kPanel<S>, a, b / kTileRows);
  }

 private:
  // The rows left over bring at least four lines: a tile of theirs is soon done. Nothing is brought
  // of a matrix that is not in panels.
  template <int kLines, int R>
  LF_FN void add_tile(ValueOf<S>* to, const S* const (&a)[R], int64_t tile) const {
    constexpr int kFewest = R == kTileRows ? kFewestLines : 4;
    if constexpr (R == 1) {
      multiply<S, R, J, kStep, 0>(to, a, right, start, add, nullptr);
    } else if (kStep == 1 && right.step != kWordRow<S>) {
      multiply<S, R, J, kStep, 0>(to, a, right, start, add, nullptr);
    } else if (kLines > kFewest && lines <= kLines / 2) {
      add_tile<(kLines > kFewest ? kLines / 2 : kFewest)>(to, a, tile);
    } else {
      // kTiles tiles bring the next block, but for what is left of a block by four words; those
      // after them once more.
      constexpr int64_t kTiles = (kBlockLines<S> + kLines - 1) / kLines;
      const int64_t first = tile % kTiles * (words<S>(right.K) / 4 * kLines) * (64 / sizeof(S));
      multiply<S, R, J, kStep, kLines>(to, a, right, start, add, next + first);
    }
  }
};

// out [rows][4][W] = start + a b, plus out if add: row_of(r) is row r of a. Blocks of K on the
// outside: read anew for each tile of rows, a panel of more than L1 cost a fifth of the speed.
template <class S, int J = 4, int kStep = 1, class RowOf, class Beside = Nothing>
static void multiply_strip(ValueOf<S>* out, int64_t rows, const RowOf& row_of,
                           const Right<S>& right, const ValueOf<S>* start = nullptr,
                           bool add = false, const Beside& beside = {}) {
  const Blocks<S> blocks(right.K);
  for (int64_t block = 0; block < blocks.count; ++block) {
    const bool first = block == 0, last = block + 1 == blocks.count;
    const Right<S> now = blocks.of(right, block);
    for_tiles(
        ProductTile<S, J, kStep, RowOf, Beside>{
            out, row_of, now, start && first ? start : kZeroPanels<S>, add || !first,
            block * blocks.size, now.b + words<S>(blocks.size) * right.step,
            last && !first ? &beside : nullptr, lines_ahead<S>(rows, right.far)},
        rows);
  }
}

// out [8][W] = start + a b for one row and two panels: two streams of weights, of which memory
// brings more than of one, and eight chains of additions.
template <class S>
static void multiply_row(ValueOf<S>* out, const S* row, const Right<S>& right,
                         const ValueOf<S>* start) {
  const Blocks<S> blocks(right.K);
  Right<S> both = right;
  both.apart = kPanel<S> * padded<S>(right.K);
  for (int64_t block = 0; block < blocks.count; ++block) {
    const S* const a[1] = {row + block * blocks.size};
    multiply<S, 1, 8, 1, 0>(out, a, blocks.of(both, block), block ? kZeroPanels<S> : start,
                            block > 0, nullptr);
  }
}

// Four streams of rows of a row-major matrix: stream i has the rows i * apart on, rows[i] of them,
// at most as many as the stream before.
struct Streams {
  int64_t apart;
  int rows[4];
};

// out = a w^T, plus out if add, from a row-major matrix w [rows, K] that is not worth packing: row
// l of stream i gives number i * outs + l. Where a stream has fewer than outs rows, the numbers of
// the others become anything. A row of each stream at once: four chains of additions for each row
// of a, and four streams of weights. Four rows that follow each other are too short for the
// prefetchers: a step took a third longer, and with the weights in no cache two thirds.
template <class S, class W, int R>
[[gnu::noinline]] static void multiply_rows(ValueOf<S>* out, const S* const (&a)[R], const W* w,
                                            const Streams& streams, int64_t outs, int64_t K,
                                            bool add) {
  using V = VecOf<S>;
  using Words = WordsOf<S>;
  constexpr int kAtOnce = V::kWidth * kPair<S>;
  const int tail = int(K % kAtOnce);
  for (int l = 0; l < streams.rows[0]; ++l) {
    const W* rows[4];
    V dot[R][4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      rows[i] = w + (l < streams.rows[i] ? i * streams.apart + l : l) * K;
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) dot[r][i] = V(0);
    }
    for (int64_t k = 0; k < K - tail; k += kAtOnce) {
      Words x[R];
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) x[r] = Words::load(a[r] + k);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Words y = Words::load(rows[i] + k);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) dot[r][i] = fma(x[r], y, dot[r][i]);
      }
    }
    if (tail)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Words y = Words::load(rows[i] + K - tail, tail);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r)
          dot[r][i] = fma(Words::load(a[r] + K - tail, tail), y, dot[r][i]);
      }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      ValueOf<S> sum[4];
      sums(dot[r], sum);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        auto& to = out[r * kPanel<S> + i * outs + l];
        to = sum[i] + (add ? to : 0);
      }
    }
  }
}

template <class S, class W, class RowOf>
struct PlainTile {
  ValueOf<S>* out;
  const RowOf& row_of;
  const W* w;
  const Streams& streams;
  int64_t outs, K;
  bool add;

  template <int R>
  LF_FN void run(int64_t b) const {
    const S* a[R];
    for (int r = 0; r < R; ++r) a[r] = row_of(b + r);
    multiply_rows<S, W, R>(out + b * kPanel<S>, a, w, streams, outs, K, add);
  }
};

// multiply_rows for a strip, with the weights from row `first` of a matrix on.
template <class S, class RowOf>
struct PlainProduct {
  ValueOf<S>* out;
  int64_t rows;
  const RowOf& row_of;
  const void* w;
  int64_t first;
  const Streams& streams;
  int64_t outs, K;
  bool add;

  template <class W>
  void run() const {
    for_tiles(PlainTile<S, W, RowOf>{out, row_of, static_cast<const W*>(w) + first * K, streams,
                                     outs, K, add},
              rows);
  }
};

template <class S, class RowOf0, class RowOf1>
struct BothTile {
  ValueOf<S>* out;
  const RowOf0& row_of0;
  const RowOf1& row_of1;
  Right<S> right0, right1;
  const ValueOf<S>* start;

  template <int R>
  LF_FN void run(int64_t b) const {
    const S *a0[R], *a1[R];
    for (int r = 0; r < R; ++r) a0[r] = row_of0(b + r), a1[r] = row_of1(b + r);
    multiply_both<S, R>(out + b * kPanel<S>, a0, right0, a1, right1, start);
  }
};

// multiply_both for a strip.
template <class S, class RowOf0, class RowOf1>
static void multiply_both_strip(ValueOf<S>* out, int64_t rows, const RowOf0& row_of0,
                                const Right<S>& right0, const RowOf1& row_of1,
                                const Right<S>& right1, const ValueOf<S>* start) {
  for_tiles(BothTile<S, RowOf0, RowOf1>{out, row_of0, row_of1, right0, right1, start}, rows);
}

}  // namespace lf::LF_ISA
