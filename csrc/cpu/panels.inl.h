// Matrices as products read them: panels of four vectors of columns. Included once per ISA.
#pragma once

#include "cpu/product.inl.h"

namespace lf::LF_ISA {

// Where part `part` of `parts` of n columns begins: at a panel, or at n.
template <class T>
LF_FN int64_t first_column(int64_t n, int part, int parts) {
  const int64_t column = ceil_div(n, kPanel<T>) * part / parts * kPanel<T>;
  return column < n ? column : n;
}

// How many of n columns from `first` on lie in each vector of a panel.
template <class T>
LF_FN void panel_lanes(int64_t first, int64_t n, int (&lanes)[4]) {
  constexpr int W = Vec<T>::kWidth;
  for (int j = 0; j < 4; ++j) {
    const int64_t left = n - first - j * W;
    lanes[j] = left >= W ? W : left > 0 ? int(left) : 0;
  }
}

// The first J vectors of a strip to the rows of out [rows, n], from `column` on; added if add.
template <class T, int J>
static void store_strip(const Strip<T>& strip, int64_t rows, T* out, int64_t n, int64_t column,
                        bool add = false) {
  using V = Vec<T>;
  int lanes[4];
  panel_lanes<T>(column, n, lanes);
  for (int64_t r = 0; r < rows; ++r)
    for (int j = 0; j < J; ++j) {
      T* const to = out + r * n + column + j * V::kWidth;
      const V sum = V::load(strip.at[r][j]);
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
template <class T, class Run>
static void for_panels(const Run& strip, int64_t b, int64_t b1, int64_t column, int64_t columns) {
  for (int64_t end = b; b < b1; b = end) {
    end = strip_end(b, b1);
    for (int64_t at = column; at < columns; at += kPanel<T>) {
      const int64_t left = columns - at;
      if (left <= Vec<T>::kWidth)
        strip.template run<1>(b, end, at);
      else if (left <= 2 * Vec<T>::kWidth)
        strip.template run<2>(b, end, at);
      else
        strip.template run<4>(b, end, at);
    }
  }
}

// Panel of gates: w [4, H, K] row-major to [K][4][W], W hidden units from `unit` on.
template <class T>
static void pack_gates(const T* w, int64_t H, int64_t K, int64_t unit, T* panel) {
  constexpr int W = Vec<T>::kWidth;
  constexpr int64_t kBlock = 16;  // a cache line of each row, 4 KiB of panel
  for (int64_t k0 = 0; k0 < K; k0 += kBlock) {
    const int64_t k1 = k0 + kBlock < K ? k0 + kBlock : K;
    for (int g = 0; g < 4; ++g)
      for (int l = 0; l < W; ++l) {
        const bool exists = unit + l < H;
        const T* row = w + (g * H + unit + l) * K;
        T* out = panel + g * W + l;
        for (int64_t k = k0; k < k1; ++k) out[k * kPanel<T>] = exists ? row[k] : T(0);
      }
  }
}

// Panel of columns: w [K, n] row-major to [K][4][W], columns from `first` on.
template <class T>
static void pack_columns(const T* w, int64_t K, int64_t n, int64_t first, T* panel) {
  using V = Vec<T>;
  int lanes[4];
  panel_lanes<T>(first, n, lanes);
  for (int64_t k = 0; k < K; ++k)
    for (int j = 0; j < 4; ++j)
      V::load(w + k * n + first + j * V::kWidth, lanes[j])
          .store(panel + k * kPanel<T> + j * V::kWidth);
}

// The columns of a row-major matrix w [K, n] as multiply reads them: packed into panels, or, where
// that would not pay, as they lie but for the last panel if it is narrow, which loads would
// overrun.
template <class T>
struct Columns {
  const T* w;
  int64_t K, n;
  bool pack;
  T* panels;

  int64_t first_packed() const { return pack ? 0 : n / kPanel<T> * kPanel<T>; }
  // Elements that panels must hold.
  int64_t size() const { return ceil_div(n - first_packed(), kPanel<T>) * kPanel<T> * K; }

  // One member's share of the packing.
  void fill(int member, int members) const {
    const int64_t first = first_packed();
    for (int64_t q = member; first + q * kPanel<T> < n; q += members)
      pack_columns(w, K, n, first + q * kPanel<T>, panels + q * K * kPanel<T>);
  }

  // The panel from `column` on.
  Right<T> from(int64_t column) const {
    const int64_t first = first_packed();
    if (column < first) return {w + column, K, n};
    return {panels + (column - first) * K, K};
  }
};

// Panel of rows as columns: w [n, K] row-major to [K][4][W], rows from `first` on.
template <class T>
static void pack_rows(const T* w, int64_t n, int64_t K, int64_t first, T* panel) {
  for (int64_t j = 0; j < kPanel<T>; ++j)
    for (int64_t k = 0; k < K; ++k)
      panel[k * kPanel<T> + j] = first + j < n ? w[(first + j) * K + k] : T(0);
}

}  // namespace lf::LF_ISA
