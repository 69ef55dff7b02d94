// Kernels with a fault each, which the gate must notice.
#include <cstdio>

namespace planted {

__global__ void sound(float* x) { x[threadIdx.x] *= 2; }

__global__ void indexed(float* x, int n) {
  float kept[16] = {};
  for (int k = 0; k < n; ++k) kept[int(x[k]) % 16] += 1;
  for (int k = 0; k < 16; ++k) x[k] = kept[k];
}

// 64 sums are alive at once.
__device__ __forceinline__ void hold(float* x, int n) {
  float sum[64] = {};
  for (int i = 0; i < n; ++i)
#pragma unroll
    for (int k = 0; k < 64; ++k) sum[k] += x[64 * i + k];
#pragma unroll
  for (int k = 0; k < 64; ++k) x[64 * threadIdx.x + k] = sum[k];
}
__global__ void greedy(float* x, int n) { hold(x, n); }
// 65536 registers by 2048 threads: 32.
__global__ void __launch_bounds__(1024, 2) spilled(float* x, int n) { hold(x, n); }

__global__ void doubled(float* x) { x[threadIdx.x] *= 0.1; }
__global__ void unordered(float* x) { atomicAdd(x, float(threadIdx.x)); }
__global__ void printing(const float* x) { printf("%f\n", double(*x)); }
__global__ void halted() { __trap(); }
__global__ void sharing(float* x) {
  __shared__ float kept[512];
  kept[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = kept[511 - threadIdx.x];
}

}  // namespace planted
