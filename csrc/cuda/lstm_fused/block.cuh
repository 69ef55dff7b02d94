// What forward and backward of cuda.block share.
//
// Grid: a block for columns_of(product) rows of the batch and one direction. Blocks never wait for
// each other, and one whose longest sequence has ended is done.
//
// A warp owns 16 hidden units. A thread owns the cells of its units lane / 4 and lane / 4 + 8 and
// of kOwn neighbouring batch rows, for the whole sequence: that is where its sums come out of the
// product, so the states stay in its registers and no cell needs another thread's gates.
#pragma once

#include "cuda/lstm_fused/block_plan.h"
#include "cuda/lstm_fused/memory.cuh"
#include "cuda/lstm_fused/product.cuh"
#include "cuda/lstm_fused/scan.cuh"
#include "cuda/lstm_fused/value.cuh"

namespace lf::cuda {

// kBucket: a place in kBuckets.
template <Product kProduct, Pass kPass, int kBucket>
struct Block {
  using T = typename Kind<kProduct>::Storage;
  using Factor = typename Kind<kProduct>::Factor;
  static constexpr int kH = kBuckets[kBucket].H;  // H rounded up
  static constexpr BlockPlan kPlan = block_plan(kProduct, kPass, kBuckets[kBucket]);
  static constexpr int kThreads = kPlan.threads;
  static constexpr int kColumns = columns_of(kProduct);
  static constexpr int kCells = 2 * kOwn<kProduct>;  // of a thread
  using Matrix = Fragments<kProduct, kThreads, kPlan.slices, kPlan.held>;

  // A thread's cell k: its hidden unit, its row within the block, its sum within a tile.
  static __device__ __forceinline__ int unit(int k) {
    return int(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + k / kOwn<kProduct> * 8);
  }
  static __device__ __forceinline__ int column(int k) {
    return int(threadIdx.x % 4 * kOwn<kProduct> + k % kOwn<kProduct>);
  }
  // Is there one, and in a step of these rows? And how far is it from the thread's first in a
  // tensor: rows of a batch follow each other, `width` numbers from one to the next.
  static __device__ __forceinline__ bool active(const ScanSizes& sizes, const StepRows& rows,
                                                int k) {
    return unit(k) < sizes.H && column(k) < rows.count;
  }
  static __device__ __forceinline__ int away(int k, int width) {
    return (column(k) - column(0)) * width + (unit(k) - unit(0));
  }
  // Where the thread's first stands in tensors of steps.
  template <class U>
  static __device__ __forceinline__ CellPlace<U> cells(const ScanSizes& sizes, U* tensor,
                                                       int width) {
    return place_of_cell(sizes, direction(), column(0), unit(0), tensor, width);
  }
  template <class U>
  static __device__ __forceinline__ CellPlace<U> outputs(const ScanSizes& sizes, U* tensor) {
    return place_of_output(sizes, direction(), column(0), unit(0), tensor);
  }
  static __device__ __forceinline__ float& sum(Sums<kProduct>& sums, int tile, int half, int k) {
    return sums[tile][half][k % kOwn<kProduct>];
  }

  // The block's direction and first batch row, the first of its initial states.
  static __device__ __forceinline__ int direction() { return int(blockIdx.y); }
  static __device__ __forceinline__ int batch_row() { return int(blockIdx.x) * kColumns; }
  static __device__ __forceinline__ int64_t first_state(const ScanSizes& sizes) {
    return (direction() * sizes.B + batch_row()) * sizes.H;
  }
  // How many of so many batch rows the block has.
  static __device__ __forceinline__ int count(int rows) {
    const int left = rows - batch_row();
    return left < 0 ? 0 : left < kColumns ? left : kColumns;
  }

  static __device__ __forceinline__ int steps_of(const ScanSizes& sizes) {
    return int(sizes.offsets ? sizes.offsets[sizes.T + 1 + blockIdx.x] : sizes.T);
  }
  // The rows of the block's step n, in the order of its direction; none before the first and after
  // the last.
  static __device__ __forceinline__ StepRows rows(const ScanSizes& sizes, int steps, int n) {
    if (n < 0 || n >= steps) return {0, 0};
    const int64_t t = direction() == 1 ? steps - 1 - n : n;
    if (!sizes.offsets) return {t * sizes.B + batch_row(), count(int(sizes.B))};
    const int64_t first = sizes.offsets[t];
    return {first + batch_row(), count(int(sizes.offsets[t + 1] - first))};
  }
};

}  // namespace lf::cuda
