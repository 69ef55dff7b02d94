// The CPU scan, forward. Included once per ISA.
//
// A panel of weights is one vector of hidden units with their four gates. Where a step has rows
// enough to fill tiles, it multiplies x by W_ih and h of the step before by W_hh, panel by panel,
// and the cell runs on the sums while they are in L1. A few rows would read all of W_ih for little
// work: then the input of a chunk of steps is projected at once, before these steps. With a
// projection the cell's output waits in h_cell for a third product, with W_hr.
#pragma once

#include "contract/order.h"
#include "cpu/forward_step.inl.h"
#include "cpu/plan.h"
#include "cpu/team.h"

namespace lf::LF_ISA {

// Packing reads and writes a weight once, which takes as long as some 64 rows of plain dot
// products.
constexpr int64_t kPackFromRows = 64;

// Steps with fewer rows than this have their input projected in chunks of about kChunkRows rows.
constexpr int64_t kFusedRows = 2 * kTileRows, kChunkRows = 48;
// plan.h makes a second batch slice from two tiles of rows on. Projecting a chunk writes all its
// rows, so it must have no other slice beside it.
static_assert(kFusedRows <= 2 * kTileRows);

template <class T>
struct ForwardTask {
  const LayerForward* p;
  bool packed;
  int64_t chunk;  // steps whose input is projected at once; 0: each step does it itself
  // Per direction, in the workspace:
  T* w_ih[kMaxDirections];    // packed panels of gates
  T* w_hh[kMaxDirections];    // packed panels of gates
  T* w_hr[kMaxDirections];    // packed panels of rows
  T* bias[kMaxDirections];    // [panel][4][W]: b_ih + b_hh
  T* h_cell[kMaxDirections];  // [B, H]
  T* gates[kMaxDirections];   // [chunk rows, 4, H]: if the caller wants no gates
  T* zeros;                   // [P]: the missing h0
  Barrier* barriers;
};

// Lays the task out from `base` on; returns the elements used. base may be null to measure.
template <class T>
static int64_t plan_forward(const LayerForward& p, T* base, ForwardTask<T>& task) {
  const Dims& d = p.d;
  const int64_t gate_panels = ceil_div(d.H, Vec<T>::kWidth);
  int64_t used = 0;
  task.p = &p;
  task.packed = d.N > kPackFromRows;
  task.chunk = task.packed && d.B < kFusedRows ? ceil_div(kChunkRows, d.B) : 0;
  for (int64_t i = 0; i < d.D; ++i) {
    task.w_ih[i] = take(base, used, task.packed ? gate_panels * p.I * kPanel<T> : 0);
    task.w_hh[i] = take(base, used, task.packed ? gate_panels * d.P * kPanel<T> : 0);
    task.w_hr[i] =
        take(base, used, task.packed && p.w_hr[i] ? ceil_div(d.P, kPanel<T>) * d.H * kPanel<T> : 0);
    task.bias[i] = take(base, used, gate_panels * kPanel<T>);
    task.h_cell[i] = take(base, used, p.w_hr[i] ? d.B * d.H : 0);
    task.gates[i] = take(base, used, p.c ? 0 : task.chunk * d.B * 4 * d.H);
  }
  task.zeros = take(base, used, d.P);
  return used;
}

template <class T>
static void pack_forward(const void* task_, int member, int members) {
  const ForwardTask<T>& task = *static_cast<const ForwardTask<T>*>(task_);
  const LayerForward& p = *task.p;
  const Dims& d = p.d;
  for (int64_t i = 0; i < d.D; ++i) {
    const int64_t gate_panels = ceil_div(d.H, Vec<T>::kWidth);
    const int64_t row_panels = p.w_hr[i] ? ceil_div(d.P, kPanel<T>) : 0;
    for (int64_t q = member; q < gate_panels; q += members) {
      const int64_t unit = q * Vec<T>::kWidth;
      pack_gates(static_cast<const T*>(p.w_ih[i]), d.H, p.I, unit,
                 task.w_ih[i] + q * p.I * kPanel<T>);
      pack_gates(static_cast<const T*>(p.w_hh[i]), d.H, d.P, unit,
                 task.w_hh[i] + q * d.P * kPanel<T>);
    }
    for (int64_t q = member; q < row_panels; q += members)
      pack_rows(static_cast<const T*>(p.w_hr[i]), d.P, d.H, q * kPanel<T>,
                task.w_hr[i] + q * d.H * kPanel<T>);
  }
}

// b_ih + b_hh as panels of gates, with zeros past the last unit.
template <class T>
static void add_biases(const LayerForward& p, int64_t i, T* out) {
  constexpr int W = Vec<T>::kWidth;
  const T* const b_ih = static_cast<const T*>(p.b_ih[i]);
  const T* const b_hh = static_cast<const T*>(p.b_hh[i]);
  for (int64_t unit = 0; unit < p.d.H; unit += W)
    for (int g = 0; g < 4; ++g)
      for (int l = 0; l < W; ++l) {
        const int64_t k = g * p.d.H + unit + l;
        const bool exists = unit + l < p.d.H;
        *out++ = (exists && b_ih ? b_ih[k] : T(0)) + (exists && b_hh ? b_hh[k] : T(0));
      }
}

// One member's share of one direction.
template <class T, class CellType>
static void scan_forward(const ForwardTask<T>& task, const Share& share, int64_t i) {
  const LayerForward& p = *task.p;
  const Dims& d = p.d;
  const Order order{p.offsets, d.T, i == 1};
  const int64_t units = Vec<T>::kWidth, panels = ceil_div(d.H, units);
  const int64_t unit0 = panels * share.part / share.parts * units;
  const int64_t unit1 = panels * (share.part + 1) / share.parts * units;
  const int64_t column0 = first_column<T>(d.P, share.part, share.parts);
  const int64_t column1 = first_column<T>(d.P, share.part + 1, share.parts);
  Barrier& barrier = task.barriers[share.barrier];

  const T* x = static_cast<const T*>(p.x);
  ForwardStep<T> s{};
  s.I = p.I;
  s.H = d.H;
  s.P = d.P;
  s.y_stride = d.D * d.P;
  s.packed = task.packed;
  s.projected = task.chunk > 0;
  s.bias = task.bias[i];
  s.w_ih = task.packed ? task.w_ih[i] : static_cast<const T*>(p.w_ih[i]);
  s.w_hh = task.packed ? task.w_hh[i] : static_cast<const T*>(p.w_hh[i]);
  s.w_hr = task.packed ? task.w_hr[i] : static_cast<const T*>(p.w_hr[i]);
  s.h0 = p.h0 ? static_cast<const T*>(p.h0) + i * d.B * d.P : task.zeros;
  s.h0_stride = p.h0 ? d.P : 0;
  s.c_state = static_cast<T*>(p.c_n) + i * d.B * d.H;
  s.h_n = static_cast<T*>(p.h_n) + i * d.B * d.P;
  s.h_cell = p.w_hr[i] ? task.h_cell[i] : nullptr;

  Gates<T, CellType> gates(s);
  // Where gates lie, and the row of the layer that comes first there.
  T* const kept = p.c ? static_cast<T*>(p.gates) + i * d.N * 4 * d.H : task.gates[i];
  int64_t first_row = 0;
  for (int64_t step = 0; step < d.T; ++step) {
    if (task.chunk && step % task.chunk == 0) {
      const int64_t last = (step + task.chunk < d.T ? step + task.chunk : d.T) - 1;
      const int64_t begin = p.offsets[order.reverse ? order.t(last) : step];
      const int64_t end = p.offsets[(order.reverse ? order.t(step) : last) + 1];
      if (!p.c) first_row = begin;
      s.x = x + begin * p.I;
      s.gates = kept + (begin - first_row) * 4 * d.H;
      for (int64_t b = 0, b1; b < end - begin; b = b1) {
        b1 = strip_end(b, end - begin);
        for (int64_t unit = unit0; unit < unit1; unit += units) project_input(s, b, b1, unit);
      }
    }
    const int64_t row = order.first_row(step), rows = order.rows(step);
    const int64_t b1 = rows < share.b1 ? rows : share.b1;
    s.x = x + row * p.I;
    s.y_prev =
        step ? static_cast<T*>(p.y) + order.first_row(step - 1) * s.y_stride + i * d.P : nullptr;
    s.y = static_cast<T*>(p.y) + row * s.y_stride + i * d.P;
    s.gates = !s.projected && !p.c ? nullptr : kept + (row - first_row) * 4 * d.H;
    s.c = p.c ? static_cast<T*>(p.c) + (i * d.N + row) * d.H : nullptr;
    s.continued = order.continued(step);
    s.continuing = order.continuing(step);
    s.multiply = step > 0 || p.h0;
    for (gates.b = share.b0; gates.b < b1; gates.b = gates.b1) {
      gates.b1 = strip_end(gates.b, b1);
      const int64_t at_once = kStripRows / (gates.b1 - gates.b) * units;
      for (int64_t unit = unit0; unit < unit1; unit += at_once)
        gates.run(unit, unit + at_once < unit1 ? unit + at_once : unit1, step % 2);
    }
    if (s.h_cell) {
      barrier.wait(share.parts);
      for_panels<T>(Projection<T>{s}, share.b0, b1, column0, column1);
    }
    barrier.wait(share.parts);
  }
}

template <class T, class CellType>
static void forward_member(const void* task_, int member, int members) {
  const ForwardTask<T>& task = *static_cast<const ForwardTask<T>*>(task_);
  const Share mine = share(task.p->d, kTileRows, member, members);
  if (mine.b0 == mine.b1) return;
  for (int64_t i = mine.d0; i < mine.d1; ++i) scan_forward<T, CellType>(task, mine, i);
}

template <class T>
static size_t forward_workspace_of(const LayerForward& p) {
  ForwardTask<T> task;
  return plan_forward<T>(p, nullptr, task) * sizeof(T);
}

template <class T, class CellType>
static void forward_of(const LayerForward& p, const Context& context) {
  const Dims& d = p.d;
  Barrier barriers[kMaxTeam];
  ForwardTask<T> task{};
  plan_forward(p, static_cast<T*>(context.workspace), task);
  task.barriers = barriers;
  std::memset(task.zeros, 0, d.P * sizeof(T));
  for (int64_t i = 0; i < d.D; ++i) add_biases(p, i, task.bias[i]);
  const size_t state = d.D * d.B * d.H * sizeof(T);
  if (p.c0)
    std::memcpy(p.c_n, p.c0, state);
  else
    std::memset(p.c_n, 0, state);
  const int threads = team_size(d, context.threads);
  if (task.packed) run_team(threads, pack_forward<T>, &task);
  run_team(threads, forward_member<T, CellType>, &task);
}

}  // namespace lf::LF_ISA
