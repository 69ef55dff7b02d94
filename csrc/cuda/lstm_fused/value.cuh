// float as the kernels compute cells in: the primitives of common/math.h from two instructions of
// the special function unit, so that a sigmoid takes 9 instructions and a tanh 20, where the
// general ones take 50 and 90.
//
// tanh is within 2 roundings of 1 then, and within 4 of itself; on top of that come 2^-22 of
// exp(-|x|), the error of ptx::exp2.
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
__device__ __forceinline__ Value operator-(Value a) { return -a.x; }
__device__ __forceinline__ Value operator*(Value a, Value b) { return a.x * b.x; }

// exp(x) - 1 only of x >= -ln 2, which is where it is asked for: x + x^2 P(x), with P fitted for
// the least relative error, 2^-26.5.
__device__ __forceinline__ void exp_pair(Value v, Value& exp_x, Value& expm1_x) {
  const float x = v.x;
  exp_x = ptx::exp2(x * 1.44269504f);
  float p = 0.001038606627844274f;
  p = p * x + 0.008077748119831085f;
  p = p * x + 0.041579339653253555f;
  p = p * x + 0.16665342450141907f;
  p = p * x + 0.49999934434890747f;
  expm1_x = x + x * (x * p);
}
__device__ __forceinline__ Value inverse(Value v) { return ptx::reciprocal(v.x); }
__device__ __forceinline__ Value negative_abs(Value v) { return -::fabsf(v.x); }
__device__ __forceinline__ Value copy_sign(Value v, Value sign) { return ::copysignf(v.x, sign.x); }
__device__ __forceinline__ Value if_less(Value a, Value b, Value yes, Value no) {
  return a.x < b.x ? yes : no;
}

}  // namespace lf::cuda
