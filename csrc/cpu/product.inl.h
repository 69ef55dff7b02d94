// The matrix product of the CPU scan: a tile is up to kTileRows rows times four vectors of columns,
// with its sums in registers; a strip is the tiles of some rows, in L1. Included once per ISA.
#pragma once

#include "cpu/simd.inl.h"

namespace lf::LF_ISA {

// 6 x 4 accumulators, 6 broadcasts and a weight fill 31 of 32 registers; 3 x 4 + 3 + 1 all of 16.
constexpr int kTileRows = LF_VECTOR_REGISTERS == 32 ? 6 : 3;

// Packed weights: panels of four vectors, [panel][K][4][W]. What lies past the matrix is zero.
template <class T>
constexpr int64_t kPanel = 4 * Vec<T>::kWidth;

// Terms that one chain of additions takes in. Longer chains lose accuracy: with 4096 terms in one
// chain a gradient was 1.4 times further off than the one rule of the tests allows. It is also the
// block of K for which a panel stays in L1 (16 KiB on AVX2; on AVX-512 twice that, but its tiles
// read half as many bytes per product) while the rows of a strip pass by.
constexpr int64_t kChain = 128;

// What products leave for the code around them: up to so many rows of four vectors, in L1.
constexpr int64_t kStripRows = 66;
static_assert(kStripRows % kTileRows == 0);
template <class T>
struct alignas(64) Strip {
  T at[kStripRows][4][Vec<T>::kWidth];
};

// Rows of the left side of a product, one stride after the other. A functor: the target pragma does
// not reach the body of a lambda.
template <class T>
struct RowsAt {
  const T* first;
  int64_t stride;
  LF_FN const T* operator()(int64_t r) const { return first + r * stride; }
};

// The right side of a product: row k is the first vectors at b + k * step.
template <class T>
struct Right {
  const T* b;
  int64_t K;
  int64_t step = kPanel<T>;
};

template <class T, int R, int J>
struct Sums {
  Vec<T> at[R][J];

  // at += a b; element k of row r of a is a[r][k * kStep]. Meanwhile brings a line per k from
  // `ahead` on closer.
  template <int kStep>
  LF_FN void add(const T* const (&a)[R], const Right<T>& right, const T*& ahead) {
    using V = Vec<T>;
    const T* b = right.b;
    const T* rows[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) rows[r] = a[r];
#pragma GCC unroll 4
    for (int64_t k = 0; k < right.K; ++k, b += right.step, ahead += 64 / sizeof(T)) {
      if constexpr (R > 1) __builtin_prefetch(ahead);
      V x[R];
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) x[r] = V(rows[r][k * kStep]);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) {
        const V w = V::load(b + j * V::kWidth);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) at[r][j] = fma(x[r], w, at[r][j]);
      }
    }
  }

  LF_FN void store(T* out, bool add) const {
    using V = Vec<T>;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) {
        T* const to = out + r * kPanel<T> + j * V::kWidth;
        (add ? at[r][j] + V::load(to) : at[r][j]).store(to);
      }
  }
};

// out [R][4][W] = start + a b, plus out if add; at most kChain terms.
//
// A function of its own, so that the compiler has all registers for the accumulators: inlined into
// the cell's code it kept a third of them on the stack, at half the speed.
template <class T, int R, int J, int kStep>
[[gnu::noinline]] static void multiply(T* out, const T* const (&a)[R], const Right<T>& right,
                                       const T* start, bool add, const T* ahead) {
  Sums<T, R, J> sums;
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) sums.at[r][j] = Vec<T>::load(start + j * Vec<T>::kWidth);
  sums.template add<kStep>(a, right, ahead);
  sums.store(out, add);
}

// The same of two products in one chain.
template <class T, int R>
[[gnu::noinline]] static void multiply_both(T* out, const T* const (&a0)[R], const Right<T>& right0,
                                            const T* const (&a1)[R], const Right<T>& right1,
                                            const T* start) {
  Sums<T, R, 4> sums;
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sums.at[r][j] = Vec<T>::load(start + j * Vec<T>::kWidth);
  const T* ahead = right0.b;
  sums.template add<1>(a0, right0, ahead);
  sums.template add<1>(a1, right1, ahead);
  sums.store(out, false);
}

template <class T>
alignas(64) static constexpr T kZeroPanel[kPanel<T>] = {};

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

template <class T, int J, int kStep, class RowOf>
struct ProductTile {
  T* out;
  const RowOf& row_of;
  Right<T> right;
  const T* start;
  bool add;
  int64_t k0;
  const T* next;  // the block of the right side that comes next

