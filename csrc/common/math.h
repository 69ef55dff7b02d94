// Activation functions over a value type V: float, double, or a SIMD vector. A vector type brings
// its own exp, expm1, min_keep_nan and by_sign (cpu/simd.inl.h); the scalars' are here.
#pragma once

#include <cmath>

#include "common/macros.h"

namespace lf::LF_ISA {

LF_FN float exp(float x) { return ::expf(x); }
LF_FN double exp(double x) { return ::exp(x); }
LF_FN float expm1(float x) { return ::expm1f(x); }
LF_FN double expm1(double x) { return ::expm1(x); }

// min(x, limit) that lets NaN through; fminf and its like would return the limit.
LF_FN float min_keep_nan(float x, float limit) { return x > limit ? limit : x; }
LF_FN double min_keep_nan(double x, double limit) { return x > limit ? limit : x; }

// x < 0 ? negative : other.
LF_FN float by_sign(float x, float negative, float other) { return x < 0 ? negative : other; }
LF_FN double by_sign(double x, double negative, double other) { return x < 0 ? negative : other; }

// Both functions below end in "1 - something small" where they saturate, so that the last rounding,
// half an ulp of 1, is their whole error there. It matters: their derivatives are s (1 - s) and
// (1 - t)(1 + t), in which an error of t is divided by the little that is left of 1 - t.

template <class V>
LF_FN V sigmoid(V x) {
  const V e = exp(by_sign(x, x, V(0) - x)), r = V(1) / (V(1) + e);
  return by_sign(x, e * r, V(1) - e * r);
}

// Through expm1, which keeps full relative accuracy near 0: 2 sigmoid(2x) - 1 is 2.4e-5 off at
// x = 1e-3 in float. The limit keeps expm1 finite; 2 exp(-80) is below half an ulp of 1 in double.
template <class V>
LF_FN V tanh(V x) {
  const V e = expm1(min_keep_nan(V(2) * by_sign(x, V(0) - x, x), V(80))), r = V(1) / (e + V(2));
  const V t = by_sign(e - V(1), e * r, V(1) - V(2) * r);
  return by_sign(x, V(0) - t, t);
}

}  // namespace lf::LF_ISA
