// Random layers in double, and the naive answer to each: a sequence after another, a number after
// another. No code is shared with the kernels but the cell.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "contract/params.h"
#include "guarded.h"
#include "splitmix.h"

#define LF_ISA oracle
#include "cell/lstm.h"

namespace lf::oracle {

using Values = std::vector<double>;  // empty: the tensor is absent

// A storage type: its code, what states are kept in, its machine epsilon, and how many of them a
// result may be off (scan_check.h).
template <class T>
struct Storage;
template <>
struct Storage<float> {
  using State = float;
  static constexpr DType kDType = DType::f32;
  static constexpr const char* kName = "float";
  static constexpr double kEps = 0x1p-23, kTolerance = 64;
};
template <>
struct Storage<double> {
  using State = double;
  static constexpr DType kDType = DType::f64;
  static constexpr const char* kName = "double";
  static constexpr double kEps = 0x1p-52, kTolerance = 64;
};

// A sigmoid as 16 bits keep it (csrc/common/math.h), and back. -0 is 1.
inline double folded(double s) { return s > 0.5 ? -(1 - s) : s; }
inline double unfolded(double kept) { return std::signbit(kept) ? 1 + kept : kept; }

// Changes the gates i, f and o of [rows, 4, H].
inline void change_sigmoids(Values& gates, int64_t H, double (*change)(double)) {
  for (size_t k = 0; k < gates.size(); ++k)
    if (k / H % 4 != 2) gates[k] = change(gates[k]);
}

// The nearest number that a T can hold.
template <class T>
double rounded(double value) {
  return double(static_cast<typename Storage<T>::State>(T(value)));
}

// A layer and what reaches its backward. Every value is one of T, held in double.
struct Problem {
  Dims d;
  int64_t I;
  int threads;
  bool want_dh0, want_dx, want_dw_ih, want_dw_hh, want_db, want_dw_hr;
  Place place;
  std::vector<int64_t> lengths, offsets;
  Values x, w_ih[2], w_hh[2], w_hr[2], b_ih[2], b_hh[2], h0, c0;  // shapes: contract/params.h
  Values dy, dh_n, dc_n;
};

template <class T>
Values uniform(Random& random, int64_t n, double limit) {
  Values values(n);
  for (double& value : values) value = rounded<T>(limit * (double(random.next()) * 0x1p-63 - 1));
  return values;
}

template <class T>
Values perhaps(Random& random, int64_t n, double limit) {
  return random.one_in(3) ? Values{} : uniform<T>(random, n, limit);
}

// large: rows for several blocks of the products over all rows (csrc/cpu/gradients.inl.h), inputs
// for several chunks of panels. long_: more steps than a kernel's parameters hold numbers
// (csrc/cuda/lstm_fused/upload.cuh), and sequences of any length. many: more rows than one launch
// of cuda.grid takes on a small GPU (csrc/cuda/lstm_fused/grid_plan.h). brief: few steps, for
// hidden sizes of which each takes long. turns: rows for three turns and more of a cluster
// (csrc/cuda/lstm_fused/cluster_plan.h), or of 16 rows of cuda.grid, of which some begin or end
// before others, and steps for each to use its barriers again. few: as many rows as a group of
// cuda.grid takes at once, of one direction where that has many units.
enum class Size { small, large, long_, many, brief, both, turns, step, few };

// W: what weights are given in.
template <class T, class W>
Problem make_problem(Random& random, int64_t H, Size size) {
  Problem p{};
  Dims& d = p.d;
  const bool projection = H > 1 && random.one_in(2),
             ragged = random.one_in(2) || size == Size::long_ || size == Size::turns;
  d.H = H;
  d.P = projection ? random.from_to(1, H - 1) : H;
  d.D = random.from_to(1, 2);
  p.I = random.from_to(1, random.one_in(4) ? 40 : 9);
  switch (size == Size::long_   ? 5
          : size == Size::many  ? 6
          : size == Size::brief ? 7
          : size == Size::turns ? 8
          : size == Size::step  ? 9
          : size == Size::both  ? 10
          : size == Size::few   ? 11
          : size == Size::large ? random.from_to(3, 4)
                                : random.from_to(0, 3)) {
    case 0:  // At most 64 rows, which are multiplied by weights as they are.
      d.B = random.from_to(1, 8), d.T = random.from_to(1, 8);
      break;
    case 1:  // Few rows a step and many in all: the input is projected in chunks of steps.
      d.B = random.from_to(1, 5), d.T = random.from_to(14, 60);
      break;
    case 2:  // Full tiles at every step.
      d.B = random.from_to(6, 16), d.T = random.from_to(5, 12);
      break;
    case 3:  // On both sides of the 64.
      d.B = random.from_to(31, 34), d.T = 2;
      if (size == Size::large) p.I = random.from_to(500, 600);
      break;
    case 5:
      d.B = random.from_to(2, 3), d.T = random.from_to(501, 600);
      break;
    case 6:
      d.B = random.from_to(129, 300), d.T = random.from_to(2, 4);
      break;
    case 7:
      d.B = random.from_to(9, 12), d.T = random.from_to(2, 3);
      break;
    case 8:
      d.B = random.from_to(33, 45), d.T = random.from_to(4, 6);
      break;
    case 9:  // Terms for all lanes of one warp or of several, in whole packs or not.
      d.B = random.one_in(3) ? 1 : random.from_to(2, 16), d.T = 1;
      p.I = random.one_in(2) ? 8 * random.from_to(1, 150) : random.from_to(1, 150);
      break;
    case 10:  // A few rows, and both directions.
      d.B = random.from_to(3, 8), d.T = random.from_to(2, 3), d.D = 2;
      break;
    case 11:
      d.B = random.from_to(1, 8), d.T = random.from_to(2, 4);
      if (H > 512) d.D = 1;
      break;
    default:
      d.B = random.from_to(6, 12), d.T = random.from_to(60, 120);
      p.I = random.from_to(1, 100);
  }
  for (int64_t b = 0; b < d.B; ++b)
    p.lengths.push_back(ragged && b > 0 ? random.from_to(1, d.T) : d.T);
  std::sort(p.lengths.rbegin(), p.lengths.rend());
  for (int64_t t = 0; t <= d.T; ++t) {
    p.offsets.push_back(d.N);
    for (int64_t length : p.lengths) d.N += length > t;
  }
  p.threads = int(random.from_to(1, size == Size::large ? 9 : 3));
  for (bool* want :
       {&p.want_dh0, &p.want_dx, &p.want_dw_ih, &p.want_dw_hh, &p.want_db, &p.want_dw_hr})
    *want = !random.one_in(4);
  p.place.end = random.one_in(2);
  p.place.odd = size == Size::step && random.one_in(2);

  const int64_t outputs = d.D * d.B * d.P, states = d.D * d.B * d.H;
  p.x = uniform<T>(random, d.N * p.I, 2);
  const bool b_ih = random.one_in(2), b_hh = random.one_in(2);
  for (int64_t i = 0; i < d.D; ++i) {
    p.w_ih[i] = uniform<W>(random, 4 * d.H * p.I, 1 / std::sqrt(double(p.I)));
    p.w_hh[i] = uniform<W>(random, 4 * d.H * d.P, 1 / std::sqrt(double(d.P)));
    if (projection) p.w_hr[i] = uniform<W>(random, d.P * d.H, 1 / std::sqrt(double(d.H)));
    if (b_ih) p.b_ih[i] = uniform<T>(random, 4 * d.H, 0.5);
    if (b_hh) p.b_hh[i] = uniform<T>(random, 4 * d.H, 0.5);
  }
  p.h0 = perhaps<T>(random, outputs, 1);
  p.c0 = perhaps<typename Storage<T>::State>(random, states, 1);
  p.dy = perhaps<T>(random, d.N * d.D * d.P, 1);
  p.dh_n = perhaps<T>(random, outputs, 1);
  p.dc_n = perhaps<typename Storage<T>::State>(random, states, 1);
  return p;
}

// out += a w^T for w [rows, K].
inline void add_product(double* out, const double* w, const double* a, int64_t rows, int64_t K) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < K; ++k) out[row] += w[row * K + k] * a[k];
}

