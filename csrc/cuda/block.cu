// cuda.block: all steps of a layer in one launch, W_hh of a direction in the registers and shared
// memory of one block (block_forward.cuh, block_backward.cuh).
//
// The products over all rows are left to the caller. Nothing waits for the device, and the launches
// can be captured in a CUDA graph.
#define LF_ISA cuda
#include "contract/variant.h"
#include "cuda/lstm_fused/block_backward.cuh"
#include "cuda/lstm_fused/block_forward.cuh"
#include "cuda/lstm_fused/family.cuh"
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

struct BlockFamily {
  static constexpr const auto& buckets = kBuckets;
  static constexpr Product float32 = kBlockFloat32;
  static constexpr bool is_compiled(Product product, Pass, const Bucket& bucket) {
    return cuda::is_compiled(product, bucket);
  }
  template <class Layer>
  static int bucket_of(Product product, const Layer& p) {
    return cuda::bucket_of(product, p.d.H, kMostShared);
  }

  template <class CellType, Product kProduct, int kBucket, class Layer>
  static void run(const Layer& p, const Context& context) {
    using T = typename Kind<kProduct>::Storage;
    const BlockPlan plan = block_plan(kProduct, pass_of(p), kBuckets[kBucket]);
    const int64_t* const offsets =
        upload_steps(context, p.d, p.offsets, columns_of(kProduct), context.workspace);
    const dim3 blocks(unsigned(blocks_of(p.d, kProduct)), unsigned(p.d.D));
    dev::launch(context, {blocks, unsigned(plan.threads), plan.shared},
                kernel<CellType, kProduct, kBucket>(p), parameters<T>(p, offsets));
  }
};

const char* why_not(Cell, DType dtype, const Dims& d, bool tf32) {
  if (dtype == DType::f64) return "it computes in fp16, bf16, tf32 and fp32, not in fp64";
  if (const char* const reason = why_no_scan(d)) return reason;
  const auto fits = [&](size_t shared) {
    return bucket_of(product_of(dtype, tf32, BlockFamily::float32), d.H, shared) >= 0;
  };
  if (fits(dev::limits().shared)) return nullptr;
  if (fits(kMostShared))
    return dtype == DType::f32
               ? "W_hh in fp32 or tf32 needs more shared memory than a block of this GPU has"
               : "W_hh needs more shared memory than a block of this GPU has";
  return dtype == DType::f32 ? "in float32 H must be at most 128, so that a block can hold W_hh"
                             : "in 16 bits H must be at most 160, so that a block can hold W_hh";
}

}  // namespace
}  // namespace lf::cuda

namespace lf {

const Variant cuda_block{
    .name = "cuda.block",
    .device = Device::cuda,
    .why_not_here = cuda::why_not_here,
    .why_not = cuda::why_not,
    .forward_workspace = [](const LayerForward& p) { return cuda::numbers_bytes(p.d); },
    .backward_workspace = [](const LayerBackward& p, int) { return cuda::numbers_bytes(p.d); },
    .forward = cuda::run_pass<cuda::BlockFamily, LayerForward>,
    .backward = cuda::run_pass<cuda::BlockFamily, LayerBackward>,
};

}  // namespace lf
