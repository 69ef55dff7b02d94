// The CPU scan, forward. Included once per ISA.
//
// A tile is a few rows and one vector of hidden units with their four gates. Where a step has rows
// enough to fill tiles, it multiplies x by W_ih and h of the step before by W_hh, panel by panel,
// and the cell runs on the sum while it is in L1. A few rows would read all of W_ih for little
// work: then the input of a chunk of steps is projected at once, before these steps. With a
// projection the cell's output waits in h_cell for a third product, with W_hr.
#pragma once

#include "contract/order.h"
#include "cpu/plan.h"
#include "cpu/team.h"
#include "cpu/tile.inl.h"

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
  T* bias[kMaxDirections];    // [4, H]
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
    task.bias[i] = take(base, used, 4 * d.H);
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

// One step of one direction: where its rows lie.
template <class T>
struct ForwardStep {
  int64_t I, H, P, y_stride;
  bool projected;  // gates hold x W_ih^T
  const T* x;      // [rows, I], unless projected
  const T* bias;   // [4, H]
  const T* w_ih;
  const T* w_hh;  // packed or as given
  const T* w_hr;
  bool packed, multiply;  // multiply: some row has a state to multiply
  int64_t continued;      // rows from here on start from h0
  int64_t continuing;     // rows from here on end
  const T* y_prev;        // [rows, y_stride]
  const T* h0;            // [B, P] or the zeros, then h0_stride is 0
  int64_t h0_stride;
  T* gates;    // [rows, 4, H], or nullptr: not projected, and c is not wanted
  T* c_state;  // [B, H]
  T* c;        // [rows, H] or nullptr
  T* y;        // [rows, y_stride]
  T* h_n;      // [B, P]
  T* h_cell;   // [B, H] or nullptr: no projection
};

template <class T>
LF_FN void store_output(const ForwardStep<T>& s, int64_t row, int64_t column, Vec<T> h, int lanes) {
  h.store(s.y + row * s.y_stride + column, lanes);
  if (row >= s.continuing) h.store(s.h_n + row * s.P + column, lanes);
}

// out += a W^T for the gates of one vector of units.
template <class T, int R>
LF_FN void add_gates(const ForwardStep<T>& s, Tile<T, R>& out, const T* const (&a)[R], const T* w,
                     int64_t unit, int lanes, int64_t K) {
  if (s.packed)
    multiply<T, R>(out, a, w + unit * 4 * K, K, true);
  else
    multiply_rows<T, R>(out, a, w + unit * K, s.H, {lanes, lanes, lanes, lanes}, K, true);
}

// Every row of out = start [4, H] of one vector of units, or zero.
template <class T, int R>
LF_FN void start_gates(const ForwardStep<T>& s, Tile<T, R>& out, const T* start, int64_t unit,
                       int lanes) {
  for (int g = 0; g < 4; ++g) {
    const Vec<T> x = start ? Vec<T>::load(start + g * s.H + unit, lanes) : Vec<T>(0);
    for (int r = 0; r < R; ++r) x.store(out.at[r][g]);
  }
}

// gates = x W_ih^T for up to kTileRows rows, which may be of several steps, and one vector of
// units. Here and in GateTile the vectors of a tile are the four gates.
template <class T>
struct InputTile {
  const ForwardStep<T>& s;

  template <int R, int J>
  LF_FN void run(int64_t b, int64_t unit) const {
    using V = Vec<T>;
    const int lanes = s.H - unit < V::kWidth ? int(s.H - unit) : V::kWidth;
    Tile<T, R> product;
    const T* x[R];
    for (int r = 0; r < R; ++r) x[r] = s.x + (b + r) * s.I;
    start_gates<T, R>(s, product, nullptr, unit, lanes);
    add_gates(s, product, x, s.w_ih, unit, lanes, s.I);
    for (int r = 0; r < R; ++r)
      for (int g = 0; g < 4; ++g)
        V::load(product.at[r][g]).store(s.gates + ((b + r) * 4 + g) * s.H + unit, lanes);
  }
};

// The gates of up to kTileRows rows and one vector of units, and the cell on them. Biases and h,
// which is at most 1, are summed before x comes in, whose size nobody knows: so one rounding at
// that size.
template <class T, class CellType>
struct GateTile {
  const ForwardStep<T>& s;

