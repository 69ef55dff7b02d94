// cuda.block: all steps of a layer in one launch, W_hh of a direction in the registers and shared
// memory of one block (block_forward.cuh, block_backward.cuh).
//
// The products over all rows are left to the caller. Nothing waits for the device, and the launches
// can be captured in a CUDA graph.
#define LF_ISA cuda
#include "cell/list.h"
#include "contract/variant.h"
#include "cuda/lstm_fused/block_backward.cuh"
#include "cuda/lstm_fused/block_forward.cuh"
#include "cuda/lstm_fused/dev.cuh"
#include "cuda/lstm_fused/steps.cuh"

namespace lf::cuda {
namespace {

int64_t blocks_of(const Dims& d, Product product) { return ceil_div(d.B, columns_of(product)); }

// Enough for any product: the one with the fewest columns has the most blocks.
size_t numbers_bytes(const Dims& d) { return steps_bytes(d, columns_of(Product::ieee)); }

template <class CellType, Product kProduct, int kBucket>
constexpr auto kernel(const LayerForward&) {
  return block_forward<CellType, kProduct, kBucket>;
}
template <class CellType, Product kProduct, int kBucket>
constexpr auto kernel(const LayerBackward&) {
  return block_backward<CellType, kProduct, kBucket>;
}
constexpr Pass pass_of(const LayerForward&) { return Pass::forward; }
constexpr Pass pass_of(const LayerBackward&) { return Pass::backward; }

// Tries the buckets from kBucket on.
template <class CellType, Product kProduct, int kBucket, class Layer>
void run_bucket(const Layer& p, const Context& context, int bucket) {
  if constexpr (kBucket < std::size(kBuckets)) {
    if constexpr (is_compiled(kProduct, kBuckets[kBucket])) {
      if (bucket == kBucket) {
        using T = typename Kind<kProduct>::Storage;
        const BlockPlan plan = block_plan(kProduct, pass_of(p), kBuckets[kBucket]);
        const int64_t* const offsets =
            upload_steps(context, p.d, p.offsets, columns_of(kProduct), context.workspace);
        const dim3 blocks(unsigned(blocks_of(p.d, kProduct)), unsigned(p.d.D));
        return dev::launch(context, {blocks, unsigned(plan.threads), plan.shared},
                           kernel<CellType, kProduct, kBucket>(p), parameters<T>(p, offsets));
      }
    }
    run_bucket<CellType, kProduct, kBucket + 1>(p, context, bucket);
  }
}

template <class CellType, class Layer>
void run_product(const Layer& p, const Context& context) {
  const Product product = product_of(p.dtype, context.tf32);
  const int bucket = bucket_of(product, p.d.H, kMostShared);
  switch (product) {
    case Product::bf16:
      return run_bucket<CellType, Product::bf16, 0>(p, context, bucket);
    case Product::f16:
      return run_bucket<CellType, Product::f16, 0>(p, context, bucket);
    case Product::tf32:
      return run_bucket<CellType, Product::tf32, 0>(p, context, bucket);
    case Product::ieee:
      return run_bucket<CellType, Product::ieee, 0>(p, context, bucket);
  }
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
  if (dtype == DType::f64) return "it computes in fp16, bf16, tf32 and fp32, not in fp64";
  if (d.P != d.H) return "it takes no projections";
  const auto fits = [&](size_t shared) {
    return bucket_of(product_of(dtype, tf32), d.H, shared) >= 0;
  };
  if (fits(dev::limits().shared)) return nullptr;
  if (fits(kMostShared))
    return dtype == DType::f32
               ? "W_hh in fp32 or tf32 needs more shared memory than a block of this GPU has"
               : "W_hh needs more shared memory than a block of this GPU has";
  return dtype == DType::f32 ? "in float32 H must be at most 128, so that a block can hold W_hh"
                             : "in 16 bits H must be at most 192, so that a block can hold W_hh";
}

const char* why_not_here() {
  if (const char* const reason = dev::why_not_here()) return reason;
  return dev::limits().capability >= 80 ? nullptr : "it needs a GPU of capability 8.0 or later";
}

}  // namespace
}  // namespace lf::cuda

namespace lf {

const Variant cuda_block{"cuda.block",
                         Device::cuda,
                         false,
                         cuda::why_not_here,
                         cuda::why_not,
                         [](const LayerForward& p) { return cuda::numbers_bytes(p.d); },
                         [](const LayerBackward& p, int) { return cuda::numbers_bytes(p.d); },
                         cuda::run<LayerForward>,
                         cuda::run<LayerBackward>};

}  // namespace lf
