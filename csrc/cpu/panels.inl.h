// Matrices as products read them: panels of four vectors of columns. Included once per ISA.
#pragma once

#include "cpu/product.inl.h"

namespace lf::LF_ISA {

// Where part `part` of `parts` of n columns begins: at a panel, or at n.
template <class S>
LF_FN int64_t first_column(int64_t n, int part, int parts) {
  const int64_t column = ceil_div(n, kPanel<S>) * part / parts * kPanel<S>;
  return column < n ? column : n;
}

// How many of n columns from `first` on lie in each vector of a panel.
template <class S>
LF_FN void panel_lanes(int64_t first, int64_t n, int (&lanes)[4]) {
  using V = VecOf<S>;
  for (int j = 0; j < 4; ++j) lanes[j] = V::lanes(n - first - j * V::kWidth);
}

// The first J vectors of a strip to the rows of out [rows, n], from `column` on; added if add.
template <class S, int J>
static void store_strip(const Strip<S>& strip, int64_t rows, S* out, int64_t n, int64_t column,
                        bool add = false) {
  using V = VecOf<S>;
  int lanes[4];
  panel_lanes<S>(column, n, lanes);
  for (int64_t r = 0; r < rows; ++r)
    for (int j = 0; j < J; ++j) {
      S* const to = out + r * n + column + j * V::kWidth;
      const V sum = strip.at(r, j);
      (add ? sum + V::load(to, lanes[j]) : sum).store(to, lanes[j]);
    }
}

// Where a strip of the rows [b, b1) ends: all strips but the last are of whole tiles, and about
// equally high.
static int64_t strip_end(int64_t b, int64_t b1) {
  const int64_t strips = ceil_div(b1 - b, kStripRows);
  return strips <= 1 ? b1 : b + ceil_div(ceil_div(b1 - b, strips), kTileRows) * kTileRows;
}

// Calls strip.run<J>(b, b1, column) for all strips of rows and panels of the columns [column,
// columns), the last of which may be narrow.
template <class S, class Run>
static void for_panels(const Run& strip, int64_t b, int64_t b1, int64_t column, int64_t columns) {
  for (int64_t end = b; b < b1; b = end) {
    end = strip_end(b, b1);
    for (int64_t at = column; at < columns; at += kPanel<S>) {
      const int64_t left = columns - at;
      if (left <= VecOf<S>::kWidth)
        strip.template run<1>(b, end, at);
      else if (left <= 2 * VecOf<S>::kWidth)
        strip.template run<2>(b, end, at);
      else
        strip.template run<4>(b, end, at);
    }
  }
}

// Panel of gates: w [4, H, K] row-major, W hidden units from `unit` on.
template <class S, class W>
static void pack_gates(const W* w, int64_t H, int64_t K, int64_t unit, S* panel) {
  using V = VecOf<S>;
  for (int g = 0; g < 4; ++g)
    transpose<S>(w + (g * H + unit) * K, K, V::lanes(H - unit), panel + g * V::kWidth * kPair<S>,
                 kWordRow<S>);
}

// Panel of rows as columns: w [n, K] row-major, rows from `first` on.
template <class S, class W>
static void pack_rows(const W* w, int64_t n, int64_t K, int64_t first, S* panel) {
  using V = VecOf<S>;
  int lanes[4];
  panel_lanes<S>(first, n, lanes);
  for (int j = 0; j < 4; ++j)
    transpose<S>(w + (first + j * V::kWidth) * K, K, lanes[j], panel + j * V::kWidth * kPair<S>,
                 kWordRow<S>);
}

// Panel of columns: w [K, n] row-major, columns from `first` on.
template <class S, class W>
static void pack_columns(const W* w, int64_t K, int64_t n, int64_t first, S* panel) {
  using V = VecOf<S>;
  int lanes[4];
  panel_lanes<S>(first, n, lanes);
  for (int64_t k = 0; k < K; k += kPair<S>, panel += kWordRow<S>)
    for (int j = 0; j < 4; ++j) {
      const W* rows[kPair<S>];
      for (int of = 0; of < kPair<S>; ++of)
        rows[of] = k + of < K ? w + (k + of) * n + first + j * V::kWidth : nullptr;
      Stored<S>::zip(rows, lanes[j]).store(panel + j * V::kWidth * kPair<S>);
    }
}

// The columns of a row-major matrix w [K, n] as multiply reads them: packed into panels, or, where
// that would not pay, as they lie but for the last panel if it is narrow, which loads would
// overrun. Words of several numbers are always packed, and what must be widened.
template <class S>
struct Columns {
  const void* w;
  DType dtype;
  int64_t K, n;
  bool pack;
  S* panels;

  int64_t first_packed() const {
    return pack || kPair<S> > 1 || is_narrow<S>(dtype) ? 0 : n / kPanel<S> * kPanel<S>;
  }
  // Numbers that panels must hold.
  int64_t size() const {
    return ceil_div(n - first_packed(), kPanel<S>) * kPanel<S> * padded<S>(K);
  }

  // One member's share of the packing.
  void fill(int member, int members) const { with_storage<S>(dtype, Fill{*this, member, members}); }

  // The panel from `column` on.
  Right<S> from(int64_t column) const {
    const int64_t first = first_packed();
    if (column < first) return {static_cast<const S*>(w) + column, K, n};
    return {panels + (column - first) * padded<S>(K), K, kWordRow<S>, is_far<S>(K * n)};
  }

 private:
  struct Fill {
    const Columns& to;
    int member, members;

    template <class W>
    void run() const {
      const int64_t first = to.first_packed();
      for (int64_t q = member; first + q * kPanel<S> < to.n; q += members)
        pack_columns(static_cast<const W*>(to.w), to.K, to.n, first + q * kPanel<S>,
                     to.panels + q * kPanel<S> * padded<S>(to.K));
    }
  };
};

}  // namespace lf::LF_ISA