// out += a w for w [rows, K].
inline void add_transposed(double* out, const double* w, const double* a, int64_t rows, int64_t K) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < K; ++k) out[k] += w[row * K + k] * a[row];
}

// w += a b^T for w [rows, K].
inline void add_outer(double* w, const double* a, const double* b, int64_t rows, int64_t K) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < K; ++k) w[row * K + k] += a[row] * b[k];
}

// n values from `at` on, or zeros.
inline Values part(const Values& values, int64_t at, int64_t n) {
  if (values.empty()) return Values(n);
  return Values(values.begin() + at, values.begin() + at + n);
}

struct Forward {
  Values projected;  // [D, N, 4, H]: x W_ih^T + b_ih + b_hh
  Values gates, y, h_n, c_n, c;
};

struct Backward {
  Values dgates, dh0, dc0, dh, h_cell, dx;
  Values dw_ih[2], dw_hh[2], db[2], dw_hr[2];
};

// What the projected input is rounded by before the scan adds to it; nullptr: by nothing.
using Round = double (*)(double);

// The row of step k of batch element b, in the order of direction i.
inline int64_t row_of(const Problem& p, int64_t i, int64_t b, int64_t k) {
  return p.offsets[i == 1 ? p.lengths[b] - 1 - k : k] + b;
}

