// cuda.grid: all steps of a layer in one launch, W_hh of a direction in the registers and shared
// memory of a group of blocks, who hand states and gradients to each other (grid_forward.cuh,
// grid_backward.cuh).
//
// The products over all rows are left to the caller. The host never waits for the device. Launches
// of a device take turns; what a captured graph must not run beside says dev::launch_in_turn.
#define LF_ISA cuda
#include "cell/list.h"
#include "contract/variant.h"
#include "cuda/lstm_fused/dev.cuh"
#include "cuda/lstm_fused/grid_backward.cuh"
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

GridCut cut_of(Pass pass, const Dims& d, int64_t first_row) {
  const GridCut cut =
      grid_cut(d.B - first_row, grid_blocks(pass, d.H), int(d.D), dev::limits().multiprocessors);
  if (!cut.slices) throw std::runtime_error("lstm_fused: cuda.grid has no room on this device");
  return cut;
}

// Calls launch(share, blocks) for all launches that a layer takes.
template <class Launch>
void for_launches(Pass pass, const Dims& d, const Launch& launch) {
  GridShare share{};
  GridCut cut;
  for (; share.first_row < d.B; share.first_row += cut.slices * cut.turns * kGridColumns) {
    cut = cut_of(pass, d, share.first_row);
    share.turns = cut.turns;
    for (share.first_direction = 0; share.first_direction < d.D;
         share.first_direction += cut.directions)
      launch(share, dim3(unsigned(cut.blocks), unsigned(cut.slices), unsigned(cut.directions)));
  }
}

template <class Parameters>
void launch(const Context& context, dim3 blocks, const GridPlan& plan, void (*kernel)(Parameters),
            const Parameters& p) {
  dev::launch_in_turn(
      context,
      {.blocks = blocks, .threads = kGridThreads, .shared = plan.shared, .cooperative = true},
      kernel, p);
}

// The first part of a workspace, in bytes: where each step's rows are. Behind it lies what blocks
// hand on.
size_t steps_part(const Dims& d) {
  return size_t(ceil_div(int64_t(steps_bytes(d, kGridColumns)), 64) * 64);
}

size_t workspace_bytes(const LayerForward& p) {
  const Dims& d = p.d;
  return steps_part(d) + (in_y(d, p.dtype) ? 0 : size_t(d.D * d.N * state_bytes(d, p.dtype)));
}

// Words of the two rings of a launch of backward.
struct Rings {
  int64_t dgates, dh;
};
Rings rings_of(const LayerBackward& p, const GridShare& share, dim3 blocks) {
  const Product product = product_of(p.dtype, true);
  const int bucket = grid_bucket_of(product, p.d.H, kMostShared);
  const int width = grid_plan(product, Pass::backward, kGridBuckets[bucket]).width;
  const int64_t hands = int64_t(blocks.y) * blocks.z * 2 * share.turns;
  return {hands * dgates_words(width, int(element_size(p.dtype))), hands * dh_words(int(blocks.x))};
}
size_t workspace_bytes(const LayerBackward& p, int) {
  int64_t words = 0;  // the first launch has the most, and the next ones use it again
  for_launches(Pass::backward, p.d, [&](const GridShare& share, dim3 blocks) {
    const Rings rings = rings_of(p, share, blocks);
    words = std::max(words, rings.dgates + rings.dh);
  });
  return steps_part(p.d) + size_t(words) * sizeof(uint32_t);
}

template <class CellType, Product kProduct, int kBucket>
void run_kernel(const LayerForward& p, const Context& context) {
  using T = typename Kind<kProduct>::Storage;
  const Dims& d = p.d;
  unsigned char* const place = static_cast<unsigned char*>(context.workspace);
  GridForward<T> k{};
  k.scan = parameters<T>(p, upload_steps(context, d, p.offsets, kGridColumns, place));
  const int64_t bytes = state_bytes(d, p.dtype);
  k.exchange = in_y(d, p.dtype)
                   ? Exchange{static_cast<unsigned char*>(p.y), d.D * bytes, bytes, true}
                   : Exchange{place + steps_part(d), bytes, d.N * bytes, false};
  dev::fill(context, k.exchange.first, kAbsentByte, size_t(d.D * d.N * bytes));
  for_launches(Pass::forward, d, [&](const GridShare& share, dim3 blocks) {
    k.share = share;
    launch(context, blocks, grid_plan(kProduct, Pass::forward, kGridBuckets[kBucket]),
           grid_forward<CellType, kProduct, kBucket>, k);
  });
}

template <class CellType, Product kProduct, int kBucket>
void run_kernel(const LayerBackward& p, const Context& context) {
  using T = typename Kind<kProduct>::Storage;
  const Dims& d = p.d;
  unsigned char* const place = static_cast<unsigned char*>(context.workspace);
  GridBackward<T> k{};
  k.scan = parameters<T>(p, upload_steps(context, d, p.offsets, kGridColumns, place));
  k.dgates = reinterpret_cast<uint32_t*>(place + steps_part(d));
  for_launches(Pass::backward, d, [&](const GridShare& share, dim3 blocks) {
    const Rings rings = rings_of(p, share, blocks);
    k.share = share;
    k.dh = k.dgates + rings.dgates;
    dev::fill(context, k.dgates, 0, size_t(rings.dgates + rings.dh) * sizeof(uint32_t));
    launch(context, blocks, grid_plan(kProduct, Pass::backward, kGridBuckets[kBucket]),
           grid_backward<CellType, kProduct, kBucket>, k);
  });
}

// Tries the buckets from kBucket on.
template <class CellType, Product kProduct, int kBucket, class Layer>
void run_bucket(const Layer& p, const Context& context, int bucket) {
  if constexpr (kBucket < std::size(kGridBuckets)) {
    if constexpr (is_compiled(kProduct, kGridBuckets[kBucket]))
      if (bucket == kBucket) return run_kernel<CellType, kProduct, kBucket>(p, context);
    run_bucket<CellType, kProduct, kBucket + 1>(p, context, bucket);
  }
}

template <class CellType, class Layer>
void run_product(const Layer& p, const Context& context) {
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

template <class Layer>
void run(const Layer& p, const Context& context) {
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
  if (grid_blocks(Pass::backward, d.H) > limits.multiprocessors)
    return "H must be at most 128 for every 8 multiprocessors of this GPU, which must hold W_hh";
  return nullptr;
}

const char* why_not_here() {
  if (const char* const reason = dev::why_not_here()) return reason;
  return dev::limits().capability >= 80 ? nullptr : "it needs a GPU of capability 8.0 or later";
}

}  // namespace
}  // namespace lf::cuda

namespace lf {

const Variant cuda_grid{"cuda.grid",
                        Device::cuda,
                        false,
                        cuda::why_not_here,
                        cuda::why_not,
                        cuda::workspace_bytes,
                        cuda::workspace_bytes,
                        cuda::run<LayerForward>,
                        cuda::run<LayerBackward>};

}  // namespace lf
