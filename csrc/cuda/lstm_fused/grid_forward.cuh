// cuda.grid, forward: the whole sequence in a group of blocks that hold W_hh between them.
//
//   registers   16 units' rows of W_hh as fragments, a warp the terms of its eighth of h
//               the input of the next step or rows, on its way
//   shared      h of 8 rows as factors; the sums of all warps; c of the cells that the block owns;
//               the fragments that registers do not hold
//   L2          h, from block to block
//   waits       for the words of h that the other blocks of the group hand on (grid.cuh); two
//               __syncthreads for 8 rows: h is there, and the sums are
//
// Why one copy of h is enough: a step's last read of it comes before the barrier behind the sums,
// the next write after. And of the sums: they are read before the barrier behind the next h.
//
// Refuses projections, fp64, IEEE float32, H over grid_plan.h's, and H over 16 a multiprocessor.
//
// Bound at H = 1024 in bf16, 8 rows: the trip through L2, 0.65 to 0.7 us; then 16 KB of h into
// shared memory and out again, 0.15 us; 32 products a warp, 0.15; the sums of 8 warps through
// shared memory, 0.15; the cell, 0.1: some 1.25 us a step. More rows of a group hide the trip
// behind each other's products, 0.55 us each.
//
// NEVER RUN ON A GPU YET. The figures are predictions.
#pragma once

#include "cuda/lstm_fused/grid.cuh"

