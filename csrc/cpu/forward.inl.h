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

template <class S>
struct ForwardTask {
  using T = ValueOf<S>;
  const LayerForward* p;
  bool packed;
  int64_t chunk;  // steps whose input is projected at once; 0: each step does it itself
  bool in_gates;  // the projected input waits where the gates will be
  // Per direction, in the workspace:
  S* w_ih[kMaxDirections];       // packed panels of gates
  S* w_hh[kMaxDirections];       // packed panels of gates
  S* w_hr[kMaxDirections];       // packed panels of rows
  T* bias[kMaxDirections];       // [panel][4][W]: b_ih + b_hh
  S* h_cell[kMaxDirections];     // [B, H]
  T* projected[kMaxDirections];  // [chunk rows, 4, H], unless in_gates
  S* zeros;                      // [P]: the missing h0
  Barrier* barriers;             // of slices, then of the team
};

template <class S>
LF_FN int64_t gate_panels_size(const Dims& d, int64_t K) {
  return ceil_div(d.H, VecOf<S>::kWidth) * kPanel<S> * padded<S>(K);
}

// Lays the task out from `base` on; returns the bytes used. base may be null to measure.
template <class S>
static int64_t plan_forward(const LayerForward& p, void* base, ForwardTask<S>& task) {
  using T = ValueOf<S>;
  const Dims& d = p.d;
  int64_t used = 0;
  task.p = &p;
  task.packed = d.N > kPackFromRows;
  task.chunk = task.packed && d.B < kFusedRows ? ceil_div(kChunkRows, d.B) : 0;
  task.in_gates = p.c && element_size(p.storage) == sizeof(T);
  for (int64_t i = 0; i < d.D; ++i) {
    const int64_t row_panels = p.w_hr[i] ? ceil_div(d.P, kPanel<S>) : 0;
    task.w_ih[i] = take<S>(base, used, task.packed ? gate_panels_size<S>(d, p.I) : 0);
    task.w_hh[i] = take<S>(base, used, task.packed ? gate_panels_size<S>(d, d.P) : 0);
    task.w_hr[i] = take<S>(base, used, task.packed ? row_panels * kPanel<S> * padded<S>(d.H) : 0);
    task.bias[i] = take<T>(base, used, gate_panels_size<T>(d, 1));
    task.h_cell[i] = take<S>(base, used, p.w_hr[i] ? d.B * d.H : 0);
    task.projected[i] = take<T>(base, used, task.in_gates ? 0 : task.chunk * d.B * 4 * d.H);
  }
  task.zeros = take<S>(base, used, d.P);
  return used;
}

// One member's share of the packing.
template <class S>
struct PackForward {
  const ForwardTask<S>& task;
  int member, members;

  template <class W>
  void run() const {
    const LayerForward& p = *task.p;
    const Dims& d = p.d;
    for (int64_t i = 0; i < d.D; ++i) {
      const int64_t gate_panels = ceil_div(d.H, VecOf<S>::kWidth);
      const int64_t row_panels = p.w_hr[i] ? ceil_div(d.P, kPanel<S>) : 0;
      for (int64_t q = member; q < gate_panels; q += members) {
        const int64_t unit = q * VecOf<S>::kWidth;
        pack_gates(static_cast<const W*>(p.w_ih[i]), d.H, p.I, unit,
                   task.w_ih[i] + q * kPanel<S> * padded<S>(p.I));
        pack_gates(static_cast<const W*>(p.w_hh[i]), d.H, d.P, unit,
                   task.w_hh[i] + q * kPanel<S> * padded<S>(d.P));
      }
      for (int64_t q = member; q < row_panels; q += members)
        pack_rows(static_cast<const W*>(p.w_hr[i]), d.P, d.H, q * kPanel<S>,
                  task.w_hr[i] + q * kPanel<S> * padded<S>(d.H));
    }
  }
};

// b_ih + b_hh as panels of gates, with zeros past the last unit.
template <class S>
static void add_biases(const LayerForward& p, int64_t i, ValueOf<S>* out) {
  using V = VecOf<S>;
  const S* const b_ih = static_cast<const S*>(p.b_ih[i]);
  const S* const b_hh = static_cast<const S*>(p.b_hh[i]);
  for (int64_t unit = 0; unit < p.d.H; unit += V::kWidth)
    for (int g = 0; g < 4; ++g, out += V::kWidth) {
      const int64_t at = g * p.d.H + unit;
      const int n = V::lanes(p.d.H - unit);
      const V first = b_ih ? V::load(b_ih + at, n) : V(0);
      (b_hh ? first + V::load(b_hh + at, n) : first).store(out);
    }
}

