// One step of the CPU scan, forward: the products of some rows and the cell on them. Included once
// per ISA.
#pragma once

#include "cpu/panels.inl.h"
#include "cpu/plan.h"

namespace lf::LF_ISA {

// One step of one direction: where its rows lie.
template <class S>
struct ForwardStep {
  using T = ValueOf<S>;
  DType storage;
  int64_t I, H, P, y_stride;
  const S* x;     // [rows, I]
  T* projected;   // [rows, 4, H]: x W_ih^T; nullptr: still to be multiplied
  const T* bias;  // [panel][4][W]
  const void* w_ih;
  const void* w_hh;  // packed or, in `storage`, as given
  const void* w_hr;
  bool packed, multiply;  // multiply: some row has a state to multiply
  int64_t continued;      // rows from here on start from h0
  int64_t continuing;     // rows from here on end
  const S* y_prev;        // [rows, y_stride]
  const S* h0;            // [B, P] or the zeros, then h0_stride is 0
  int64_t h0_stride;
  void* gates;  // [rows, 4, H] of the storage type, or nullptr: not wanted, like c
  T* c_state;   // [B, H]
  T* c;         // [rows, H] or nullptr
  S* y;         // [rows, y_stride]
  S* h_n;       // [B, P]
  S* h_cell;    // [B, H] or nullptr: no projection
};

template <class S>
LF_FN void store_output(const ForwardStep<S>& s, int64_t row, int64_t column, VecOf<S> h,
                        int lanes) {
  h.store(s.y + row * s.y_stride + column, lanes);
  if (row >= s.continuing) h.store(s.h_n + row * s.P + column, lanes);
}

// The states that the rows from b on start a step with.
template <class S>
struct StatesAt {
  const ForwardStep<S>& s;
  int64_t b;
  LF_FN const S* operator()(int64_t r) const {
    return b + r < s.continued ? s.y_prev + (b + r) * s.y_stride : s.h0 + (b + r) * s.h0_stride;
  }
};

// Packed gates of a vector of units.
template <class S>
LF_FN const S* gate_panel(const void* panels, int64_t unit, int64_t K) {
  return static_cast<const S*>(panels) + unit * 4 * padded<S>(K);
}

// projected = x W_ih^T for rows that may be of several steps and one vector of units. Here and in
// Gates the vectors of a panel are the four gates.
template <class S>
static void project_input(const ForwardStep<S>& s, int64_t b, int64_t b1, int64_t unit) {
  using V = VecOf<S>;
  const int lanes = V::lanes(s.H - unit);
  Strip<S> strip;
  multiply_strip<S>(strip.numbers, b1 - b, RowsAt<S>{s.x + b * s.I, s.I},
                    Right<S>{gate_panel<S>(s.w_ih, unit, s.I), s.I});
  for (int64_t r = 0; r < b1 - b; ++r)
    for (int g = 0; g < 4; ++g)
      strip.at(r, g).store(s.projected + ((b + r) * 4 + g) * s.H + unit, lanes);
}

// The gates of the rows [b, b1) and of some vectors of units from `unit` on, and the cell on them.
// The sums of all wait in one strip, [vector of units][row], as the cell is a chain of some 200
// cycles: only many of them, one after the other, keep the units of the CPU busy. For the same
// reason it is cut in two.
template <class S, class CellType>
struct Gates {
  using T = ValueOf<S>;
  using V = Vec<T>;
  const ForwardStep<S>& s;
  int64_t b = 0, b1 = 0;
  Strip<S> strip;

  explicit Gates(const ForwardStep<S>& step) : s(step) {}

  // turn: begin with the last units, whose weights the step before has left in the caches.
  void run(int64_t unit, int64_t end, bool turn) {
    const int64_t vectors = ceil_div(end - unit, V::kWidth), size = (b1 - b) * kPanel<S>;
    T* const sums = strip.numbers;
    const int64_t most = b1 - b == 1 && s.packed && s.projected && s.multiply ? 2 : 1;
    for (int64_t k = 0, panels; k < vectors; k += panels) {
      panels = k + most <= vectors ? most : 1;
      const int64_t v = turn ? vectors - panels - k : k;
      multiply(unit + v * V::kWidth, panels, sums + v * size);
    }
    for (int64_t v = 0; v < vectors; ++v)
      with_storage<S>(s.storage, Update{*this, unit + v * V::kWidth, sums + v * size});
    for (int64_t v = 0; v < vectors; ++v) output(unit + v * V::kWidth, sums + v * size);
  }

