// Elements in memory: widened to the type that cells compute in and back, several neighbours at
// once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "cuda/lstm_fused/ptx.cuh"

namespace lf::cuda {

// What a storage type is computed in.
template <class T>
struct StateOf {
  using Type = float;
};
template <>
struct StateOf<double> {
  using Type = double;
};
template <class T>
using State = typename StateOf<T>::Type;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ void narrow(float x, float& to) { to = x; }
__device__ __forceinline__ void narrow(double x, double& to) { to = x; }
__device__ __forceinline__ void narrow(float x, __half& to) { to = __float2half_rn(x); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16& to) { to = __float2bfloat16_rn(x); }

// kCount elements that one thread moves together; 16 bytes an instruction where they fill them.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Pack {
  T at[kCount];
};

template <int kCount, class T>
__device__ __forceinline__ void load(const T* from, State<T> (&to)[kCount]) {
  const auto pack = *reinterpret_cast<const Pack<T, kCount>*>(from);
#pragma unroll
  for (int k = 0; k < kCount; ++k) to[k] = widen(pack.at[k]);
}

template <int kCount, class T>
__device__ __forceinline__ void store(T* to, const State<T> (&from)[kCount]) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int k = 0; k < kCount; ++k) narrow(from[k], pack.at[k]);
  if constexpr (sizeof pack % 16 == 0) {
#pragma unroll
    for (int k = 0; k < int(sizeof pack / 16); ++k) {
      uint32_t words[4];
      memcpy(words, pack.at + k * int(16 / sizeof(T)), sizeof words);
      ptx::store_words(to + k * int(16 / sizeof(T)), words);
    }
  } else {
    *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
  }
}

}  // namespace lf::cuda
