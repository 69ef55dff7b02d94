// What the kernels of cuda.cluster share: who owns which cell, and how blocks wait for each other.
//
// Grid: the blocks of a cluster, slices of the batch, directions. Clusters never wait for each
// other, so any number of them may be launched.
//
// A set of four warps owns the cells of 16 units and 8 batch rows, a thread each.
#pragma once

#include <cstring>

#include "cuda/lstm_fused/cluster_plan.h"
#include "cuda/lstm_fused/group.cuh"
#include "cuda/lstm_fused/memory.cuh"
#include "cuda/lstm_fused/value.cuh"

namespace lf::cuda {

// A thread's cell in each turn: a warp has two rows of 16 neighbouring units.
template <int kUnits>
struct ClusterCell {
  static constexpr int kColumns = kClusterColumns, kCells = kUnits * kClusterColumns;
  static __device__ __forceinline__ bool owns_cells() { return true; }
  static __device__ __forceinline__ int unit_of_set() { return int(threadIdx.x) % kSetUnits; }
  static __device__ __forceinline__ int unit() {
    return int(blockIdx.x) * kUnits + int(threadIdx.x) / kSetThreads * kSetUnits + unit_of_set();
  }
  static __device__ __forceinline__ int column() {
    return int(threadIdx.x) % kSetThreads / kSetUnits;
  }
};

// kBucket: a place in kClusterBuckets.
template <Product kProduct, Pass kPass, int kBucket>
struct Cluster {
  using T = typename Kind<kProduct>::Storage;
  using Factor = typename Kind<kProduct>::Factor;
  static constexpr ClusterBucket kBucketOf = kClusterBuckets[kBucket];
  static constexpr int kUnits = kBucketOf.units, kWidth = kBucketOf.width;
  static constexpr ClusterPlan kPlan = cluster_plan(kProduct, kPass, kBucketOf);
  static constexpr int kThreads = kPlan.threads;
  using Matrix = Fragments<kProduct, kThreads, kPlan.slices, kPlan.held, kPlan.tiles>;
  using Cell = ClusterCell<kUnits>;
  using Slice = SliceOf<Cell>;

  static __device__ __forceinline__ int warp() { return int(threadIdx.x) / 32; }
  static __device__ __forceinline__ int lane() { return int(threadIdx.x) % 32; }
  static __device__ __forceinline__ int set() { return warp() / kSetWarps; }
  static __device__ __forceinline__ int blocks() { return int(gridDim.x); }

  // Fills memory with zeros.
  static __device__ __forceinline__ void clear(unsigned char* memory, int bytes) {
    for (int k = int(threadIdx.x); k < bytes / 16; k += kThreads)
      reinterpret_cast<uint4*>(memory)[k] = {0, 0, 0, 0};
  }

  // Batch rows that a turn has at any step.
  static __device__ __forceinline__ int batch_rows(const Slice& slice, int turn) {
    const int64_t left = slice.sizes.B - (slice.first_row + turn * kClusterColumns);
    return left < 0 ? 0 : left < kClusterColumns ? int(left) : kClusterColumns;
  }
  // Steps of a turn; in the reverse direction it begins that much before the slice's last one.
  static __device__ __forceinline__ int steps_of(const Slice& slice, int turn) {
    const ScanSizes& sizes = slice.sizes;
    if (!sizes.offsets) return slice.steps;
    return int(sizes.offsets[sizes.T + 1 + slice.first_row / kClusterColumns + turn]);
  }
};

// One of a turn's two barriers, which its exchanges use in turns: number k waits for what all
// blocks send for the k-th time.
struct Exchanges {
  uint64_t* barriers;  // [turns][2]

  __device__ __forceinline__ uint64_t* of(int turn, int k) const {
    return barriers + turn * 2 + k % 2;
  }
  // One thread, before a cluster_sync.
  __device__ __forceinline__ void init(int turn, unsigned bytes) const {
    for (int k = 0; k < 2; ++k) {
      ptx::init_barrier(of(turn, k), 1);
      ptx::arrive_expecting(of(turn, k), bytes);
    }
  }
  // All bytes of exchange k have come. Arms its barrier for as many of exchange k + 2.
  //
  // Waits without a bound: hardware starts the blocks of a cluster together, so what is awaited
  // comes, however long another process has the device or a debugger stops it. Who gave up could
  // not end: bytes on their way would meet a barrier that does not expect them, or a block whose
  // shared memory is gone.
  __device__ __forceinline__ void await(int turn, int k, unsigned bytes) const {
    uint64_t* const barrier = of(turn, k);
    const unsigned parity = unsigned(k) / 2 % 2;
    while (!ptx::phase_ended(barrier, parity)) {
    }
    if (threadIdx.x == 0) ptx::arrive_expecting(barrier, bytes);
    __syncwarp();
  }
};

}  // namespace lf::cuda
