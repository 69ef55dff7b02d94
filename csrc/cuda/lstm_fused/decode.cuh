// cuda.decode: one time step of a few rows, both products and the cell in one launch.
//
//   a unit      some warps of a block (1, 2 or 4), each with a share of the terms of its four gates
//   registers   sums of the four gates of kRows rows, and what a lane has read: 16 bytes of each of
//               the unit's four rows of weights
//   shared      the sums of every warp
//   waits       one __syncthreads: the sums are there
//
// A weight is read by one lane, once for every kRows rows; x and h are small and come from L1.
// Products and sums are float32 in every dtype: nothing is rounded to TF32.
//
// Refuses more than one step, more than kDecodeMostRows rows, projections and fp64.
//
// Bound by the bytes of weights, 8 H (I + H) in 16 bits. I = H = 1024: 16.8 MB, 5.6 us from device
// memory at 3 TB/s; 3.1 us where L2 still holds them. A multiprocessor has 8 warps at least, and of
// each 4 x 512 bytes on their way: 16 KB, as much as a latency of 0.7 us needs at that bandwidth.
//
// NEVER RUN ON A GPU YET. The figures are predictions.
#pragma once

#include "cuda/lstm_fused/memory.cuh"
#include "cuda/lstm_fused/value.cuh"

namespace lf::cuda {

constexpr int kDecodeWarps = 4, kDecodeThreads = 32 * kDecodeWarps;
constexpr int kDecodeRows = 8;       // at once, or 1
constexpr int kDecodeMostRows = 16;  // beyond, a product of matrices reads the weights less often
constexpr size_t kDecodeShared = size_t(kDecodeThreads) * sizeof(float);

// Warps that share a unit, so that every multiprocessor has 8 where there are units enough.
constexpr int decode_split(int64_t units, int multiprocessors) {
  int split = 1;
  while (split < kDecodeWarps && units * split < 8 * int64_t(multiprocessors)) split *= 2;
  return split;
}

// Grid: blocks of kDecodeWarps / split units, directions, groups of kRows rows.
template <class T>
struct Decode {
  int64_t B;
  int I, H, D;
  int split;                      // warps of a unit
  const T* x;                     // [B, I]
  const T* h0;                    // [D, B, H] or nullptr: zeros
  const float* c0;                // [D, B, H] or nullptr: zeros
  const T* w_ih[kMaxDirections];  // [4, H, I]
  const T* w_hh[kMaxDirections];  // [4, H, H]
  const T* b_ih[kMaxDirections];  // [4, H] or nullptr: zeros
  const T* b_hh[kMaxDirections];  // [4, H] or nullptr: zeros
  T* y;                           // [B, D, H]
  T* h_n;                         // [D, B, H]
  float* c_n;                     // [D, B, H]
  T* gates;                       // [D, B, 4, H] activations in the kept form, if c
  float* c;                       // [D, B, H] or nullptr: no backward wanted
};

// sums[row][gate] += the products of this lane's terms: pieces of kCount, every `step`th from
// `first` on. w is the unit's row of the first gate, the others follow gate_stride elements apart.
template <int kCount, int kRows, class T>
__device__ __forceinline__ void add_terms(const T* w, int64_t gate_stride, const T* rows, int count,
                                          int terms, int first, int step, float (&sums)[kRows][4]) {
#pragma unroll 2
  for (int k = first * kCount; k < terms; k += step * kCount) {
    float weights[4][kCount];
#pragma unroll
    for (int g = 0; g < 4; ++g) load(w + g * gate_stride + k, weights[g]);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (row >= count) break;
      float factors[kCount];
      load(rows + int64_t(row) * terms + k, factors);
#pragma unroll
      for (int g = 0; g < 4; ++g)
#pragma unroll
        for (int j = 0; j < kCount; ++j) sums[row][g] += weights[g][j] * factors[j];
    }
  }
}

template <class Cell, class T, int kCount, int kRows>
__global__ void __launch_bounds__(kDecodeThreads) decode_step(const __grid_constant__ Decode<T> p) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int H = p.H, direction = int(blockIdx.y), split = p.split;
  const int units = kDecodeWarps / split, first_unit = int(blockIdx.x) * units;
  const int64_t first_row = int64_t(blockIdx.z) * kRows;
  const int rows = p.B - first_row < kRows ? int(p.B - first_row) : kRows;
  const int64_t first_state = (direction * p.B + first_row) * H;

  float sums[kRows][4] = {};
  const int unit = first_unit + warp / split;
  if (unit < H) {
    const int first = warp % split * 32 + lane, step = split * 32;
    add_terms<kCount>(p.w_ih[direction] + int64_t(unit) * p.I, int64_t(H) * p.I,
                      p.x + first_row * p.I, rows, p.I, first, step, sums);
    if (p.h0)
      add_terms<kCount>(p.w_hh[direction] + int64_t(unit) * H, int64_t(H) * H, p.h0 + first_state,
                        rows, H, first, step, sums);
  }

  // Lane k keeps the warp's sum k, of row k / 4 and gate k % 4.
  float kept = 0;
#pragma unroll
  for (int row = 0; row < kRows; ++row)
#pragma unroll
    for (int g = 0; g < 4; ++g) {
#pragma unroll
      for (int other = 16; other > 0; other /= 2)
        sums[row][g] += __shfl_xor_sync(~0u, sums[row][g], other);
      if (lane == row * 4 + g) kept = sums[row][g];
    }
  ptx::Shared shared;
  float* const all = shared.take<float>(kDecodeThreads);
  all[threadIdx.x] = kept;
  __syncthreads();

  const int own = int(threadIdx.x) / kRows, row = int(threadIdx.x) % kRows;
  const int own_unit = first_unit + own;
  if (own >= units || own_unit >= H || row >= rows) return;
  Value gate[4];
#pragma unroll
  for (int g = 0; g < 4; ++g) {
    const int at = g * H + own_unit;
    float sum = p.b_ih[direction] ? widen(p.b_ih[direction][at]) : 0.f;
    if (p.b_hh[direction]) sum += widen(p.b_hh[direction][at]);
    for (int part = 0; part < split; ++part)  // always in this order
      sum += all[(own * split + part) * 32 + row * 4 + g];
    gate[g] = sum;
  }
  const int64_t state = first_state + int64_t(row) * H + own_unit;
  Value c = p.c0 ? p.c0[state] : 0.f, h, kept_gates[4];
  Cell::forward(gate, c, h, kept_gates);
  T out;
  narrow(h.x, out);
  p.y[((first_row + row) * p.D + direction) * H + own_unit] = out;
  p.h_n[state] = out;
  p.c_n[state] = c.x;
  if (!p.c) return;
  p.c[state] = c.x;
  T* const to = p.gates + (state - own_unit) * 4 + own_unit;
#pragma unroll
  for (int g = 0; g < 4; ++g) narrow((kFolded<T> ? kept_gates : gate)[g].x, to[g * H]);
}

}  // namespace lf::cuda
