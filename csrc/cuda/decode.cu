// cuda.decode: a single time step of a few rows in one launch (decode.cuh), for streams, decoders
// and agents. It does the whole forward; backward is cuda.step's.
//
// Nothing waits for the device, and the launch can be captured in a CUDA graph.
#define LF_ISA cuda
#include "cell/list.h"
#include "contract/variant.h"
#include "cuda/lstm_fused/decode.cuh"
#include "cuda/lstm_fused/dev.cuh"
#include "cuda/lstm_fused/earlier.cuh"

namespace lf::cuda {
namespace {

template <class T>
Decode<T> parameters(const LayerForward& p) {
  Decode<T> k{};
  k.B = p.d.B, k.I = int(p.I), k.H = int(p.d.H), k.D = int(p.d.D);
  k.split = decode_split(p.d.D * p.d.H, dev::limits().multiprocessors);
  k.x = static_cast<const T*>(p.x);
  k.h0 = static_cast<const T*>(p.h0);
  k.c0 = static_cast<const float*>(p.c0);
  for (int64_t i = 0; i < p.d.D; ++i) {
    k.w_ih[i] = static_cast<const T*>(p.w_ih[i]);
    k.w_hh[i] = static_cast<const T*>(p.w_hh[i]);
    k.b_ih[i] = static_cast<const T*>(p.b_ih[i]);
    k.b_hh[i] = static_cast<const T*>(p.b_hh[i]);
  }
  k.y = static_cast<T*>(p.y);
  k.h_n = static_cast<T*>(p.h_n);
  k.c_n = static_cast<float*>(p.c_n);
  k.gates = static_cast<T*>(p.gates);
  k.c = static_cast<float*>(p.c);
  return k;
}

// Whether every row that is read begins with whole 16 bytes, and ends so.
template <class T>
bool in_packs(const Decode<T>& k) {
  constexpr int kCount = 16 / sizeof(T);
  if (k.I % kCount || k.H % kCount) return false;
  const T* const read[] = {k.x, k.h0, k.w_ih[0], k.w_ih[1], k.w_hh[0], k.w_hh[1]};
  for (const T* const first : read)
    if (reinterpret_cast<uintptr_t>(first) % 16) return false;
  return true;
}

template <class CellType, class T, int kCount, int kRows>
void launch(const Context& context, const Decode<T>& k) {
  const dim3 blocks(unsigned(ceil_div(k.H, kDecodeWarps / k.split)), unsigned(k.D),
                    unsigned(ceil_div(k.B, kRows)));
  dev::launch(context, {blocks, unsigned(kDecodeThreads), kDecodeShared},
              decode_step<CellType, T, kCount, kRows>, k);
}

template <class CellType, class T>
void run(const LayerForward& p, const Context& context) {
  constexpr int kCount = 16 / sizeof(T);
  const Decode<T> k = parameters<T>(p);
  if (in_packs(k))
    k.B == 1 ? launch<CellType, T, kCount, 1>(context, k)
             : launch<CellType, T, kCount, kDecodeRows>(context, k);
  else
    k.B == 1 ? launch<CellType, T, 1, 1>(context, k)
             : launch<CellType, T, 1, kDecodeRows>(context, k);
}

template <class CellType>
void run_dtype(const LayerForward& p, const Context& context) {
  switch (p.dtype) {
    case DType::f32:
      return run<CellType, float>(p, context);
    case DType::bf16:
      return run<CellType, __nv_bfloat16>(p, context);
    case DType::f16:
      return run<CellType, __half>(p, context);
    case DType::f64:
      break;
  }
  throw std::logic_error("lstm_fused: a layer that why_not should have refused");
}

void forward(const LayerForward& p, const Context& context) {
  say_what_failed_earlier();
  switch (p.cell) {
#define LF_CASE(id, CellType) \
  case Cell::id:              \
    return run_dtype<CellType>(p, context);
    LF_FOR_EACH_CELL(LF_CASE)
#undef LF_CASE
  }
}

const char* why_not(Cell, DType dtype, const Dims& d, bool) {
  if (d.T != 1) return "it runs one time step";
  if (dtype == DType::f64) return "it computes in fp16, bf16 and fp32, not in fp64";
  if (d.P != d.H) return "it takes no projections";
  return d.B > kDecodeMostRows ? "it takes at most 16 sequences" : nullptr;
}

}  // namespace
}  // namespace lf::cuda

namespace lf {

// Of cuda.step by functions of our own: its object may be made after this one.
const Variant cuda_decode{
    .name = "cuda.decode",
    .device = Device::cuda,
    .whole_forward = true,
    .whole_backward = false,
    .why_not_here = dev::why_not_here,
    .why_not = cuda::why_not,
    .forward_workspace = [](const LayerForward&) { return size_t(0); },
    .backward_workspace = [](const LayerBackward& p,
                             int threads) { return cuda_step.backward_workspace(p, threads); },
    .forward = cuda::forward,
    .backward = [](const LayerBackward& p, const Context& c) { cuda_step.backward(p, c); },
};

}  // namespace lf
