// The CPU scan, backward. Included once per ISA.
//
// Steps run in the opposite order. The gradient of h is dy plus the next step's dgates times W_hh;
// without a projection the cell's backward runs on it before it leaves the registers. With one, the
// gradient of y waits in dh for a second product, with W_hr. The weights' gradients are large
// matrix products over all steps, done by the caller.
#pragma once

#include "contract/order.h"
#include "cpu/plan.h"
#include "cpu/team.h"
#include "cpu/tile.inl.h"

namespace lf::LF_ISA {

template <class T>
struct BackwardTask {
  const LayerBackward* p;
  T* w_hh[kMaxDirections];  // packed panels of columns, in the workspace
  T* w_hr[kMaxDirections];
  Barrier* barriers;
};

// Lays the task out from `base` on; returns the elements used. base may be null to measure.
template <class T>
static int64_t plan_backward(const LayerBackward& p, T* base, BackwardTask<T>& task) {
  const Dims& d = p.d;
  int64_t used = 0;
  task.p = &p;
  for (int64_t i = 0; i < d.D; ++i) {
    task.w_hh[i] = take(base, used, ceil_div(d.P, kPanel<T>) * 4 * d.H * kPanel<T>);
    task.w_hr[i] = take(base, used, p.w_hr[i] ? ceil_div(d.H, kPanel<T>) * d.P * kPanel<T> : 0);
  }
  return used;
}

template <class T>
static void pack_backward(const void* task_, int member, int members) {
  const BackwardTask<T>& task = *static_cast<const BackwardTask<T>*>(task_);
  const LayerBackward& p = *task.p;
  const Dims& d = p.d;
  for (int64_t i = 0; i < d.D; ++i) {
    const int64_t hh_panels = ceil_div(d.P, kPanel<T>);
    const int64_t hr_panels = p.w_hr[i] ? ceil_div(d.H, kPanel<T>) : 0;
    for (int64_t q = member; q < hh_panels; q += members)
      pack_columns(static_cast<const T*>(p.w_hh[i]), 4 * d.H, d.P, q * kPanel<T>,
                   task.w_hh[i] + q * 4 * d.H * kPanel<T>);
    for (int64_t q = member; q < hr_panels; q += members)
      pack_columns(static_cast<const T*>(p.w_hr[i]), d.P, d.H, q * kPanel<T>,
                   task.w_hr[i] + q * d.P * kPanel<T>);
  }
}

// One step of one direction: where its rows lie.
template <class T>
struct BackwardStep {
  int64_t H, P, y_stride;
  const T* w_hh;         // packed
  const T* w_hr;         // packed, or nullptr: no projection
  int64_t continued;     // rows from here on started from h0, c0
  int64_t continuing;    // rows from here on ended with this step
  const T* dy;           // [rows, y_stride] or nullptr
  const T* dh_n;         // [B, P] or nullptr
  const T* dgates_next;  // [rows, 4, H]
  const T* gates;        // [rows, 4, H]
  const T* c_prev;       // [rows, H]
  const T* c0;           // [B, H] or nullptr
  const T* c;            // [rows, H]
  T* dc;                 // [B, H]
  T* dgates;             // [rows, 4, H]
  T* dh;                 // [rows, P]
  T* h_cell;             // [rows, H]
  T* dh0;                // [B, P] or nullptr
};

// What the step's output is owed by later steps, for R rows and four vectors of columns; false:
// that is nothing. A tile never holds rows that go on and rows that end.
template <class T, int R>
LF_FN bool recurrent_gradient(const BackwardStep<T>& s, int64_t b, int64_t column,
                              Tile<T, R>& product) {
  if (b >= s.continuing) return false;
  const T* a[R];
  for (int r = 0; r < R; ++r) a[r] = s.dgates_next + (b + r) * 4 * s.H;
  multiply<T, R>(product, a, s.w_hh + column * 4 * s.H, 4 * s.H);
  return true;
}

// The whole gradient of the output: one vector of it.
template <class T>
LF_FN Vec<T> output_gradient(const BackwardStep<T>& s, int64_t row, int64_t column, int lanes,
                             const T* recurrent) {
  using V = Vec<T>;
  const V dy = s.dy ? V::load(s.dy + row * s.y_stride + column, lanes) : V(0);
  if (recurrent) return dy + V::load(recurrent);
  return s.dh_n ? dy + V::load(s.dh_n + row * s.P + column, lanes) : dy;
}

// The cell's backward on one vector of units.
template <class T, class CellType>
LF_FN void cell_backward(const BackwardStep<T>& s, int64_t row, int64_t unit, int lanes,
                         Vec<T> dh) {
  using V = Vec<T>;
  const int64_t at = row * s.H + unit;
  const T* gates = s.gates + row * 4 * s.H + unit;
  T* dgates = s.dgates + row * 4 * s.H + unit;
  V gate[4], h, c_prev(0), dc = V::load(s.dc + at, lanes);
  for (int g = 0; g < 4; ++g) gate[g] = V::load(gates + g * s.H, lanes);
  if (row < s.continued)
    c_prev = V::load(s.c_prev + at, lanes);
  else if (s.c0)
    c_prev = V::load(s.c0 + at, lanes);
  CellType::backward(gate, c_prev, V::load(s.c + at, lanes), dh, dc, h);
  dc.store(s.dc + at, lanes);
  for (int g = 0; g < 4; ++g) gate[g].store(dgates + g * s.H, lanes);
  if (s.w_hr) h.store(s.h_cell + at, lanes);
}

// Columns are units: there is no projection.
template <class T, class CellType>
struct UnitGradientTile {
  const BackwardStep<T>& s;

