// dx = dgates W_ih, of both directions, for the rows of some steps. Included once per ISA.
#pragma once

#include "cpu/panels.inl.h"
#include "cpu/plan.h"
#include "cpu/team.h"

namespace lf::LF_ISA {

// The gradients of the gates of some rows: where they lie.
template <class S>
struct GatesGradient {
  S* first[kMaxDirections];           // [rows, 4, H]
  int64_t first_row[kMaxDirections];  // that of the layer which lies there
  int64_t size;                       // of a row

  S* of(int64_t direction, int64_t row) const {
    return first[direction] + (row - first_row[direction]) * size;
  }
};

template <class S>
struct InputGradientTask {
  const LayerBackward* p;
  Columns<S> w_ih[kMaxDirections];  // without columns where dx is not wanted
};

// The rows of one direction; add: to what the other has left.
template <class S>
struct InputGradient {
  const InputGradientTask<S>& task;
  const GatesGradient<S>& dgates;
  int64_t i;
  bool add;

  template <int J>
  void run(int64_t row, int64_t row1, int64_t column) const {
    const LayerBackward& p = *task.p;
    Strip<S> product;
    multiply_strip<S, J>(product.numbers, row1 - row, RowsAt<S>{dgates.of(i, row), dgates.size},
                         task.w_ih[i].from(column));
    store_strip<S, J>(product, row1 - row, static_cast<S*>(p.dx) + row * p.I, p.I, column, add);
  }
};

// One member's share of the rows [row, row1).
template <class S>
static void add_rows(const InputGradient<S>& gradient, int64_t row, int64_t row1, int member,
                     int members) {
  const int64_t n = row1 - row;
  for_panels<S>(gradient, row + n * member / members, row + n * (member + 1) / members, 0,
                gradient.task.p->I);
}

// One member's share of the steps [step, step1). Of two directions one comes to a row of dx first
// and sets it, the other adds to it: the forward one was at all later rows before, the reverse one
// at all earlier ones.
template <class S>
static void add_input_gradient(const InputGradientTask<S>& task, const GatesGradient<S>& dgates,
                               int64_t step, int64_t step1, int member, int members,
                               Barrier& barrier) {
  const LayerBackward& p = *task.p;
  for (int64_t i = 0; i < p.d.D; ++i) {
    if (i > 0) barrier.wait(members);
    const Rows mine = rows_of(p, i, step, step1), other = rows_of(p, 1 - i, step, step1);
    const int64_t seam = p.d.D == 1 ? mine.first : clamp(other.first, mine.first, mine.end);
    add_rows(InputGradient<S>{task, dgates, i, i == 0}, mine.first, seam, member, members);
    add_rows(InputGradient<S>{task, dgates, i, i == 1}, seam, mine.end, member, members);
  }
}

}  // namespace lf::LF_ISA
