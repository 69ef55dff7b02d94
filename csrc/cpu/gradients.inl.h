// The products over all rows of the CPU backward. Included once per ISA.
//
//   dW_ih = dgates^T x    dW_hh = dgates^T h_before    db = sums of dgates    dW_hr = dh^T h_cell
//   dx    = dgates W_ih, of both directions
//
// A weight's gradient is a sum over rows of outer products. Rows come in blocks. Of each block a
// member transposes its own columns of dgates into tiles, packs [x | h_before] into panels, and
// adds the products of the two to its own rows of dW. No number has two writers, nobody waits, and
// the order of a sum does not depend on the team.
#pragma once

#include "contract/order.h"
#include "cpu/plan.h"
#include "cpu/tile.inl.h"

namespace lf::LF_ISA {

// A multiple of kChain.
constexpr int64_t kBlockRows = 256;

// Rows of dgates that stay in L2 while every panel of W_ih passes: 48 KiB of them at H = 32, 1.5
// MiB at H = 1024.
constexpr int64_t kInputRows = 96;

// Tiles that are transposed at once: whole cache lines of dgates.
constexpr int64_t kGroupTiles = 48 / kTileRows;

template <class T>
struct GradientTask {
  const LayerBackward* p;
  int members;
  T* w_ih[kMaxDirections];  // packed panels of columns, in the workspace
  T* zeros;                 // [P]: the missing h0
  T* scratch;               // per member: panels of a block, then a group of tiles
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
  int64_t panels() const { return ceil_div(vectors(0) + vectors(1), 4); }
};

template <class T>
static WeightGradient<T> gate_gradient(const LayerBackward& p, int64_t i) {
  const int64_t M = 4 * p.d.H;
  return {static_cast<const T*>(p.dgates) + i * p.d.N * M,
          static_cast<const T*>(p.x),
          M,
          static_cast<T*>(p.db[i]),
          {p.I, p.d.P},
          {static_cast<T*>(p.dw_ih[i]), static_cast<T*>(p.dw_hh[i])}};
}

template <class T>
static WeightGradient<T> projection_gradient(const LayerBackward& p, int64_t i) {
  return {static_cast<const T*>(p.dh) + i * p.d.N * p.d.P,
          static_cast<const T*>(p.h_cell) + i * p.d.N * p.d.H,
          p.d.P,
          nullptr,
          {p.d.H, 0},
          {static_cast<T*>(p.dw_hr[i]), nullptr}};
}

// What one more gradient asks for: panels at once, and operations in all.
template <class T>
static void count_gradient(const WeightGradient<T>& g, int64_t rows, int64_t& panels,
                           double& flops) {
  panels = panels < g.panels() ? g.panels() : panels;
  flops += 2.0 * rows * g.M * double(g.panels() * kPanel<T>);
}

// Lays the task out from `base`, of which `used` elements are taken; base may be null to measure.
template <class T>
static void plan_gradients(const LayerBackward& p, int threads, T* base, int64_t& used,
                           GradientTask<T>& task) {
  const Dims& d = p.d;
  const int64_t block = d.N < kBlockRows ? d.N : kBlockRows;
  int64_t panels = 0;
  double flops = 0;
  task.p = &p;
  for (int64_t i = 0; i < d.D; ++i) {
    task.w_ih[i] = take(base, used, p.dx ? ceil_div(p.I, kPanel<T>) * 4 * d.H * kPanel<T> : 0);
    if (p.dx) flops += 8.0 * d.N * d.H * p.I;
    count_gradient(gate_gradient<T>(p, i), d.N, panels, flops);
    if (p.dw_hr[i]) count_gradient(projection_gradient<T>(p, i), d.N, panels, flops);
  }
  task.zeros = take(base, used, d.P);
  task.members = team_for(flops, threads);
  task.panels_size = panels * block * kPanel<T>;
  task.scratch_size = ceil_div(task.panels_size + block * kGroupTiles * kTileRows, 16) * 16;
  task.scratch = take(base, used, task.members * task.scratch_size);
}

// Where the state before each row lies, for rows in ascending order.
template <class T>
struct StatesBefore {
  const GradientTask<T>& task;
  int64_t i;
  int64_t t = 0;