  template <int R>
  LF_FN void run(int64_t b) const {
    const T* a[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) a[r] = row_of(b + r) + k0 * kStep;
    // A tile brings a line per k of the 4 * W * sizeof(T) / 64 that a k of the next block has.
    constexpr int64_t kLines = kPanel<T> * sizeof(T) / 64;
    const T* const ahead =
        right.step == kPanel<T> ? next + b / kTileRows % kLines * right.K * (64 / sizeof(T)) : a[0];
    multiply<T, R, J, kStep>(out + b * kPanel<T>, a, right, start, add, ahead);
  }
};

// out [rows][4][W] = start + a b, plus out if add: row_of(r) is row r of a. Blocks of K on the
// outside: read anew for each tile of rows, a panel of more than L1 cost a fifth of the speed.
template <class T, int J = 4, int kStep = 1, class RowOf>
static void multiply_strip(T* out, int64_t rows, const RowOf& row_of, const Right<T>& right,
                           const T* start = nullptr, bool add = false) {
  const int64_t blocks = right.K > kChain ? ceil_div(right.K, kChain) : 1;
  const int64_t size = ceil_div(right.K, blocks);
  for (int64_t block = 0, k0 = 0; block < blocks; ++block, k0 += size) {  // one even if K is 0
    const int64_t terms = right.K - k0 < size ? right.K - k0 : size;
    const T* const b = right.b + k0 * right.step;
    for_tiles(ProductTile<T, J, kStep, RowOf>{out, row_of, Right<T>{b, terms, right.step},
                                              start && k0 == 0 ? start : kZeroPanel<T>,
                                              add || k0 > 0, k0, b + terms * right.step},
              rows);
  }
}

// out = a w^T, plus out if add, from a row-major matrix w [rows, K] that is not worth packing:
// column l of vector j is the dot product with row j * vector_rows + l. Only the first lanes[j]
// columns exist.
template <class T, int R>
[[gnu::noinline]] static void multiply_rows(T* out, const T* const (&a)[R], const T* w,
                                            int64_t vector_rows, const int (&lanes)[4], int64_t K,
                                            bool add) {
  using V = Vec<T>;
  const int tail = int(K % V::kWidth);
  for (int j = 0; j < 4; ++j)
    for (int l = 0; l < V::kWidth; ++l) {
      const T* row = w + (j * vector_rows + l) * K;
      V dot[R];
      for (int r = 0; r < R; ++r) dot[r] = V(0);
      if (l < lanes[j]) {
        for (int64_t k = 0; k < K - tail; k += V::kWidth) {
          const V x = V::load(row + k);
#pragma GCC unroll 6
          for (int r = 0; r < R; ++r) dot[r] = fma(x, V::load(a[r] + k), dot[r]);
        }
        if (tail) {
          const V x = V::load(row + K - tail, tail);
          for (int r = 0; r < R; ++r) dot[r] = fma(x, V::load(a[r] + K - tail, tail), dot[r]);
        }
      }
      for (int r = 0; r < R; ++r) {
        T& to = out[r * kPanel<T> + j * V::kWidth + l];
        to = sum(dot[r]) + (add ? to : T(0));
      }
    }
}

template <class T, class RowOf>
struct PlainTile {
  T* out;
  const RowOf& row_of;
  const T* w;
  int64_t vector_rows, K;
  const int (&lanes)[4];
  bool add;

  template <int R>
  LF_FN void run(int64_t b) const {
    const T* a[R];
    for (int r = 0; r < R; ++r) a[r] = row_of(b + r);
    multiply_rows<T, R>(out + b * kPanel<T>, a, w, vector_rows, lanes, K, add);
  }
};

// multiply_rows for a strip.
template <class T, class RowOf>
static void multiply_plain(T* out, int64_t rows, const RowOf& row_of, const T* w,
                           int64_t vector_rows, const int (&lanes)[4], int64_t K, bool add) {
  for_tiles(PlainTile<T, RowOf>{out, row_of, w, vector_rows, K, lanes, add}, rows);
}

template <class T, class RowOf0, class RowOf1>
struct BothTile {
  T* out;
  const RowOf0& row_of0;
  const RowOf1& row_of1;
  Right<T> right0, right1;
  const T* start;

  template <int R>
  LF_FN void run(int64_t b) const {
    const T *a0[R], *a1[R];
    for (int r = 0; r < R; ++r) a0[r] = row_of0(b + r), a1[r] = row_of1(b + r);
    multiply_both<T, R>(out + b * kPanel<T>, a0, right0, a1, right1, start);
  }
};

// multiply_both for a strip.
template <class T, class RowOf0, class RowOf1>
static void multiply_both_strip(T* out, int64_t rows, const RowOf0& row_of0, const Right<T>& right0,
                                const RowOf1& row_of1, const Right<T>& right1, const T* start) {
  for_tiles(BothTile<T, RowOf0, RowOf1>{out, row_of0, row_of1, right0, right1, start}, rows);
}

}  // namespace lf::LF_ISA
