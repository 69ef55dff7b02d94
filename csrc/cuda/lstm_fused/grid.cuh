// What the kernels of cuda.grid share: who owns which cell, and how blocks wait for each other.
//
// A word that one block hands to another is its own flag: it says for itself whether it is there
// (grid_forward.cuh, grid_backward.cuh). That is one trip through L2, no barrier and no fence.
#pragma once

#include <algorithm>
#include <cstring>

#include "cuda/lstm_fused/grid_plan.h"
#include "cuda/lstm_fused/group.cuh"
#include "cuda/lstm_fused/memory.cuh"
#include "cuda/lstm_fused/value.cuh"

namespace lf::cuda {

// A thread's cell in each turn. With 8 columns the second half of a block's threads owns none.
template <int kUnits, int kTurnColumns>
struct GridCell {
  static constexpr int kColumns = kTurnColumns, kCells = kUnits * kColumns;
  static __device__ __forceinline__ bool owns_cells() {
    return kCells == kGridThreads || threadIdx.x < kCells;
  }
  static __device__ __forceinline__ int unit() {
    return int(blockIdx.x) * kUnits + grid_unit(int(threadIdx.x), kUnits);
  }
  static __device__ __forceinline__ int column() { return grid_column(int(threadIdx.x), kUnits); }
};

// Where the blocks of a launch stream from, and what shared memory keeps (grid_plan.h).
struct StreamedOfAll {
  unsigned char* first;  // blocks that have nothing to stream need none
  size_t block;          // bytes of a block
  int kept;
};

// kBucket: a place in kGridBuckets.
template <Product kProduct, Pass kPass, int kBucket, int kColumns = kGridColumns>
struct Group {
  using T = typename Kind<kProduct>::Storage;
  using Factor = typename Kind<kProduct>::Factor;
  static constexpr int kUnits = kGridBuckets[kBucket].units;
  using Slice = SliceOf<GridCell<kUnits, kColumns>>;
  // What it says of shared memory and what that keeps is the host's to know.
  static constexpr GridPlan kPlan =
      grid_plan(kProduct, kPass, kGridBuckets[kBucket], kColumns, kMostShared);
  using Matrix = Fragments<kProduct, kGridThreads, kPlan.slices, kPlan.held, kPlan.tiles,
                           kGridBuckets[kBucket].streams ? streamed_at_once(kPlan.tiles) : 0>;

  // Of the launch.
  static __device__ __forceinline__ int64_t group() {
    return blockIdx.y + int64_t(gridDim.y) * blockIdx.z;
  }
  static __device__ __forceinline__ Streamed streamed(const StreamedOfAll& all) {
    if (!kGridBuckets[kBucket].streams) return {nullptr, kPlan.kept};
    const int64_t block = group() * gridDim.x + blockIdx.x;
    return {reinterpret_cast<uint4*>(all.first + block * int64_t(all.block)), all.kept};
  }

  static __device__ __forceinline__ int warp() { return int(threadIdx.x) / 32; }
  static __device__ __forceinline__ int lane() { return int(threadIdx.x) % 32; }

  // What blocks hand on comes as rows of pieces of 16 bytes, of which a row has 32 * kRowPieces and
  // a thread kPieces. A warp reads 512 neighbouring bytes at once. As many warps share a row as is
  // a power of two: so all of a thread's pieces stand at known distances from its first one, and
  // ask for no arithmetic of their own, which was a third of the instructions of a step.
  static constexpr int kRowPieces = kGridBuckets[kBucket].pairs;
  static constexpr int kPieces = kPlan.pieces;
  static constexpr int kRowWarps = std::min(kRowPieces & -kRowPieces, kGridWarps);
  static constexpr int kOfRow = kRowPieces / kRowWarps;
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

