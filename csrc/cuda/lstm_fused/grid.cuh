// What the kernels of cuda.grid share: who owns which cell, and how blocks wait for each other.
//
// A word that one block hands to another is its own flag: it says for itself whether it is there
// (grid_forward.cuh, grid_backward.cuh). That is one trip through L2, no barrier and no fence.
#pragma once

#include <cstring>

#include "cuda/lstm_fused/grid_plan.h"
#include "cuda/lstm_fused/group.cuh"
#include "cuda/lstm_fused/memory.cuh"
#include "cuda/lstm_fused/value.cuh"

namespace lf::cuda {

// A thread's cell in each turn. With 8 columns the second half of a block's threads owns none.
template <int kTurnColumns>
struct GridCell {
  static constexpr int kColumns = kTurnColumns, kCells = kGridUnits * kColumns;
  static __device__ __forceinline__ bool owns_cells() {
    return kCells == kGridThreads || threadIdx.x < kCells;
  }
  static __device__ __forceinline__ int unit() {
    return int(blockIdx.x) * kGridUnits + grid_unit(int(threadIdx.x));
  }
  static __device__ __forceinline__ int column() { return grid_column(int(threadIdx.x)); }
};

// kBucket: a place in kGridBuckets.
template <Product kProduct, Pass kPass, int kBucket, int kColumns = kGridColumns>
struct Group {
  using T = typename Kind<kProduct>::Storage;
  using Factor = typename Kind<kProduct>::Factor;
  using Slice = SliceOf<GridCell<kColumns>>;
  static constexpr GridPlan kPlan = grid_plan(kProduct, kPass, kGridBuckets[kBucket], kColumns);
  using Matrix = Fragments<kProduct, kGridThreads, kPlan.slices, kPlan.held, kPlan.tiles>;

  static __device__ __forceinline__ int warp() { return int(threadIdx.x) / 32; }
  static __device__ __forceinline__ int lane() { return int(threadIdx.x) % 32; }

  // What blocks hand on comes as rows of pieces of 16 bytes, of which a row has 32 * kRowPieces and
  // a thread kPieces. A warp reads 512 neighbouring bytes at once. As many warps share a row as is
  // a power of two: so all of a thread's pieces stand at known distances from its first one, and
  // ask for no arithmetic of their own, which was a third of the instructions of a step.
  static constexpr int kRowPieces = kGridBuckets[kBucket].pairs;
  static constexpr int kPieces = kColumns / kGridWarps * kRowPieces;
  static constexpr int kRowWarps = kRowPieces & -kRowPieces, kOfRow = kRowPieces / kRowWarps;
  static_assert(kGridWarps % kRowWarps == 0);
  static __device__ __forceinline__ int first_row() { return warp() / kRowWarps; }
  static __device__ __forceinline__ int first_byte() {
    return (warp() % kRowWarps * 32 + lane()) * 16;
  }
  static constexpr LF_FN int rows_on(int piece) {
    return piece / kOfRow * (kGridWarps / kRowWarps);
  }
  static constexpr LF_FN int bytes_on(int piece) { return piece % kOfRow * kRowWarps * 512; }

  // A word of the thread's unit; in 16 bits of its unit and the next one, whose place is 4 further
  // (grid_place): then it is for the even unit to hand on. All lanes of the warp come here.
  static __device__ __forceinline__ uint32_t word_of(T value) {
    uint32_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    if constexpr (sizeof(T) == 2) word |= __shfl_xor_sync(~0u, word, 4) << 16;
    return word;
  }
  static __device__ __forceinline__ bool hands_on(int unit) {
    return sizeof(T) == 4 || unit % 2 == 0;
  }

  // Fills a buffer with zeros. Factors past H stay so: they meet weights of zero, and a NaN would
  // come through.
  static __device__ __forceinline__ void clear(unsigned char* buffer) {
    for (int k = int(threadIdx.x); k < int(kPlan.buffer / 16); k += kGridThreads)
      reinterpret_cast<uint4*>(buffer)[k] = {0, 0, 0, 0};
  }

  // The factors in a word that was handed on.
  static __device__ __forceinline__ uint32_t factors(uint32_t word) {
    if constexpr (sizeof(T) == 2) return word;
    float x;
    std::memcpy(&x, &word, sizeof x);
    return uint32_t(Kind<kProduct>::factor(x));
  }
};

// Takes the pieces [first, first + kAtOnce) of a source once they are there.
template <int kPieces, int kAtOnce, class Source>
__device__ __forceinline__ void receive_some(int first, const Source& source) {
  uint32_t words[kAtOnce][4];
  const auto wanted = [&](int k) { return first + k < kPieces && source.wanted(first + k); };
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k)
    if (wanted(k)) source.poll(first + k, words[k]);
  uint64_t began = 0;
  for (unsigned tries = 1;; ++tries) {
    bool complete = true;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (wanted(k) && !source.is_there(first + k, words[k])) {
        source.poll(first + k, words[k]);
        complete = false;
      }
    if (complete) break;
    if (tries % 4096) continue;
    const uint64_t now = ptx::nanoseconds();
    if (!began) began = now;
    if (now - began > kPatience) __trap();
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k)
    if (wanted(k)) source.take(first + k, words[k]);
}

// All that a thread wants of a source's pieces; each four are one trip through L2. Eight would be
// on their way with the fragments in registers, and spill.
template <int kPieces, class Source>
__device__ __forceinline__ void receive(const Source& source) {
  constexpr int kAtOnce = kPieces < 4 ? kPieces : 4;
#pragma unroll
  for (int first = 0; first < kPieces; first += kAtOnce)
    receive_some<kPieces, kAtOnce>(first, source);
}

}  // namespace lf::cuda
