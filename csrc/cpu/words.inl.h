// How products take the numbers S of tensors: in words that follow each other along K. Included
// once per ISA.
#pragma once

#include "common/types.h"
#include "cpu/simd.inl.h"

namespace lf::LF_ISA {

// Sums are of Value; one word of kPair numbers fills one lane of Vec<Value>, and Words all of them.
template <class S>
struct Stored {
  using Value = S;
  using Words = Vec<S>;
  static constexpr int kPair = 1;

  static LF_FN Vec<S> value(const S* number) { return Vec<S>(*number); }
  static LF_FN Words broadcast(const S* word) { return Words(*word); }
  // The first `lanes` numbers of each of kPair rows, side by side. A row that is nullptr is zero.
  template <class W>
  static LF_FN Words zip(const W* const (&rows)[kPair], int lanes) {
    return rows[0] ? Words::load(rows[0], lanes) : Words(0);
  }
};

#ifdef LF_BFLOAT16
struct Pairs {
  using Native = typename FloatBits<float>::IntVector;
  Native v;

  static LF_FN Pairs load(const LF_BFLOAT16* p) {
    Pairs x;
    std::memcpy(&x.v, p, sizeof x.v);
    return x;
  }
  // The first n numbers; the others load as 0.
  static LF_FN Pairs load(const LF_BFLOAT16* p, int n) {
    return {Native(LF_BFLOAT16::load_pairs(p, n))};
  }
  LF_FN void store(LF_BFLOAT16* p) const { std::memcpy(p, &v, sizeof v); }
};

template <>
struct Stored<LF_BFLOAT16> {
  using Value = float;
  using Words = Pairs;
  static constexpr int kPair = 2;

  static LF_FN Vec<float> value(const LF_BFLOAT16* number) {
    return from_bits<float>(int32_t(uint32_t(number->bits) << 16) - Pairs::Native{});
  }
  static LF_FN Words broadcast(const LF_BFLOAT16* word) {
    int32_t bits;
    std::memcpy(&bits, word, sizeof bits);
    return {bits - Pairs::Native{}};
  }
  // A word of which only the first number exists.
  static LF_FN Words broadcast_first(const LF_BFLOAT16* word) {
    return {int32_t(word->bits) - Pairs::Native{}};
  }
  static LF_FN Words zip(const LF_BFLOAT16* const (&rows)[kPair], int lanes) {
    // As a float a number has the bits of bfloat16 in its upper half.
    Pairs::Native half[kPair] = {};
    for (int of = 0; of < kPair; ++of)
      if (rows[of]) half[of] = bits_of(Vec<float>::load(rows[of], lanes));
    return {((half[0] >> 16) & 0xffff) | half[1]};
  }
};

// c + the products of both numbers of each pair. The instruction takes subnormal numbers, those
// below 1.2e-38, for zero.
LF_FN Vec<float> fma(Pairs a, Pairs b, Vec<float> c) { return LF_BFLOAT16::dot(c.v, a.v, b.v); }
#endif

template <class S>
using ValueOf = typename Stored<S>::Value;
template <class S>
using WordsOf = typename Stored<S>::Words;
template <class S>
using VecOf = Vec<ValueOf<S>>;
template <class S>
constexpr int kPair = Stored<S>::kPair;

// Words in K numbers.
template <class S>
LF_FN int64_t words(int64_t K) {
  return ceil_div(K, kPair<S>);
}

// K, and what its last word lacks.
template <class S>
LF_FN int64_t padded(int64_t K) {
  return words<S>(K) * kPair<S>;
}

// Calls run.run<W>() with the W in which what is of the storage type lies in memory, of a layer
// that computes in S.
template <class S, class Run>
LF_FN void with_storage(DType dtype, const Run& run) {
  if constexpr (kPair<S> == 1 && sizeof(S) == sizeof(float)) {
    if (dtype == DType::bf16) return run.template run<Narrow<DType::bf16>>();
    if (dtype == DType::f16) return run.template run<Narrow<DType::f16>>();
  }
  run.template run<S>();
}
template <class S>
LF_FN bool is_narrow(DType storage) {
  return kPair<S> == 1 && element_size(storage) < sizeof(S);
}

// Some rows of a matrix whose rows have K numbers each, as far as a block goes: as they lie, or
// widened.
template <class S, class W, int kRows, int kBlock>
struct RowsOfBlock {
  static constexpr bool kWidens = sizeof(W) < sizeof(S);
  const S* row[kRows];  // of the first of the block; nullptr: there is none
  S wide[kWidens ? kRows : 1][kWidens ? kBlock : 1];

  // w: of the first row and the first of the block; columns: from there on.
  LF_FN RowsOfBlock(const W* w, int64_t K, int rows, int64_t columns) {
    for (int i = 0; i < kRows; ++i) {
      if (i >= rows) {
        row[i] = nullptr;
      } else if constexpr (kWidens) {
        for (int k = 0; k < kBlock && k < columns; k += VecOf<S>::kWidth)
          VecOf<S>::load(w + i * K + k, VecOf<S>::lanes(columns - k)).store(wide[i] + k);
        row[i] = wide[i];
      } else {
        row[i] = w + i * K;
      }
    }
  }
};

// out[k][l] = word k of row l of a matrix whose rows have K numbers each, for the first n of the
// words of every out[k]; the others become zero. step: numbers from one k to the next. What is
// missing of a last word is zero.
//
// Four words of four rows at a time: one by one, packing took a tenth of a call with 100 rows.
template <class S, class W>
static void transpose(const W* w, int64_t K, int n, S* out, int64_t step) {
  using T = ValueOf<S>;  // as large as a word, and only moved
  constexpr int kWords = VecOf<S>::kWidth, kRows = kWords < 4 ? kWords : 4;
  constexpr int kBlock = 64 / sizeof(T) * kPair<S>;  // a cache line of each row
  for (int64_t block = 0; block < padded<S>(K); block += kBlock, out += kBlock / kPair<S> * step)
    for (int l = 0; l < kWords; l += kRows) {
      const int64_t columns = K - block < kBlock ? K - block : kBlock;
      const RowsOfBlock<S, W, kRows, kBlock> rows(w + l * K + block, K, n - l, columns);
      int64_t k = 0;  // words
      if constexpr (kRows == 4)
        for (; l + 4 <= n && (k + 4) * kPair<S> <= columns; k += 4) {
          Square<T> square;
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i)
            std::memcpy(&square.row[i], rows.row[i] + k * kPair<S>, sizeof square.row[i]);
          square.transpose();
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i)
            std::memcpy(out + (k + i) * step + l * kPair<S>, &square.row[i], sizeof square.row[i]);
        }
      for (; k * kPair<S> < columns; ++k)
        for (int i = 0; i < kRows; ++i)
          for (int of = 0; of < kPair<S>; ++of) {
            const int64_t column = k * kPair<S> + of;
            out[k * step + (l + i) * kPair<S> + of] =
                rows.row[i] && column < columns ? rows.row[i][column] : S{};
          }
    }
}

}  // namespace lf::LF_ISA
