// cuda.step: one matrix product and one gate kernel per time step. Takes any shape and dtype, runs
// on the caller's stream, never waits for the device, and can be captured in a CUDA graph.
#include <initializer_list>

#define LF_ISA cuda
#include "cell/list.h"
#include "contract/order.h"
#include "contract/variant.h"
#include "cuda/lstm_fused/dev.cuh"
#include "cuda/lstm_fused/earlier.cuh"
#include "cuda/lstm_fused/gates.cuh"

namespace lf::cuda {
namespace {

template <class Kernel, class Parameters>
void launch(const Context& context, Kernel kernel, const Parameters& p, int64_t threads) {
  if (threads > 0)
    dev::launch(context, {unsigned(ceil_div(threads, kGateThreads)), kGateThreads}, kernel, p);
}

void copy_or_zero(const Context& context, void* to, const void* from, size_t bytes) {
  if (from)
    dev::copy(context, to, from, bytes);
  else
    dev::fill(context, to, 0, bytes);
}

template <class T>
Matrix matrix(const T* data, int64_t rows, int64_t columns, int64_t row_stride) {
  return {const_cast<T*>(data), rows, columns, row_stride, 1};
}

Matrix transposed(const Matrix& m) { return {m.data, m.cols, m.rows, m.col_stride, m.row_stride}; }

bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % 16) return false;
  return true;
}

// Elements that 16 bytes of storage hold.
template <class T>
constexpr int kPacked = 16 / sizeof(T);

template <class T>
const T* at(const void* base, int64_t offset) {
  return base ? static_cast<const T*>(base) + offset : nullptr;
}
template <class T>
T* at(void* base, int64_t offset) {
  return base ? static_cast<T*>(base) + offset : nullptr;
}

template <class CellType, class T>
void forward_direction(const LayerForward& p, const Context& context, int64_t i) {
  const Dims& d = p.d;
  const Order order{p.offsets, d.T, i == 1};
  const DType dtype = p.dtype;
  const int64_t gates = 4 * d.H, y_stride = d.D * d.P;
  const bool projects = p.w_hr[i];
  const Matrix w_hh = matrix(static_cast<const T*>(p.w_hh[i]), gates, d.P, d.P);
  T* h_cell = static_cast<T*>(context.workspace);
  T* h_n = at<T>(p.h_n, i * d.B * d.P);
  const T* h0 = at<T>(p.h0, i * d.B * d.P);

  GatesForward<T> k{};
  k.H = d.H;
  k.c_state = at<State<T>>(p.c_n, i * d.B * d.H);
  copy_or_zero(context, k.c_state, at<State<T>>(p.c0, i * d.B * d.H), d.B * d.H * sizeof(State<T>));
  const T* y_prev = nullptr;
  for (int64_t s = 0; s < d.T; ++s) {
    const int64_t row = order.first_row(s), continued = order.continued(s),
                  continuing = order.continuing(s);
    T* y = at<T>(p.y, row * y_stride + i * d.P);
    k.rows = order.rows(s);
    k.gates = at<T>(p.gates, (i * d.N + row) * gates);
    k.c_out = at<State<T>>(p.c, (i * d.N + row) * d.H);
    k.h = projects ? h_cell : y;
    k.h_stride = projects ? d.H : y_stride;

    if (continued)
      context.gemm(context, dtype, matrix(k.gates, continued, gates, gates),
                   matrix(y_prev, continued, d.P, y_stride), transposed(w_hh), true);
    if (h0 && continued < k.rows)
      context.gemm(
          context, dtype, matrix(k.gates + continued * gates, k.rows - continued, gates, gates),
          matrix(h0 + continued * d.P, k.rows - continued, d.P, d.P), transposed(w_hh), true);

    const int64_t units = k.rows * d.H;
    if (d.H % kPacked<T> == 0 && aligned({k.gates, k.c_state, k.c_out, k.h}) &&
        k.h_stride % kPacked<T> == 0)
      launch(context, gates_forward<CellType, T, kPacked<T>>, k, units / kPacked<T>);
    else
      launch(context, gates_forward<CellType, T, 1>, k, units);

    if (projects)
      context.gemm(context, dtype, matrix(y, k.rows, d.P, y_stride),
                   matrix(h_cell, k.rows, d.H, d.H),
                   transposed(matrix(static_cast<const T*>(p.w_hr[i]), d.P, d.H, d.H)), false);
    if (continuing < k.rows)
      dev::copy_rows(context, h_n + continuing * d.P, d.P * sizeof(T), y + continuing * y_stride,
                     y_stride * sizeof(T), d.P * sizeof(T), k.rows - continuing);
    y_prev = y;
  }
}

// Elements of the workspace that hold the recurrent gradient; rounded so that what follows is
// aligned.
int64_t recurrent_elements(const Dims& d) { return ceil_div(d.B * d.P, 16) * 16; }

