// cuda.cluster: all steps of a layer in one launch, W_hh of a direction in the registers and shared
// memory of a cluster of blocks, who send states and gradients into each other's shared memory
// (cluster_forward.cuh, cluster_backward.cuh).
//
// The products over all rows are left to the caller. Nothing waits for the device, the launches can
// be captured in a CUDA graph, and any number of them may run at once: a cluster waits for its own
// blocks alone, and hardware starts these together.
#define LF_ISA cuda
#include "contract/variant.h"
#include "cuda/lstm_fused/cluster_backward.cuh"
#include "cuda/lstm_fused/cluster_forward.cuh"
#include "cuda/lstm_fused/family.cuh"
#include "cuda/lstm_fused/steps.cuh"

namespace lf::cuda {
namespace {

size_t numbers_bytes(const Dims& d) { return steps_bytes(d, kClusterColumns); }

template <class CellType, Product kProduct, int kBucket>
constexpr auto cluster_kernel(const LayerForward&) {
  return cluster_forward<CellType, kProduct, kBucket>;
}
template <class CellType, Product kProduct, int kBucket>
constexpr auto cluster_kernel(const LayerBackward&) {
  return cluster_backward<CellType, kProduct, kBucket>;
}
constexpr Pass cluster_pass(const LayerForward&) { return Pass::forward; }
constexpr Pass cluster_pass(const LayerBackward&) { return Pass::backward; }

// One cluster, with the shared memory of one turn.
dev::Grid one_cluster(const ClusterPlan& plan, int blocks) {
  return {.blocks = dim3(unsigned(blocks)),
          .threads = unsigned(plan.threads),
          .shared = shared_bytes(plan, 1),
          .cluster = unsigned(blocks)};
}

struct ClusterFamily {
  static constexpr const auto& buckets = kClusterBuckets;
  static constexpr Product float32 = kClusterFloat32;
  static constexpr bool is_compiled(Product product, Pass, const ClusterBucket& bucket) {
    return cuda::is_compiled(product, bucket);
  }
  template <class Layer>
  static int bucket_of(Product product, const Layer& p) {
    return cluster_bucket_of(product, p.d.H, kMostShared);
  }

  template <class CellType, Product kProduct, int kBucket, class Layer>
  static void run(const Layer& p, const Context& context) {
    using T = typename Kind<kProduct>::Storage;
    const Dims& d = p.d;
    if (d.B == 0) return;
    const ClusterPlan plan = cluster_plan(kProduct, cluster_pass(p), buckets[kBucket]);
    const int blocks = cluster_blocks(buckets[kBucket], d.H);
    const auto kernel = cluster_kernel<CellType, kProduct, kBucket>(p);
    dev::Grid grid = one_cluster(plan, blocks);
    int at_once = dev::clusters_at_once(grid, kernel);
    if (at_once == 0)
      throw std::runtime_error("lstm_fused: cuda.cluster finds no place for a cluster of " +
                               std::to_string(blocks) + " blocks on this device");
    // Turns take memory, with which a multiprocessor may have room for fewer blocks.
    const int most = most_turns(plan, dev::limits().shared);
    ClusterCut cut = cluster_cut(d.B, int(d.D), at_once, most);
    for (;;) {
      grid.shared = shared_bytes(plan, cut.turns);
      const int with_turns = dev::clusters_at_once(grid, kernel);
      if (with_turns >= at_once || with_turns == 0) break;
      at_once = with_turns;
      cut = cluster_cut(d.B, int(d.D), at_once, most);
    }
    grid.blocks = dim3(unsigned(blocks), unsigned(cut.slices), unsigned(d.D));
    const int64_t* const offsets =
        upload_steps(context, d, p.offsets, kClusterColumns, context.workspace);
    dev::launch(context, grid, kernel, {parameters<T>(p, offsets), {0, 0, cut.turns}});
  }
};

// What is known of a layer before there is one, and where to write whether there is a place for its
// clusters, forward and backward.
struct Room {
  Cell cell;
  DType dtype;
  Dims d;
  bool* found;
};
struct RoomFamily : ClusterFamily {
  template <class CellType, Product kProduct, int kBucket, class Layer>
  static void run(const Layer& p, const Context&) {
    const auto has_place = [&](Pass pass, auto kernel) {
      const ClusterPlan plan = cluster_plan(kProduct, pass, buckets[kBucket]);
      const int blocks = cluster_blocks(buckets[kBucket], p.d.H);
      return dev::clusters_at_once(one_cluster(plan, blocks), kernel) > 0;
    };
    *p.found = has_place(Pass::forward, cluster_forward<CellType, kProduct, kBucket>) &&
               has_place(Pass::backward, cluster_backward<CellType, kProduct, kBucket>);
  }
};

const char* why_no_clusters_here() {
  if (const char* const reason = why_not_here()) return reason;
  return dev::limits().capability >= 90 ? nullptr
                                        : "it needs a GPU with clusters of blocks, of capability "
                                          "9.0 or later";
}

const char* why_not(Cell cell, DType dtype, const Dims& d, bool tf32) {
  if (dtype == DType::f64) return "it computes in fp16, bf16, tf32 and fp32, not in fp64";
  if (const char* const reason = why_no_scan(d)) return reason;
  const Product product = product_of(dtype, tf32, ClusterFamily::float32);
  if (cluster_bucket_of(product, d.H, kMostShared) < 0)
    return dtype == DType::f32
               ? "in float32 H must be at most 512, so that a cluster of blocks can hold W_hh"
               : "in 16 bits H must be at most 512, so that a cluster of blocks can hold W_hh";
  if (cluster_bucket_of(product, d.H, dev::limits().shared) < 0)
    return "a block's part of W_hh needs more shared memory than a block of this GPU has";
  bool found = false;
  Context context{};
  context.tf32 = tf32;
  run<RoomFamily>(Room{cell, dtype, d, &found}, context);
  return found ? nullptr
               : "this GPU, or the slice of one that this is, has no place for a cluster of the "
                 "blocks that hold W_hh";
}

}  // namespace
}  // namespace lf::cuda

namespace lf {

const Variant cuda_cluster{
    .name = "cuda.cluster",
    .device = Device::cuda,
    .why_not_here = cuda::why_no_clusters_here,
    .why_not = cuda::why_not,
    .forward_workspace = [](const LayerForward& p) { return cuda::numbers_bytes(p.d); },
    .backward_workspace = [](const LayerBackward& p, int) { return cuda::numbers_bytes(p.d); },
    .forward = cuda::run_pass<cuda::ClusterFamily, LayerForward>,
    .backward = cuda::run_pass<cuda::ClusterFamily, LayerBackward>,
};

}  // namespace lf
