// The plans and index maps of cuda.block, over all hidden sizes and GPUs:   plan_check
#define LF_ISA oracle
#include "plan_check.h"

#include "cuda/lstm_fused/block_plan.h"

using namespace lf::cuda;

namespace {

// The largest H of each product on the GPUs of kShared; of sm_90 why_not (block.cu) and the README
// speak. 0: there is no kernel.
constexpr int kLimits[][5] = {
    {128, 128, 96, 96, 0}, {128, 128, 96, 96, 0}, {160, 160, 128, 128, 0}};

void check_buckets() {
  for (const Product product : kProducts)
    for (int gpu = 0; gpu < 3; ++gpu) {
      const int limit = kLimits[gpu][int(product)];
      int before = 0;
      for (int H = 1; H <= 300; ++H) {
        const int place = bucket_of(product, H, kShared[gpu]);
        check((place >= 0) == (H <= limit), "a hidden size has no bucket, or should not", product,
              H);
        if (place < 0) continue;
        const Bucket& bucket = kBuckets[place];
        check(bucket.H >= H && place >= before && (place == 0 || kBuckets[place - 1].H < H),
              "not the smallest bucket", product, H);
        before = place;
      }
    }
}

void check_plans() {
  for (const Product product : kProducts)
    for (const Bucket& bucket : kBuckets) {
      if (!is_compiled(product, bucket)) continue;
      check(bucket.H % 32 == 0, "a warp reads the fragments of two slices at once", product,
            bucket.H);
      for (const Pass pass : {Pass::forward, Pass::backward}) {
        const BlockPlan plan = block_plan(product, pass, bucket);
        check(plan.threads <= 1024 && plan.threads / 32 * kTileRows == bucket.H, "threads", product,
              bucket.H);
        check(plan.held >= 1 && plan.held <= plan.slices, "held", product, bucket.H);
        check(plan.held * kTiles * 4 < 255, "held in registers", product, bucket.H);
        check(plan.shared <= kMostShared && plan.shared % 16 == 0, "shared", product, bucket.H);
        check_banks(product, plan.pitch);
        check_fragments(product, plan.slices);
      }
    }
}

}  // namespace

int main() {
  check_buckets();
  check_plans();
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