namespace lf::cuda {

template <class T>
struct GridForward {
  ScanForward<T> scan;
  Exchange exchange;
  int64_t first_row;    // of the batch, of this launch
  int first_direction;  // of this launch
  int turns;            // groups of 8 rows that a slice has
};

// Grid: blocks of a group, slices, directions.
template <class Cell, Product kProduct, int kBucket>
__global__ void __launch_bounds__(kGridThreads, 1)
    grid_forward(const __grid_constant__ GridForward<typename Kind<kProduct>::Storage> p) {
  using Self = Group<kProduct, kBucket>;
  using T = typename Self::T;
  using Factor = typename Self::Factor;
  constexpr GridPlan kPlan = Self::kPlan;
  const ScanForward<T>& scan = p.scan;
  const int H = scan.sizes.H, D = scan.sizes.D;
  const int direction = p.first_direction + int(blockIdx.z);
  // The slice's rows of the batch begin here.
  const int64_t batch_row = p.first_row + int64_t(blockIdx.y) * p.turns * kGridColumns;
  const int64_t steps = scan.sizes.offsets
                            ? scan.sizes.offsets[scan.sizes.T + 1 + batch_row / kGridColumns]
                            : scan.sizes.T;

  ptx::Shared shared;
  unsigned char* const h = shared.take<unsigned char>(int(kPlan.h));
  float4* const sums_of_all = shared.take<float4>(kGridWarps * kGridCells);
  float* const c_of_all = shared.take<float>(kMostTurns * kGridCells);
  typename Self::Matrix w_hh;
  w_hh.load(shared, [&](int tile, int row, int k) {
    const int gate = tile % 2 * 2 + row / 8;
    const int unit = Self::first_unit() + tile / 2 * 8 + row % 8;
    const int term = Self::first_term() + k;
    return unit < H && term < H ? scan.w_hh[direction][(gate * H + unit) * H + term] : T(0.f);
  });

  // The thread's cell, the same place in every group of 8 rows. The second half of the threads has
  // none.
  const bool owns = threadIdx.x < kGridCells;
  const int unit = Self::first_unit() + grid_unit(int(threadIdx.x));
  const int column = grid_column(int(threadIdx.x));
  const auto state_of = [&](int turn) {
    return (direction * scan.sizes.B + batch_row + turn * kGridColumns + column) * H + unit;
  };
  for (int turn = 0; owns && turn < p.turns; ++turn) {
    const bool exists =
        unit < H && batch_row + turn * kGridColumns + column < scan.sizes.B && scan.c0;
    c_of_all[turn * kGridCells + int(threadIdx.x)] = exists ? scan.c0[state_of(turn)] : 0.f;
  }
  // Factors past H stay zero: they meet weights of zero, and a NaN would come through.
  for (int k = int(threadIdx.x); k < int(kPlan.h / 16); k += kGridThreads)
    reinterpret_cast<uint4*>(h)[k] = {0, 0, 0, 0};
  __syncthreads();

  // In the order of the direction; none before the first and after the last.
  const auto step_at = [&](int64_t n) -> Step {
    if (n < 0 || n >= steps) return {0, 0};
    const int64_t t = direction == 1 ? steps - 1 - n : n;
    if (!scan.sizes.offsets) return {t * scan.sizes.B, scan.sizes.B};
    return {scan.sizes.offsets[t], scan.sizes.offsets[t + 1] - scan.sizes.offsets[t]};
  };
  const auto rows_of = [&](const Step& step, int turn) -> StepRows {
    const int64_t before = batch_row + turn * kGridColumns, left = step.count - before;
    return {step.first + before, left < 0 ? 0 : left < kGridColumns ? int(left) : kGridColumns};
  };
  const auto active = [&](const StepRows& rows) { return unit < H && column < rows.count; };
  const auto gates_of = [&](const StepRows& rows) {
    return scan.gates + (direction * scan.sizes.N + rows.first + column) * 4 * H + unit;
  };
  const auto states_at = [&](const StepRows& rows) {
    return p.exchange.first + rows.first * p.exchange.row + direction * p.exchange.direction;
  };
  T x[4] = {T(0.f), T(0.f), T(0.f), T(0.f)};
  const auto load_input = [&](const StepRows& rows) {
    if (!owns || !active(rows)) return;
    const T* const from = gates_of(rows);
#pragma unroll
    for (int g = 0; g < 4; ++g) x[g] = from[g * H];
  };

  const int bytes = int(p.exchange.is_y ? H * sizeof(T) : p.exchange.row);  // of a state
  Step before = step_at(-1), now = step_at(0), next = step_at(1);
  load_input(rows_of(now, 0));
  for (int64_t n = 0; n < steps; ++n) {
    const Step later = step_at(n + 2);
    for (int turn = 0; turn < p.turns; ++turn) {
      const StepRows rows = rows_of(now, turn), rows_before = rows_of(before, turn);
      if (rows.count == 0) break;  // and none in the turns after it
      Value gate[4];
#pragma unroll
      for (int g = 0; g < 4; ++g) gate[g] = widen(x[g]);
      const StepRows rows_after = turn + 1 < p.turns ? rows_of(now, turn + 1) : StepRows{0, 0};
      load_input(rows_after.count > 0 ? rows_after : rows_of(next, 0));

      // Rows that go on, and behind them rows that begin.
      const int going_on = rows_before.count < rows.count ? rows_before.count : rows.count;
      for (int row = going_on; row < rows.count; ++row) {
        const int64_t state =
            (direction * scan.sizes.B + batch_row + turn * kGridColumns + row) * H;
        for (int k = int(threadIdx.x); k < H; k += kGridThreads)
          reinterpret_cast<Factor*>(h + row * kPlan.pitch)[k] =
              Kind<kProduct>::factor(scan.h0 ? scan.h0[state + k] : T(0.f));
      }
      if (going_on) Self::receive(states_at(rows_before), p.exchange.row, bytes, going_on, h);
      __syncthreads();

      Sums<kProduct> sums = {};
      w_hh.template multiply_add<kPlan.pitch, 0>(h + Self::first_term() * int(sizeof(Factor)),
                                                 sums);
      Self::share(sums, sums_of_all);
      __syncthreads();

      if (!owns) continue;
      Self::add_up(sums_of_all, gate);
      T out(0.f);
      if (active(rows)) {
        float& c = c_of_all[turn * kGridCells + int(threadIdx.x)];
        Value c_wide = c, h_wide;
        Cell::forward(gate, c_wide, h_wide);
        c = c_wide.x;
        narrow(h_wide.x, out);
      }
      Self::hand_on(states_at(rows) + column * p.exchange.row, unit,
                    column < rows.count && unit * int(sizeof(T)) < bytes, out);
      if (!active(rows)) continue;
      const float c = c_of_all[turn * kGridCells + int(threadIdx.x)];
      if (!p.exchange.is_y) scan.y[((rows.first + column) * D + direction) * H + unit] = out;
      if (batch_row + turn * kGridColumns + column >= next.count) {  // its last step
        scan.h_n[state_of(turn)] = out;
        scan.c_n[state_of(turn)] = c;
      }
      if (!scan.c) continue;
      scan.c[(direction * scan.sizes.N + rows.first + column) * H + unit] = c;
      T* const kept = gates_of(rows);
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        if (sizeof(T) == 2 && Cell::is_sigmoid(g)) gate[g] = fold(gate[g].x);
        narrow(gate[g].x, kept[g * H]);
      }
    }
    before = now, now = next, next = later;
  }
}

}  // namespace lf::cuda
