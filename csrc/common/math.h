// Activation functions over a value type V: float, double, or a SIMD vector. A vector type brings
// its own operators and versions of the five functions below (cpu/simd.inl.h); the scalars' are
// here.
#pragma once

#include <cmath>

#include "common/macros.h"

namespace lf::LF_ISA {

// exp(x) and exp(x) - 1 of x <= 0, each accurate relative to itself. NaN stays NaN.
LF_FN void exp_pair(float x, float& exp_x, float& expm1_x) {
  exp_x = ::expf(x), expm1_x = ::expm1f(x);
}
LF_FN void exp_pair(double x, double& exp_x, double& expm1_x) {
  exp_x = ::exp(x), expm1_x = ::expm1(x);
}

// 1 / x of 1 <= x <= 2.
LF_FN float inverse(float x) { return 1 / x; }
LF_FN double inverse(double x) { return 1 / x; }

// -|x|, and |x| with the sign of the other.
LF_FN float negative_abs(float x) { return -::fabsf(x); }
LF_FN double negative_abs(double x) { return -::fabs(x); }
LF_FN float copy_sign(float x, float sign) { return ::copysignf(x, sign); }
LF_FN double copy_sign(double x, double sign) { return ::copysign(x, sign); }

// a < b ? yes : no; false for NaN.
LF_FN float if_less(float a, float b, float yes, float no) { return a < b ? yes : no; }
LF_FN double if_less(double a, double b, double yes, double no) { return a < b ? yes : no; }

// Both functions take exponentials of negative numbers only, so nothing overflows, and end in "1 -
// something small" where they saturate, so that the last rounding, half an ulp of 1, is their whole
// error there. It matters: their derivatives are s (1 - s) and (1 - t)(1 + t), in which an error of
// t is divided by the little that is left of 1 - t.

// kept: it folded, from what is left to 1 before 1 - that is rounded. At 0 it is -1/2, which
// unfolds to the same.
template <class V>
LF_FN V sigmoid(V x, V& kept) {
  V e, unused;
  exp_pair(negative_abs(x), e, unused);
  const V small = e * inverse(V(1) + e);
  kept = copy_sign(small, -x);
  return if_less(x, V(0), small, V(1) - small);
}

// Near 0 through exp - 1, which is accurate there: 2 sigmoid(2x) - 1 is 2.4e-5 off at x = 1e-3.
template <class V>
LF_FN V tanh(V x) {
  V e, e_minus_1;
  exp_pair(V(2) * negative_abs(x), e, e_minus_1);
  const V r = inverse(V(1) + e);
  return copy_sign(if_less(e, V(0.5f), V(1) - V(2) * e * r, e_minus_1 * r), x);
}

// Storage types for which the gates of a sigmoid are kept folded.
template <class T>
constexpr bool kFolded = sizeof(T) == 2;

// A sigmoid as 16 bits should keep it: above 1/2 as what is left to 1, negative. Near 1, where
// forget gates of long memories are, bfloat16 has steps of 0.004: kept plainly, f = 0.999 became 1
// or 0.996, to the power of T in the gradients of the first steps. -0 stands for 1.
//
// Without a comparison: compilers make a jump of it, nothing can predict that one, and a number
// took 15 cycles.
template <class V>
LF_FN V fold(V s) {
  const V half(0.5f), minus = half - copy_sign(half, half - s);  // s > 1/2 ? 1 : 0
  return copy_sign(s - minus, half - minus);
}
template <class V>
LF_FN V unfold(V kept) {
  const V half(0.5f);
  return kept + (half - copy_sign(half, kept));
}

}  // namespace lf::LF_ISA
