// The SIMD value type of the CPU kernels, once for every ISA, on the vector extensions of GCC and
// Clang. The including isa_*.cpp defines LF_ISA, LF_VECTOR_BYTES, LF_VECTOR_REGISTERS and the
// target, and may define
//   LF_MASKED    a struct template with masked load and store
//   LF_MAX       the larger of two vectors
//   LF_INVERSE   an approximate 1 / x
//   LF_EXTEND    16 bits a lane with zeros before them, LF_CUT the lower 16 bits of each lane
//   LF_HALF      float16 as float, LF_TO_HALF the opposite
//   LF_BFLOAT16  a struct of 16 bits with what the ISA does on it
#pragma once

#include <cstdint>
#include <cstring>

#include "common/macros.h"
#include "common/types.h"

namespace lf::LF_ISA {

template <class T>
struct FloatBits;

// kMagic = 1.5 * 2^(mantissa bits) + exponent bias: adding it rounds to an integer n and leaves
// n + bias in the low bits, which shifted into the exponent field are 2^n. Cody and Waite's split
// of ln 2 as in Cephes; n * kLn2High is exact for every n in range.
template <>
struct FloatBits<float> {
  typedef float Vector __attribute__((vector_size(LF_VECTOR_BYTES)));
  using Bits = uint32_t;
  typedef int32_t IntVector __attribute__((vector_size(LF_VECTOR_BYTES)));
  static constexpr int kMantissa = 23;
  static constexpr float kMagic = 12582912.f + 127.f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kLowest = -88.f;
  // Minimax on |r| <= ln2/2, relative error of expm1 1.7e-8; Taylor's takes a term more for that.
  static constexpr float kSeries[] = {0.49999997f, 0.16666542f, 0.041667204f, 0.008366647f,
                                      0.0013882497f};
};
template <>
struct FloatBits<double> {
  typedef double Vector __attribute__((vector_size(LF_VECTOR_BYTES)));
  using Bits = uint64_t;
  typedef int64_t IntVector __attribute__((vector_size(LF_VECTOR_BYTES)));
  static constexpr int kMantissa = 52;
  static constexpr double kMagic = 6755399441055744.0 + 1023.0;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kLowest = -709.;
  // Taylor's: the first term left out is below 4.2e-18.
  static constexpr double kSeries[] = {
      1. / 2,     1. / 6,      1. / 24,      1. / 120,      1. / 720,       1. / 5040,
      1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
};

// A number of 16 bits that is computed with as float.
template <DType kDType>
struct Narrow {
  uint16_t bits;
};
typedef uint16_t NarrowVector __attribute__((vector_size(LF_VECTOR_BYTES / 2)));

template <class T>
struct Vec;
template <DType kDType>
LF_FN Vec<float> widen(NarrowVector narrow);
template <DType kDType>
LF_FN NarrowVector narrow(Vec<float> x);

template <class T>
struct Vec {
  using Native = typename FloatBits<T>::Vector;
  static constexpr int kWidth = LF_VECTOR_BYTES / sizeof(T);

  Native v;

  // How many lanes `left` numbers fill.
  static LF_FN int lanes(int64_t left) {
    return left >= kWidth ? kWidth : left > 0 ? int(left) : 0;
  }

  Vec() = default;
  LF_FN Vec(Native x) : v(x) {}
  // x - {0}: the broadcast that keeps -0 and NaN.
  LF_FN explicit Vec(T x) : v(x - Native{}) {}
  LF_FN explicit Vec(int x) : v(T(x) - Native{}) {}

  static LF_FN Vec load(const T* p) {
    Vec x;
    std::memcpy(&x.v, p, sizeof x.v);
    return x;
  }
  LF_FN void store(T* p) const { std::memcpy(p, &v, sizeof v); }

  // The first n lanes; the others load as 0.
  static LF_FN Vec load(const T* p, int n) {
    if (n == kWidth) return load(p);
#ifdef LF_MASKED
    return Vec(LF_MASKED<T>::load(p, n));
#else
    Native x{};
    for (int l = 0; l < n; ++l) x[l] = p[l];
    return Vec(x);
#endif
  }
  LF_FN void store(T* p, int n) const {
    if (n == kWidth) return store(p);
#ifdef LF_MASKED
    LF_MASKED<T>::store(p, v, n);
#else
    for (int l = 0; l < n; ++l) p[l] = v[l];
#endif
  }

