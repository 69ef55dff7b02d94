// The CPU scan, backward. Included once per ISA.
//
// Steps run in the opposite order. The gradient of h is dy plus the next step's dgates times W_hh;
// without a projection the cell's backward runs on it while it is in L1. With one, the gradient of
// y waits in dh for a second product, with W_hr. After a chunk of steps follow the products over
// all their rows (gradients.inl.h). Nobody needs dgates for longer than that and one step more:
// where the caller has no place for all of them, they lie in two places by turns.
#pragma once

#include "contract/order.h"
#include "cpu/gradients.inl.h"
#include "cpu/plan.h"
#include "cpu/team.h"

namespace lf::LF_ISA {

// Up to so many steps, a recurrent weight is read less often than packing would touch it.
constexpr int64_t kPackFromSteps = 3;

template <class S>
struct BackwardTask {
  const LayerBackward* p;
  GradientTask<S> gradients;
  Columns<S> w_hh[kMaxDirections], w_hr[kMaxDirections];
  S* dgates[2][kMaxDirections];  // of a chunk and of the one before; unless p has a place
  int scan_members;
  Barrier* barriers;  // of slices, then of the team, then of those of it who take gradients
};

// Rows of a chunk, if it has more than one step.
template <class S>
static int64_t chunk_rows(const Dims& d) {
  const int64_t blocks = kChunkBytes / (4 * d.H * int64_t(sizeof(S))) / kBlockRows;
  return blocks > 1 ? blocks * kBlockRows : kBlockRows;
}

// Lays the task out from `base` on; returns the bytes used. base may be null to measure.
template <class S>
static int64_t plan_backward(const LayerBackward& p, int threads, void* base,
                             BackwardTask<S>& task) {
  const Dims& d = p.d;
  int64_t used = 0;
  task.p = &p;
  const bool pack = d.T >= kPackFromSteps;
  for (int64_t i = 0; i < d.D; ++i) {
    const int64_t columns = d.T > 1 || p.dh0 ? d.P : 0;  // else nobody reads them
    task.w_hh[i] = {p.w_hh[i], p.storage, 4 * d.H, columns, pack, nullptr};
    task.w_hr[i] = {p.w_hr[i], p.storage, d.P, p.w_hr[i] ? d.H : 0, pack, nullptr};
    task.w_hh[i].panels = take<S>(base, used, task.w_hh[i].size());
    task.w_hr[i].panels = take<S>(base, used, task.w_hr[i].size());
    const int64_t most = chunk_rows<S>(d) < d.B ? d.B : chunk_rows<S>(d);
    const int64_t rows = p.dgates ? 0 : most < d.N ? most : d.N;
    task.dgates[0][i] = take<S>(base, used, rows * 4 * d.H);
    task.dgates[1][i] = take<S>(base, used, most < d.N ? rows * 4 * d.H : 0);
  }
  plan_gradients(p, threads, base, used, task.gradients);
  return used;
}

// One step of one direction: where its rows lie.
// G: what gates are kept in.
template <class S, class G>
struct BackwardStep {
  using T = ValueOf<S>;
  const Columns<S>& w_hh;
  const Columns<S>& w_hr;
  int64_t H = 0, P = 0, y_stride = 0;
  bool projection = false;
  int64_t continued = 0;           // rows from here on started from h0, c0
  int64_t continuing = 0;          // rows from here on ended with this step
  const S* dy = nullptr;           // [rows, y_stride] or nullptr
  const S* dh_n = nullptr;         // [B, P] or nullptr
  const S* dgates_next = nullptr;  // [rows, 4, H]
  const G* gates = nullptr;        // [rows, 4, H]
  const T* c_prev = nullptr;       // [rows, H]
  const T* c0 = nullptr;           // [B, H] or nullptr
  const T* c = nullptr;            // [rows, H]
  T* dc = nullptr;                 // [B, H]
  S* dgates = nullptr;             // [rows, 4, H]
  S* dh = nullptr;                 // [rows, P]
  S* h_cell = nullptr;             // [rows, H]
  S* dh0 = nullptr;                // [B, P] or nullptr
};

// dgates W_hh for a strip of rows from b on and one panel of columns.
template <int J, class S, class G, class Beside = Nothing>
static void multiply_gates(const BackwardStep<S, G>& s, const S* dgates, int64_t b, int64_t rows,
                           int64_t column, Strip<S>& out, const Beside& beside = {}) {
  multiply_strip<S, J>(out.numbers, rows, RowsAt<S>{dgates + b * 4 * s.H, 4 * s.H},
                       s.w_hh.from(column), nullptr, false, beside);
}

// The cell's backward on one vector of units.
template <class CellType, class S, class G>
LF_FN void cell_backward(const BackwardStep<S, G>& s, int64_t row, int64_t unit, int lanes,
                         VecOf<S> dh) {
  using V = VecOf<S>;
  const int64_t at = row * s.H + unit;
  const G* gates = s.gates + row * 4 * s.H + unit;
  S* dgates = s.dgates + row * 4 * s.H + unit;
  V gate[4], h, c_prev(0), dc = V::load(s.dc + at, lanes);
  for (int g = 0; g < 4; ++g) {
    gate[g] = V::load(gates + g * s.H, lanes);
    if (kFolded<G> && CellType::is_sigmoid(g)) gate[g] = unfold(gate[g]);
  }
  if (row < s.continued)
    c_prev = V::load(s.c_prev + at, lanes);
  else if (s.c0)
    c_prev = V::load(s.c0 + at, lanes);
  CellType::backward(gate, c_prev, V::load(s.c + at, lanes), dh, dc, h);
  dc.store(s.dc + at, lanes);
  for (int g = 0; g < 4; ++g) gate[g].store(dgates + g * s.H, lanes);
  if (s.projection) h.store(s.h_cell + at, lanes);
}

// Brings what the cell's backward reads of the rows from b on and the units [unit, end) closer: it
// lies in short pieces of which no prefetcher sees a stream, and a vector of cells took 230 cycles.
// It is done beside the product whose sums the cells wait for, a tile's rows with each tile: all at
// once, nothing was won. A functor, always inlined: a call that only prefetches has no effect in
// GCC's eyes, and it drops it.
template <class S, class G>
struct CellsAhead {
  const BackwardStep<S, G>& s;
  int64_t b, unit, end;