template <class CellType, class T>
void backward_direction(const LayerBackward& p, const Context& context, int64_t i) {
  const Dims& d = p.d;
  const Order order{p.offsets, d.T, i == 1};
  const DType dtype = p.dtype;
  const int64_t gates = 4 * d.H, y_stride = d.D * d.P;
  const bool projects = p.w_hr[i];
  const Matrix w_hh = matrix(static_cast<const T*>(p.w_hh[i]), gates, d.P, d.P);
  T* dh_recurrent = static_cast<T*>(context.workspace);
  T* dh_cell = dh_recurrent + recurrent_elements(d);
  const T* dh_n = at<T>(p.dh_n, i * d.B * d.P);
  T* dh0 = at<T>(p.dh0, i * d.B * d.P);

  GatesBackward<T> k{};
  k.H = d.H;
  k.c0 = at<State<T>>(p.c0, i * d.B * d.H);
  k.dc = at<State<T>>(p.dc0, i * d.B * d.H);
  copy_or_zero(context, k.dc, at<State<T>>(p.dc_n, i * d.B * d.H), d.B * d.H * sizeof(State<T>));
  for (int64_t s = d.T - 1; s >= 0; --s) {
    const int64_t row = i * d.N + order.first_row(s), continuing = order.continuing(s);
    const T* dy = at<T>(p.dy, order.first_row(s) * y_stride + i * d.P);
    const T* dgates_next = k.dgates;
    k.rows = order.rows(s);
    k.continued = order.continued(s);
    k.gates = at<T>(p.gates, row * gates);
    k.c = at<State<T>>(p.c, row * d.H);
    k.c_prev = s ? at<State<T>>(p.c, (i * d.N + order.first_row(s - 1)) * d.H) : nullptr;
    k.dgates = at<T>(p.dgates, row * gates);
    k.h_cell = at<T>(p.h_cell, row * d.H);

    if (continuing)
      context.gemm(context, dtype, matrix(dh_recurrent, continuing, d.P, d.P),
                   matrix(dgates_next, continuing, gates, gates), w_hh, false);
    if (projects) {
      const OutputGradient<T> sum{k.rows,   d.P,          continuing, dy,
                                  y_stride, dh_recurrent, dh_n,       at<T>(p.dh, row * d.P)};
      launch(context, output_gradient<T>, sum, k.rows * d.P);
      context.gemm(context, dtype, matrix(dh_cell, k.rows, d.H, d.H),
                   matrix(sum.dh, k.rows, d.P, d.P),
                   matrix(static_cast<const T*>(p.w_hr[i]), d.P, d.H, d.H), false);
      k.dy = dh_cell;
      k.dy_stride = d.H;
    } else {
      k.dy = dy;
      k.dy_stride = y_stride;
      k.continuing = continuing;
      k.dh_recurrent = dh_recurrent;
      k.dh_n = dh_n;
    }
    const int64_t units = k.rows * d.H;
    if (d.H % kPacked<T> == 0 && k.dy_stride % kPacked<T> == 0 &&
        aligned(
            {k.gates, k.c_prev, k.c0, k.c, k.dy, k.dh_recurrent, k.dh_n, k.dc, k.dgates, k.h_cell}))
      launch(context, gates_backward<CellType, T, kPacked<T>>, k, units / kPacked<T>);
    else
      launch(context, gates_backward<CellType, T, 1>, k, units);

    if (dh0 && k.continued < k.rows)
      context.gemm(context, dtype, matrix(dh0 + k.continued * d.P, k.rows - k.continued, d.P, d.P),
                   matrix(k.dgates + k.continued * gates, k.rows - k.continued, gates, gates), w_hh,
                   false);
  }
}

template <class CellType, class T>
void forward_cell(const LayerForward& p, const Context& context) {
  for (int64_t i = 0; i < p.d.D; ++i) forward_direction<CellType, T>(p, context, i);
}
template <class CellType, class T>
void backward_cell(const LayerBackward& p, const Context& context) {
  for (int64_t i = 0; i < p.d.D; ++i) backward_direction<CellType, T>(p, context, i);
}

#define LF_DTYPES(RUN, CellType)                       \
  switch (p.dtype) {                                   \
    case DType::f32:                                   \
      return RUN<CellType, float>(p, context);         \
    case DType::f64:                                   \
      return RUN<CellType, double>(p, context);        \
    case DType::bf16:                                  \
      return RUN<CellType, __nv_bfloat16>(p, context); \
    case DType::f16:                                   \
      return RUN<CellType, __half>(p, context);        \
  }

void forward(const LayerForward& p, const Context& context) {
  say_what_failed_earlier();
  switch (p.cell) {
#define LF_CASE(id, CellType) \
  case Cell::id:              \
    LF_DTYPES(forward_cell, CellType)
    LF_FOR_EACH_CELL(LF_CASE)
#undef LF_CASE
  }
}

void backward(const LayerBackward& p, const Context& context) {
  say_what_failed_earlier();
  switch (p.cell) {
#define LF_CASE(id, CellType) \
  case Cell::id:              \
    LF_DTYPES(backward_cell, CellType)
    LF_FOR_EACH_CELL(LF_CASE)
#undef LF_CASE
  }
}

size_t forward_workspace(const LayerForward& p) {
  return p.w_hr[0] ? p.d.B * p.d.H * element_size(p.dtype) : 0;
}

size_t backward_workspace(const LayerBackward& p, int) {
  const int64_t cell = p.w_hr[0] ? p.d.B * p.d.H : 0;
  return (recurrent_elements(p.d) + cell) * element_size(p.dtype);
}

const char* why_not(Cell, DType, const Dims&, bool) { return nullptr; }

}  // namespace
}  // namespace lf::cuda

namespace lf {

const Variant cuda_step{
    .name = "cuda.step",
    .device = Device::cuda,
    .why_not_here = dev::why_not_here,
    .why_not = cuda::why_not,
    .forward_workspace = cuda::forward_workspace,
    .backward_workspace = cuda::backward_workspace,
    .forward = cuda::forward,
    .backward = cuda::backward,
};

#define LF_TEXT_(x) #x
#define LF_TEXT(x) LF_TEXT_(x)
const char* cuda_toolkit_version() {
  return LF_TEXT(__CUDACC_VER_MAJOR__) "." LF_TEXT(__CUDACC_VER_MINOR__);
}

}  // namespace lf
