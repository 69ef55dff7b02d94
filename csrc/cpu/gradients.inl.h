// The products over all rows of the CPU backward. Included once per ISA.
//
//   dW_ih = dgates^T x    dW_hh = dgates^T h_before    db = sums of dgates    dW_hr = dh^T h_cell
//   dx    = dgates W_ih, of both directions
//
// A weight's gradient is a sum over rows of outer products. Rows come in blocks, soon after the
// scan has left them in the caches. Of each block a member packs [x | h_before] into panels, a
// chunk of columns at a time, copies its own columns of dgates, a group at a time, and adds the
// products of the two to its own rows of dW. A few rows are multiplied as they lie. No number of a
// weight's gradient has two writers; in dx two directions add up, one after the other. So the order
// of a sum does not depend on the team.
#pragma once

#include "contract/order.h"
#include "cpu/panels.inl.h"
#include "cpu/plan.h"
#include "cpu/team.h"

namespace lf::LF_ISA {

constexpr int64_t kBlockRows = 256;
static_assert(kBlockRows % kChain == 0);

// dgates that the scan leaves before products take them up, or a block of them if that is more:
// half of an L2 of 1 MiB.
constexpr int64_t kChunkBytes = 1 << 19;

// Up to so many rows in all, packing and copying would take longer than the products.
constexpr int64_t kFewRows = 8;

// Panels of a block that a member packs at once: 1 MiB. With 256 KiB dgates were copied more
// often, and a product of 2048 columns took a fifth longer; without a limit, memory grew with
// threads times I.
template <class T>
constexpr int64_t kChunkPanels = (1 << 20) / (kBlockRows * kPanel<T> * sizeof(T));

// Columns of dgates whose tiles share a copy in L1, beside a block of a panel: 12 KiB of each
// kChain rows on AVX2.
constexpr int64_t kGroup = 8 * kTileRows;
static_assert(kGroup <= kStripRows && kGroup % Vec<float>::kWidth == 0);

template <class T>
struct GradientTask {
  const LayerBackward* p;
  int members;
  Columns<T> w_ih[kMaxDirections];  // without columns where dx is not wanted
  T* scratch;                       // per member: panels of a chunk, then a group of columns
  int64_t panels_size, scratch_size;
};

// What the products of one direction add to, [M, columns] each.
template <class T>
struct WeightGradient {
  const T* left;   // [N, M]
  const T* right;  // [N, columns[0]]; beside it stand the states before
  int64_t M;
  T* sums;  // [M], of the columns of left; nullptr: not wanted
  int64_t columns[2];
  T* out[2];  // nullptr: not wanted

