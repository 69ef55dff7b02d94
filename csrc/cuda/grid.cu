// cuda.grid: all steps of a layer in one launch, W_hh of a direction in the registers and shared
// memory of a group of blocks, which hand the states to each other (grid_forward.cuh).
//
// Its backward is cuda.step's. The products over all rows are left to the caller. Nothing waits for
// the device.
#define LF_ISA cuda
#include "cell/list.h"
#include "contract/variant.h"
#include "cuda/lstm_fused/dev.cuh"
#include "cuda/lstm_fused/grid_forward.cuh"
#include "cuda/lstm_fused/steps.cuh"

namespace lf::cuda {
namespace {

// Bytes of a state that is handed on: whole pieces of 16.
int64_t state_bytes(const Dims& d, DType dtype) {
  return ceil_div(d.H * int64_t(element_size(dtype)), 16) * 16;
}
// Whether y itself can hold what is handed on.
bool in_y(const Dims& d, DType dtype) {
  return state_bytes(d, dtype) == d.H * int64_t(element_size(dtype));
}

struct Workspace {
  size_t steps, exchange;  // bytes
};
Workspace workspace_of(const Dims& d, DType dtype) {
  return {size_t(ceil_div(steps_bytes(d, kGridColumns), 16) * 16),
          in_y(d, dtype) ? 0 : size_t(d.D * d.N * state_bytes(d, dtype))};
}

template <class CellType, Product kProduct, int kBucket>
void launch(const LayerForward& p, const Context& context) {
  using T = typename Kind<kProduct>::Storage;
  const Dims& d = p.d;
  const Workspace workspace = workspace_of(d, p.dtype);
  unsigned char* const place = static_cast<unsigned char*>(context.workspace);
  GridForward<T> k{};
  k.scan = parameters<T>(p, upload_steps(context, d, p.offsets, kGridColumns, place));
  const int64_t bytes = state_bytes(d, p.dtype);
  k.exchange = in_y(d, p.dtype)
                   ? Exchange{static_cast<unsigned char*>(p.y), d.D * bytes, bytes, true}
                   : Exchange{place + workspace.steps, bytes, d.N * bytes, false};
  dev::fill(context, k.exchange.first, kAbsentByte, size_t(d.D * d.N * bytes));
  const size_t shared = grid_plan(kProduct, kGridBuckets[kBucket]).shared;
  GridCut cut;
  for (; k.first_row < d.B; k.first_row += int64_t(cut.slices) * cut.turns * kGridColumns) {
    cut = grid_cut(d.B - k.first_row, d.H, int(d.D), dev::limits().multiprocessors);
    k.turns = cut.turns;
    for (k.first_direction = 0; k.first_direction < d.D; k.first_direction += cut.directions) {
      const dim3 blocks(unsigned(cut.blocks), unsigned(cut.slices), unsigned(cut.directions));
      dev::launch_in_turn(
          context,
          {.blocks = blocks, .threads = kGridThreads, .shared = shared, .cooperative = true},
          grid_forward<CellType, kProduct, kBucket>, k);
    }
  }
}

// Tries the buckets from kBucket on.
template <class CellType, Product kProduct, int kBucket>
void run_bucket(const LayerForward& p, const Context& context, int bucket) {
  if constexpr (kBucket < std::size(kGridBuckets)) {
    if constexpr (is_compiled(kProduct, kGridBuckets[kBucket]))
      if (bucket == kBucket) return launch<CellType, kProduct, kBucket>(p, context);
    run_bucket<CellType, kProduct, kBucket + 1>(p, context, bucket);
  }
}

template <class CellType>
void run_product(const LayerForward& p, const Context& context) {
  const Product product = product_of(p.dtype, context.tf32);
  const int bucket = grid_bucket_of(product, p.d.H, kMostShared);
  switch (product) {
    case Product::bf16:
      return run_bucket<CellType, Product::bf16, 0>(p, context, bucket);
    case Product::f16:
      return run_bucket<CellType, Product::f16, 0>(p, context, bucket);
    case Product::tf32:
      return run_bucket<CellType, Product::tf32, 0>(p, context, bucket);
    case Product::ieee:
      break;
  }
  throw std::invalid_argument("lstm_fused: cuda.grid has no product of IEEE float32");
}

void forward(const LayerForward& p, const Context& context) {
  switch (p.cell) {
#define LF_CASE(id, CellType) \
  case Cell::id:              \
    return run_product<CellType>(p, context);
    LF_FOR_EACH_CELL(LF_CASE)
#undef LF_CASE
  }
}

const char* why_not(Cell, DType dtype, const Dims& d, bool tf32) {
  if (dtype == DType::f64) return "it computes in fp16, bf16 and tf32, not in fp64";
  if (dtype == DType::f32 && !tf32)
    return "in float32 it rounds the factors of products to TF32, which "
           "torch.backends.cudnn.rnn.fp32_precision does not allow";
  if (d.P != d.H) return "it takes no projections";
  const Product product = product_of(dtype, tf32);
  if (grid_bucket_of(product, d.H, kMostShared) < 0)
    return dtype == DType::f32
               ? "in float32 H must be at most 1152, so that a group of blocks can hold W_hh"
               : "in 16 bits H must be at most 2304, so that a group of blocks can hold W_hh";
  const dev::Limits limits = dev::limits();
  if (grid_bucket_of(product, d.H, limits.shared) < 0)
    return "a block's part of W_hh needs more shared memory than a block of this GPU has";
  if (grid_cut(d.B, d.H, int(d.D), limits.multiprocessors).slices == 0)
    return "H must be at most 16 for each multiprocessor of this GPU, all of which must hold W_hh";
  return nullptr;
}

const char* why_not_here() {
  if (const char* const reason = dev::why_not_here()) return reason;
  return dev::limits().capability >= 80 ? nullptr : "it needs a GPU of capability 8.0 or later";
}

}  // namespace
}  // namespace lf::cuda

namespace lf {

const Variant cuda_grid{
    "cuda.grid",
    Device::cuda,
    false,
    cuda::why_not_here,
    cuda::why_not,
    [](const LayerForward& p) {
      const cuda::Workspace workspace = cuda::workspace_of(p.d, p.dtype);
      return workspace.steps + workspace.exchange;
    },
    [](const LayerBackward& p, int threads) { return cuda_step.backward_workspace(p, threads); },
    cuda::forward,
    [](const LayerBackward& p, const Context& context) { cuda_step.backward(p, context); }};

}  // namespace lf