  template <DType kDType>
  static LF_FN Vec load(const Narrow<kDType>* p) {
    NarrowVector bits;
    std::memcpy(&bits, p, sizeof bits);
    return widen<kDType>(bits);
  }
  template <DType kDType>
  static LF_FN Vec load(const Narrow<kDType>* p, int n) {
    if (n == kWidth) return load(p);
    NarrowVector bits{};
    std::memcpy(&bits, p, n * sizeof *p);
    return widen<kDType>(bits);
  }
  // Rounds to the nearest, ties to even.
  template <DType kDType>
  LF_FN void store(Narrow<kDType>* p, int n) const {
    const NarrowVector bits = narrow<kDType>(v);
    if (n == kWidth)
      std::memcpy(p, &bits, sizeof bits);
    else
      std::memcpy(p, &bits, n * sizeof *p);
  }

#ifdef LF_BFLOAT16
  static LF_FN Vec load(const LF_BFLOAT16* p, int n = kWidth) { return LF_BFLOAT16::load(p, n); }
  // Rounds to the nearest.
  LF_FN void store(LF_BFLOAT16* p, int n = kWidth) const { LF_BFLOAT16::store(p, v, n); }
#endif
};

template <class T>
LF_FN Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return a.v + b.v;
}
template <class T>
LF_FN Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return a.v - b.v;
}
template <class T>
LF_FN Vec<T> operator-(Vec<T> a) {
  return -a.v;
}
template <class T>
LF_FN Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return a.v * b.v;
}
template <class T>
LF_FN Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return a.v / b.v;
}

// One rounding where the target has it: compilers contract this expression.
template <class T>
LF_FN Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return a.v * b.v + c.v;
}

template <class T>
LF_FN Vec<T> if_less(Vec<T> a, Vec<T> b, Vec<T> yes, Vec<T> no) {
  return a.v < b.v ? yes.v : no.v;
}

// max(x, limit) that lets NaN through: the comparison is false for it. Where the ISA file names the
// instruction, x86's gives its second operand if either is NaN.
template <class T>
LF_FN Vec<T> max_keep_nan(Vec<T> x, Vec<T> limit) {
#ifdef LF_MAX
  return Vec<T>(LF_MAX(limit.v, x.v));
#else
  return x.v < limit.v ? limit.v : x.v;
#endif
}

template <class T>
LF_FN typename FloatBits<T>::IntVector bits_of(Vec<T> x) {
  typename FloatBits<T>::IntVector bits;
  std::memcpy(&bits, &x.v, sizeof bits);
  return bits;
}
template <class T>
LF_FN Vec<T> from_bits(typename FloatBits<T>::IntVector bits) {
  Vec<T> x;
  std::memcpy(&x.v, &bits, sizeof bits);
  return x;
}
template <class T>
LF_FN Vec<T> negative_abs(Vec<T> x) {
  return from_bits<T>(bits_of(x) | bits_of(Vec<T>(T(-0.0))));
}
template <class T>
LF_FN Vec<T> copy_sign(Vec<T> x, Vec<T> sign) {
  const auto minus = bits_of(Vec<T>(T(-0.0)));
  return from_bits<T>((bits_of(x) & ~minus) | (bits_of(sign) & minus));
}

// Numbers of 16 bits as float; every one of them is a float.
template <DType kDType>
LF_FN Vec<float> widen(NarrowVector narrow) {
  static_assert(kDType == DType::bf16 || kDType == DType::f16);
  using Bits = typename FloatBits<float>::IntVector;
#ifdef LF_EXTEND
  const Bits bits = Bits(LF_EXTEND(narrow));
#else
  const Bits bits = __builtin_convertvector(narrow, Bits);
#endif
  if constexpr (kDType == DType::bf16) {
    return from_bits<float>(bits << 16);
  } else {
#ifdef LF_HALF
    return Vec<float>(LF_HALF(narrow));
#else
    // The fields where float has them, and the exponent moved by the difference of the biases; once
    // more for infinity and NaN. Of a subnormal number a normal one is made, 2^-14 too large.
    const Bits exponent = bits & 0x7c00, moved = ((bits & 0x7fff) << 13) + (112 << 23);
    const Bits more = (exponent == 0x7c00) & (112 << 23), subnormal = exponent == 0;
    const Vec<float> small = from_bits<float>(moved + (1 << 23)) - Vec<float>(0x1p-14f);
    const Bits size = (subnormal & bits_of(small)) | (~subnormal & (moved + more));
    return from_bits<float>(size | (bits & 0x8000) << 16);
#endif
  }
}