  int64_t vectors(int k) const { return out[k] ? ceil_div(columns[k], Vec<T>::kWidth) : 0; }
  int64_t vectors() const { return vectors(0) + vectors(1); }
  int64_t panels() const { return ceil_div(vectors(), 4); }
};

template <class T>
static WeightGradient<T> gate_gradient(const LayerBackward& p, int64_t i) {
  const int64_t M = 4 * p.d.H;
  return {.left = static_cast<const T*>(p.dgates) + i * p.d.N * M,
          .right = static_cast<const T*>(p.x),
          .M = M,
          .sums = static_cast<T*>(p.db[i]),
          .columns = {p.I, p.d.P},
          .out = {static_cast<T*>(p.dw_ih[i]), static_cast<T*>(p.dw_hh[i])}};
}

template <class T>
static WeightGradient<T> projection_gradient(const LayerBackward& p, int64_t i) {
  return {.left = static_cast<const T*>(p.dh) + i * p.d.N * p.d.P,
          .right = static_cast<const T*>(p.h_cell) + i * p.d.N * p.d.H,
          .M = p.d.P,
          .sums = nullptr,
          .columns = {p.d.H, 0},
          .out = {static_cast<T*>(p.dw_hr[i]), nullptr}};
}

// What one more gradient asks for: panels at once, and operations in all.
template <class T>
static void count_gradient(const WeightGradient<T>& g, int64_t rows, int64_t& panels,
                           double& flops) {
  const int64_t at_once = g.panels() < kChunkPanels<T> ? g.panels() : kChunkPanels<T>;
  panels = panels < at_once ? at_once : panels;
  flops += 2.0 * rows * g.M * double(g.panels() * kPanel<T>);
}

// Lays the task out from `base`, of which `used` elements are taken; base may be null to measure.
template <class T>
static void plan_gradients(const LayerBackward& p, int threads, T* base, int64_t& used,
                           GradientTask<T>& task) {
  const Dims& d = p.d;
  const int64_t block = d.N < kBlockRows ? d.N : kBlockRows;
  const bool few = d.N <= kFewRows;
  int64_t panels = 0;
  double flops = 0;
  task.p = &p;
  for (int64_t i = 0; i < d.D; ++i) {
    task.w_ih[i] = {static_cast<const T*>(p.w_ih[i]), 4 * d.H, p.dx ? p.I : 0, !few, nullptr};
    task.w_ih[i].panels = take(base, used, task.w_ih[i].size());
    if (p.dx) flops += 8.0 * d.N * d.H * p.I;
    count_gradient(gate_gradient<T>(p, i), d.N, panels, flops);
    if (p.dw_hr[i]) count_gradient(projection_gradient<T>(p, i), d.N, panels, flops);
  }
  task.members = team_for(flops, threads);
  task.panels_size = few ? 0 : panels * block * kPanel<T>;
  const int64_t group_size = few ? 0 : block * kGroup;
  task.scratch_size = ceil_div(task.panels_size + group_size, 16) * 16;
  task.scratch = take(base, used, task.members * task.scratch_size);
}

// Rows [first, end) of a layer, of time step t on; add: to what other rows have left.
struct Rows {
  int64_t first, end, t;
  bool add;
};

// Where the state before each row lies, for rows in ascending order; nullptr: it is zero.
template <class T>
struct StatesBefore {
  const LayerBackward& p;
  int64_t i;
  int64_t t;  // at most that of the first row asked for

  const T* of(int64_t row) {
    const Dims& d = p.d;
    const Order order{p.offsets, d.T, i == 1};
    while (row >= p.offsets[t + 1]) ++t;
    const int64_t step = order.t(t), b = row - p.offsets[t];
    if (b < order.continued(step))
      return static_cast<const T*>(p.y) + ((order.first_row(step - 1) + b) * d.D + i) * d.P;
    return p.h0 ? static_cast<const T*>(p.h0) + (i * d.B + b) * d.P : nullptr;
  }
};

// One block of rows: where they lie on the right, and how many there are.
template <class T>
struct Block {
  int64_t first, rows = 0, end;
  bool add;
  const T* right[2][kBlockRows];

  explicit Block(const Rows& of) : first(of.first), end(of.end), add(of.add) {}

  // Moves on to the next block; false: there is none.
  bool next(const WeightGradient<T>& g, StatesBefore<T>& before) {
    add = add || rows > 0;
    first += rows;
    rows = end - first < kBlockRows ? end - first : kBlockRows;
    for (int64_t k = 0; k < rows; ++k) {
      right[0][k] = g.right + (first + k) * g.columns[0];
      right[1][k] = g.out[1] ? before.of(first + k) : nullptr;
    }
    return rows > 0;
  }
};

// The vector of columns that is the v-th of all panels.
template <class T>
struct Place {
  int k;  // of WeightGradient::out
  int64_t column;
  int lanes;

