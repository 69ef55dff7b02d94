// The CPU scan, forward. Included once per ISA.
//
// Each step multiplies h of the step before by W_hh, panel by panel: the accumulators start as the
// input's share of the gates, and the cell runs on them before they leave the registers. With a
// projection the cell's output waits in h_cell for a second product, with W_hr.
#pragma once

#include "contract/order.h"
#include "cpu/plan.h"
#include "cpu/team.h"
#include "cpu/tile.inl.h"

namespace lf::LF_ISA {

// Packing reads and writes a weight once, which takes as long as some 64 rows of plain dot
// products.
constexpr int64_t kPackFromRows = 64;

template <class T>
struct ForwardTask {
  const LayerForward* p;
  bool packed;
  // Per direction, in the workspace:
  T* w_hh[kMaxDirections];    // packed panels of gates
  T* w_hr[kMaxDirections];    // packed panels of rows
  T* h_cell[kMaxDirections];  // [B, H]
  T* zeros;                   // [P]: the missing h0
  Barrier* barriers;
};

// Lays the task out from `base` on; returns the elements used. base may be null to measure.
template <class T>
static int64_t plan_forward(const LayerForward& p, T* base, ForwardTask<T>& task) {
  const Dims& d = p.d;
  int64_t used = 0;
  task.p = &p;
  task.packed = d.N > kPackFromRows;
  for (int64_t i = 0; i < d.D; ++i) {
    const int64_t hh = task.packed ? ceil_div(d.H, Vec<T>::kWidth) * d.P * kPanel<T> : 0;
    const int64_t hr = task.packed && p.w_hr[i] ? ceil_div(d.P, kPanel<T>) * d.H * kPanel<T> : 0;
    task.w_hh[i] = base + used;
    task.w_hr[i] = base + (used += hh);
    task.h_cell[i] = base + (used += hr);
    used += p.w_hr[i] ? ceil_div(d.B * d.H, 16) * 16 : 0;
  }
  task.zeros = base + used;
  return used + d.P;
}

template <class T>
static void pack_forward(const void* task_, int member, int members) {
  const ForwardTask<T>& task = *static_cast<const ForwardTask<T>*>(task_);
  const LayerForward& p = *task.p;
  const Dims& d = p.d;
  for (int64_t i = 0; i < d.D; ++i) {
    const int64_t gate_panels = ceil_div(d.H, Vec<T>::kWidth);
    const int64_t row_panels = p.w_hr[i] ? ceil_div(d.P, kPanel<T>) : 0;
    for (int64_t q = member; q < gate_panels; q += members)
      pack_gates(static_cast<const T*>(p.w_hh[i]), d.H, d.P, q * Vec<T>::kWidth,
                 task.w_hh[i] + q * d.P * kPanel<T>);
    for (int64_t q = member; q < row_panels; q += members)
      pack_rows(static_cast<const T*>(p.w_hr[i]), d.P, d.H, q * kPanel<T>,
                task.w_hr[i] + q * d.H * kPanel<T>);
  }
}

// One step of one direction: where its rows lie.
template <class T>
struct ForwardStep {
  int64_t H, P, y_stride;
  const T* w_hh;  // packed or as given
  const T* w_hr;
  bool packed, multiply;  // multiply: some row has a state to multiply
  int64_t continued;      // rows from here on start from h0
  int64_t continuing;     // rows from here on end
  const T* y_prev;        // [rows, y_stride]
  const T* h0;            // [B, P] or the zeros, then h0_stride is 0
  int64_t h0_stride;
  T* gates;    // [rows, 4, H]
  T* c_state;  // [B, H]
  T* c;        // [rows, H] or nullptr
  T* y;        // [rows, y_stride]
  T* h_n;      // [B, P]
  T* h_cell;   // [B, H] or nullptr: no projection
};

template <class T, int R>
LF_FN void store_output(const ForwardStep<T>& s, int64_t b, int64_t column, const Vec<T> (&h)[R],
                        int lanes) {
  for (int r = 0; r < R; ++r) {
    h[r].store(s.y + (b + r) * s.y_stride + column, lanes);
    if (b + r >= s.continuing) h[r].store(s.h_n + (b + r) * s.P + column, lanes);
  }
}

// The gates of up to kTileRows rows and one vector of units, and the cell on them.
template <class T, class CellType>
struct GateTile {
  const ForwardStep<T>& s;