// One member's share of one direction.
template <class S, class CellType>
static void scan_forward(const ForwardTask<S>& task, const Share& share, int64_t i) {
  using T = ValueOf<S>;
  const LayerForward& p = *task.p;
  const Dims& d = p.d;
  const Order order{p.offsets, d.T, i == 1};
  const int64_t units = VecOf<S>::kWidth, panels = ceil_div(d.H, units);
  const int64_t unit0 = panels * share.part / share.parts * units;
  const int64_t unit1 = panels * (share.part + 1) / share.parts * units;
  const int64_t column0 = first_column<S>(d.P, share.part, share.parts);
  const int64_t column1 = first_column<S>(d.P, share.part + 1, share.parts);
  Barrier& barrier = task.barriers[share.barrier];

  const int64_t first = first_of_slice(order, 0, d.T, share.slice, share.slices);
  const int64_t end = first_of_slice(order, 0, d.T, share.slice + 1, share.slices);

  const S* x = static_cast<const S*>(p.x);
  ForwardStep<S> s{};
  s.I = p.I;
  s.H = d.H;
  s.P = d.P;
  s.y_stride = d.D * d.P;
  s.packed = task.packed;
  s.bias = task.bias[i];
  s.storage = p.storage;
  s.w_ih = task.packed ? task.w_ih[i] : p.w_ih[i];
  s.w_hh = task.packed ? task.w_hh[i] : p.w_hh[i];
  s.w_hr = task.packed ? task.w_hr[i] : p.w_hr[i];
  s.h0 = p.h0 ? static_cast<const S*>(p.h0) + i * d.B * d.P : task.zeros;
  s.h0_stride = p.h0 ? d.P : 0;
  s.c_state = static_cast<T*>(p.c_n) + i * d.B * d.H;
  s.h_n = static_cast<S*>(p.h_n) + i * d.B * d.P;
  s.h_cell = p.w_hr[i] ? task.h_cell[i] : nullptr;

  Gates<S, CellType> gates(s);
  const int64_t gates_size = 4 * d.H * int64_t(element_size(p.storage));
  char* const gates_kept = p.c ? static_cast<char*>(p.gates) + i * d.N * gates_size : nullptr;
  // Where the projected input lies, and the row of the layer that comes first there.
  T* projected = task.in_gates ? reinterpret_cast<T*>(gates_kept) : task.projected[i];
  int64_t first_row = 0;
  for (int64_t step = 0; step < d.T; ++step) {
    if (task.chunk && step % task.chunk == 0) {
      const int64_t last = (step + task.chunk < d.T ? step + task.chunk : d.T) - 1;
      const int64_t begin = p.offsets[order.reverse ? order.t(last) : step];
      const int64_t rows = p.offsets[(order.reverse ? order.t(step) : last) + 1] - begin;
      if (!task.in_gates) first_row = begin;
      s.x = x + begin * p.I;
      s.projected = projected + (begin - first_row) * 4 * d.H;
      for (int64_t b = 0, b1; b < rows; b = b1) {
        b1 = strip_end(b, rows);
        for (int64_t unit = unit0; unit < unit1; unit += units) project_input(s, b, b1, unit);
      }
    }
    const int64_t row = order.first_row(step);
    const int64_t b0 = clamp(first, 0, order.rows(step)), b1 = clamp(end, 0, order.rows(step));
    s.x = x + row * p.I;
    s.y_prev =
        step ? static_cast<S*>(p.y) + order.first_row(step - 1) * s.y_stride + i * d.P : nullptr;
    s.y = static_cast<S*>(p.y) + row * s.y_stride + i * d.P;
    s.projected = task.chunk ? projected + (row - first_row) * 4 * d.H : nullptr;
    s.gates = p.c ? gates_kept + row * gates_size : nullptr;
    s.c = p.c ? static_cast<T*>(p.c) + (i * d.N + row) * d.H : nullptr;
    s.continued = order.continued(step);
    s.continuing = order.continuing(step);
    s.multiply = step > 0 || p.h0;
    for (gates.b = b0; gates.b < b1; gates.b = gates.b1) {
      gates.b1 = strip_end(gates.b, b1);
      const int64_t at_once = kStripRows / (gates.b1 - gates.b) * units;
      for (int64_t unit = unit0; unit < unit1; unit += at_once)
        gates.run(unit, unit + at_once < unit1 ? unit + at_once : unit1, step % 2);
    }
    if (s.h_cell) {
      barrier.wait(share.parts);
      for_panels<S>(Projection<S>{s}, b0, b1, column0, column1);
    }
    barrier.wait(share.parts);
  }
}

// Into how many pieces the hidden units can be cut: forward, one vector each.
template <class S>
constexpr int64_t forward_parts(const Dims& d) {
  return ceil_div(d.H, VecOf<S>::kWidth);
}

template <class S, class CellType>
static void forward_member(const void* task_, int member, int members) {
  const ForwardTask<S>& task = *static_cast<const ForwardTask<S>*>(task_);
  const Dims& d = task.p->d;
  if (task.packed) {
    with_storage<S>(task.p->storage, PackForward<S>{task, member, members});
    task.barriers[kMaxTeam].wait(members);
  }
  const Share mine = share(d, split(d, kTileRows, forward_parts<S>(d), members), member);
  for (int64_t i = mine.d0; i < mine.d1; ++i) scan_forward<S, CellType>(task, mine, i);
}

template <class S>
static size_t forward_workspace_of(const LayerForward& p) {
  ForwardTask<S> task;
  return plan_forward<S>(p, nullptr, task);
}

template <class S, class CellType>
static void forward_of(const LayerForward& p, const Context& context) {
  const Dims& d = p.d;
  Barrier barriers[kMaxTeam + 1];
  ForwardTask<S> task{};
  plan_forward(p, context.workspace, task);
  task.barriers = barriers;
  std::memset(task.zeros, 0, d.P * sizeof(S));
  for (int64_t i = 0; i < d.D; ++i) add_biases<S>(p, i, task.bias[i]);
  const size_t state = d.D * d.B * d.H * sizeof(ValueOf<S>);
  if (p.c0)
    std::memcpy(p.c_n, p.c0, state);
  else
    std::memset(p.c_n, 0, state);
  const Split wanted = scan_split(d, kTileRows, forward_parts<S>(d), context.threads);
  run_team(wanted.members(), forward_member<S, CellType>, &task);
}

}  // namespace lf::LF_ISA
