// cuda.block, forward: the whole sequence of some batch rows in one block.
//
//   registers   W_hh as fragments, 16 rows a tile: (i, f) and (g, o) of 8 units, twice
//               c and h of the thread's cells; the input of the next step, on its way
//   shared      h of all units as factors, twice: a step reads one and writes the other
//   waits       one __syncthreads a step: all of h is written before anybody reads it
//
// Refuses projections and hidden sizes over block_plan.h's.
//
// Bound at H = 128 in bf16 by the instructions that a multiprocessor can issue: 501 a warp and
// step, two warps to a scheduler, 0.57 us. The products alone would be 0.24 us. As long as the GPU
// has a multiprocessor for every 8 rows, the batch does not matter. Device memory: 8 H of gates in
// and out, 4 H of c and 2 H of y are 2.8 KB a row and step.
//
// NEVER RUN ON A GPU YET. The figures are predictions.
#pragma once

#include "cuda/lstm_fused/block.cuh"

namespace lf::cuda {

template <class Cell, Product kProduct, int kBucket>
__global__ void __launch_bounds__(Block<kProduct, Pass::forward, kBucket>::kThreads, 1)
    block_forward(const __grid_constant__ ScanForward<typename Kind<kProduct>::Storage> p) {
  using Self = Block<kProduct, Pass::forward, kBucket>;
  using T = typename Self::T;
  using Factor = typename Self::Factor;
  constexpr int kCells = Self::kCells, kPitch = Self::kPlan.pitch;
  const int H = p.sizes.H, D = p.sizes.D, direction = Self::direction();
  const int steps = Self::steps_of(p.sizes);
  const int64_t first_state = Self::first_state(p.sizes);

  ptx::Shared shared;
  unsigned char* h_now = shared.take<unsigned char>(Self::kPlan.buffer);
  unsigned char* h_next = shared.take<unsigned char>(Self::kPlan.buffer);
  typename Self::Matrix w_hh;
  w_hh.load(shared, [&](int tile, int row, int k) {
    const int gate = tile % 2 * 2 + row / 8;
    const int unit = int(threadIdx.x) / 32 * 16 + tile / 2 * 8 + row % 8;
    return unit < H && k < H ? p.w_hh[direction][(gate * H + unit) * H + k] : T(0.f);
  });

  // The states at the start. Cells without a unit or a batch row hold zeros to the end: what they
  // hand on meets weights of zero, and a NaN would come through.
  Value c[kCells];
  T h[kCells];
  const int batch_rows = Self::count(int(p.sizes.B));
#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    const int64_t state = first_state + Self::column(k) * H + Self::unit(k);
    const bool exists = Self::unit(k) < H && Self::column(k) < batch_rows;
    c[k] = exists && p.c0 ? p.c0[state] : 0.f;
    h[k] = exists && p.h0 ? p.h0[state] : T(0.f);
  }
  const auto hand_on = [&](unsigned char* to) {
#pragma unroll
    for (int k = 0; k < kCells; ++k) {
      const Factor factor = Kind<kProduct>::factor(h[k]);
      reinterpret_cast<Factor*>(to + Self::column(k) * kPitch)[Self::unit(k)] = factor;
    }
    __syncthreads();
  };
  hand_on(h_now);

  const auto gates = Self::cells(p.sizes, p.gates, 4);
  const auto y = Self::outputs(p.sizes, p.y);
  const auto kept_c = p.c ? Self::cells(p.sizes, p.c, 1) : CellPlace<float>{};
  const auto active = [&](const StepRows& rows, int k) { return Self::active(p.sizes, rows, k); };
  T x[kCells][4] = {};
  const auto load_input = [&](const StepRows& rows) {
    const T* const from = gates.at(rows);
#pragma unroll
    for (int k = 0; k < kCells; ++k) {
      if (!active(rows, k)) continue;
#pragma unroll
      for (int g = 0; g < 4; ++g) x[k][g] = from[Self::away(k, 4 * H) + g * H];
    }
  };

  // The input of step n + 1 is fetched during step n, and the place where it stands during n - 1.
  StepRows rows = Self::rows(p.sizes, steps, 0), rows_next = Self::rows(p.sizes, steps, 1);
  load_input(rows);
  for (int n = 0; n < steps; ++n) {
    Sums<kProduct> sums;
#pragma unroll
    for (int k = 0; k < kCells; ++k)
#pragma unroll
      for (int g = 0; g < 4; ++g)
        Self::sum(sums, k / kOwn<kProduct> * 2 + g / 2, g % 2, k) = widen(x[k][g]);
    load_input(rows_next);
    const StepRows rows_later = Self::rows(p.sizes, steps, n + 2);

    w_hh.template multiply_add<kPitch, 0>(h_now, sums);

    // Cells without a jump, so that all of a thread's are under way at once.
    T kept[kCells][4];
#pragma unroll
    for (int k = 0; k < kCells; ++k) {
      Value gate[4], folded[4], c_new = c[k], h_wide;
#pragma unroll
      for (int g = 0; g < 4; ++g)
        gate[g] = Self::sum(sums, k / kOwn<kProduct> * 2 + g / 2, g % 2, k);
      Cell::forward(gate, c_new, h_wide, folded);
      T h_new;
      narrow(h_wide.x, h_new);
      h[k] = active(rows, k) ? h_new : h[k];
      c[k] = active(rows, k) ? c_new : c[k];
#pragma unroll
      for (int g = 0; g < 4; ++g) narrow((kFolded<T> ? folded : gate)[g].x, kept[k][g]);
    }
    T* const y_to = y.at(rows);
#pragma unroll
    for (int k = 0; k < kCells; ++k)
      if (active(rows, k)) y_to[Self::away(k, D * H)] = h[k];
    if (p.c) {
      T* const gates_to = gates.at(rows);
      float* const c_to = kept_c.at(rows);
#pragma unroll
      for (int k = 0; k < kCells; ++k) {
        if (!active(rows, k)) continue;
        c_to[Self::away(k, H)] = c[k].x;
#pragma unroll
        for (int g = 0; g < 4; ++g) gates_to[Self::away(k, 4 * H) + g * H] = kept[k][g];
      }
    }
    hand_on(h_next);

    unsigned char* const read = h_now;
    h_now = h_next, h_next = read;
    rows = rows_next, rows_next = rows_later;
  }

#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    if (Self::unit(k) >= H || Self::column(k) >= batch_rows) continue;
    const int64_t state = first_state + Self::column(k) * H + Self::unit(k);
    p.h_n[state] = h[k];
    p.c_n[state] = c[k].x;
  }
}

}  // namespace lf::cuda