  template <int R>
  LF_FN void run(int64_t b, int64_t unit) const {
    using V = Vec<T>;
    const int lanes = s.H - unit < V::kWidth ? int(s.H - unit) : V::kWidth;
    V gate[R][4];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g)
        gate[r][g] = V::load(s.gates + ((b + r) * 4 + g) * s.H + unit, lanes);
    if (s.multiply) {
      const T* h[R];
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
        h[r] = b + r < s.continued ? s.y_prev + (b + r) * s.y_stride : s.h0 + (b + r) * s.h0_stride;
      if (s.packed)
        multiply<T, R>(gate, h, s.w_hh + unit * 4 * s.P, s.P);
      else
        multiply_rows<T, R>(gate, h, s.w_hh + unit * s.P, s.H, {lanes, lanes, lanes, lanes}, s.P);
    }
    V h[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      T* c_state = s.c_state + (b + r) * s.H + unit;
      V c = V::load(c_state, lanes);
      CellType::forward(gate[r], c, h[r]);
      c.store(c_state, lanes);
      if (s.c) {
        c.store(s.c + (b + r) * s.H + unit, lanes);
        for (int g = 0; g < 4; ++g)
          gate[r][g].store(s.gates + ((b + r) * 4 + g) * s.H + unit, lanes);
      }
      if (s.h_cell) h[r].store(s.h_cell + (b + r) * s.H + unit, lanes);
    }
    if (!s.h_cell) store_output(s, b, unit, h, lanes);
  }
};

// y = h_cell W_hr^T for up to kTileRows rows and four vectors of columns.
template <class T>
struct ProjectTile {
  const ForwardStep<T>& s;

  template <int R>
  LF_FN void run(int64_t b, int64_t column) const {
    using V = Vec<T>;
    V acc[R][4];
    const T* a[R];
    int lanes[4];
    panel_lanes<T>(column, s.P, lanes);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      a[r] = s.h_cell + (b + r) * s.H;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) acc[r][j] = V(0);
    }
    if (s.packed)
      multiply<T, R>(acc, a, s.w_hr + column * s.H, s.H);
    else
      multiply_rows<T, R>(acc, a, s.w_hr + column * s.H, V::kWidth, lanes, s.H);
    for (int j = 0; j < 4; ++j) {
      V h[R];
      for (int r = 0; r < R; ++r) h[r] = acc[r][j];
      store_output(s, b, column + j * V::kWidth, h, lanes[j]);
    }
  }
};

// One member's share of one direction.
template <class T, class CellType>
static void scan_forward(const ForwardTask<T>& task, const Share& share, int64_t i) {
  const LayerForward& p = *task.p;
  const Dims& d = p.d;
  const Order order{p.offsets, d.T, i == 1};
  const int64_t units = Vec<T>::kWidth, panels = ceil_div(d.H, units);
  const int64_t unit0 = panels * share.part / share.parts * units;
  const int64_t unit1 = panels * (share.part + 1) / share.parts * units;
  const int64_t row_panels = ceil_div(d.P, kPanel<T>);
  const int64_t column0 = row_panels * share.part / share.parts * kPanel<T>;
  const int64_t column1 = row_panels * (share.part + 1) / share.parts * kPanel<T>;
  Barrier& barrier = task.barriers[share.barrier];

  ForwardStep<T> s{};
  s.H = d.H;
  s.P = d.P;
  s.y_stride = d.D * d.P;
  s.packed = task.packed;
  s.w_hh = task.packed ? task.w_hh[i] : static_cast<const T*>(p.w_hh[i]);
  s.w_hr = task.packed ? task.w_hr[i] : static_cast<const T*>(p.w_hr[i]);
  s.h0 = p.h0 ? static_cast<const T*>(p.h0) + i * d.B * d.P : task.zeros;
  s.h0_stride = p.h0 ? d.P : 0;
  s.c_state = static_cast<T*>(p.c_n) + i * d.B * d.H;
  s.h_n = static_cast<T*>(p.h_n) + i * d.B * d.P;
  s.h_cell = p.w_hr[i] ? task.h_cell[i] : nullptr;

  for (int64_t step = 0; step < d.T; ++step) {
    const int64_t row = order.first_row(step), rows = order.rows(step);
    const int64_t b1 = rows < share.b1 ? rows : share.b1;
    s.y_prev =
        step ? static_cast<T*>(p.y) + order.first_row(step - 1) * s.y_stride + i * d.P : nullptr;
    s.y = static_cast<T*>(p.y) + row * s.y_stride + i * d.P;
    s.gates = static_cast<T*>(p.gates) + (i * d.N + row) * 4 * d.H;
    s.c = p.c ? static_cast<T*>(p.c) + (i * d.N + row) * d.H : nullptr;
    s.continued = order.continued(step);
    s.continuing = order.continuing(step);
    s.multiply = step > 0 || p.h0;
    for (int64_t unit = unit0; unit < unit1; unit += units)
      for_rows(GateTile<T, CellType>{s}, share.b0, b1, unit);
    if (s.h_cell) {
      barrier.wait(share.parts);
      for (int64_t column = column0; column < column1; column += kPanel<T>)
        for_rows(ProjectTile<T>{s}, share.b0, b1, column);
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