  LF_FN Place(const WeightGradient<T>& g, int64_t v) {
    constexpr int W = Vec<T>::kWidth;
    k = v < g.vectors(0) ? 0 : 1;
    column = (v - k * g.vectors(0)) * W;
    lanes = g.columns[k] - column < W ? int(g.columns[k] - column) : W;
  }
  // The vector in one row of a block.
  LF_FN Vec<T> of(const Block<T>& block, int64_t row) const {
    const T* const from = block.right[k][row];
    return from ? Vec<T>::load(from + column, lanes) : Vec<T>(0);
  }
};

// The vectors [v0, v1) of a block to panels.
template <class T>
static void pack_right(const WeightGradient<T>& g, const Block<T>& block, int64_t v0, int64_t v1,
                       T* panels) {
  for (int64_t v = v0; v < v1; ++v) {
    const Place<T> place(g, v);
    T* const out = panels + (v - v0) / 4 * block.rows * kPanel<T> + (v - v0) % 4 * Vec<T>::kWidth;
    for (int64_t row = 0; row < block.rows; ++row)
      place.of(block, row).store(out + row * kPanel<T>);
  }
}

// Columns of left from m on to a group [rows][kGroup], with zeros past the last column.
template <class T>
static void copy_left(const WeightGradient<T>& g, const Block<T>& block, int64_t m, T* out) {
  using V = Vec<T>;
  for (int64_t row = 0; row < block.rows; ++row, out += kGroup) {
    const T* const from = g.left + (block.first + row) * g.M + m;
#pragma GCC unroll 12
    for (int c = 0; c < kGroup; c += V::kWidth) {
      const int64_t there = g.M - m - c;
      V::load(from + c, there >= V::kWidth ? V::kWidth : there > 0 ? int(there) : 0).store(out + c);
    }
  }
}

// sums += the columns [m, m1) of left.
template <class T>
static void add_sums(const WeightGradient<T>& g, const Block<T>& block, int64_t m, int64_t m1) {
  using V = Vec<T>;
  for (; m < m1; m += V::kWidth) {
    const int lanes = m1 - m < V::kWidth ? int(m1 - m) : V::kWidth;
    V total = block.add ? V::load(g.sums + m, lanes) : V(0);
    for (int64_t row0 = 0; row0 < block.rows; row0 += kChain) {
      const int64_t row1 = row0 + kChain < block.rows ? row0 + kChain : block.rows;
      V sum(0);
      for (int64_t row = row0; row < row1; ++row)
        sum = sum + V::load(g.left + (block.first + row) * g.M + m, lanes);
      total = total + sum;
    }
    total.store(g.sums + m, lanes);
  }
}

// n rows of out from m on += a group of columns times the panel whose first vector is v; the first
// block sets them.
template <class T, int J>
static void add_product(const WeightGradient<T>& g, const Block<T>& block, int64_t m, int64_t n,
                        int64_t v, const T* group, const T* panel) {
  using V = Vec<T>;
  Strip<T> product;
  multiply_strip<T, J, kGroup>(product.at[0][0], n, RowsAt<T>{group, 1},
                               Right<T>{panel, block.rows});
  for (int j = 0; j < J; ++j) {
    const Place<T> place(g, v + j);
    T* out = g.out[place.k] + m * g.columns[place.k] + place.column;
    for (int64_t r = 0; r < n; ++r, out += g.columns[place.k]) {
      const V sum = V::load(product.at[r][j]);
      (block.add ? sum + V::load(out, place.lanes) : sum).store(out, place.lanes);
    }
  }
}

// One member's rows [m0, m1) of g.out from one chunk of columns, vectors [v0, v1), of one block.
template <class T>
static void add_chunk(const WeightGradient<T>& g, const Block<T>& block, int64_t v0, int64_t v1,
                      int64_t m0, int64_t m1, T* panels, T* group) {
  pack_right(g, block, v0, v1, panels);
  for (int64_t m = m0; m < m1; m += kGroup) {
    const int64_t n = m1 - m < kGroup ? m1 - m : kGroup;
    copy_left(g, block, m, group);
    for (int64_t v = v0; v < v1; v += 4) {
      const T* const panel = panels + (v - v0) / 4 * block.rows * kPanel<T>;
      switch (v1 - v) {
        case 1:
          add_product<T, 1>(g, block, m, n, v, group, panel);
          break;
        case 2:
          add_product<T, 2>(g, block, m, n, v, group, panel);
          break;
        case 3:
          add_product<T, 3>(g, block, m, n, v, group, panel);
          break;
        default:
          add_product<T, 4>(g, block, m, n, v, group, panel);
      }
    }
  }
}

// The rows [m0, m1) of g.out from a block of few rows, which is the only one. Row after row, as
// they lie in memory: column after column touched a page per number.
template <class T>
static void set_from_few(const WeightGradient<T>& g, const Block<T>& block, int64_t m0,
                         int64_t m1) {
  for (int64_t m = m0; m < m1; ++m)
    for (int64_t v = 0; v < g.vectors(); ++v) {
      const Place<T> place(g, v);
      Vec<T> sum(0);
      for (int64_t row = 0; row < block.rows; ++row)
        sum = fma(Vec<T>(g.left[row * g.M + m]), place.of(block, row), sum);
      sum.store(g.out[place.k] + m * g.columns[place.k] + place.column, place.lanes);
    }
}

// One member's rows of g.out += the products of some rows of the layer.
template <class T>
static void add_gradient(const GradientTask<T>& task, const WeightGradient<T>& g, int64_t i,
                         const Rows& rows, int member, int members) {
  const LayerBackward& p = *task.p;
  const int64_t tiles = ceil_div(g.M, kTileRows);
  const int64_t tile0 = tiles * member / members, tile1 = tiles * (member + 1) / members;
  if (tile0 == tile1 || (!g.sums && g.vectors() == 0)) return;
  const int64_t m0 = tile0 * kTileRows, m1 = tile1 * kTileRows < g.M ? tile1 * kTileRows : g.M;
  T* const panels = task.scratch + member * task.scratch_size;
  StatesBefore<T> before{p, i, rows.t};
  Block<T> block(rows);
  while (block.next(g, before)) {
    if (g.sums) add_sums(g, block, m0, m1);
    if (p.d.N <= kFewRows) {
      set_from_few(g, block, m0, m1);
      continue;
    }
    constexpr int64_t kStep = 4 * kChunkPanels<T>;
    for (int64_t v = 0; v < g.vectors(); v += kStep)
      add_chunk(g, block, v, v + kStep < g.vectors() ? v + kStep : g.vectors(), m0, m1, panels,
                panels + task.panels_size);
  }
}

// dx = dgates W_ih of one direction, plus dx if add.
template <class T>
struct InputGradient {
  const GradientTask<T>& task;
  int64_t i;
  bool add;

