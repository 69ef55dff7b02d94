// The gradients of the weights, products over all rows, of the CPU backward. Included once per ISA.
//
//   dW_ih = dgates^T x    dW_hh = dgates^T h_before    db = sums of dgates    dW_hr = dh^T h_cell
//
// A weight's gradient is a sum over rows of outer products. Rows come in blocks, soon after the
// scan has left them in the caches. Of each block the team, or up to two members each by
// himself, packs [x | h_before] into panels, a chunk of columns at a time; a member copies its own
// columns of dgates, a group at a time, and adds the products of the two to its own rows of dW. A
// few rows are multiplied as they lie. No number of a gradient has two writers, so the order of a
// sum does not depend on the team. Where tensors have 16 bits, sums wait in the workspace, and are
// rounded once.
#pragma once

#include "contract/order.h"
#include "cpu/input_gradient.inl.h"

namespace lf::LF_ISA {

// Rows of a block; the last takes up to half as many more, as every block reads and writes all of
// dW: a batch of 257 in blocks of 256 and 1 rows took a twentieth longer.
constexpr int64_t kBlockRows = 256, kMostRows = kBlockRows * 3 / 2;
static_assert(kBlockRows % (2 * kChain) == 0);

// dgates that the scan leaves before products take them up, or a block of them if that is more:
// half of an L2 of 1 MiB.
constexpr int64_t kChunkBytes = 1 << 19;

// Up to so many rows in all, packing and copying would take longer than the products.
constexpr int64_t kFewRows = 8;

// Panels of a block that are packed at once: 1 MiB. With 256 KiB dgates were copied more
// often, and a product of 2048 columns took a fifth longer.
template <class S>
constexpr int64_t kChunkPanels = (1 << 20) / (kBlockRows * kPanel<S> * sizeof(S));

// Up to so many members pack everything themselves: of two, waiting for the other costs as much as
// he saves. Packing is some 2 % of what one thread does, and so a fifth of what each of 16 does.
constexpr int kPackAlone = 2;

// Columns of dgates whose tiles share a copy in L1, beside a block of a panel: 12 KiB of each
// kChain words on AVX2.
constexpr int64_t kGroup = 8 * kTileRows;
static_assert(kGroup <= kStripRows && kGroup % Vec<float>::kWidth == 0);

// One gradient of a weight or the biases.
template <class S>
struct Gradient {
  S* out = nullptr;            // nullptr: not wanted
  ValueOf<S>* sums = nullptr;  // out itself, or in the workspace
  int64_t columns = 0;

  int64_t vectors() const { return out ? ceil_div(columns, VecOf<S>::kWidth) : 0; }

  // One member's rows, if all is summed up.
  void round(int64_t m0, int64_t m1) const {
    using V = VecOf<S>;
    if (!out || sizeof(S) == sizeof(*sums)) return;
    for (int64_t at = m0 * columns; at < m1 * columns; at += V::kWidth) {
      const int lanes = V::lanes(m1 * columns - at);
      V::load(sums + at, lanes).store(out + at, lanes);
    }
  }
};

// The products of one direction, [M, columns] each.
template <class S>
struct WeightGradient {
  const S* right;  // [N, out[0].columns]; beside it stand the states before
  int64_t M;
  Gradient<S> bias;  // the sums of the columns of left
  Gradient<S> out[2];

