// A layer's scan as the kernels that run a whole sequence are given it, and where a thread's cell
// stands in its tensors.
#pragma once

#include "contract/params.h"
#include "cuda/lstm_fused/ptx.cuh"

namespace lf::cuda {

// The sizes of a layer, and where each step's rows are.
struct ScanSizes {
  int64_t T, B, N;
  int H, D;
  // [T + 1] and then the steps of each slice (steps.cuh); nullptr: B rows at every step.
  const int64_t* offsets;
};

// Rows of the tensors at one time step, of all the batch or of a slice: `count` from `first` on.
struct StepRows {
  int64_t first;
  int count;
};

// Where a thread's cell stands in a tensor of fewer than 2^31 rows: in row 0, and by one
// instruction in the first of a step's rows. Reckoned in 64 bits for every access places were a
// third of all instructions.
template <class T>
struct CellPlace {
  T* first;
  int row_bytes;

  __device__ __forceinline__ T* at(const StepRows& rows) const {
    return ptx::moved(first, int(rows.first), row_bytes);
  }
};

// Of a tensor [D, N, width, H], and of one [N, D, H].
template <class T>
__device__ __forceinline__ CellPlace<T> place_of_cell(const ScanSizes& sizes, int direction,
                                                      int column, int unit, T* tensor, int width) {
  const int numbers = width * sizes.H, row = numbers * int(sizeof(T));
  return {ptx::moved(tensor + (direction * sizes.N * numbers + unit), column, row), row};
}
template <class T>
__device__ __forceinline__ CellPlace<T> place_of_output(const ScanSizes& sizes, int direction,
                                                        int column, int unit, T* tensor) {
  const int row = sizes.D * sizes.H * int(sizeof(T));
  return {ptx::moved(tensor + (direction * sizes.H + unit), column, row), row};
}

template <class T>
struct ScanForward {
  ScanSizes sizes;
  const T* w_hh[kMaxDirections];  // [4, H, H]
  const T* h0;                    // [D, B, H] or nullptr: zeros
  const float* c0;                // [D, B, H] or nullptr: zeros
  T* gates;                       // [D, N, 4, H] x W_ih^T + biases in, activations out if c
  T* y;                           // [N, D, H]
  T* h_n;                         // [D, B, H]
  float* c_n;                     // [D, B, H]
  float* c;                       // [D, N, H] or nullptr: no backward wanted
};

template <class T>
struct ScanBackward {
  ScanSizes sizes;
  const T* w_hh[kMaxDirections];  // [4, H, H]
  const float* c0;                // [D, B, H] or nullptr: zeros
  const T* gates;                 // [D, N, 4, H] activations, kept form
  const float* c;                 // [D, N, H]
  const T* dy;                    // [N, D, H] or nullptr: zeros
  const T* dh_n;                  // [D, B, H] or nullptr: zeros
  const float* dc_n;              // [D, B, H] or nullptr: zeros
  T* dgates;                      // [D, N, 4, H], may be gates
  T* dh0;                         // [D, B, H] or nullptr: not wanted
  float* dc0;                     // [D, B, H]
};

template <class T>
ScanForward<T> parameters(const LayerForward& p, const int64_t* offsets) {
  ScanForward<T> k{};
  k.sizes = {p.d.T, p.d.B, p.d.N, int(p.d.H), int(p.d.D), offsets};
  for (int64_t i = 0; i < p.d.D; ++i) k.w_hh[i] = static_cast<const T*>(p.w_hh[i]);
  k.h0 = static_cast<const T*>(p.h0);
  k.c0 = static_cast<const float*>(p.c0);
  k.gates = static_cast<T*>(p.gates);
  k.y = static_cast<T*>(p.y);
  k.h_n = static_cast<T*>(p.h_n);
  k.c_n = static_cast<float*>(p.c_n);
  k.c = static_cast<float*>(p.c);
  return k;
}

template <class T>
ScanBackward<T> parameters(const LayerBackward& p, const int64_t* offsets) {
  ScanBackward<T> k{};
  k.sizes = {p.d.T, p.d.B, p.d.N, int(p.d.H), int(p.d.D), offsets};
  for (int64_t i = 0; i < p.d.D; ++i) k.w_hh[i] = static_cast<const T*>(p.w_hh[i]);
  k.c0 = static_cast<const float*>(p.c0);
  k.gates = static_cast<const T*>(p.gates);
  k.c = static_cast<const float*>(p.c);
  k.dy = static_cast<const T*>(p.dy);
  k.dh_n = static_cast<const T*>(p.dh_n);
  k.dc_n = static_cast<const float*>(p.dc_n);
  k.dgates = static_cast<T*>(p.dgates);
  k.dh0 = static_cast<T*>(p.dh0);
  k.dc0 = static_cast<float*>(p.dc0);
  return k;
}

}  // namespace lf::cuda
