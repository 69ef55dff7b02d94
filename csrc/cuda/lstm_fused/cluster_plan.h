// What cuda.cluster needs for a hidden size, and how a batch is cut for it: pure arithmetic, walked
// without a GPU (tests/csrc/cluster_plan_check.cpp).
//
// A cluster of blocks holds W_hh of one direction, some 16s of hidden units a block, and runs a
// slice of the batch, 8 rows at a time. Clusters know nothing of each other.
#pragma once

#include "cuda/lstm_fused/product_plan.h"

namespace lf::cuda {

// Of float32 whose factors may not be rounded to TF32.
constexpr Product kClusterFloat32 = Product::tf32x3;

constexpr int kClusterColumns = 8;  // batch rows at a time
// Four warps for 16 units, and so a thread for each of their 128 cells.
constexpr int kSetUnits = 16, kSetWarps = 4, kSetThreads = 32 * kSetWarps;
// Blocks of a cluster that hardware allows; over 8 by leave (dev.cuh), from one GPC of an H100.
constexpr int kMostBlocks = 16;
// Groups of 8 rows that a cluster runs one after the other, where there are more than the GPU has
// room for clusters: while one waits for its exchange, the others multiply. Four products of 0.1 to
// 0.25 us fill a wait of 0.4, and beyond them a turn costs its product, where another wave of
// clusters would cost the wait again. Less where shared memory does not hold them.
constexpr int kMostClusterTurns = 12;

// Units of a block, what H is rounded up to, and how many fragments of a tile registers hold,
// forward and backward: the most without a spill on any of the architectures, of tf32x3 in pairs.
// 0: W_hh does not fit into a cluster.
struct ClusterBucket {
  int units, width;
  int half[2], tf32[2], tf32x3[2];
};
// To 256 a cluster has at most 8 blocks, which are easier to find a place for.
constexpr ClusterBucket kClusterBuckets[] = {
    {16, 128, {2, 4}, {4, 8}, {4, 8}},
    {32, 256, {4, 8}, {8, 16}, {8, 14}},
    {32, 384, {6, 8}, {10, 10}, {8, 8}},
    {32, 512, {8, 8}, {10, 8}, {8, 6}},
};

struct ClusterPlan {
  int threads;
  int slices;     // fragments of a tile
  int tiles;      // of a warp
  int held;       // fragments of a tile in registers
  int pitch;      // from one row of factors to the next, bytes
  size_t buffer;  // bytes: the factors of 8 rows
  size_t fixed;   // bytes of shared memory, whatever the turns; what the kernels take before
  size_t turn;    // bytes of shared memory for each turn
};

// Forward, a block holds its units' rows of W_hh; the four warps of a set share the terms of its
// sums. Backward it holds the same rows, transposed: what the gates of its units send to all units,
// of which each warp has its tiles.
//
// A set's sums lie as 8 rows of 17 places for 16 units: of 8 that are read or written at once, 16
// bytes each, no two meet in a bank.
constexpr int kSumsPitch = kSetUnits + 1, kSumsOfWarp = kClusterColumns * kSumsPitch;

constexpr ClusterPlan cluster_plan(Product product, Pass pass, const ClusterBucket& bucket) {
  ClusterPlan plan{};
  const bool forward = pass == Pass::forward;
  plan.threads = bucket.units / kSetUnits * kSetThreads;
  plan.held = (product == Product::tf32x3 ? bucket.tf32x3
               : product == Product::tf32 ? bucket.tf32
                                          : bucket.half)[int(pass)];
  const int warps = plan.threads / 32, factors = forward ? bucket.width : 4 * bucket.units;
  plan.tiles = forward ? kTiles : bucket.width / kTileRows / warps;
  plan.slices = slices_of(product, factors) / (forward ? kSetWarps : 1);
  plan.pitch = pitch(product, factors);
  plan.buffer = size_t(kClusterColumns) * plan.pitch;
  // Forward the sums of all warps, twice; backward two buffers.
  plan.fixed = (forward ? 2 * size_t(warps) * kSumsOfWarp * 16 : 2 * plan.buffer) +
               rest_bytes(plan.slices, plan.held, plan.threads, plan.tiles);
  // Two barriers and a number of steps. Forward two buffers of h, and c; backward two copies of
  // what all blocks send, and dh and dc.
  const size_t of_cells = size_t(plan.threads) * sizeof(float);
  plan.turn = 32 + (forward ? 2 * plan.buffer + of_cells
                            : (2 * size_t(bucket.width / bucket.units) + 2) * of_cells);
  return plan;
}
constexpr size_t shared_bytes(const ClusterPlan& plan, int turns) {
  return plan.fixed + size_t(turns) * plan.turn;
}

// Turns that fit into `shared` bytes.
constexpr int most_turns(const ClusterPlan& plan, size_t shared) {
  int turns = 0;
  while (turns < kMostClusterTurns && shared_bytes(plan, turns + 1) <= shared) ++turns;
  return turns;
}

// Backward, where a cell's share of dh lies among the 128 of its set. The four that a thread has of
// a tile of sums, of units lane / 4 and that + 8 and of columns lane % 4 * 2 and that + 1, are 16
// bytes; and the 32 of two columns, which a warp reads at once, lie side by side.
constexpr LF_FN int share_place(int unit, int column) {
  return (column / 2 * 8 + unit % 8) * 4 + unit / 8 * 2 + column % 2;
}

constexpr bool is_compiled(Product product, const ClusterBucket& bucket) {
  return product != Product::ieee && cluster_plan(product, Pass::forward, bucket).held > 0;
}

// The place in kClusterBuckets of the smallest that holds H with at most `shared` bytes a block in
// either pass, or -1.
constexpr int cluster_bucket_of(Product product, long long H, size_t shared) {
  for (int k = 0; k < int(std::size(kClusterBuckets)); ++k) {
    const ClusterBucket& bucket = kClusterBuckets[k];
    if (H > bucket.width) continue;
    const bool fits = most_turns(cluster_plan(product, Pass::forward, bucket), shared) > 0 &&
                      most_turns(cluster_plan(product, Pass::backward, bucket), shared) > 0;
    return is_compiled(product, bucket) && fits ? k : -1;
  }
  return -1;
}

// Blocks of a cluster. Each has a unit at the least, and so sends and receives in every step.
constexpr int cluster_blocks(const ClusterBucket& bucket, long long H) {
  return int((H + bucket.units - 1) / bucket.units);
}

// How B rows of D directions are cut, on a GPU that runs `at_once` clusters: into slices of each
// direction, and these into turns. A wave of clusters that leaves places empty takes as long as a
// full one: so as few waves as can be, and of these with as few turns.
struct ClusterCut {
  int slices, turns;
};
constexpr ClusterCut cluster_cut(long long B, int D, int at_once, int most_turns) {
  const long long eights = (B + kClusterColumns - 1) / kClusterColumns;
  const auto slices = [&](int turns) { return (eights + turns - 1) / turns; };
  const long long waves = (slices(most_turns) * D + at_once - 1) / at_once;
  int turns = 1;
  while (slices(turns) * D > waves * at_once) ++turns;
  return {int(slices(turns)), turns};
}

}  // namespace lf::cuda
