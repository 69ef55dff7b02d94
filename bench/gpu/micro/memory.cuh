// Latency of global memory: one thread follows a chain of addresses.
#pragma once

#include "clocked.cuh"

namespace lf::micro {

// `count` nodes, a power of two, `pitch` words apart. Each names the next one by a full-period
// generator (a % 4 == 1, c odd), so the chain visits all of them in an order without pattern.
struct Chain {
  uint32_t* nodes;  // [count, pitch]
  uint32_t count, pitch;

  static __host__ __device__ uint32_t next(uint32_t at, uint32_t count) {
    return (at * 1664525u + 1013904223u) & (count - 1);
  }
};

__global__ void link(Chain p) {
  for (uint32_t at = blockIdx.x * blockDim.x + threadIdx.x; at < p.count;
       at += gridDim.x * blockDim.x)
    p.nodes[size_t(at) * p.pitch] = Chain::next(at, p.count);
}

struct Chase {
  Clocks* clocks;
  Chain chain;
  uint32_t start;
  int hops;
};

// By loads that do not ask L1.
__global__ void chase(Chase p) {
  Stopwatch watch;
  uint32_t at = p.start;
  watch.start();
  for (int hop = 0; hop < p.hops; ++hop) {
    uint32_t node[4];
    ptx::poll_words(node, p.chain.nodes + size_t(at) * p.chain.pitch);
    at = node[0];
  }
  use(at, p.clocks);
  watch.stop(p.clocks);
}

}  // namespace lf::micro