// float as 16 bits, rounded to the nearest, ties to even.
template <DType kDType>
LF_FN NarrowVector narrow(Vec<float> x) {
  using Bits = typename FloatBits<float>::IntVector;
  const Bits all = bits_of(x), size = all & 0x7fffffff, nan = size > 0x7f800000;
  Bits bits;
  if constexpr (kDType == DType::bf16) {
    const Bits number = ~nan & all, rounded = (number + 0x7fff + ((number >> 16) & 1)) >> 16;
    bits = (nan & 0x7fc0) | (~nan & rounded);
  } else {
#ifdef LF_TO_HALF
    return NarrowVector(LF_TO_HALF(x.v));
#else
    // The exponent moved by the difference of the biases, rounded where the significand ends; what
    // then has no exponent left is infinite. Subnormal numbers are rounded by a sum in which the
    // last bit counts 2^-24.
    const Bits normal = (size - (112 << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
    const Bits subnormal = bits_of(from_bits<float>(size) + Vec<float>(0.5f)) - 0x3f000000;
    const Bits small = size < 0x38800000, large = size >= 0x477ff000;
    const Bits finite = (small & subnormal) | (~small & normal);
    bits = (large & 0x7c00) | (~large & finite);
    bits = (nan & 0x7e00) | (~nan & bits);
    bits |= (all >> 16) & 0x8000;
#endif
  }
#ifdef LF_CUT
  return NarrowVector(LF_CUT(bits));
#else
  return __builtin_convertvector(bits, NarrowVector);
#endif
}

// An approximation of 1 / x from LF_INVERSE, where the ISA file has one, and a step of Newton's.
template <class T>
LF_FN Vec<T> inverse(Vec<T> x) {
#ifdef LF_INVERSE
  if constexpr (sizeof(T) == 4) {
    const Vec<T> r(LF_INVERSE(x.v));
    return r * (Vec<T>(2) - x * r);
  }
#endif
  return Vec<T>(1) / x;
}

// exp(x) = scale + scale * p, with scale = 2^n and p = expm1(r), |r| <= ln2/2; n = 0 keeps the full
// relative accuracy of expm1 near 0.
template <class T>
LF_FN void exp_pair(Vec<T> x, Vec<T>& exp_x, Vec<T>& expm1_x) {
  using Bits = FloatBits<T>;
  constexpr int kTerms = sizeof(Bits::kSeries) / sizeof(T);
  x = max_keep_nan(x, Vec<T>(Bits::kLowest));
  const Vec<T> biased = fma(x, Vec<T>(T(1.44269504088896340736)), Vec<T>(Bits::kMagic));
  const Vec<T> n = biased - Vec<T>(Bits::kMagic);
  const Vec<T> scale = from_bits<T>(bits_of(biased) << Bits::kMantissa);
  const Vec<T> r = fma(n, Vec<T>(-Bits::kLn2Low), fma(n, Vec<T>(-Bits::kLn2High), x));
  Vec<T> q(Bits::kSeries[kTerms - 1]);
#pragma GCC unroll 16
  for (int k = kTerms - 2; k >= 0; --k) q = fma(q, r, Vec<T>(Bits::kSeries[k]));
  const Vec<T> p = fma(q * r, r, r);
  exp_x = fma(scale, p, scale);
  expm1_x = fma(scale, p, scale - Vec<T>(1));
}

// Four lanes of T, whatever the width of Vec, and a 4 x 4 matrix of them.
template <class T>
struct Square {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  Four row[4];

  // Rows and columns change places.
  LF_FN void transpose() {
// __builtin_shufflevector came to GCC with 12.
#ifdef __clang__
#define LF_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
    typedef typename FloatBits<T>::Bits Lanes __attribute__((vector_size(4 * sizeof(T))));
#define LF_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Lanes{__VA_ARGS__})
#endif
    const Four a = LF_SHUFFLE(row[0], row[1], 0, 4, 1, 5);
    const Four b = LF_SHUFFLE(row[2], row[3], 0, 4, 1, 5);
    const Four c = LF_SHUFFLE(row[0], row[1], 2, 6, 3, 7);
    const Four d = LF_SHUFFLE(row[2], row[3], 2, 6, 3, 7);
    row[0] = LF_SHUFFLE(a, b, 0, 1, 4, 5);
    row[1] = LF_SHUFFLE(a, b, 2, 3, 6, 7);
    row[2] = LF_SHUFFLE(c, d, 0, 1, 4, 5);
    row[3] = LF_SHUFFLE(c, d, 2, 3, 6, 7);
#undef LF_SHUFFLE
  }
};

// out[i] = the sum of the lanes of x[i].
template <class T>
LF_FN void sums(const Vec<T> (&x)[4], T* out) {
  constexpr int W = Vec<T>::kWidth;
  if constexpr (W < 4) {
    static_assert(W == 2);
    for (int i = 0; i < 4; ++i) out[i] = x[i].v[0] + x[i].v[1];
  } else {
    using Four = typename Square<T>::Four;
    Square<T> s;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      Four part[W / 4];
      std::memcpy(part, &x[i].v, sizeof part);
      s.row[i] = part[0];
#pragma GCC unroll 4
      for (int k = 1; k < W / 4; ++k) s.row[i] += part[k];
    }
    s.transpose();
    const Four all = (s.row[0] + s.row[1]) + (s.row[2] + s.row[3]);
    std::memcpy(out, &all, sizeof all);
  }
}

}  // namespace lf::LF_ISA
