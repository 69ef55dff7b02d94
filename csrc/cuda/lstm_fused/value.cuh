// float as the kernels compute cells in: the functions of common/math.h from two instructions of
// the special function unit, 8 and 17 instructions where the general ones take 50 and 90.
//
// Their ends are those of common/math.h: where they saturate, half an ulp of 1 is the whole error.
// Elsewhere sigmoid is within 1.6 and tanh within 1.7 ulp of 1 and of the result, from an exact
// ptx::exp2; that adds its own 2^-22 of exp(-|x|).
#pragma once

#include <math.h>

#include "common/math.h"
#include "cuda/lstm_fused/ptx.cuh"

namespace lf::cuda {

struct Value {
  float x;

  Value() = default;
  __device__ __forceinline__ Value(float x) : x(x) {}
};

__device__ __forceinline__ Value operator+(Value a, Value b) { return a.x + b.x; }
__device__ __forceinline__ Value operator-(Value a, Value b) { return a.x - b.x; }
__device__ __forceinline__ Value operator*(Value a, Value b) { return a.x * b.x; }

// exp(-|x|) for scale log2(e).
__device__ __forceinline__ float exp_of_minus(Value v, float scale) {
  return ptx::exp2(-::fabsf(v.x) * scale);
}

constexpr float kLog2E = 1.44269504f;

__device__ __forceinline__ Value sigmoid(Value v) {
  const float e = exp_of_minus(v, kLog2E), small = e * ptx::reciprocal(1 + e);
  return v.x < 0 ? small : 1 - small;
}

// Near 0 by a polynomial: x + x s P(s) with s = x^2, P fitted to tanh for the least relative error,
// 2^-24.7, up to 0.55.
__device__ __forceinline__ Value tanh(Value v) {
  const float e = exp_of_minus(v, 2 * kLog2E), s = v.x * v.x;
  float p = 0.01643594168126583f;
  p = p * s - 0.052670978009700775f;
  p = p * s + 0.13320712745189667f;
  p = p * s - 0.3333294689655304f;
  const float near = v.x + v.x * (s * p), far = 1 - 2 * e * ptx::reciprocal(1 + e);
  return ::fabsf(v.x) < 0.55f ? near : ::copysignf(far, v.x);
}

}  // namespace lf::cuda
