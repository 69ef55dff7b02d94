#include "dispatch/work.h"

#define LF_ISA dispatch
#include "cuda/lstm_fused/block_plan.h"
#include "cuda/lstm_fused/cluster_plan.h"
#include "cuda/lstm_fused/grid_plan.h"

namespace lf {

namespace {

using namespace cuda;

Pass pass_of(const ScanQuestion& q) { return q.backward ? Pass::backward : Pass::forward; }

// Rows of four gates, and as many columns as are multiplied at once. Backward as many.
double multiply_adds(int units, int width, int columns) {
  return double(kTiles) * units * width * columns;
}

std::string_view name_of(Product product) {
  switch (product) {
    case Product::bf16:
      return "bf16";
    case Product::f16:
      return "f16";
    case Product::tf32:
      return "tf32";
    case Product::ieee:
      return "ieee";
    case Product::tf32x3:
      return "tf32x3";
  }
  return {};
}

std::optional<ScanWork> block_work(const ScanQuestion& q, Product product) {
  const int place = bucket_of(product, q.H, q.shared);
  if (place < 0) return {};
  const Bucket& bucket = kBuckets[place];
  const BlockPlan plan = block_plan(product, pass_of(q), bucket);
  const int columns = columns_of(product);
  // A block to a multiprocessor, as registers have no room for two where H is large.
  const int64_t waves = ceil_div(ceil_div(q.B, columns) * q.D, q.multiprocessors);
  return ScanWork{1, std::vector<ScanShare>(size_t(waves), ScanShare{1}),
                  multiply_adds(bucket.H, bucket.H, columns),
                  rest_bytes(plan.slices, plan.held, plan.threads)};
}

// On a device, dev::clusters_at_once asks, and finds more where a multiprocessor has room for two
// blocks. A cluster lies within a GPC, and GPCs are no whole number of clusters: of 8 blocks an
// H100 with 132 multiprocessors runs 15 at once, of 16 it should run 7, one less than the
// multiprocessors would do for.
int clusters_at_once(int blocks, int multiprocessors) {
  return blocks == 1 ? multiprocessors : std::max(1, multiprocessors / blocks - 1);
}

std::optional<ScanWork> cluster_work(const ScanQuestion& q, Product product) {
  const int place = cluster_bucket_of(product, q.H, q.shared);
  if (place < 0) return {};
  const ClusterBucket& bucket = kClusterBuckets[place];
  const ClusterPlan plan = cluster_plan(product, pass_of(q), bucket);
  const int at_once = clusters_at_once(cluster_blocks(bucket, q.H), q.multiprocessors);
  const ClusterCut cut = cluster_cut(q.B, q.D, at_once, most_turns(plan, q.shared));
  const int64_t waves = ceil_div(int64_t(cut.slices) * q.D, at_once);
  return ScanWork{1, std::vector<ScanShare>(size_t(waves), ScanShare{cut.turns}),
                  multiply_adds(bucket.units, bucket.width, kClusterColumns),
                  rest_bytes(plan.slices, plan.held, plan.threads, plan.tiles)};
}

std::optional<ScanWork> grid_work(const ScanQuestion& q, Product product) {
  const int place =
      grid_bucket_for(product, pass_of(q), q.B, q.D, q.H, q.multiprocessors, q.shared);
  if (place < 0 || grid_blocks(Pass::backward, q.H) > q.multiprocessors) return {};
  const GridBucket& bucket = kGridBuckets[place];
  const int blocks = grid_blocks(pass_of(q), q.H, bucket.units);
  const int columns =
      grid_columns(product, pass_of(q), bucket, q.B, q.D, q.H, q.multiprocessors, q.shared);
  const GridPlan plan = grid_plan(product, pass_of(q), bucket, columns, q.shared);
  ScanWork work{0,
                {},
                multiply_adds(bucket.units, plan.width, columns),
                rest_bytes(plan.kept, 0, kGridThreads, plan.tiles),
                streamed_bytes(plan)};
  for_grid_launches(q.B, blocks, q.D, q.multiprocessors, columns, plan.turns,
                    [&](int64_t, int, const GridCut& cut) {
                      if (!work.launches++)  // the largest
                        work.streamed_by_all =
                            work.streamed * cut.blocks * cut.slices * cut.directions;
                      work.shares.push_back({cut.turns, grid_rounds(pass_of(q), plan, cut.turns)});
                    });
  return work;
}

}  // namespace

std::optional<ScanWork> scan_work(const ScanQuestion& q) {
  if (q.dtype == DType::f64 || q.multiprocessors < 1) return {};
  const auto of = [&](auto work_of, Product float32) {
    const Product product = product_of(q.dtype, q.tf32, float32);
    std::optional<ScanWork> work = work_of(q, product);
    if (work) work->product = name_of(product);
    return work;
  };
  if (q.variant == "cuda.block") return of(block_work, kBlockFloat32);
  if (q.variant == "cuda.cluster") return of(cluster_work, kClusterFloat32);
  if (q.variant == "cuda.grid") return of(grid_work, kGridFloat32);
  return {};
}

}  // namespace lf
