// The plans, index maps and cuts of cuda.cluster, over all hidden sizes, batches and GPUs:
//   cluster_plan_check
#define LF_ISA oracle
#include "cuda/lstm_fused/cluster_plan.h"
#include "plan_check.h"

using namespace lf::cuda;

namespace {

// The largest H of each product on the GPUs of kShared, as if all had clusters; of sm_90 why_not
// (cluster.cu) and the README speak. 0: there is no kernel.
constexpr int kLimits[][5] = {
    {512, 512, 384, 0, 384}, {512, 512, 256, 0, 256}, {512, 512, 512, 0, 512}};

void check_buckets() {
  for (const Product product : kProducts)
    for (int gpu = 0; gpu < 3; ++gpu) {
      const int limit = kLimits[gpu][int(product)];
      for (int H = 1; H <= 1000; ++H) {
        const int place = cluster_bucket_of(product, H, kShared[gpu]);
        check((place >= 0) == (H <= limit), "a hidden size has no bucket, or should not", product,
              H);
        if (place < 0) continue;
        const ClusterBucket& bucket = kClusterBuckets[place];
        check(bucket.width >= H && (place == 0 || kClusterBuckets[place - 1].width < H),
              "not the smallest bucket", product, H);
        // Hardware has such clusters, and every block has a unit to send something of.
        const int blocks = cluster_blocks(bucket, H);
        check(blocks >= 1 && blocks <= kMostBlocks && (blocks - 1) * bucket.units < H &&
                  blocks * bucket.units >= H,
              "blocks", product, H);
        check(H > 256 || blocks <= 8, "a cluster that needs leave", product, H);
      }
    }
}

void check_plan(Product product, Pass pass, const ClusterBucket& bucket) {
  const ClusterPlan plan = cluster_plan(product, pass, bucket);
  const int warps = plan.threads / 32, width = bucket.width;
  check(bucket.units % kSetUnits == 0 && width % bucket.units == 0, "sets", product, width);
  check(plan.threads == bucket.units * kClusterColumns && plan.threads <= 1024, "threads", product,
        width);
  check(plan.slices % 2 == 0, "a warp reads the fragments of two slices at once", product, width);
  check(plan.held >= 1 && plan.held <= plan.slices, "held", product, width);
  check(product != Product::tf32x3 || plan.held % 2 == 0, "held in pairs", product, width);
  check(plan.held * plan.tiles * 4 < 255, "held in registers", product, width);
  if (pass == Pass::forward)
    check(slices_of(product, width) == kSetWarps * plan.slices && plan.tiles == kTiles,
          "the warps' terms", product, width);
  else
    check(warps * plan.tiles * kTileRows == width &&
              slices_of(product, 4 * bucket.units) == plan.slices,
          "the warps' outputs", product, width);
  const int factors = pass == Pass::forward ? width : 4 * bucket.units;
  check(plan.pitch >= factors * factor_size(product) && plan.buffer % 16 == 0 &&
            plan.buffer == size_t(kClusterColumns) * plan.pitch,
        "pitch", product, width);
  const int turns = most_turns(plan, kMostShared);
  check(turns >= 1 && turns <= kMostClusterTurns, "turns", product, width);
  check(shared_bytes(plan, turns) <= kMostShared && shared_bytes(plan, turns) % 16 == 0, "shared",
        product, width);
  check(turns == kMostClusterTurns || shared_bytes(plan, turns + 1) > kMostShared,
        "turns that would fit", product, width);
  // An mbarrier counts fewer than 2^20 bytes: of h, and of shares of dh.
  const int bytes = pass == Pass::forward ? kClusterColumns * width * factor_size(product)
                                          : width / bucket.units * plan.threads * 4;
  check(bytes < 1 << 20, "bytes of an exchange", product, width);
  check_banks(product, plan.pitch);
  check_fragments(product, plan.slices);
}

void check_plans() {
  for (const Product product : kProducts)
    for (const ClusterBucket& bucket : kClusterBuckets) {
      check(is_compiled(product, bucket) == (product != Product::ieee), "compiled", product,
            bucket.width);
      if (!is_compiled(product, bucket)) continue;
      for (const Pass pass : {Pass::forward, Pass::backward}) check_plan(product, pass, bucket);
    }
}

// Sums are written by quarters of a warp, whose lanes have units lane / 4 and columns lane % 4 * 2,
// and read by quarters of 8 units: 16 bytes each, in 8 groups of 4 banks.
void check_sums() {
  const Product any = Product::bf16;
  const auto group = [](int unit, int column) { return (column * kSumsPitch + unit) % 8; };
  for (int first = 0; first < 32; first += 8) {
    std::set<int> written, read;
    for (int k = 0; k < 8; ++k) {
      written.insert(group((first + k) / 4, (first + k) % 4 * 2));
      read.insert(group(first % 16 + k, first / 16));
    }
    check(written.size() == 8 && read.size() == 8, "sums meet in a bank, from lane", any, first);
  }
}

// A share has one place among its set's, a thread's four of a tile are 16 bytes, and the 32 that a
// warp reads at once lie side by side.
void check_shares() {
  const Product any = Product::bf16;
  std::set<int> places;
  for (int column = 0; column < kClusterColumns; column += 2) {
    std::set<int> of_warp;
    for (int unit = 0; unit < kSetUnits; ++unit)
      for (int own = 0; own < 2; ++own) of_warp.insert(share_place(unit, column + own));
    places.insert(of_warp.begin(), of_warp.end());
    check(of_warp.size() == 32 && *of_warp.rbegin() - *of_warp.begin() == 31, "a warp's shares",
          any, column);
    for (int unit = 0; unit < 8; ++unit) {
      const int first = share_place(unit, column);
      check(first % 4 == 0 && share_place(unit, column + 1) == first + 1 &&
                share_place(unit + 8, column) == first + 2 &&
                share_place(unit + 8, column + 1) == first + 3,
            "four shares of a thread", any, unit);
    }
  }
  check(int(places.size()) == kSetThreads && *places.begin() == 0 &&
            *places.rbegin() == kSetThreads - 1,
        "places of shares", any, int64_t(places.size()));
}

// Whether slices have all rows, none is empty, and no other number of turns has fewer waves, or as
// many with fewer turns.
bool is_cut_well(int64_t B, int D, int at_once, int most_turns) {
  const ClusterCut cut = cluster_cut(B, D, at_once, most_turns);
  if (cut.turns < 1 || cut.turns > most_turns || cut.slices < 1) return false;
  const int64_t of_slice = int64_t(cut.turns) * kClusterColumns;
  if (cut.slices * of_slice < B || (cut.slices - 1) * of_slice >= B) return false;
  const auto waves = [&](int turns) {
    const int64_t rows = int64_t(turns) * kClusterColumns;
    return ((B + rows - 1) / rows * D + at_once - 1) / at_once;
  };
  for (int turns = 1; turns <= most_turns; ++turns)
    if (waves(turns) < waves(cut.turns) || (waves(turns) == waves(cut.turns) && turns < cut.turns))
      return false;
  return true;
}

void check_cuts() {
  for (const int at_once : {1, 2, 7, 8, 15, 16, 33, 66, 132})
    for (int D = 1; D <= 2; ++D)
      for (int turns = 1; turns <= kMostClusterTurns; ++turns)
        for (int64_t B = 1; B <= 3000; ++B) {
          if (is_cut_well(B, D, at_once, turns)) continue;
          std::printf("cut of B%lld, D%d, %d turns for %d clusters at once\n",
                      static_cast<long long>(B), D, turns, at_once);
          ++wrong;
        }
}

}  // namespace

int main() {
  check_buckets();
  check_plans();
  check_sums();
  check_shares();
  check_cuts();
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