  // The factors in a word that was handed on: but for the rounding to TF32 its own bits.
  static constexpr bool kRounds = kProduct == Product::tf32;
  static __device__ __forceinline__ uint32_t factors(uint32_t word) {
    if constexpr (sizeof(T) == 2) return word;
    float x;
    std::memcpy(&x, &word, sizeof x);
    return uint32_t(Kind<kProduct>::factor(x));
  }
};

// How a pass ends where blocks of a launch do not all run at once, so that some wait in vain.
struct Waiting {
  uint32_t* given_up;  // the pass's own: 0 until a thread has lost its patience
  uint32_t* alarm;     // the device's, for the host
  unsigned patience;   // looks at words that are not there
};
constexpr uint32_t kNothing = 0xffffffff;  // a NaN, or two of 16 bits

// Who waits asks whether the pass is given up: a trip through L2 after 8 looks, of which a step
// needs fewer where all goes well, and then after every 64.
constexpr unsigned kLooksBetween = 64, kLooksBefore = 8;

// After so many looks: whether to look again. Patience is counted in looks, as a clock goes on
// while the device is given to another process or stopped by a debugger.
//
// Who has lost it says so to all who wait, and the first one to the host. Then everybody goes on
// with NaN for what is not there, in this wait and in those that follow; so does a block that
// starts late, where others have overwritten what it waits for. Every block runs to its end, so no
// barrier lacks a thread and nothing that is handed on stays absent. A load that finds nothing
// costs 8 looks and a question, some 3 us: 70000 steps end in 0.2 s forward and 0.4 s backward, and
// in 15 s with 14 turns of the widest layer's five loads.
//
// That the pass is given up is asked anew in each wait: a thread that remembered it would need a
// register, which the widest kernels have not.
__device__ __forceinline__ bool look_again(const Waiting& waiting, unsigned looks) {
  if (looks % kLooksBetween) return true;
  if (ptx::poll_word(waiting.given_up)) return false;
  if (looks < waiting.patience) return true;
  if (!ptx::exchange_word(waiting.given_up, 1)) ptx::tell_host(waiting.alarm, 1);
  return false;
}

// Takes the pieces [first, first + kAtOnce) of a source once they are there.
template <int kPieces, int kAtOnce, class Source>
__device__ __forceinline__ void receive_some(int first, const Source& source,
                                             const Waiting& waiting) {
  uint32_t words[kAtOnce][4];
  const auto wanted = [&](int k) { return first + k < kPieces && source.wanted(first + k); };
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k)
    if (wanted(k)) source.poll(first + k, words[k]);
  for (unsigned looks = kLooksBetween - kLooksBefore + 1;; ++looks) {
    bool complete = true;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (wanted(k) && !source.is_there(first + k, words[k])) {
        source.poll(first + k, words[k]);
        complete = false;
      }
    if (complete) break;
    if (look_again(waiting, looks)) continue;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (wanted(k)) source.take(first + k, {kNothing, kNothing, kNothing, kNothing});
    return;
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k)
    if (wanted(k)) source.take(first + k, words[k]);
}

// All that a thread wants of a source's pieces.
template <int kPieces, class Source>
__device__ __forceinline__ void receive(const Source& source, const Waiting& waiting) {
  constexpr int kAtOnce = kPieces < kPiecesAtOnce ? kPieces : kPiecesAtOnce;
#pragma unroll
  for (int first = 0; first < kPieces; first += kAtOnce)
    receive_some<kPieces, kAtOnce>(first, source, waiting);
}

// Asks for all that a thread wants, without waiting for it; commit_copies makes a group of these.
template <int kPieces, class Source>
__device__ __forceinline__ void ask(const Source& source) {
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece)
    if (source.wanted(piece)) source.ask(piece);
}
// Whether all that was asked for, kAfter groups ago, had been handed on by then: if so it is taken,
// if not receive takes it. Only for what was asked for: in its place lies else what came before.
template <int kPieces, int kAfter, class Source>
__device__ __forceinline__ bool have_come(const Source& source) {
  ptx::wait_copies<kAfter>();
  bool all = true;
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece)
    if (source.wanted(piece)) all = source.came(piece) && all;
  return all;
}

}  // namespace lf::cuda