 private:
  // Two panels: one row, and W_hh alone. Biases and h, which is at most 1, are summed before x
  // comes in, whose size nobody knows: so one rounding at that size.
  void multiply(int64_t unit, int64_t panels, T* out) const {
    const int64_t rows = b1 - b;
    const StatesAt<S> state_of{s, b};
    const RowsAt<S> input_of{s.x + b * s.I, s.I};
    const T* const bias = s.bias + unit * 4;
    if (!s.packed) {
      fill(out, bias);
      const int n = V::lanes(s.H - unit);
      const Streams gates{s.H, {n, n, n, n}};
      const PlainProduct<S, StatesAt<S>> of_states{out,   rows,      state_of, s.w_hh, unit,
                                                   gates, V::kWidth, s.P,      true};
      const PlainProduct<S, RowsAt<S>> of_inputs{out,   rows,      input_of, s.w_ih, unit,
                                                 gates, V::kWidth, s.I,      true};
      if (s.multiply) with_storage<S>(s.storage, of_states);
      with_storage<S>(s.storage, of_inputs);
      return;
    }
    const bool far = is_far<S>(4 * s.H * (s.P + (s.projected ? 0 : s.I)));
    const Right<S> w_hh{gate_panel<S>(s.w_hh, unit, s.P), s.P, kWordRow<S>, far};
    const Right<S> w_ih{gate_panel<S>(s.w_ih, unit, s.I), s.I, kWordRow<S>, far};
    if (s.projected) {
      if (panels == 2)
        multiply_row<S>(out, state_of(0), w_hh, bias);
      else if (s.multiply)
        multiply_strip<S>(out, rows, state_of, w_hh, bias);
      else
        fill(out, bias);
    } else if (!s.multiply) {
      multiply_strip<S>(out, rows, input_of, w_ih, bias);
    } else if (words<S>(s.P) + words<S>(s.I) <= kChain) {
      multiply_both_strip(out, rows, state_of, w_hh, input_of, w_ih, bias);
    } else {
      multiply_strip<S>(out, rows, state_of, w_hh, bias);
      multiply_strip<S>(out, rows, input_of, w_ih, nullptr, true);
    }
  }

  void fill(T* out, const T* bias) const {
    for (int64_t r = 0; r < b1 - b; ++r)
      std::memcpy(out + r * kPanel<S>, bias, kPanel<S> * sizeof(T));
  }

  // Activations, kept as W, and c; leaves o in the strip.
  template <class W>
  void update(int64_t unit, T* sums) const {
    const int n = V::lanes(s.H - unit);
    const int64_t H = s.H;
    T* c_state = s.c_state + b * H + unit;
    T* c_kept = s.c ? s.c + b * H + unit : nullptr;
    W* gates = s.gates ? static_cast<W*>(s.gates) + b * 4 * H + unit : nullptr;
    const T* projected = s.projected ? s.projected + b * 4 * H + unit : nullptr;
    for (int64_t row = b; row < b1; ++row, sums += kPanel<S>, c_state += H) {
      V gate[4], kept[4], c = V::load(c_state, n);
      for (int g = 0; g < 4; ++g) {
        gate[g] = V::load(sums + g * V::kWidth);
        if (projected) gate[g] = gate[g] + V::load(projected + g * H, n);
      }
      CellType::update(gate, c, kept);
      c.store(c_state, n);
      gate[3].store(sums + 3 * V::kWidth);
      if (c_kept) {
        c.store(c_kept, n);
        for (int g = 0; g < 4; ++g) (kFolded<W> ? kept : gate)[g].store(gates + g * H, n);
        c_kept += H;
        gates += 4 * H;
      }
      if (projected) projected += 4 * H;
    }
  }

  struct Update {
    const Gates& of;
    int64_t unit;
    T* sums;

    template <class W>
    void run() const {
      of.template update<W>(unit, sums);
    }
  };

  void output(int64_t unit, const T* sums) const {
    const int n = V::lanes(s.H - unit);
    const int64_t H = s.H;
    const T* c_state = s.c_state + b * H + unit;
    for (int64_t row = b; row < b1; ++row, sums += kPanel<S>, c_state += H) {
      const V h = CellType::output(V::load(sums + 3 * V::kWidth), V::load(c_state, n));
      if (s.h_cell)
        h.store(s.h_cell + row * H + unit, n);
      else
        store_output(s, row, unit, h, n);
    }
  }
};

// y = h_cell W_hr^T for a strip of rows and four vectors of columns.
template <class S>
struct Projection {
  const ForwardStep<S>& s;

  template <int J>
  void run(int64_t b, int64_t b1, int64_t column) const {
    using V = VecOf<S>;
    Strip<S> strip;
    int lanes[4];
    panel_lanes<S>(column, s.P, lanes);
    const RowsAt<S> cell_of{s.h_cell + b * s.H, s.H};
    if (s.packed) {
      const S* const panel = static_cast<const S*>(s.w_hr) + column * padded<S>(s.H);
      multiply_strip<S, J>(strip.numbers, b1 - b, cell_of, Right<S>{panel, s.H});
    } else {
      const int columns = lanes[0] + lanes[1] + lanes[2] + lanes[3], quarter = (columns + 3) / 4;
      Streams streams{quarter, {}};
      for (int i = 0; i < 4; ++i) streams.rows[i] = int(clamp(columns - i * quarter, 0, quarter));
      with_storage<S>(s.storage, PlainProduct<S, RowsAt<S>>{strip.numbers, b1 - b, cell_of, s.w_hr,
                                                            column, streams, quarter, s.H, false});
    }
    for (int64_t r = 0; r < b1 - b; ++r)
      for (int j = 0; j < J; ++j)
        store_output(s, b + r, column + j * V::kWidth, strip.at(r, j), lanes[j]);
  }
};

}  // namespace lf::LF_ISA