  int64_t vectors() const { return out[0].vectors() + out[1].vectors(); }
  int64_t panels() const { return ceil_div(vectors(), 4); }
};

template <class S>
struct GradientTask {
  InputGradientTask<S> input;
  WeightGradient<S> gates[kMaxDirections], projection[kMaxDirections];
  int members;
  S* panels;  // kPackAlone chunks: a member's own, or used by turns, so that nobody waits to pack
  S* groups;  // per member, a group of columns
  int64_t panels_size, group_size;
};

template <class S>
static Gradient<S> gradient(void* out, int64_t rows, int64_t columns, void* base, int64_t& used) {
  using T = ValueOf<S>;
  Gradient<S> g{static_cast<S*>(out), static_cast<T*>(out), columns};
  if (out && sizeof(S) != sizeof(T)) g.sums = take<T>(base, used, rows * columns);
  return g;
}

// What one more gradient asks for: panels at once, and operations in all.
template <class S>
static void count_gradient(const WeightGradient<S>& g, int64_t rows, int64_t& panels,
                           double& flops) {
  const int64_t at_once = g.panels() < kChunkPanels<S> ? g.panels() : kChunkPanels<S>;
  panels = panels < at_once ? at_once : panels;
  flops += 2.0 * rows * g.M * double(g.panels() * kPanel<S>);
}

// Lays the task out from `base`, of which `used` bytes are taken; base may be null to measure.
template <class S>
static void plan_gradients(const LayerBackward& p, int threads, void* base, int64_t& used,
                           GradientTask<S>& task) {
  const Dims& d = p.d;
  const int64_t block = padded<S>(d.N < kMostRows ? d.N : kMostRows), M = 4 * d.H;
  const bool few = d.N <= kFewRows;
  int64_t panels = 0;
  double flops = 0;
  task.input.p = &p;
  for (int64_t i = 0; i < d.D; ++i) {
    Columns<S>& w_ih = task.input.w_ih[i];
    w_ih = {p.w_ih[i], p.storage, M, p.dx ? p.I : 0, !few, nullptr};
    w_ih.panels = take<S>(base, used, w_ih.size());
    if (p.dx) flops += 2.0 * d.N * M * p.I;
    task.gates[i] = {.right = static_cast<const S*>(p.x),
                     .M = M,
                     .bias = gradient<S>(p.db[i], M, 1, base, used),
                     .out = {gradient<S>(p.dw_ih[i], M, p.I, base, used),
                             gradient<S>(p.dw_hh[i], M, d.P, base, used)}};
    count_gradient(task.gates[i], d.N, panels, flops);
    if (!p.dw_hr[i]) continue;
    task.projection[i] = {.right = static_cast<const S*>(p.h_cell) + i * d.N * d.H,
                          .M = d.P,
                          .bias = {},
                          .out = {gradient<S>(p.dw_hr[i], d.P, d.H, base, used), {}}};
    count_gradient(task.projection[i], d.N, panels, flops);
  }
  task.members = team_for(flops, threads);
  task.panels_size = few ? 0 : panels * block * kPanel<S>;
  task.group_size = few ? 0 : ceil_div(block * kGroup, 32) * 32;  // whole cache lines
  task.panels = take<S>(base, used, (task.members > 1 ? kPackAlone : 1) * task.panels_size);
  task.groups = take<S>(base, used, task.members * task.group_size);
}

// Where the state before each row lies, for rows in ascending order; nullptr: it is zero.
template <class S>
struct StatesBefore {
  const LayerBackward& p;
  int64_t i;
  int64_t t;  // at most that of the first row asked for

  const S* of(int64_t row) {
    const Dims& d = p.d;
    const Order order{p.offsets, d.T, i == 1};
    while (row >= p.offsets[t + 1]) ++t;
    const int64_t step = order.t(t), b = row - p.offsets[t];
    if (b < order.continued(step))
      return static_cast<const S*>(p.y) + ((order.first_row(step - 1) + b) * d.D + i) * d.P;
    return p.h0 ? static_cast<const S*>(p.h0) + (i * d.B + b) * d.P : nullptr;
  }
};

// One member of those who take gradients. turn: chunks packed so far, the same for all members.
struct Taker {
  int member, members;
  Barrier& barrier;
  int turn = 0;
};

// One block of rows: where they lie on the left and on the right, and how many there are.
template <class S>
struct Block {
  int64_t first, rows = 0, end;
  bool add;       // to what blocks before have left
  const S* left;  // [rows, M]
  const S* right[2][kMostRows];

  // left: of the first of the rows.
  Block(const Rows& of, const S* left)
      : first(of.first), end(of.end), add(!of.is_first), left(left) {}

  // Moves on to the next block; false: there is none.
  bool next(const WeightGradient<S>& g, StatesBefore<S>& before) {
    add = add || rows > 0;
    first += rows;
    left += rows * g.M;
    rows = end - first <= kMostRows ? end - first : kBlockRows;
    for (int64_t k = 0; k < rows; ++k) {
      right[0][k] = g.right + (first + k) * g.out[0].columns;
      right[1][k] = g.out[1].out ? before.of(first + k) : nullptr;
    }
    return rows > 0;
  }
};

// The vector of columns that is the v-th of all panels.
template <class S>
struct Place {
  int k;  // of WeightGradient::out
  int64_t column;
  int lanes;