  template <int R>
  LF_FN void run(int64_t b, int64_t column) const {
    Tile<T, R> product;
    int lanes[4];
    panel_lanes<T>(column, s.H, lanes);
    const bool recurrent = recurrent_gradient<T, R>(s, b, column, product);
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < 4 && lanes[j]; ++j) {
        const int64_t unit = column + j * Vec<T>::kWidth;
        const T* later = recurrent ? product.at[r][j] : nullptr;
        cell_backward<T, CellType>(s, b + r, unit, lanes[j],
                                   output_gradient(s, b + r, unit, lanes[j], later));
      }
  }
};

// With a projection, first half: the gradient of y.
template <class T>
struct OutputGradientTile {
  const BackwardStep<T>& s;

  template <int R>
  LF_FN void run(int64_t b, int64_t column) const {
    Tile<T, R> product;
    int lanes[4];
    panel_lanes<T>(column, s.P, lanes);
    const bool recurrent = recurrent_gradient<T, R>(s, b, column, product);
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < 4 && lanes[j]; ++j) {
        const int64_t at = column + j * Vec<T>::kWidth;
        const T* later = recurrent ? product.at[r][j] : nullptr;
        output_gradient(s, b + r, at, lanes[j], later).store(s.dh + (b + r) * s.P + at, lanes[j]);
      }
  }
};

// With a projection, second half: through W_hr into the cell.
template <class T, class CellType>
struct ProjectedGradientTile {
  const BackwardStep<T>& s;

  template <int R>
  LF_FN void run(int64_t b, int64_t column) const {
    Tile<T, R> product;
    const T* a[R];
    int lanes[4];
    panel_lanes<T>(column, s.H, lanes);
    for (int r = 0; r < R; ++r) a[r] = s.dh + (b + r) * s.P;
    multiply<T, R>(product, a, s.w_hr + column * s.P, s.P);
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < 4 && lanes[j]; ++j)
        cell_backward<T, CellType>(s, b + r, column + j * Vec<T>::kWidth, lanes[j],
                                   Vec<T>::load(product.at[r][j]));
  }
};

// dh0 = dgates W_hh for the rows that started with this step.
template <class T>
struct InitialGradientTile {
  const BackwardStep<T>& s;

  template <int R>
  LF_FN void run(int64_t b, int64_t column) const {
    Tile<T, R> product;
    const T* a[R];
    int lanes[4];
    panel_lanes<T>(column, s.P, lanes);
    for (int r = 0; r < R; ++r) a[r] = s.dgates + (b + r) * 4 * s.H;
    multiply<T, R>(product, a, s.w_hh + column * 4 * s.H, 4 * s.H);
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < 4; ++j)
        Vec<T>::load(product.at[r][j])
            .store(s.dh0 + (b + r) * s.P + column + j * Vec<T>::kWidth, lanes[j]);
  }
};

// The rows [b0, b1) for every column panel of one part; rows that go on and rows that end apart.
template <class Tile>
static void for_panels(const Tile& tile, int64_t b0, int64_t split, int64_t b1, int64_t column0,
                       int64_t column1, int64_t panel) {
  const int64_t middle = split < b0 ? b0 : split < b1 ? split : b1;
  for (int64_t column = column0; column < column1; column += panel) {
    for_rows(tile, b0, middle, column);
    for_rows(tile, middle, b1, column);
  }
}

