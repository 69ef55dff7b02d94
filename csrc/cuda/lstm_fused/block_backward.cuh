// cuda.block, backward: the gradients of the gates, from the last step to the first, in one block.
//
//   registers   the transpose of W_hh as fragments: a tile for each gate, 16 units of the output
//               dc, dh and c0 of the thread's cells; what the next step reads, on its way
//   shared      the gradients of all gates as factors, twice: a step writes one, and all read it
//   waits       one __syncthreads a step, between the two. The other copy was last read before the
//               barrier of the step before
//
// Bound at H = 128 in bf16 as forward, by 550 instructions a warp and step: 0.63 us. The columns
// are four times as many bytes of shared memory, 8 KB a warp, 0.3 us. Device memory: 22 H bytes a
// row and step.
//
// NEVER RUN ON A GPU YET. The figures are predictions.
#pragma once

#include "cuda/lstm_fused/block.cuh"

namespace lf::cuda {

template <class Cell, Product kProduct, int kBucket>
__global__ void __launch_bounds__(Block<kProduct, Pass::backward, kBucket>::kThreads, 1)
    block_backward(const __grid_constant__ ScanBackward<typename Kind<kProduct>::Storage> p) {
  using Self = Block<kProduct, Pass::backward, kBucket>;
  using T = typename Self::T;
  using Factor = typename Self::Factor;
  constexpr int kCells = Self::kCells, kPitch = Self::kPlan.pitch;
  constexpr int kSlab = Self::kH * sizeof(Factor);  // of a gate, in a row of factors
  const int H = p.sizes.H, D = p.sizes.D, direction = Self::direction();
  const int steps = Self::steps_of(p.sizes);
  const int64_t first_state = Self::first_state(p.sizes);

  ptx::Shared shared;
  unsigned char* dgates_now = shared.take<unsigned char>(Self::kPlan.buffer);
  unsigned char* dgates_before = shared.take<unsigned char>(Self::kPlan.buffer);
  typename Self::Matrix w_hh;
  w_hh.load(shared, [&](int tile, int row, int k) {
    const int out = int(threadIdx.x) / 32 * 16 + row;
    return out < H && k < H ? p.w_hh[direction][(tile * H + k) * H + out] : T(0.f);
  });

  const int batch_rows = Self::count(int(p.sizes.B));
  const auto exists = [&](int k) { return Self::unit(k) < H && Self::column(k) < batch_rows; };
  const auto state_of = [&](int k) { return first_state + Self::column(k) * H + Self::unit(k); };
  const auto active = [&](const StepRows& rows, int k) { return Self::active(p.sizes, rows, k); };

  const auto dgates = Self::cells(p.sizes, p.dgates, 4);
  const auto gates = Self::cells(p.sizes, p.gates, 4);
  const auto dys = p.dy ? Self::outputs(p.sizes, p.dy) : CellPlace<const T>{};
  const auto cs = Self::cells(p.sizes, p.c, 1);

  // c after a step; c0 for a cell that starts with the next one.
  float c0[kCells];
#pragma unroll
  for (int k = 0; k < kCells; ++k) c0[k] = exists(k) && p.c0 ? p.c0[state_of(k)] : 0.f;
  const auto load_c = [&](const StepRows& rows, float(&c)[kCells]) {
    const float* const from = cs.at(rows);
#pragma unroll
    for (int k = 0; k < kCells; ++k) c[k] = active(rows, k) ? from[Self::away(k, H)] : c0[k];
  };
  T kept[kCells][4] = {}, dy_kept[kCells] = {};
  const auto load_inputs = [&](const StepRows& rows) {
    const T* const from = gates.at(rows);
    const T* const dy = p.dy ? dys.at(rows) : nullptr;
#pragma unroll
    for (int k = 0; k < kCells; ++k) {
      if (!active(rows, k)) continue;
#pragma unroll
      for (int g = 0; g < 4; ++g) kept[k][g] = from[Self::away(k, 4 * H) + g * H];
      if (dy) dy_kept[k] = dy[Self::away(k, D * H)];
    }
  };

  // dh: what the later steps, or the caller after the last, send back. A cell that has not begun
  // keeps it, and one that has ended holds what it sends to its initial state.
  float dh[kCells];
  Value dc[kCells];
#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    dh[k] = exists(k) && p.dh_n ? widen(p.dh_n[state_of(k)]) : 0;
    dc[k] = exists(k) && p.dc_n ? p.dc_n[state_of(k)] : 0.f;
  }

  // What step n - 1 reads is fetched during step n, and the place where it stands during n + 1.
  float c[kCells], c_prev[kCells];
  StepRows rows = Self::rows(p.sizes, steps, steps - 1),
           rows_next = Self::rows(p.sizes, steps, steps - 2),
           rows_later = Self::rows(p.sizes, steps, steps - 3);
  load_inputs(rows);
  load_c(rows, c);
  load_c(rows_next, c_prev);
  for (int n = steps - 1; n >= 0; --n) {
    // Cells without a jump, so that all of a thread's are under way at once.
    T* const to = dgates.at(rows);
#pragma unroll
    for (int k = 0; k < kCells; ++k) {
      Value gate[4], dc_new = dc[k], unused;
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        gate[g] = widen(kept[k][g]);
        if (kFolded<T> && Cell::is_sigmoid(g)) gate[g] = unfold(gate[g].x);
      }
      const Value dh_all = widen(dy_kept[k]) + dh[k];
      Cell::template backward<Value>(gate, c_prev[k], c[k], dh_all, dc_new, unused);
      dc[k] = active(rows, k) ? dc_new : dc[k];
      Factor* const factors = reinterpret_cast<Factor*>(dgates_now + Self::column(k) * kPitch);
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        T gradient;
        narrow(active(rows, k) ? gate[g].x : 0.f, gradient);
        factors[g * Self::kH + Self::unit(k)] = Kind<kProduct>::factor(gradient);
        if (active(rows, k)) to[Self::away(k, 4 * H) + g * H] = gradient;
      }
      c[k] = c_prev[k];
    }
    load_inputs(rows_next);
    load_c(rows_later, c_prev);
    const StepRows rows_last = Self::rows(p.sizes, steps, n - 3);
    __syncthreads();

    Sums<kProduct> sums = {};
    w_hh.template multiply_add<kPitch, kSlab>(dgates_now, sums);
#pragma unroll
    for (int k = 0; k < kCells; ++k) {
      const int half = k / kOwn<kProduct>;
      if (active(rows, k))
        dh[k] = (Self::sum(sums, 0, half, k) + Self::sum(sums, 1, half, k)) +
                (Self::sum(sums, 2, half, k) + Self::sum(sums, 3, half, k));
    }

    unsigned char* const written = dgates_now;
    dgates_now = dgates_before, dgates_before = written;
    rows = rows_next, rows_next = rows_later, rows_later = rows_last;
  }

#pragma unroll
  for (int k = 0; k < kCells; ++k) {
    if (!exists(k)) continue;
    if (p.dh0) narrow(dh[k], p.dh0[state_of(k)]);
    p.dc0[state_of(k)] = dc[k].x;
  }
}

}  // namespace lf::cuda