  LF_FN Place(const WeightGradient<S>& g, int64_t v) {
    using V = VecOf<S>;
    k = v < g.out[0].vectors() ? 0 : 1;
    column = (v - k * g.out[0].vectors()) * V::kWidth;
    lanes = V::lanes(g.out[k].columns - column);
  }
  // The vector in one row of a block; nullptr: it is zero.
  LF_FN const S* of(const Block<S>& block, int64_t row) const {
    const S* const from = row < block.rows ? block.right[k][row] : nullptr;
    return from ? from + column : nullptr;
  }
};

// One member's share of packing the vectors [v0, v1) of a block.
template <class S>
static void pack_right(const WeightGradient<S>& g, const Block<S>& block, int64_t v0, int64_t v1,
                       S* panels, int member, int members) {
  constexpr int64_t kWords = VecOf<S>::kWidth * kPair<S>;
  for (int64_t v = v0 + member; v < v1; v += members) {
    const Place<S> place(g, v);
    S* out = panels + (v - v0) / 4 * padded<S>(block.rows) * kPanel<S> + (v - v0) % 4 * kWords;
    for (int64_t row = 0; row < block.rows; row += kPair<S>, out += kWordRow<S>) {
      const S* from[kPair<S>];
      for (int of = 0; of < kPair<S>; ++of) from[of] = place.of(block, row + of);
      Stored<S>::zip(from, place.lanes).store(out);
    }
  }
}

// Columns of the left from m on to a group [words of rows][kGroup][kPair], with zeros past the last
// column; if kSum, adds up those before m1.
template <class S, bool kSum>
static void copy_left(const WeightGradient<S>& g, const Block<S>& block, int64_t m, int64_t m1,
                      S* out) {
  using V = VecOf<S>;
  constexpr int kVectors = kGroup / V::kWidth;
  V total[kVectors], sum[kVectors];
  for (int v = 0; v < kVectors; ++v) total[v] = V(0);
  for (int64_t row0 = 0; row0 < block.rows; row0 += kChain) {
    const int64_t row1 = row0 + kChain < block.rows ? row0 + kChain : block.rows;
    for (int v = 0; v < kVectors; ++v) sum[v] = V(0);
    for (int64_t row = row0; row < row1; row += kPair<S>, out += kGroup * kPair<S>) {
      const S* const from = block.left + row * g.M + m;
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) {
        const int lanes = V::lanes(g.M - m - v * V::kWidth);
        const S* rows[kPair<S>];
        for (int of = 0; of < kPair<S>; ++of) {
          rows[of] = row + of < row1 ? from + of * g.M + v * V::kWidth : nullptr;
          if (kSum && rows[of]) sum[v] = sum[v] + V::load(rows[of], lanes);
        }
        Stored<S>::zip(rows, lanes).store(out + v * V::kWidth * kPair<S>);
      }
    }
    for (int v = 0; v < kVectors; ++v) total[v] = total[v] + sum[v];
  }
  if (!kSum) return;
  for (int v = 0; v < kVectors; ++v) {
    ValueOf<S>* const to = g.bias.sums + m + v * V::kWidth;
    const int lanes = V::lanes(m1 - m - v * V::kWidth);
    (block.add ? total[v] + V::load(to, lanes) : total[v]).store(to, lanes);
  }
}

// n rows of out from m on += a group of columns times the panel whose first vector is v; the first
// block sets them.
template <class S, int J>
static void add_product(const WeightGradient<S>& g, const Block<S>& block, int64_t m, int64_t n,
                        int64_t v, const S* group, const S* panel) {
  using V = VecOf<S>;
  ValueOf<S>* out[J];
  int64_t columns[J];
  int lanes[J];
  for (int j = 0; j < J; ++j) {
    const Place<S> place(g, v + j);
    columns[j] = g.out[place.k].columns;
    lanes[j] = place.lanes;
    out[j] = g.out[place.k].sums + m * columns[j] + place.column;
  }
  // Short pieces of far rows: no prefetcher sees a stream in them.
  for (int64_t r = 0; block.add && r < n; ++r)
    for (int j = 0; j < J; ++j) __builtin_prefetch(out[j] + r * columns[j], 1);
  Strip<S> product;
  multiply_strip<S, J, kGroup>(product.numbers, n, RowsAt<S>{group, kPair<S>},
                               Right<S>{panel, block.rows});
  for (int64_t r = 0; r < n; ++r)
    for (int j = 0; j < J; ++j) {
      ValueOf<S>* const to = out[j] + r * columns[j];
      const V sum = product.at(r, j);
      (block.add ? sum + V::load(to, lanes[j]) : sum).store(to, lanes[j]);
    }
}