  LF_FN void operator()(int64_t first, int64_t rows) const {
    for (int64_t row = b + first; row < b + first + rows; ++row) {
      for (int g = 0; g < 4; ++g) ahead(s.gates + (row * 4 + g) * s.H);
      ahead(s.c + row * s.H);
      if (row < s.continued) ahead(s.c_prev + row * s.H);
      if (s.dy) ahead(s.dy + row * s.y_stride);
    }
  }

  template <class U>
  LF_FN void ahead(const U* numbers) const {
    for (int64_t u = unit; u < end; u += 64 / sizeof(U)) __builtin_prefetch(numbers + u);
  }
};

// The whole gradient of the output, and without a projection the cell's backward on it. A strip
// never holds rows that go on, which later steps owe something, and rows that end.
template <class S, class G, class CellType>
struct OutputGradient {
  const BackwardStep<S, G>& s;

  template <int J>
  void run(int64_t b, int64_t b1, int64_t column) const {
    using V = VecOf<S>;
    Strip<S> later;
    int lanes[4];
    panel_lanes<S>(column, s.P, lanes);
    const bool goes_on = b < s.continuing;
    const int64_t end = s.projection ? column : column + J * V::kWidth;
    if (goes_on)
      multiply_gates<J>(s, s.dgates_next, b, b1 - b, column, later,
                        CellsAhead<S, G>{s, b, column, end < s.H ? end : s.H});
    for (int64_t row = b; row < b1; ++row)
      for (int j = 0; j < J && lanes[j]; ++j) {
        const int64_t at = column + j * V::kWidth;
        V dh = s.dy ? V::load(s.dy + row * s.y_stride + at, lanes[j]) : V(0);
        if (goes_on)
          dh = dh + later.at(row - b, j);
        else if (s.dh_n)
          dh = dh + V::load(s.dh_n + row * s.P + at, lanes[j]);
        if (s.projection)
          dh.store(s.dh + row * s.P + at, lanes[j]);
        else
          cell_backward<CellType>(s, row, at, lanes[j], dh);
      }
  }
};

// With a projection: from the gradient of y through W_hr into the cell.
template <class S, class G, class CellType>
struct CellGradient {
  const BackwardStep<S, G>& s;

