// What the kernels of the microbenchmarks share: clocks, and waits that end. The kernels use
// wrappers of ptx.cuh only, so they also run in the SIMT machine (tests/simt/micro_check.cpp).
#pragma once

#include "cuda/lstm_fused/ptx.cuh"

namespace lf::micro {

// What a kernel says of itself. Zeros at the start.
struct Clocks {
  uint64_t nanoseconds, cycles;  // of block 0, from start to stop
  uint32_t timed_out;            // by any thread that waited in vain
};

class Stopwatch {
 public:
  __device__ __forceinline__ void start() {
    nanoseconds_ = ptx::nanoseconds();
    cycles_ = ptx::cycles();
  }
  __device__ __forceinline__ void stop(Clocks* to) const {
    const uint64_t cycles = ptx::cycles(), nanoseconds = ptx::nanoseconds();
    if (blockIdx.x || threadIdx.x) return;
    to->nanoseconds = nanoseconds - nanoseconds_;
    to->cycles = cycles - cycles_;
  }

 private:
  uint64_t nanoseconds_ = 0, cycles_ = 0;
};

// For half a second after the kernel's start. From then on waits end at once, so the kernel ends
// too, which no benchmark takes a tenth as long for.
class Patience {
 public:
  __device__ __forceinline__ Patience() : end_(ptx::cycles() + kCycles) {}

  template <class Ended>
  __device__ __forceinline__ void until(Ended ended) {
    while (!ended() && !out_) out_ = ptx::cycles() > end_;
  }
  __device__ __forceinline__ void report(Clocks* to) const {
    if (out_) ptx::publish_word(&to->timed_out, 1);
  }

 private:
  static constexpr uint64_t kCycles = 1'000'000'000;
  uint64_t end_;
  bool out_ = false;
};

// A result that the compiler must believe in, so that it leaves the work that led to it.
__device__ __forceinline__ void use(uint32_t result, Clocks* clocks) {
  if (result == 0x5ca1ab1e) ptx::publish_word(&clocks->timed_out, 2);
}

}  // namespace lf::micro