// One member's rows [m0, m1) of g.out from one chunk of columns, vectors [v0, v1), of one block.
// The first chunk brings the sums along.
template <class S>
static void add_chunk(const WeightGradient<S>& g, const Block<S>& block, int64_t v0, int64_t v1,
                      int64_t m0, int64_t m1, const S* panels, S* group) {
  for (int64_t m = m0; m < m1; m += kGroup) {
    const int64_t n = m1 - m < kGroup ? m1 - m : kGroup;
    if (v0 == 0 && g.bias.out)
      copy_left<S, true>(g, block, m, m1, group);
    else
      copy_left<S, false>(g, block, m, m1, group);
    for (int64_t v = v0; v < v1; v += 4) {
      const S* const panel = panels + (v - v0) / 4 * padded<S>(block.rows) * kPanel<S>;
      switch (v1 - v) {
        case 1:
          add_product<S, 1>(g, block, m, n, v, group, panel);
          break;
        case 2:
          add_product<S, 2>(g, block, m, n, v, group, panel);
          break;
        case 3:
          add_product<S, 3>(g, block, m, n, v, group, panel);
          break;
        default:
          add_product<S, 4>(g, block, m, n, v, group, panel);
      }
    }
  }
}

// The rows [m0, m1) of g.out from a block of few rows, which is the only one. Row after row, as
// they lie in memory: column after column touched a page per number.
template <class S>
static void set_from_few(const WeightGradient<S>& g, const Block<S>& block, int64_t m0,
                         int64_t m1) {
  using V = VecOf<S>;
  for (int64_t m = m0; m < m1; ++m)
    for (int64_t v = 0; v < g.vectors(); ++v) {
      const Place<S> place(g, v);
      V sum(0);
      for (int64_t row = 0; row < block.rows; ++row)
        if (const S* const right = place.of(block, row))
          sum = fma(Stored<S>::value(block.left + row * g.M + m), V::load(right, place.lanes), sum);
      const Gradient<S>& out = g.out[place.k];
      sum.store(out.sums + m * out.columns + place.column, place.lanes);
    }
  for (int64_t m = m0; g.bias.out && m < m1; m += V::kWidth) {
    const int lanes = V::lanes(m1 - m);
    V sum(0);
    for (int64_t row = 0; row < block.rows; ++row)
      sum = sum + V::load(block.left + row * g.M + m, lanes);
    sum.store(g.bias.sums + m, lanes);
  }
}

// One member's rows of g.out += the products of some rows of the layer; left: of the first of them.
template <class S>
static void add_gradient(const GradientTask<S>& task, const WeightGradient<S>& g, int64_t i,
                         const Rows& rows, const S* left, Taker& taker) {
  const LayerBackward& p = *task.input.p;
  const int64_t W = VecOf<S>::kWidth, vectors = ceil_div(g.M, W);
  const int member = taker.member, members = taker.members;
  const int64_t m0 = vectors * member / members * W;
  const int64_t end = vectors * (member + 1) / members * W, m1 = end < g.M ? end : g.M;
  if (!g.bias.out && g.vectors() == 0) return;
  const bool alone = members <= kPackAlone;
  if (alone && m0 >= m1) return;
  StatesBefore<S> before{p, i, rows.t};
  Block<S> block(rows, left);
  while (block.next(g, before)) {
    if (p.d.N <= kFewRows) {
      set_from_few(g, block, m0, m1);
      continue;
    }
    constexpr int64_t kStep = 4 * kChunkPanels<S>;
    int64_t v = 0;
    do {
      const int64_t v1 = v + kStep < g.vectors() ? v + kStep : g.vectors();
      S* const panels = task.panels + (alone ? member : taker.turn++ % 2) * task.panels_size;
      if (alone) {
        pack_right(g, block, v, v1, panels, 0, 1);
      } else {
        pack_right(g, block, v, v1, panels, member, members);
        taker.barrier.wait(members);
      }
      add_chunk(g, block, v, v1, m0, m1, panels, task.groups + member * task.group_size);
      v += kStep;
    } while (v < g.vectors());
  }
  if (!rows.is_last) return;
  g.bias.round(m0, m1);
  for (const Gradient<S>& out : g.out) out.round(m0, m1);
}

// One member's share of what follows from the steps [step, step1); those after them are done.
template <class S>
static void add_gradients(const GradientTask<S>& task, const GatesGradient<S>& dgates, int64_t step,
                          int64_t step1, Taker& taker) {
  const LayerBackward& p = *task.input.p;
  for (int64_t i = 0; i < p.d.D; ++i) {
    const Rows rows = rows_of(p, i, step, step1);
    add_gradient(task, task.gates[i], i, rows, dgates.of(i, rows.first), taker);
    if (p.dw_hr[i])
      add_gradient(task, task.projection[i], i, rows,
                   static_cast<const S*>(p.dh) + (i * p.d.N + rows.first) * p.d.P, taker);
  }
  if (p.dx)
    add_input_gradient(task.input, dgates, step, step1, taker.member, taker.members, taker.barrier);
}

}  // namespace lf::LF_ISA
