// The matrix product of the CPU scan: up to kTileRows rows times four vectors of columns, with the
// accumulators in registers. Included once per ISA.
#pragma once

#include "cpu/simd.inl.h"

namespace lf::LF_ISA {

// 6 x 4 accumulators, 6 broadcasts and a weight fill 31 of 32 registers; 3 x 4 + 3 + 1 all of 16.
constexpr int kTileRows = LF_VECTOR_REGISTERS == 32 ? 6 : 3;

// Packed weights: panels of four vectors, [panel][K][4][W]. What lies past the matrix is zero.
template <class T>
constexpr int64_t kPanel = 4 * Vec<T>::kWidth;

// What a product leaves for the code around it: rows x four vectors, in L1.
template <class T, int R>
struct alignas(64) Tile {
  T at[R][4][Vec<T>::kWidth];
};

// Terms that one chain of additions takes in. Longer chains lose accuracy: with 4096 terms in one
// chain a gradient was 1.4 times further off than the one rule of the tests allows.
constexpr int64_t kChain = 128;

// out = a b, plus out if add: element k of row r is rows[r][k * kStep], row k of b is the first J
// vectors at b + k * b_step, which is kPanel for a packed panel.
//
// A function of its own, so that the compiler has all registers for the accumulators: inlined into
// the cell's code it kept a third of them on the stack, at half the speed.
template <class T, int R, int J = 4, int kStep = 1>
[[gnu::noinline]] static void multiply(Tile<T, R>& out, const T* const (&rows)[R], const T* b,
                                       int64_t K, bool add = false, int64_t b_step = kPanel<T>) {
  using V = Vec<T>;
  const T* a[R];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) a[r] = rows[r];
  for (int64_t k0 = 0; k0 < K; k0 += kChain) {
    const int64_t terms = K - k0 < kChain ? K - k0 : kChain;
    V acc[R][J];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) acc[r][j] = V(0);
#pragma GCC unroll 2
    for (int64_t k = 0; k < terms; ++k, b += b_step) {
      V x[R];
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) x[r] = V(a[r][k * kStep]);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) {
        const V w = V::load(b + j * V::kWidth);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) acc[r][j] = fma(x[r], w, acc[r][j]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      a[r] += terms * kStep;
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j)
        (add || k0 > 0 ? acc[r][j] + V::load(out.at[r][j]) : acc[r][j]).store(out.at[r][j]);
    }
  }
}

// out = a w^T, plus out if add, from a row-major matrix w [rows, K] that is not worth packing:
// column l of vector j is the dot product with row j * vector_rows + l. Only the first lanes[j]
// columns exist.
template <class T, int R>
[[gnu::noinline]] static void multiply_rows(Tile<T, R>& out, const T* const (&a)[R], const T* w,
                                            int64_t vector_rows, const int (&lanes)[4], int64_t K,
                                            bool add = false) {
  using V = Vec<T>;
  const int tail = int(K % V::kWidth);
  for (int j = 0; j < 4; ++j)
    for (int l = 0; l < V::kWidth; ++l) {
      const T* row = w + (j * vector_rows + l) * K;
      V dot[R];
      for (int r = 0; r < R; ++r) dot[r] = V(0);
      if (l < lanes[j]) {
        for (int64_t k = 0; k < K - tail; k += V::kWidth) {
          const V x = V::load(row + k);
#pragma GCC unroll 6
          for (int r = 0; r < R; ++r) dot[r] = fma(x, V::load(a[r] + k), dot[r]);
        }
        if (tail) {
          const V x = V::load(row + K - tail, tail);
          for (int r = 0; r < R; ++r) dot[r] = fma(x, V::load(a[r] + K - tail, tail), dot[r]);
        }
      }
      for (int r = 0; r < R; ++r) out.at[r][j][l] = sum(dot[r]) + (add ? out.at[r][j][l] : T(0));
    }
}

// Runs a tile, a functor with run<R, J>(row, column), over the rows [b, b1) of one panel.
template <int J, class Tile, int R>
LF_FN void for_rows_left(const Tile& tile, int64_t b, int64_t left, int64_t column) {
  if (left == R)
    tile.template run<R, J>(b, column);
  else if constexpr (R > 1)
    for_rows_left<J, Tile, R - 1>(tile, b, left, column);
}
template <int J, class Tile>
static void for_rows(const Tile& tile, int64_t b, int64_t b1, int64_t column) {
  for (; b + kTileRows <= b1; b += kTileRows) tile.template run<kTileRows, J>(b, column);
  if (b < b1) for_rows_left<J, Tile, kTileRows - 1>(tile, b, b1 - b, column);
}

// The same over the panels of the columns [column, columns), the last of which may be narrow.
template <class T, class Tile>
static void for_panels(const Tile& tile, int64_t b, int64_t b1, int64_t column, int64_t columns) {
  for (; column < columns; column += kPanel<T>) {
    const int64_t left = columns - column;
    if (left <= Vec<T>::kWidth)
      for_rows<1>(tile, b, b1, column);
    else if (left <= 2 * Vec<T>::kWidth)
      for_rows<2>(tile, b, b1, column);
    else
      for_rows<4>(tile, b, b1, column);
  }
}

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

// The first J vectors of a tile to the rows of out [R, n], from `column` on.
template <class T, int R, int J>
LF_FN void store_tile(const Tile<T, R>& tile, T* out, int64_t n, int64_t column) {
  using V = Vec<T>;
  int lanes[4];
  panel_lanes<T>(column, n, lanes);
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < J; ++j)
      V::load(tile.at[r][j]).store(out + r * n + column + j * V::kWidth, lanes[j]);
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

  // out = a times the panel from `column` on, plus out if add.
  template <int R, int J>
  LF_FN void multiply_by(Tile<T, R>& out, const T* const (&a)[R], int64_t column,
                         bool add = false) const {
    const bool packed = column >= first_packed();
    multiply<T, R, J>(out, a, packed ? panels + (column - first_packed()) * K : w + column, K, add,
                      packed ? kPanel<T> : n);
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
