// The gate kernels of cuda.step: one time step of the cell for every row and unit.
//
// Grid and blocks: one thread for kCount neighbouring units of one row. No thread depends on
// another, so nothing is shared and nothing synchronises.
//
// Memory: 16-byte accesses where H and the pointers allow (kCount > 1), else element by element.
//
// Bound by bytes. Forward, with 16-bit storage: 16 BH of gates in and out, 12 BH of c in, out and
// saved, 2 BH of h; about 40 flops a unit.
//
// The recurrent product has been added to the gates before (step.cu).
#pragma once

#include "cuda/lstm_fused/memory.cuh"

namespace lf::cuda {

constexpr int kGateThreads = 256;

template <class T>
struct GatesForward {
  int64_t rows, H;
  T* gates;           // [rows, 4, H] pre-activations in, activations (kept form) out if c_out
  State<T>* c_state;  // [rows, H] c_prev in, c out
  State<T>* c_out;    // [rows, H] or nullptr: no backward wanted
  T* h;               // [rows, h_stride]
  int64_t h_stride;
};

template <class T>
struct GatesBackward {
  int64_t rows, H;
  int64_t continued;       // rows from here on started from c0
  int64_t continuing;      // rows from here on ended with this step
  const T* gates;          // [rows, 4, H] activations, kept form
  const State<T>* c_prev;  // [rows, H]
  const State<T>* c0;      // [rows, H] or nullptr: zeros
  const State<T>* c;       // [rows, H]
  const T* dy;             // [rows, dy_stride] or nullptr: zeros
  int64_t dy_stride;
  const T* dh_recurrent;  // [continuing, H]
  const T* dh_n;          // [rows, H] or nullptr: zeros
  State<T>* dc;           // [rows, H] in and out
  T* dgates;              // [rows, 4, H], may be gates
  T* h_cell;              // [rows, H] or nullptr: not wanted
};

// dh [rows, P] = dy + what the next step, or after the last one the caller, sends back.
template <class T>
struct OutputGradient {
  int64_t rows, P, continuing;
  const T* dy;  // [rows, dy_stride] or nullptr: zeros
  int64_t dy_stride;
  const T* dh_recurrent;  // [continuing, P]
  const T* dh_n;          // [rows, P] or nullptr: zeros
  T* dh;                  // [rows, P]
};

// From the form in which the gates of kCount cells are kept in 16 bits (common/math.h).
template <class Cell, class T, int kCount>
__device__ __forceinline__ void unfold_sigmoids(State<T> (&gates)[4][kCount]) {
  if constexpr (kFolded<T>) {
#pragma unroll
    for (int g = 0; g < 4; ++g)
#pragma unroll
      for (int k = 0; k < kCount && Cell::is_sigmoid(g); ++k) gates[g][k] = unfold(gates[g][k]);
  }
}

// to += the elements at from.
template <int kCount, class T>
__device__ __forceinline__ void accumulate(const T* from, State<T> (&to)[kCount]) {
  State<T> x[kCount];
  load(from, x);
#pragma unroll
  for (int k = 0; k < kCount; ++k) to[k] += x[k];
}

template <int kCount, class T>
__device__ __forceinline__ void sum_gradients(const T* dy, int64_t dy_stride, const T* dh_recurrent,
                                              const T* dh_n, int64_t continuing, int64_t width,
                                              int64_t row, int64_t column, State<T> (&dh)[kCount]) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) dh[k] = 0;
  if (dy) accumulate(dy + row * dy_stride + column, dh);
  const T* later = row < continuing ? dh_recurrent : dh_n;
  if (later) accumulate(later + row * width + column, dh);
}

template <class Cell, class T, int kCount>
__global__ void __launch_bounds__(kGateThreads)
    gates_forward(const __grid_constant__ GatesForward<T> p) {
  const int64_t index = (blockIdx.x * int64_t(kGateThreads) + threadIdx.x) * kCount;
  if (index >= p.rows * p.H) return;
  const int64_t row = index / p.H, unit = index - row * p.H;
  T* gates = p.gates + row * 4 * p.H + unit;
  State<T> pre[4][kCount], c[kCount], h[kCount];
#pragma unroll
  for (int g = 0; g < 4; ++g) load(gates + g * p.H, pre[g]);
  load(p.c_state + index, c);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    State<T> gate[4] = {pre[0][k], pre[1][k], pre[2][k], pre[3][k]}, kept[4];
    Cell::forward(gate, c[k], h[k], kept);
#pragma unroll
    for (int g = 0; g < 4; ++g) pre[g][k] = (kFolded<T> ? kept : gate)[g];
  }
  store(p.c_state + index, c);
  store(p.h + row * p.h_stride + unit, h);
  if (!p.c_out) return;
  store(p.c_out + index, c);
#pragma unroll
  for (int g = 0; g < 4; ++g) store(gates + g * p.H, pre[g]);
}

template <class Cell, class T, int kCount>
__global__ void __launch_bounds__(kGateThreads)
    gates_backward(const __grid_constant__ GatesBackward<T> p) {
  const int64_t index = (blockIdx.x * int64_t(kGateThreads) + threadIdx.x) * kCount;
  if (index >= p.rows * p.H) return;
  const int64_t row = index / p.H, unit = index - row * p.H, at = row * 4 * p.H + unit;
  State<T> gates[4][kCount], c_prev[kCount], c[kCount], dc[kCount], dh[kCount], h[kCount];
  sum_gradients(p.dy, p.dy_stride, p.dh_recurrent, p.dh_n, p.continuing, p.H, row, unit, dh);
#pragma unroll
  for (int g = 0; g < 4; ++g) load(p.gates + at + g * p.H, gates[g]);
  unfold_sigmoids<Cell, T>(gates);
  load(p.c + index, c);
  load(p.dc + index, dc);
#pragma unroll
  for (int k = 0; k < kCount; ++k) c_prev[k] = 0;
  const State<T>* before = row < p.continued ? p.c_prev : p.c0;
  if (before) load(before + index, c_prev);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    State<T> gate[4] = {gates[0][k], gates[1][k], gates[2][k], gates[3][k]};
    Cell::backward(gate, c_prev[k], c[k], dh[k], dc[k], h[k]);
#pragma unroll
    for (int g = 0; g < 4; ++g) gates[g][k] = gate[g];
  }
  store(p.dc + index, dc);
#pragma unroll
  for (int g = 0; g < 4; ++g) store(p.dgates + at + g * p.H, gates[g]);
  if (p.h_cell) store(p.h_cell + index, h);
}

template <class T>
__global__ void __launch_bounds__(kGateThreads)
    output_gradient(const __grid_constant__ OutputGradient<T> p) {
  const int64_t index = blockIdx.x * int64_t(kGateThreads) + threadIdx.x;
  if (index >= p.rows * p.P) return;
  const int64_t row = index / p.P, column = index - row * p.P;
  State<T> dh[1];
  sum_gradients(p.dy, p.dy_stride, p.dh_recurrent, p.dh_n, p.continuing, p.P, row, column, dh);
  store(p.dh + index, dh);
}

}  // namespace lf::cuda