template <class T, class CellType>
static void scan_backward(const BackwardTask<T>& task, const Share& share, int64_t i) {
  const LayerBackward& p = *task.p;
  const Dims& d = p.d;
  const Order order{p.offsets, d.T, i == 1};
  const int64_t h_panels = ceil_div(d.H, kPanel<T>), p_panels = ceil_div(d.P, kPanel<T>);
  const int64_t unit0 = h_panels * share.part / share.parts * kPanel<T>;
  const int64_t unit1 = h_panels * (share.part + 1) / share.parts * kPanel<T>;
  const int64_t column0 = p_panels * share.part / share.parts * kPanel<T>;
  const int64_t column1 = p_panels * (share.part + 1) / share.parts * kPanel<T>;
  Barrier& barrier = task.barriers[share.barrier];

  BackwardStep<T> s{};
  s.H = d.H;
  s.P = d.P;
  s.y_stride = d.D * d.P;
  s.w_hh = task.w_hh[i];
  s.w_hr = p.w_hr[i] ? task.w_hr[i] : nullptr;
  s.dh_n = p.dh_n ? static_cast<const T*>(p.dh_n) + i * d.B * d.P : nullptr;
  s.c0 = p.c0 ? static_cast<const T*>(p.c0) + i * d.B * d.H : nullptr;
  s.dc = static_cast<T*>(p.dc0) + i * d.B * d.H;
  s.dh0 = p.dh0 ? static_cast<T*>(p.dh0) + i * d.B * d.P : nullptr;

  for (int64_t step = d.T - 1; step >= 0; --step) {
    const int64_t row = i * d.N + order.first_row(step), rows = order.rows(step);
    const int64_t b1 = rows < share.b1 ? rows : share.b1;
    s.continued = order.continued(step);
    s.continuing = order.continuing(step);
    s.dy =
        p.dy ? static_cast<const T*>(p.dy) + order.first_row(step) * s.y_stride + i * d.P : nullptr;
    s.gates = static_cast<const T*>(p.gates) + row * 4 * d.H;
    s.c = static_cast<const T*>(p.c) + row * d.H;
    s.dgates_next = s.dgates;
    s.dgates = static_cast<T*>(p.dgates) + row * 4 * d.H;
    s.c_prev =
        step ? static_cast<const T*>(p.c) + (i * d.N + order.first_row(step - 1)) * d.H : nullptr;
    if (s.w_hr) {
      s.dh = static_cast<T*>(p.dh) + row * d.P;
      s.h_cell = static_cast<T*>(p.h_cell) + row * d.H;
      for_panels(OutputGradientTile<T>{s}, share.b0, s.continuing, b1, column0, column1, kPanel<T>);
      barrier.wait(share.parts);
      for_panels(ProjectedGradientTile<T, CellType>{s}, share.b0, b1, b1, unit0, unit1, kPanel<T>);
    } else {
      for_panels(UnitGradientTile<T, CellType>{s}, share.b0, s.continuing, b1, unit0, unit1,
                 kPanel<T>);
    }
    barrier.wait(share.parts);
    if (s.dh0 && s.continued < b1) {
      const int64_t first = s.continued < share.b0 ? share.b0 : s.continued;
      for_panels(InitialGradientTile<T>{s}, first, b1, b1, column0, column1, kPanel<T>);
    }
  }
}

template <class T, class CellType>
static void backward_member(const void* task_, int member, int members) {
  const BackwardTask<T>& task = *static_cast<const BackwardTask<T>*>(task_);
  const Share mine = share(task.p->d, kTileRows, member, members);
  if (mine.b0 == mine.b1) return;
  for (int64_t i = mine.d0; i < mine.d1; ++i) scan_backward<T, CellType>(task, mine, i);
}

template <class T>
static size_t backward_workspace_of(const LayerBackward& p) {
  BackwardTask<T> task;
  return plan_backward<T>(p, nullptr, task) * sizeof(T);
}

template <class T, class CellType>
static void backward_of(const LayerBackward& p, const Context& context) {
  const Dims& d = p.d;
  Barrier barriers[kMaxTeam];
  BackwardTask<T> task{};
  plan_backward(p, static_cast<T*>(context.workspace), task);
  task.barriers = barriers;
  const size_t state = d.D * d.B * d.H * sizeof(T);
  if (p.dc_n)
    std::memcpy(p.dc0, p.dc_n, state);
  else
    std::memset(p.dc0, 0, state);
  const int threads = team_size(d, context.threads);
  run_team(threads, pack_backward<T>, &task);
  run_team(threads, backward_member<T, CellType>, &task);
}

}  // namespace lf::LF_ISA
