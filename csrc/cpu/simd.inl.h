// The SIMD value type of the CPU kernels, once for every ISA, on the vector extensions of GCC and
// Clang. The including isa_*.cpp defines LF_ISA, LF_VECTOR_BYTES and the target, and may define
// LF_MASKED(T, W) as a struct with masked load and store of its own.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/macros.h"

namespace lf::LF_ISA {

template <class T>
struct FloatBits;

// kMagic = 1.5 * 2^(mantissa bits) + exponent bias: adding it rounds to an integer n and leaves
// n + bias in the low bits, which shifted into the exponent field are 2^n. Cody and Waite's split
// of ln 2 as in Cephes; n * kLn2High is exact for every n in range.
template <>
struct FloatBits<float> {
  typedef float Vector __attribute__((vector_size(LF_VECTOR_BYTES)));
  typedef int32_t IntVector __attribute__((vector_size(LF_VECTOR_BYTES)));
  static constexpr int kMantissa = 23, kTerms = 7;  // r^8/8! < 5.3e-9 at |r| = ln2/2
  static constexpr float kMagic = 12582912.f + 127.f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kLowest = -87.f,
                         kHighest = 89.f;  // 2^-126 is normal; 2^128 is infinity's bits
};
template <>
struct FloatBits<double> {
  typedef double Vector __attribute__((vector_size(LF_VECTOR_BYTES)));
  typedef int64_t IntVector __attribute__((vector_size(LF_VECTOR_BYTES)));
  static constexpr int kMantissa = 52, kTerms = 13;  // r^14/14! < 4.2e-18
  static constexpr double kMagic = 6755399441055744.0 + 1023.0;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kLowest = -709., kHighest = 709.9;
};

template <class T>
struct Vec {
  using Native = typename FloatBits<T>::Vector;
  static constexpr int kWidth = LF_VECTOR_BYTES / sizeof(T);

  Native v;

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

// The comparisons are false for NaN, so NaN stays.
template <class T>
LF_FN Vec<T> min_keep_nan(Vec<T> x, Vec<T> limit) {
  return x.v > limit.v ? limit.v : x.v;
}
template <class T>
LF_FN Vec<T> max_keep_nan(Vec<T> x, Vec<T> limit) {
  return x.v < limit.v ? limit.v : x.v;
}

template <class T>
LF_FN Vec<T> by_sign(Vec<T> x, Vec<T> negative, Vec<T> other) {
  return x.v < Vec<T>(0).v ? negative.v : other.v;
}

// 1/2, 1/3!, ..., 1/k!: after r, the Taylor series of expm1.
template <class T>
struct Factorials {
  T inverse[FloatBits<T>::kTerms + 1] = {};
  constexpr Factorials() {
    double f = 1;
    for (int k = 1; k <= FloatBits<T>::kTerms; ++k) inverse[k] = T(1 / (f *= k));
  }
};

// exp(x) = scale + scale * p, with scale = 2^n and p = expm1(r), |r| <= ln2/2. n = 0 keeps the full
// relative accuracy of expm1 near 0.
template <class T>
LF_FN void exp_parts(Vec<T> x, Vec<T>& scale, Vec<T>& p) {
  using Bits = FloatBits<T>;
  using Int = typename Bits::IntVector;
  constexpr Factorials<T> f;
  x = min_keep_nan(max_keep_nan(x, Vec<T>(Bits::kLowest)), Vec<T>(Bits::kHighest));
  const Vec<T> biased = fma(x, Vec<T>(T(1.44269504088896340736)), Vec<T>(Bits::kMagic));
  const Vec<T> n = biased - Vec<T>(Bits::kMagic);
  Int bits;
  std::memcpy(&bits, &biased.v, sizeof bits);
  bits <<= Bits::kMantissa;
  std::memcpy(&scale.v, &bits, sizeof bits);
  const Vec<T> r = fma(n, Vec<T>(-Bits::kLn2Low), fma(n, Vec<T>(-Bits::kLn2High), x));
  Vec<T> q(f.inverse[Bits::kTerms]);
#pragma GCC unroll 16
  for (int k = Bits::kTerms - 1; k >= 2; --k) q = fma(q, r, Vec<T>(f.inverse[k]));
  p = fma(q * r, r, r);
}

template <class T>
LF_FN Vec<T> exp(Vec<T> x) {
  Vec<T> scale, p;
  exp_parts(x, scale, p);
  return fma(scale, p, scale);
}
template <class T>
LF_FN Vec<T> expm1(Vec<T> x) {
  Vec<T> scale, p;
  exp_parts(x, scale, p);
  return fma(scale, p, scale - Vec<T>(1));
}

template <class T>
LF_FN T sum(Vec<T> x) {
  T lanes[Vec<T>::kWidth];
  x.store(lanes);
#pragma GCC unroll 8
  for (int half = Vec<T>::kWidth / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

}  // namespace lf::LF_ISA
