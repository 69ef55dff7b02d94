// Numbers from the host to the device as parameters of kernels: nothing is pinned, nobody waits,
// and a captured graph keeps them. A launch for every 500: a million ragged steps are 2000 of them.
#pragma once

#include "cuda/lstm_fused/dev.cuh"

namespace lf::cuda {

// 4 KB is what every launch may carry.
struct Numbers {
  static constexpr int kMost = 500;
  int64_t* to;
  int count;
  int64_t values[kMost];
};
static_assert(sizeof(Numbers) <= 4096);

static __global__ void __launch_bounds__(256) write_numbers(const __grid_constant__ Numbers p) {
  for (int k = int(threadIdx.x); k < p.count; k += 256) p.to[k] = p.values[k];
}

inline void upload(const Context& context, int64_t* to, const int64_t* from, int64_t count) {
  Numbers numbers{};
  for (int64_t at = 0; at < count; at += numbers.count) {
    numbers.to = to + at;
    numbers.count = int(count - at < Numbers::kMost ? count - at : Numbers::kMost);
    for (int k = 0; k < numbers.count; ++k) numbers.values[k] = from[at + k];
    dev::launch(context, {1, 256}, write_numbers, numbers);
  }
}

}  // namespace lf::cuda
