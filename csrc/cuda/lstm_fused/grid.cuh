// What the kernels of cuda.grid share: who owns which cell, and how blocks hand states to each
// other.
//
// A word of a state is its own flag. The memory that states are handed on in is filled with kAbsent
// before the launch, every step has words of its own, and who finds a word that is not kAbsent has
// the state: one trip through L2, no barrier, nothing to reset.
#pragma once

#include <cstring>

#include "cuda/lstm_fused/grid_plan.h"
#include "cuda/lstm_fused/memory.cuh"
#include "cuda/lstm_fused/product.cuh"
#include "cuda/lstm_fused/scan.cuh"
#include "cuda/lstm_fused/value.cuh"

namespace lf::cuda {

// One NaN, or two of 16 bits. A state that is this very NaN is handed on as another one.
constexpr uint32_t kAbsent = 0xffffffff, kOtherNan = 0x7fff7fff;
constexpr int kAbsentByte = 0xff;

// A launch waits so long for one of its own blocks, then fails: never for ever.
constexpr uint64_t kPatience = 10'000'000'000;  // ns

// Where states are handed on: a place for every row of every direction, a multiple of 16 bytes.
struct Exchange {
  unsigned char* first;
  int64_t row, direction;  // bytes from one to the next
  bool is_y;               // it is the output itself
};

// Rows of all the batch at a time step: `count` from `first` on.
struct Step {
  int64_t first, count;
};

// kBucket: a place in kGridBuckets.
template <Product kProduct, int kBucket>
struct Group {
  using T = typename Kind<kProduct>::Storage;
  using Factor = typename Kind<kProduct>::Factor;
  static constexpr GridPlan kPlan = grid_plan(kProduct, kGridBuckets[kBucket]);
  using Matrix = Fragments<kProduct, kGridThreads, kPlan.slices, kPlan.held>;

  static __device__ __forceinline__ int warp() { return int(threadIdx.x) / 32; }
  static __device__ __forceinline__ int lane() { return int(threadIdx.x) % 32; }

  // The terms of the block's sums that this warp adds up.
  static constexpr int kTerms = kPlan.width / kGridWarps;
  static __device__ __forceinline__ int first_term() { return warp() * kTerms; }

  static __device__ __forceinline__ int first_unit() { return int(blockIdx.x) * kGridUnits; }

  // Hands this block's sums over to the threads that own the cells: sums [warp][place] of the four
  // gates.
  static __device__ __forceinline__ void share(const Sums<kProduct>& sums, float4* to) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int own = 0; own < kOwn<kProduct>; ++own) {
        const int place = grid_place(lane() / 4 + half * 8, lane() % 4 * kOwn<kProduct> + own);
        to[warp() * kGridCells + place] = {sums[2 * half][0][own], sums[2 * half][1][own],
                                           sums[2 * half + 1][0][own], sums[2 * half + 1][1][own]};
      }
  }
  // Adds up what all warps handed over, always in the same order.
  static __device__ __forceinline__ void add_up(const float4* from, Value (&gate)[4]) {
#pragma unroll
    for (int w = 0; w < kGridWarps; ++w) {
      const float4 part = from[w * kGridCells + threadIdx.x];
      gate[0] = gate[0] + part.x;
      gate[1] = gate[1] + part.y;
      gate[2] = gate[2] + part.z;
      gate[3] = gate[3] + part.w;
    }
  }

  // A thread's share of 8 rows of states: pieces of 16 bytes, of which a row of a bucket has
  // 32 * kPieces. A warp reads 512 neighbouring bytes at once.
  static constexpr int kPieces = kPlan.slices / 2;
  struct Piece {
    int row, byte;
  };
  static __device__ __forceinline__ Piece piece(int k) {
    const int chunk = k * kGridWarps + warp();
    return {chunk / kPieces, (chunk % kPieces * 32 + lane()) * 16};
  }

  // The first `rows` states of 8, from `from` on, into `to` as factors; waits until all are there.
  static __device__ __forceinline__ void receive(const unsigned char* from, int64_t stride,
                                                 int bytes, int rows, unsigned char* to) {
#pragma unroll
    for (int k = 0; k < kPieces; k += kAtOnce) receive_some(k, from, stride, bytes, rows, to);
  }

  // Hands on the state of the thread's cell. All lanes of its warp come here; `wanted` says whether
  // there is such a row, and unit may be one past the last where a piece of 16 bytes goes on.
  static __device__ __forceinline__ void hand_on(unsigned char* row, int unit, bool wanted, T h) {
    uint32_t word = 0;
    std::memcpy(&word, &h, sizeof h);
    if constexpr (sizeof(T) == 2) {  // a word is of two units, whose places are 4 apart
      const uint32_t other = __shfl_xor_sync(~0u, word, 4);
      word |= other << 16;
      wanted = wanted && unit % 2 == 0;
    }
    if (!wanted) return;
    ptx::publish_word(reinterpret_cast<uint32_t*>(row + unit * int(sizeof(T))),
                      word == kAbsent ? kOtherNan : word);
  }

 private:
  // Pieces that a thread asks for at once, each a trip through L2. Eight would be on their way with
  // the fragments in registers, and spill.
  static constexpr int kAtOnce = 4;

  static __device__ __forceinline__ void receive_some(int first, const unsigned char* from,
                                                      int64_t stride, int bytes, int rows,
                                                      unsigned char* to) {
    uint32_t words[kAtOnce][4];
    const auto wanted = [&](int k) {
      const Piece p = piece(first + k);
      return first + k < kPieces && p.row < rows && p.byte < bytes;
    };
    const auto poll = [&](int k) {
      const Piece p = piece(first + k);
      ptx::poll_words(words[k], reinterpret_cast<const uint32_t*>(from + p.row * stride + p.byte));
    };
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (wanted(k)) poll(k);
    uint64_t began = 0;
    for (unsigned tries = 1;; ++tries) {
      bool complete = true;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
        if (wanted(k) && is_absent(words[k])) {
          poll(k);
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
      if (wanted(k)) {
        const Piece p = piece(first + k);
        *reinterpret_cast<uint4*>(to + p.row * kPlan.pitch + p.byte) = {
            factors(words[k][0]), factors(words[k][1]), factors(words[k][2]), factors(words[k][3])};
      }
  }

  static __device__ __forceinline__ bool is_absent(const uint32_t (&words)[4]) {
    return words[0] == kAbsent || words[1] == kAbsent || words[2] == kAbsent || words[3] == kAbsent;
  }
  static __device__ __forceinline__ uint32_t factors(uint32_t word) {
    if constexpr (sizeof(T) == 2) return word;
    float x;
    std::memcpy(&x, &word, sizeof x);
    return Kind<kProduct>::factor(x);
  }
};

}  // namespace lf::cuda
