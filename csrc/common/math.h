// Activation functions over a value type V: float, double, or a SIMD vector. A vector type brings
// its own exp, expm1 and min_keep_nan (cpu/simd.inl.h); the scalars' are here.
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

// exp overflows to infinity for x < -88.7 (float), and the quotient is then exactly 0.
template <class V>
LF_FN V sigmoid(V x) {
  return V(1) / (V(1) + exp(V(0) - x));
}

// Through expm1, which keeps full relative accuracy near 0: 2 sigmoid(2x) - 1 is 2.4e-5 off at
// x = 1e-3 in float. The limit keeps expm1 finite; exp(-80) is below half an ulp of 1 even in
// double.
template <class V>
LF_FN V tanh(V x) {
  const V e = expm1(min_keep_nan(V(-2) * x, V(80)));
  return (V(0) - e) / (e + V(2));
}

}  // namespace lf::LF_ISA