  template <int J>
  void run(int64_t row, int64_t row1, int64_t column) const {
    const LayerBackward& p = *task.p;
    const int64_t K = 4 * p.d.H;
    const T* const dgates = static_cast<const T*>(p.dgates) + (i * p.d.N + row) * K;
    Strip<T> product;
    multiply_strip<T, J>(product.at[0][0], row1 - row, RowsAt<T>{dgates, K},
                         task.w_ih[i].from(column));
    store_strip<T, J>(product, row1 - row, static_cast<T*>(p.dx) + row * p.I, p.I, column, add);
  }
};

template <class T>
static void add_input_gradient(const GradientTask<T>& task, int64_t i, int64_t row, int64_t row1,
                               bool add, int member, int members) {
  const int64_t n = row1 - row;
  for_panels<T>(InputGradient<T>{task, i, add}, row + n * member / members,
                row + n * (member + 1) / members, 0, task.p->I);
}

static int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

// The rows of direction i that the steps [step, step1) hold.
static Rows rows_of(const LayerBackward& p, int64_t i, int64_t step, int64_t step1) {
  const int64_t T = p.d.T, t = i ? T - step1 : step;
  return {p.offsets[t], p.offsets[t + step1 - step], t, step1 < T};
}

// One member's share of what follows from the steps [step, step1); those after them are done.
template <class T>
static void add_gradients(const GradientTask<T>& task, int64_t step, int64_t step1, int member,
                          int members, Barrier& barrier) {
  const LayerBackward& p = *task.p;
  for (int64_t i = 0; i < p.d.D; ++i) {
    const Rows rows = rows_of(p, i, step, step1);
    add_gradient(task, gate_gradient<T>(p, i), i, rows, member, members);
    if (p.dw_hr[i]) add_gradient(task, projection_gradient<T>(p, i), i, rows, member, members);
  }
  if (!p.dx) return;
  // Of two directions one comes to a row of dx first and sets it, the other adds to it: the forward
  // one was at all later rows before, the reverse one at all earlier ones.
  const Rows forward = rows_of(p, 0, step, step1), reverse = rows_of(p, 1, step, step1);
  const int64_t seam =
      p.d.D == 1 ? forward.first : clamp(reverse.first, forward.first, forward.end);
  add_input_gradient(task, 0, forward.first, seam, true, member, members);
  add_input_gradient(task, 0, seam, forward.end, false, member, members);
  if (p.d.D == 1) return;
  barrier.wait(members);
  const int64_t reverse_seam = clamp(forward.first, reverse.first, reverse.end);
  add_input_gradient(task, 1, reverse.first, reverse_seam, false, member, members);
  add_input_gradient(task, 1, reverse_seam, reverse.end, true, member, members);
}

}  // namespace lf::LF_ISA