  const T* of(int64_t row) {
    const LayerBackward& p = *task.p;
    const Dims& d = p.d;
    const Order order{p.offsets, d.T, i == 1};
    while (row >= p.offsets[t + 1]) ++t;
    const int64_t step = order.t(t), b = row - p.offsets[t];
    if (b < order.continued(step))
      return static_cast<const T*>(p.y) + ((order.first_row(step - 1) + b) * d.D + i) * d.P;
    return p.h0 ? static_cast<const T*>(p.h0) + (i * d.B + b) * d.P : task.zeros;
  }
};

// One block of rows: where they lie on the right, and how many there are.
template <class T>
struct Block {
  int64_t first, rows;
  const T* right[2][kBlockRows];
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
};

template <class T>
static void pack_right(const WeightGradient<T>& g, const Block<T>& block, T* panels) {
  using V = Vec<T>;
  for (int64_t v = 0; v < g.vectors(0) + g.vectors(1); ++v) {
    const Place<T> place(g, v);
    T* const out = panels + v / 4 * block.rows * kPanel<T> + v % 4 * V::kWidth;
    for (int64_t row = 0; row < block.rows; ++row)
      V::load(block.right[place.k][row] + place.column, place.lanes).store(out + row * kPanel<T>);
  }
}

// Columns of left from m on to tiles [rows][kTileRows], with zeros past the last column.
template <class T>
static void transpose_left(const WeightGradient<T>& g, const Block<T>& block, int64_t m,
                           int64_t tiles, T* out) {
  using V = Vec<T>;
  for (int64_t row = 0; row < block.rows; ++row)
    for (int64_t tile = 0; tile < tiles; ++tile)
#pragma GCC unroll 3
      for (int r = 0; r < kTileRows; r += V::kWidth) {
        const int lanes = kTileRows - r < V::kWidth ? kTileRows - r : V::kWidth;
        const int64_t column = m + tile * kTileRows + r, left = g.M - column;
        V::load(g.left + (block.first + row) * g.M + column, left >= lanes ? lanes
                                                             : left > 0    ? int(left)
                                                                           : 0)
            .store(out + (tile * block.rows + row) * kTileRows + r, lanes);
      }
}

// sums += the columns [m, m1) of left.
template <class T>
static void add_sums(const WeightGradient<T>& g, const Block<T>& block, int64_t m, int64_t m1) {
  using V = Vec<T>;
  for (; m < m1; m += V::kWidth) {
    const int lanes = m1 - m < V::kWidth ? int(m1 - m) : V::kWidth;
    V total = block.first ? V::load(g.sums + m, lanes) : V(0);
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

// out += tile times panel, for the rows of out from m on; the first block sets them.
template <class T, int J>
static void add_product(const WeightGradient<T>& g, const Block<T>& block, int64_t m, int64_t panel,
                        const T* tile, const T* right) {
  using V = Vec<T>;
  Tile<T, kTileRows> product;
  const T* rows[kTileRows];
  for (int r = 0; r < kTileRows; ++r) rows[r] = tile + r;
  multiply<T, kTileRows, J, kTileRows>(product, rows, right, block.rows);
  for (int j = 0; j < J; ++j) {
    const Place<T> place(g, 4 * panel + j);
    for (int r = 0; r < kTileRows && m + r < g.M; ++r) {
      T* const out = g.out[place.k] + (m + r) * g.columns[place.k] + place.column;
      const V sum = V::load(product.at[r][j]);
      (block.first ? sum + V::load(out, place.lanes) : sum).store(out, place.lanes);
    }
  }
}

// One member's rows of g.out, over all rows of the layer.
template <class T>
static void add_gradient(const GradientTask<T>& task, const WeightGradient<T>& g, int64_t i,
                         int member, int members) {
  const LayerBackward& p = *task.p;
  if (!g.sums && g.panels() == 0) return;
  const int64_t tiles = ceil_div(g.M, kTileRows), vectors = g.vectors(0) + g.vectors(1);
  const int64_t tile0 = tiles * member / members, tile1 = tiles * (member + 1) / members;
  T* const panels = task.scratch + member * task.scratch_size;
  T* const left = panels + task.panels_size;
  StatesBefore<T> before{task, i};
  Block<T> block;
  for (block.first = 0; block.first < p.d.N; block.first += block.rows) {
    block.rows = p.d.N - block.first < kBlockRows ? p.d.N - block.first : kBlockRows;
    for (int64_t row = 0; row < block.rows; ++row) {
      block.right[0][row] = g.right + (block.first + row) * g.columns[0];
      block.right[1][row] = g.out[1] ? before.of(block.first + row) : nullptr;
    }
    pack_right(g, block, panels);
    for (int64_t tile = tile0; tile < tile1; tile += kGroupTiles) {
      const int64_t n = tile1 - tile < kGroupTiles ? tile1 - tile : kGroupTiles;
      const int64_t m = tile * kTileRows, m1 = m + n * kTileRows;
      if (g.panels()) transpose_left(g, block, m, n, left);
      if (g.sums) add_sums(g, block, m, m1 < g.M ? m1 : g.M);
      for (int64_t panel = 0; panel < g.panels(); ++panel)
        for (int64_t k = 0; k < n; ++k) {
          const T* const a = left + k * block.rows * kTileRows;
          const T* const b = panels + panel * block.rows * kPanel<T>;
          const int64_t at = m + k * kTileRows;
          switch (vectors - 4 * panel) {
            case 1:
              add_product<T, 1>(g, block, at, panel, a, b);
              break;
            case 2:
              add_product<T, 2>(g, block, at, panel, a, b);
              break;
            case 3:
              add_product<T, 3>(g, block, at, panel, a, b);
              break;
            default:
              add_product<T, 4>(g, block, at, panel, a, b);
          }
        }
    }
  }
}

// dx = dgates W_ih.
template <class T>
struct InputGradientTile {
  const GradientTask<T>& task;

  template <int R, int J>
  LF_FN void run(int64_t row, int64_t column) const {
    const LayerBackward& p = *task.p;
    const int64_t K = 4 * p.d.H;
    Tile<T, R> product;
    for (int64_t i = 0; i < p.d.D; ++i) {
      const T* a[R];
      for (int r = 0; r < R; ++r)
        a[r] = static_cast<const T*>(p.dgates) + (i * p.d.N + row + r) * K;
      multiply<T, R, J>(product, a, task.w_ih[i] + column * K, K, i > 0);
    }
    store_tile<T, R, J>(product, static_cast<T*>(p.dx) + row * p.I, p.I, column);
  }
};

template <class T>
static void gradients_member(const void* task_, int member, int members) {
  const GradientTask<T>& task = *static_cast<const GradientTask<T>*>(task_);
  const LayerBackward& p = *task.p;
  for (int64_t i = 0; i < p.d.D; ++i) {
    add_gradient(task, gate_gradient<T>(p, i), i, member, members);
    if (p.dw_hr[i]) add_gradient(task, projection_gradient<T>(p, i), i, member, members);
  }
  if (!p.dx) return;
  const int64_t row1 = p.d.N * (member + 1) / members;
  for (int64_t row = p.d.N * member / members; row < row1; row += kInputRows)
    for_panels<T>(InputGradientTile<T>{task}, row,
                  row + kInputRows < row1 ? row + kInputRows : row1, 0, p.I);
}

}  // namespace lf::LF_ISA