  template <int R, int J>
  LF_FN void run(int64_t b, int64_t unit) const {
    using V = Vec<T>;
    const int lanes = s.H - unit < V::kWidth ? int(s.H - unit) : V::kWidth;
    Tile<T, R> product;
    const T* a[R];
    start_gates<T, R>(s, product, s.bias, unit, lanes);
    if (s.multiply) {
      for (int r = 0; r < R; ++r)
        a[r] = b + r < s.continued ? s.y_prev + (b + r) * s.y_stride : s.h0 + (b + r) * s.h0_stride;
      add_gates(s, product, a, s.w_hh, unit, lanes, s.P);
    }
    if (!s.projected) {
      for (int r = 0; r < R; ++r) a[r] = s.x + (b + r) * s.I;
      add_gates(s, product, a, s.w_ih, unit, lanes, s.I);
    }
    for (int r = 0; r < R; ++r) {
      const int64_t row = b + r;
      T* gates = s.gates ? s.gates + row * 4 * s.H + unit : nullptr;
      V gate[4], h, c = V::load(s.c_state + row * s.H + unit, lanes);
      for (int g = 0; g < 4; ++g) {
        gate[g] = V::load(product.at[r][g]);
        if (s.projected) gate[g] = gate[g] + V::load(gates + g * s.H, lanes);
      }
      CellType::forward(gate, c, h);
      c.store(s.c_state + row * s.H + unit, lanes);
      if (s.c) {
        c.store(s.c + row * s.H + unit, lanes);
        for (int g = 0; g < 4; ++g) gate[g].store(gates + g * s.H, lanes);
      }
      if (s.h_cell)
        h.store(s.h_cell + row * s.H + unit, lanes);
      else
        store_output(s, row, unit, h, lanes);
    }
  }
};

// y = h_cell W_hr^T for up to kTileRows rows and four vectors of columns.
template <class T>
struct ProjectTile {
  const ForwardStep<T>& s;

  template <int R, int J>
  LF_FN void run(int64_t b, int64_t column) const {
    using V = Vec<T>;
    Tile<T, R> product;
    const T* a[R];
    int lanes[4];
    panel_lanes<T>(column, s.P, lanes);
    for (int r = 0; r < R; ++r) a[r] = s.h_cell + (b + r) * s.H;
    if (s.packed)
      multiply<T, R, J>(product, a, s.w_hr + column * s.H, s.H);
    else
      multiply_rows<T, R>(product, a, s.w_hr + column * s.H, V::kWidth, lanes, s.H);
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < J; ++j)
        store_output(s, b + r, column + j * V::kWidth, V::load(product.at[r][j]), lanes[j]);
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

  // Where gates lie, and the row of the layer that comes first there.
  T* gates = p.c ? static_cast<T*>(p.gates) + i * d.N * 4 * d.H : task.gates[i];
  int64_t first_row = 0;
  for (int64_t step = 0; step < d.T; ++step) {
    if (task.chunk && step % task.chunk == 0) {
      const int64_t last = (step + task.chunk < d.T ? step + task.chunk : d.T) - 1;
      const int64_t begin = p.offsets[order.reverse ? order.t(last) : step];
      const int64_t end = p.offsets[(order.reverse ? order.t(step) : last) + 1];
      if (!p.c) first_row = begin;
      s.x = x + begin * p.I;
      s.gates = gates + (begin - first_row) * 4 * d.H;
      for (int64_t unit = unit0; unit < unit1; unit += units)
        for_rows<4>(InputTile<T>{s}, 0, end - begin, unit);
    }
    const int64_t row = order.first_row(step), rows = order.rows(step);
    const int64_t b1 = rows < share.b1 ? rows : share.b1;
    s.x = x + row * p.I;
    s.y_prev =
        step ? static_cast<T*>(p.y) + order.first_row(step - 1) * s.y_stride + i * d.P : nullptr;
    s.y = static_cast<T*>(p.y) + row * s.y_stride + i * d.P;
    s.gates = !s.projected && !p.c ? nullptr : gates + (row - first_row) * 4 * d.H;
    s.c = p.c ? static_cast<T*>(p.c) + (i * d.N + row) * d.H : nullptr;
    s.continued = order.continued(step);
    s.continuing = order.continuing(step);
    s.multiply = step > 0 || p.h0;
    for (int64_t unit = unit0; unit < unit1; unit += units)
      for_rows<4>(GateTile<T, CellType>{s}, share.b0, b1, unit);
    if (s.h_cell) {
      barrier.wait(share.parts);
      for_panels<T>(ProjectTile<T>{s}, share.b0, b1, column0, column1);
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
  for (int64_t i = 0; i < d.D; ++i)
    for (int64_t k = 0; k < 4 * d.H; ++k)
      task.bias[i][k] = (p.b_ih[i] ? static_cast<const T*>(p.b_ih[i])[k] : T(0)) +
                        (p.b_hh[i] ? static_cast<const T*>(p.b_hh[i])[k] : T(0));
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
