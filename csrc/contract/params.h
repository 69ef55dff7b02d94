// What one recurrent layer with all its directions is, for a kernel: plain data, no torch, no CUDA.
//
// Letters: T steps, B batch, H hidden, P output of a step (proj_size or H), D directions, G = 4
// gates, N rows. Rows are time steps of sequences, packed by time as in PackedSequence: step t owns
// the rows offsets[t] to offsets[t + 1]. A padded [T, B, *] tensor is the case of B rows at every
// step.
//
// "dtype" is the type of the tensors, "state" its state_dtype: at least float. "storage" is dtype,
// or 16 bits where a CPU computes such tensors in float: it widens weights as it reads them, and
// rounds the gates that it keeps for backward. In 16 bits gates are folded where they are sigmoids
// (common/math.h).
#pragma once

#include "common/types.h"

namespace lf {

struct Dims {
  int64_t T, B, H, P, D;
  int64_t N;  // offsets[T]
};

// Everything is contiguous.
struct LayerForward {
  Cell cell;
  DType dtype, storage;
  Dims d;
  const int64_t* offsets;            // [T + 1] on the host
  int64_t I;                         // input size
  const void* x;                     // [N, I]    dtype
  const void* w_ih[kMaxDirections];  // [4, H, I] storage
  const void* b_ih[kMaxDirections];  // [4, H]    dtype, or nullptr: zeros
  const void* b_hh[kMaxDirections];  // [4, H]    dtype, or nullptr: zeros
  const void* w_hh[kMaxDirections];  // [4, H, P] storage
  const void* w_hr[kMaxDirections];  // [P, H]    storage, or nullptr: no projection
  const void* h0;                    // [D, B, P] dtype, or nullptr: zeros
  const void* c0;                    // [D, B, H] state, or nullptr: zeros
  void* gates;  // [D, N, 4, H] storage, out, if c is wanted: activations. In, unless
                // the variant does the products over all rows: x W_ih^T + b_ih + b_hh
  void* y;      // [N, D, P] dtype
  void* h_n;    // [D, B, P] dtype
  void* c_n;    // [D, B, H] state
  void* c;      // [D, N, H] state, or nullptr: no backward wanted
};

struct LayerBackward {
  Cell cell;
  DType dtype, storage;
  Dims d;
  const int64_t* offsets;            // [T + 1] on the host
  int64_t I;                         // input size
  const void* x;                     // [N, I]    dtype
  const void* w_ih[kMaxDirections];  // [4, H, I] storage
  const void* w_hh[kMaxDirections];  // [4, H, P] storage
  const void* w_hr[kMaxDirections];  // [P, H]    storage, or nullptr: no projection
  const void* h0;                    // [D, B, P] dtype, or nullptr: zeros
  const void* c0;                    // [D, B, H] state, or nullptr: zeros
  const void* y;                     // [N, D, P] dtype
  const void* gates;                 // [D, N, 4, H] storage, activations
  const void* c;                     // [D, N, H] state
  const void* dy;                    // [N, D, P] dtype, or nullptr: zeros
  const void* dh_n;                  // [D, B, P] dtype, or nullptr: zeros
  const void* dc_n;                  // [D, B, H] state, or nullptr: zeros
  void* dgates;                      // [D, N, 4, H] dtype; may be the same memory as gates. Or
                                     // nullptr: not wanted, if the variant does the products
                                     // over all rows
  void* dh0;                         // [D, B, P] dtype, or nullptr: not wanted
  void* dc0;                         // [D, B, H] state; the running gradient of c lives here
  void* dh;                          // [D, N, P] dtype, with a projection: whole gradient of y
  void* h_cell;                      // [D, N, H] dtype, with a projection: output before it
  // Out, if the variant does the products over all rows; each nullptr where not wanted:
  void* dx;                     // [N, I]    dtype
  void* dw_ih[kMaxDirections];  // [4, H, I] dtype
  void* dw_hh[kMaxDirections];  // [4, H, P] dtype
  void* db[kMaxDirections];     // [4, H]    dtype, of either bias
  void* dw_hr[kMaxDirections];  // [P, H]    dtype
};

// A strided matrix in device memory.
struct Matrix {
  void* data;
  int64_t rows, cols, row_stride, col_stride;
};

// What a variant needs from outside. It keeps no state of its own but, of a device, whose turn it
// is, how many clusters of a kernel it runs at once, and whether a kernel on it gave up
// (cuda/lstm_fused/dev.cuh).
struct Context {
  int threads;      // CPU: the team that torch.set_num_threads allows
  void* workspace;  // Variant::workspace bytes, aligned to 64
  void* stream;     // CUDA: cudaStream_t
  // out = a b, plus out where accumulate is set; throws on failure. CUDA only.
  void (*gemm)(const Context&, DType, Matrix out, Matrix a, Matrix b, bool accumulate);
  int device_index;
  bool tf32;  // CUDA: scans of float32 may round the factors of their products to TF32
};

}  // namespace lf
