// What kernels share that run slices of a batch in groups of blocks (grid.cuh, cluster.cuh): whose
// row and cell is whose, and what the warps of a block have of the block's sums.
#pragma once

#include "cuda/lstm_fused/product.cuh"
#include "cuda/lstm_fused/scan.cuh"

namespace lf::cuda {

// What one launch runs. Grid: blocks of a group, slices of the batch, directions.
struct GridShare {
  int first_row;  // of the batch
  int first_direction;
  int turns;  // groups of kColumns rows that a slice has
};

// A group's slice of the batch, and the cell that a thread owns in each of its turns. Owner says
// which that is:
//   kColumns, kCells           batch rows at a time, and cells of a block for these
//   owns_cells()               whether the thread has one
//   unit(), column()           its hidden unit, its row within a turn
template <class Owner>
struct SliceOf {
  static constexpr int kColumns = Owner::kColumns;
  const ScanSizes& sizes;
  int direction, first_row, steps;
  int unit, column;

  __device__ __forceinline__ SliceOf(const ScanSizes& all, const GridShare& share)
      : sizes(all),
        direction(share.first_direction + int(blockIdx.z)),
        first_row(share.first_row + int(blockIdx.y) * share.turns * kColumns),
        steps(int(all.offsets ? all.offsets[all.T + 1 + first_row / kColumns] : all.T)),
        unit(Owner::unit()),
        column(Owner::column()) {}

  static __device__ __forceinline__ bool owns_cells() { return Owner::owns_cells(); }

  // Of all the batch, in the order of the direction; none before the first and after the last.
  __device__ __forceinline__ StepRows step(int n) const {
    if (n < 0 || n >= steps) return {0, 0};
    const int64_t t = direction == 1 ? steps - 1 - n : n;
    if (!sizes.offsets) return {t * sizes.B, int(sizes.B)};
    return {sizes.offsets[t], int(sizes.offsets[t + 1] - sizes.offsets[t])};
  }
  // The rows of a turn, or those of them that the step has.
  __device__ __forceinline__ StepRows rows(const StepRows& step, int turn) const {
    const int before = first_row + turn * kColumns, left = step.count - before;
    return {step.first + before, left < 0 ? 0 : left < kColumns ? left : kColumns};
  }

  // Of the thread's cell: whether there is one, and where it stands in [D, B, H], and at a step in
  // [D, N].
  __device__ __forceinline__ bool exists(int turn) const {
    return owns_cells() && unit < sizes.H && batch_row(turn) < sizes.B;
  }
  __device__ __forceinline__ bool active(const StepRows& rows) const {
    return owns_cells() && unit < sizes.H && column < rows.count;
  }
  __device__ __forceinline__ int batch_row(int turn) const {
    return first_row + turn * kColumns + column;
  }
  __device__ __forceinline__ int64_t state(int turn) const {
    return (direction * sizes.B + batch_row(turn)) * sizes.H + unit;
  }
  __device__ __forceinline__ int64_t row(const StepRows& rows) const {
    return direction * sizes.N + rows.first + column;
  }
  // Its place in tensors of steps, in registers. cuda.grid has none to spare, and takes row.
  template <class T>
  __device__ __forceinline__ CellPlace<T> cells(T* tensor, int width) const {
    return place_of_cell(sizes, direction, column, unit, tensor, width);
  }
  template <class T>
  __device__ __forceinline__ CellPlace<T> outputs(T* tensor) const {
    return place_of_output(sizes, direction, column, unit, tensor);
  }
  // Its place in [turns][kCells] of shared memory.
  static __device__ __forceinline__ int place(int turn) {
    return turn * Owner::kCells + int(threadIdx.x);
  }
};

// Hands over what a warp has of its units' sums, 8 for every two tiles, for the threads that own
// the cells: the four gates of a cell go to at(unit, column).
template <Product kProduct, int kWarpTiles, class At>
__device__ __forceinline__ void share_sums(const float (&sums)[kWarpTiles][2][kOwn<kProduct>],
                                           int lane, At at) {
#pragma unroll
  for (int half = 0; half < kWarpTiles / 2; ++half)
#pragma unroll
    for (int own = 0; own < kOwn<kProduct>; ++own)
      at(lane / 4 + half * 8, lane % 4 * kOwn<kProduct> + own) = {
          sums[2 * half][0][own], sums[2 * half][1][own], sums[2 * half + 1][0][own],
          sums[2 * half + 1][1][own]};
}

}  // namespace lf::cuda