  template <int J>
  void run(int64_t b, int64_t b1, int64_t column) const {
    Strip<S> product;
    int lanes[4];
    panel_lanes<S>(column, s.H, lanes);
    multiply_strip<S, J>(product.numbers, b1 - b, RowsAt<S>{s.dh + b * s.P, s.P},
                         s.w_hr.from(column));
    for (int64_t row = b; row < b1; ++row)
      for (int j = 0; j < J && lanes[j]; ++j)
        cell_backward<CellType>(s, row, column + j * VecOf<S>::kWidth, lanes[j],
                                product.at(row - b, j));
  }
};

// dh0 = dgates W_hh for the rows that started with this step.
template <class S, class G>
struct InitialGradient {
  const BackwardStep<S, G>& s;

  template <int J>
  void run(int64_t b, int64_t b1, int64_t column) const {
    Strip<S> product;
    multiply_gates<J>(s, s.dgates, b, b1 - b, column, product);
    store_strip<S, J>(product, b1 - b, s.dh0 + b * s.P, s.P, column);
  }
};

// One member's share of the steps [first_step, last_step] of one direction. later: of the steps
// after them.
template <class S, class G, class CellType>
static void scan_backward(const BackwardTask<S>& task, const Share& share, int64_t i,
                          int64_t first_step, int64_t last_step, const GatesGradient<S>& dgates,
                          const GatesGradient<S>& later) {
  using T = ValueOf<S>;
  const LayerBackward& p = *task.p;
  const Dims& d = p.d;
  const Order order{p.offsets, d.T, i == 1};
  const int64_t unit0 = first_column<S>(d.H, share.part, share.parts);
  const int64_t unit1 = first_column<S>(d.H, share.part + 1, share.parts);
  const int64_t column0 = first_column<S>(d.P, share.part, share.parts);
  const int64_t column1 = first_column<S>(d.P, share.part + 1, share.parts);
  Barrier& barrier = task.barriers[share.barrier];
  const int64_t first = first_of_slice(order, first_step, last_step + 1, share.slice, share.slices);
  const int64_t end =
      first_of_slice(order, first_step, last_step + 1, share.slice + 1, share.slices);

  BackwardStep<S, G> s{.w_hh = task.w_hh[i], .w_hr = task.w_hr[i]};
  s.H = d.H;
  s.P = d.P;
  s.y_stride = d.D * d.P;
  s.projection = p.w_hr[i];
  s.dh_n = p.dh_n ? static_cast<const S*>(p.dh_n) + i * d.B * d.P : nullptr;
  s.c0 = p.c0 ? static_cast<const T*>(p.c0) + i * d.B * d.H : nullptr;
  s.dc = static_cast<T*>(p.dc0) + i * d.B * d.H;
  s.dh0 = p.dh0 ? static_cast<S*>(p.dh0) + i * d.B * d.P : nullptr;

  for (int64_t step = last_step; step >= first_step; --step) {
    const int64_t row = i * d.N + order.first_row(step);
    const int64_t b0 = clamp(first, 0, order.rows(step)), b1 = clamp(end, 0, order.rows(step));
    s.continued = order.continued(step);
    s.continuing = order.continuing(step);
    s.dy =
        p.dy ? static_cast<const S*>(p.dy) + order.first_row(step) * s.y_stride + i * d.P : nullptr;
    s.gates = static_cast<const G*>(p.gates) + row * 4 * d.H;
    s.c = static_cast<const T*>(p.c) + row * d.H;
    s.dgates = dgates.of(i, order.first_row(step));
    s.dgates_next = step + 1 == d.T
                        ? nullptr
                        : (step < last_step ? dgates : later).of(i, order.first_row(step + 1));
    s.c_prev =
        step ? static_cast<const T*>(p.c) + (i * d.N + order.first_row(step - 1)) * d.H : nullptr;
    s.dh = p.dh ? static_cast<S*>(p.dh) + row * d.P : nullptr;
    s.h_cell = p.h_cell ? static_cast<S*>(p.h_cell) + row * d.H : nullptr;

    const int64_t middle = clamp(s.continuing, b0, b1);
    const OutputGradient<S, G, CellType> output{s};
    for_panels<S>(output, b0, middle, column0, column1);
    for_panels<S>(output, middle, b1, column0, column1);
    if (s.projection) {
      barrier.wait(share.parts);
      for_panels<S>(CellGradient<S, G, CellType>{s}, b0, b1, unit0, unit1);
    }
    barrier.wait(share.parts);
    if (s.dh0 && s.continued < b1)
      for_panels<S>(InitialGradient<S, G>{s}, s.continued < b0 ? b0 : s.continued, b1, column0,
                    column1);
  }
}

// The same for any storage type.
template <class S, class CellType>
struct ScanBackward {
  const BackwardTask<S>& task;
  const Share& share;
  int64_t i, first_step, last_step;
  const GatesGradient<S>&dgates, &later;

