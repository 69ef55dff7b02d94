// What cuda.grid needs for a hidden size, and how a batch is cut for it: pure arithmetic, walked
// without a GPU (tests/csrc/grid_plan_check.cpp).
//
// A group of blocks holds W_hh of one direction, 16 hidden units a block, and runs a slice of the
// batch, 8 rows at a time. Groups never wait for each other.
#pragma once

#include "cuda/lstm_fused/product_plan.h"

namespace lf::cuda {

constexpr int kGridUnits = 16;  // of a block
// Forward, a block's warps share the terms of its sums, not its units: each warp then reads an
// eighth of h and no more, and the eighths are added up at the end.
constexpr int kGridWarps = 8, kGridThreads = 32 * kGridWarps;
constexpr int kGridColumns = 8;  // batch rows at a time
constexpr int kGridCells = kGridUnits * kGridColumns;
// Groups of 8 rows that a group of blocks runs one after the other: while one waits for its h, the
// others multiply. More rows than that go into another launch.
constexpr int kMostTurns = 14;

// Widths of W_hh that kernels are compiled for, in pairs of fragments a tile and warp (a pair of
// eight warps: 256 factors in 16 bits, 128 in float32), and how many fragments registers hold,
// forward and backward: the most without a spill on any of the architectures, of tf32x3 in pairs.
// 0: W_hh does not fit into a group.
struct GridBucket {
  int pairs;
  int half[2], tf32[2], tf32x3[2];
};
constexpr GridBucket kGridBuckets[] = {
    {1, {2, 2}, {2, 2}, {2, 2}},    // H to 256, and 128 in float32
    {2, {4, 4}, {4, 4}, {4, 4}},    // 512, 256
    {3, {6, 6}, {6, 6}, {6, 4}},    // 768, 384
    {4, {8, 8}, {8, 8}, {6, 4}},    // 1024, 512
    {6, {10, 8}, {10, 8}, {6, 6}},  // 1536, 768
    {8, {10, 8}, {9, 8}, {6, 6}},   // 2048, 1024
    {9, {10, 8}, {10, 7}, {}},      // 2304, 1152
};

// Forward, a block holds its units' rows of W_hh, and a warp an eighth of their terms. Backward,
// W_hh is cut in both directions: a block holds what an eighth of the gates, four times width / 8
// of them, sends to 128 units, and a warp all terms of 16 of these.
constexpr int kGridParts = 8;
constexpr int kGridOutputs = kGridParts * kGridUnits;

struct GridPlan {
  int width;      // H rounded up
  int slices;     // fragments of a tile and warp
  int held;       // of them in registers
  int pitch;      // from one row of factors to the next, bytes
  size_t buffer;  // bytes: the factors of 8 rows
  size_t shared;  // bytes of shared memory, as the kernels take it
};

constexpr GridPlan grid_plan(Product product, Pass pass, const GridBucket& bucket) {
  GridPlan plan{};
  plan.slices = 2 * bucket.pairs;
  plan.held = (product == Product::tf32x3 ? bucket.tf32x3
               : product == Product::tf32 ? bucket.tf32
                                          : bucket.half)[int(pass)];
  plan.width = kGridWarps * plan.slices * kFragmentBytes / factor_size(product);
  plan.pitch = pitch(product, pass == Pass::forward ? plan.width : plan.width / kGridParts * 4);
  plan.buffer = size_t(kGridColumns) * plan.pitch;
  // Forward the sums of all warps and c; backward a second buffer, and dc and dh.
  const size_t of_cells = pass == Pass::forward ? kGridWarps * 4 + kMostTurns : 2 * kMostTurns;
  plan.shared = (pass == Pass::forward ? 1 : 2) * plan.buffer +
                of_cells * kGridCells * sizeof(float) +
                rest_bytes(plan.slices, plan.held, kGridThreads);
  return plan;
}

constexpr bool is_compiled(Product product, const GridBucket& bucket) {
  return product != Product::ieee && grid_plan(product, Pass::forward, bucket).held > 0;
}

// The place in kGridBuckets of the smallest that holds H with at most `shared` bytes a block in
// either pass, or -1.
constexpr int grid_bucket_of(Product product, long long H, size_t shared) {
  for (int k = 0; k < int(std::size(kGridBuckets)); ++k) {
    const GridBucket& bucket = kGridBuckets[k];
    if (H > grid_plan(product, Pass::forward, bucket).width) continue;
    const size_t needed = std::max(grid_plan(product, Pass::forward, bucket).shared,
                                   grid_plan(product, Pass::backward, bucket).shared);
    return is_compiled(product, bucket) && needed <= shared ? k : -1;
  }
  return -1;
}

// Blocks of a group.
constexpr int grid_blocks(Pass pass, long long H) {
  return pass == Pass::forward ? int((H + kGridUnits - 1) / kGridUnits)
                               : int((H + kGridOutputs - 1) / kGridOutputs * kGridParts);
}

// A sum of a block, and so a cell, has a place among its kGridCells. By this one the float4 that a
// quarter of a warp writes at once, 8 sums that come out of mma.sync, fall into different banks.
constexpr LF_FN int grid_place(int unit, int column) {
  return column % 2 * (kGridCells / 2) + unit * 4 + column / 2;
}
constexpr LF_FN int grid_unit(int place) { return place % (kGridCells / 2) / 4; }
constexpr LF_FN int grid_column(int place) { return place % 4 * 2 + place / (kGridCells / 2); }

// How B rows of D directions are cut: a launch has `directions`, `slices` of each, and a slice has
// `turns` groups of 8 rows.
struct GridCut {
  int blocks;      // of a group
  int directions;  // at once: 2 where there is room for a group of each
  int slices;
  int turns;
};
constexpr GridCut grid_cut(long long B, int blocks, int D, int multiprocessors) {
  GridCut cut{};
  cut.blocks = blocks;
  const int groups = multiprocessors / cut.blocks;
  if (groups == 0) return cut;  // no room for one
  cut.directions = D < groups ? D : groups;
  const int most = groups / cut.directions;
  const long long eights = (B + kGridColumns - 1) / kGridColumns;
  const long long turns = (eights + most - 1) / most;
  cut.turns = int(turns < kMostTurns ? turns : kMostTurns);
  const long long slices = (eights + cut.turns - 1) / cut.turns;
  cut.slices = int(slices < most ? slices : most);
  return cut;
}

}  // namespace lf::cuda