inline void forward_of(const Problem& p, Round round, Forward& out, int64_t i, int64_t b) {
  const Dims& d = p.d;
  const int64_t H = d.H, P = d.P;
  Values h = part(p.h0, (i * d.B + b) * P, P), c = part(p.c0, (i * d.B + b) * H, H);
  for (int64_t k = 0; k < p.lengths[b]; ++k) {
    const int64_t row = row_of(p, i, b, k), at = i * d.N + row;
    Values pre = part(p.b_ih[i], 0, 4 * H), h_cell(H);
    const Values b_hh = part(p.b_hh[i], 0, 4 * H);
    for (int64_t j = 0; j < 4 * H; ++j) pre[j] += b_hh[j];
    add_product(pre.data(), p.w_ih[i].data(), &p.x[row * p.I], 4 * H, p.I);
    if (round) std::transform(pre.begin(), pre.end(), pre.begin(), round);
    std::copy(pre.begin(), pre.end(), &out.projected[at * 4 * H]);
    add_product(pre.data(), p.w_hh[i].data(), h.data(), 4 * H, P);
    for (int64_t u = 0; u < H; ++u) {
      double gate[4] = {pre[u], pre[H + u], pre[2 * H + u], pre[3 * H + u]};
      double unused[4];
      LstmCell::forward(gate, c[u], h_cell[u], unused);
      out.c[at * H + u] = c[u];
      for (int64_t g = 0; g < 4; ++g) out.gates[(at * 4 + g) * H + u] = gate[g];
    }
    if (p.w_hr[i].empty()) {
      h = h_cell;
    } else {
      h.assign(P, 0);
      add_product(h.data(), p.w_hr[i].data(), h_cell.data(), P, H);
    }
    std::copy(h.begin(), h.end(), &out.y[(row * d.D + i) * P]);
  }
  std::copy(h.begin(), h.end(), &out.h_n[(i * d.B + b) * P]);
  std::copy(c.begin(), c.end(), &out.c_n[(i * d.B + b) * H]);
}