  template <class G>
  void run() const {
    scan_backward<S, G, CellType>(task, share, i, first_step, last_step, dgates, later);
  }
};

// The first of the steps before `end` whose rows make a chunk.
template <class S>
static int64_t chunk_begin(const LayerBackward& p, int64_t end) {
  const int64_t most = chunk_rows<S>(p.d);
  int64_t step = end - 1;
  for (; step > 0; --step)
    for (int64_t i = 0; i < p.d.D; ++i) {
      const Rows rows = rows_of(p, i, step - 1, end);
      if (rows.end - rows.first > most) return step;
    }
  return step;
}

// Where the gradients of the gates of the steps [begin, end) lie.
template <class S>
static GatesGradient<S> gates_gradient(const BackwardTask<S>& task, int turn, int64_t begin,
                                       int64_t end) {
  const LayerBackward& p = *task.p;
  GatesGradient<S> all{};
  all.size = 4 * p.d.H;
  for (int64_t i = 0; i < p.d.D; ++i) {
    all.first[i] =
        p.dgates ? static_cast<S*>(p.dgates) + i * p.d.N * all.size : task.dgates[turn][i];
    all.first_row[i] = p.dgates ? 0 : rows_of(p, i, begin, end).first;
  }
  return all;
}

// Into how many pieces the hidden units can be cut: backward, a panel each.
template <class S>
constexpr int64_t backward_parts(const Dims& d) {
  return ceil_div(d.H < d.P ? d.P : d.H, kPanel<S>);
}

template <class S, class CellType>
static void backward_member(const void* task_, int member, int members) {
  const BackwardTask<S>& task = *static_cast<const BackwardTask<S>*>(task_);
  const LayerBackward& p = *task.p;
  Barrier& everyone = task.barriers[kMaxTeam];
  for (int64_t i = 0; i < p.d.D; ++i) {
    task.w_hh[i].fill(member, members);
    task.w_hr[i].fill(member, members);
    task.gradients.input.w_ih[i].fill(member, members);
  }
  everyone.wait(members);
  const int scanning = members < task.scan_members ? members : task.scan_members;
  const Share mine = share(p.d, split(p.d, kTileRows, backward_parts<S>(p.d), scanning), member);
  const int takers = members < task.gradients.members ? members : task.gradients.members;
  Taker taker{member, takers, task.barriers[kMaxTeam + 1]};
  GatesGradient<S> later{};
  int turn = 0;
  for (int64_t end = p.d.T, begin; end > 0; end = begin, turn ^= 1) {
    begin = chunk_begin<S>(p, end);
    const GatesGradient<S> dgates = gates_gradient(task, turn, begin, end);
    for (int64_t i = mine.d0; i < mine.d1; ++i)
      with_storage<S>(p.storage,
                      ScanBackward<S, CellType>{task, mine, i, begin, end - 1, dgates, later});
    everyone.wait(members);
    if (member < taker.members) add_gradients(task.gradients, dgates, begin, end, taker);
    later = dgates;
  }
}

template <class S>
static size_t backward_workspace_of(const LayerBackward& p, int threads) {
  BackwardTask<S> task;
  return plan_backward<S>(p, threads, nullptr, task);
}

template <class S, class CellType>
static void backward_of(const LayerBackward& p, const Context& context) {
  const Dims& d = p.d;
  Barrier barriers[kMaxTeam + 2];
  BackwardTask<S> task{};
  plan_backward(p, context.threads, context.workspace, task);
  task.barriers = barriers;
  const size_t state = d.D * d.B * d.H * sizeof(ValueOf<S>);
  if (p.dc_n)
    std::memcpy(p.dc0, p.dc_n, state);
  else
    std::memset(p.dc0, 0, state);
  task.scan_members = scan_split(d, kTileRows, backward_parts<S>(d), context.threads).members();
  const int most =
      task.scan_members > task.gradients.members ? task.scan_members : task.gradients.members;
  run_team(most, backward_member<S, CellType>, &task);
}

}  // namespace lf::LF_ISA