// gates, c, y: what the kernel is given as well.
inline void backward_of(const Problem& p, const Values& gates, const Values& c, const Values& y,
                        Backward& out, int64_t i, int64_t b) {
  const Dims& d = p.d;
  const int64_t H = d.H, P = d.P;
  const Values c0 = part(p.c0, (i * d.B + b) * H, H);
  Values later = part(p.dh_n, (i * d.B + b) * P, P), dc = part(p.dc_n, (i * d.B + b) * H, H);
  for (int64_t k = p.lengths[b] - 1; k >= 0; --k) {
    const int64_t row = row_of(p, i, b, k), at = i * d.N + row;
    const Values c_prev = k > 0 ? part(c, (i * d.N + row_of(p, i, b, k - 1)) * H, H) : c0;
    Values dh = part(p.dy, (row * d.D + i) * P, P);
    for (int64_t j = 0; j < P; ++j) dh[j] += later[j];
    std::copy(dh.begin(), dh.end(), &out.dh[at * P]);
    if (!p.w_hr[i].empty()) {
      Values dh_cell(H);
      add_transposed(dh_cell.data(), p.w_hr[i].data(), dh.data(), P, H);
      dh = dh_cell;
    }
    for (int64_t u = 0; u < H; ++u) {
      double gate[4];
      for (int64_t g = 0; g < 4; ++g) gate[g] = gates[(at * 4 + g) * H + u];
      LstmCell::backward(gate, c_prev[u], c[at * H + u], dh[u], dc[u], out.h_cell[at * H + u]);
      for (int64_t g = 0; g < 4; ++g) out.dgates[(at * 4 + g) * H + u] = gate[g];
    }
    const double* const dgates = &out.dgates[at * 4 * H];
    const Values before = k > 0 ? part(y, (row_of(p, i, b, k - 1) * d.D + i) * P, P)
                                : part(p.h0, (i * d.B + b) * P, P);
    add_transposed(&out.dx[row * p.I], p.w_ih[i].data(), dgates, 4 * H, p.I);
    add_outer(out.dw_ih[i].data(), dgates, &p.x[row * p.I], 4 * H, p.I);
    add_outer(out.dw_hh[i].data(), dgates, before.data(), 4 * H, P);
    for (int64_t j = 0; j < 4 * H; ++j) out.db[i][j] += dgates[j];
    if (!p.w_hr[i].empty())
      add_outer(out.dw_hr[i].data(), &out.dh[at * P], &out.h_cell[at * H], P, H);
    later.assign(P, 0);
    add_transposed(later.data(), p.w_hh[i].data(), dgates, 4 * H, P);
  }
  std::copy(later.begin(), later.end(), &out.dh0[(i * d.B + b) * P]);
  std::copy(dc.begin(), dc.end(), &out.dc0[(i * d.B + b) * H]);
}

inline Forward oracle_forward(const Problem& p, Round round) {
  const Dims& d = p.d;
  const int64_t cells = d.D * d.N * d.H, starts = d.D * d.B;
  Forward out{Values(4 * cells),    Values(4 * cells),    Values(d.N * d.D * d.P),
              Values(starts * d.P), Values(starts * d.H), Values(cells)};
  for (int64_t i = 0; i < d.D; ++i)
    for (int64_t b = 0; b < d.B; ++b) forward_of(p, round, out, i, b);
  return out;
}

inline Backward oracle_backward(const Problem& p, const Values& gates, const Values& c,
                                const Values& y) {
  const Dims& d = p.d;
  const int64_t cells = d.D * d.N * d.H, starts = d.D * d.B;
  Backward out;
  out.dgates.resize(4 * cells);
  out.dh0.resize(starts * d.P);
  out.dc0.resize(starts * d.H);
  out.dh.resize(d.D * d.N * d.P);
  out.h_cell.resize(cells);
  out.dx.resize(d.N * p.I);
  for (int64_t i = 0; i < d.D; ++i) {
    out.dw_ih[i].resize(4 * d.H * p.I);
    out.dw_hh[i].resize(4 * d.H * d.P);
    out.db[i].resize(4 * d.H);
    out.dw_hr[i].resize(p.w_hr[i].size());
    for (int64_t b = 0; b < d.B; ++b) backward_of(p, gates, c, y, out, i, b);
  }
  return out;
}

}  // namespace lf::oracle
