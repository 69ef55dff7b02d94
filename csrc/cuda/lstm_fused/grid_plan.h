// What cuda.grid needs for a hidden size, and how a batch is cut for it: pure arithmetic, walked
// without a GPU (tests/csrc/grid_plan_check.cpp).
//
// A group of blocks holds W_hh of one direction, 16 hidden units a block, and runs a slice of the
// batch, 8 or 16 rows at a time. Groups never wait for each other.
#pragma once

#include "cuda/lstm_fused/product_plan.h"

namespace lf::cuda {

// Of float32 whose factors may not be rounded to TF32.
constexpr Product kGridFloat32 = Product::tf32x3;

constexpr int kGridUnits = 16;  // of a block
constexpr int kGridFew = 8;     // forward where there are blocks enough for few rows
constexpr int kGridWarps = 8, kGridThreads = 32 * kGridWarps;
// Batch rows at a time, in the widest of which every thread owns a cell.
constexpr int kGridColumns = 8, kGridWide = 16;
// Rows of a group of blocks, in turns that it runs one after the other: while one waits for its h,
// the others multiply. More rows than that go into another launch. The widest bucket has memory for
// the cells of a turn less.
constexpr int kMostRows = 128, kMostRowsOfWidest = 112;

// Widths of W_hh that kernels are compiled for, in pairs of fragments a tile and warp (a pair of
// eight warps: 256 factors in 16 bits, 128 in float32), and how many fragments registers hold,
// forward and backward with 8 columns, and the same with 16, where forward tiles are half as many
// and twice as long: the most without a spill on any of the architectures, of tf32x3 in pairs. (Two
// more spill forward at H = 512 and backward at 384 on sm_100, 8 and 16 bytes; one more does
// forward with 16 columns of 6 and 8 pairs, 8 bytes on sm_80 or sm_100.) 0: there is no kernel.
//
// Where a group cannot hold W_hh, or a GPU's blocks have too little shared memory for the others,
// there are kernels that stream: what neither registers nor shared memory hold comes out of L2 in
// every turn. These decide at run time how much shared memory keeps, so that one serves all GPUs.
//
// Where rows are so few that half of the blocks would have nothing to do, there are kernels of half
// the units for forward: half of the product, and registers hold all of W_hh, but for a quarter of
// it by three products at H = 1024.
struct GridBucket {
  int pairs;
  int half[4], tf32[4], tf32x3[4];
  bool streams = false;
  int units = kGridUnits;
};
constexpr GridBucket kGridBuckets[] = {
    {1, {2, 2, 4, 2}, {2, 2, 4, 2}, {2, 2}},      // H to 256, and 128 in float32
    {2, {4, 4, 8, 4}, {4, 4, 8, 4}, {4, 4}},      // 512, 256
    {3, {6, 6, 12, 6}, {6, 6, 12, 6}, {6, 2}},    // 768, 384
    {4, {8, 8, 16, 8}, {8, 8, 16, 8}, {4, 4}},    // 1024, 512
    {6, {10, 8, 18, 7}, {10, 8, 18, 6}, {6, 6}},  // 1536, 768
    {8, {9, 8, 17, 8}, {9, 8, 17, 7}, {6, 6}},    // 2048, 1024
    {9, {9, 8, 20}, {9, 7, 20}, {}},              // 2304, 1152
    // These stream:
    {8, {8, 6, 16, 6}, {8, 6, 16, 6}, {6, 4}, true},  // 2048, 1024
    {12, {}, {8, 6, 16, 6}, {6, 4}, true},            // 1536 in float32
    {16, {}, {8, 6, 16, 6}, {6, 4}, true},            // 2048 in float32
    // Of few rows:
    {3, {6}, {}, {}, false, kGridFew},     // 768
    {4, {8}, {8}, {8}, false, kGridFew},   // 1024, 512
    {6, {}, {12}, {12}, false, kGridFew},  // 768 in float32
    {8, {}, {16}, {12}, false, kGridFew},  // 1024 in float32
};

// Forward, a block holds its units' rows of W_hh, and its warps share their terms: with 8 columns
// each warp has an eighth of them, so that it reads an eighth of h and no more; with 16 a quarter,
// for half of the units, so that it has no more sums to keep. Backward, W_hh is cut in both
// directions: a block holds what an eighth of the gates, four times width / 8 of them, sends to 128
// units, and a warp all terms of 16 of these.
constexpr int kGridParts = 8;
constexpr int kGridOutputs = kGridParts * kGridUnits;

// Pieces in which a cell's dh comes, each of two parts; and loads that a thread waits for at once:
// a round, one trip through L2. Eight would be on their way with the fragments in registers, and
// spill.
constexpr int kPiecesOfDh = kGridParts / 2, kPiecesAtOnce = 4;

struct GridPlan {
  int width;      // H rounded up
  int shares;     // forward, into so many the terms are cut
  int tiles;      // of a warp
  int slices;     // fragments of a tile
  int held;       // of them in registers
  int kept;       // and in shared memory; the rest is streamed
  int turns;      // at most
  int cells;      // that a block owns in a turn
  int pitch;      // from one row of factors to the next, bytes
  size_t buffer;  // bytes: the factors of a turn's rows
  int pieces;     // of 16 bytes, in which they come to a thread
  int copies;     // of the buffer; forward of the sums, too
  bool asks;      // for what the next turn needs, before it needs it
  size_t shared;  // bytes of shared memory, as the kernels take it
};

// Slices of a thread whose fragments come out of L2 at once, 8 words of 16 bytes: that many bytes
// of all threads are on their way at a time, 32 KB.
constexpr int streamed_at_once(int tiles) { return 8 / tiles; }

// On a GPU whose blocks have at most so many bytes of shared memory.
constexpr GridPlan grid_plan(Product product, Pass pass, const GridBucket& bucket, int columns,
                             size_t most_shared) {
  GridPlan plan{};
  const bool forward = pass == Pass::forward;
  const int wide = columns / kGridColumns, cuts = forward ? wide : 1;
  plan.width = kGridWarps * 2 * bucket.pairs * kFragmentBytes / factor_size(product);
  plan.shares = kGridWarps / cuts;
  plan.tiles = kTiles * bucket.units / kGridUnits / cuts;
  plan.slices = 2 * bucket.pairs * cuts;
  const int which = int(pass) + (wide > 1 ? 2 : 0);
  plan.held = product == Product::tf32x3 ? bucket.tf32x3[which]
              : product == Product::tf32 ? bucket.tf32[which]
                                         : bucket.half[which];
  plan.turns = (bucket.pairs == 9 ? kMostRowsOfWidest : kMostRows) / columns;
  plan.cells = bucket.units * columns;
  plan.pitch = pitch(product, forward ? plan.width : plan.width / kGridParts * 4);
  plan.buffer = size_t(columns) * plan.pitch;
  plan.pieces = columns / kGridWarps * bucket.pairs;
  const int rest = plan.slices - plan.held;
  const size_t slice = rest_bytes(1, 0, kGridThreads, plan.tiles);
  // Forward c; backward dc and dh.
  const size_t fixed = (forward ? 1 : 2) * plan.turns * plan.cells * sizeof(float);
  const size_t copy = plan.buffer + (forward ? plan.shares * plan.cells * 4 * sizeof(float) : 0);
  // Forward with 16 columns, where there is memory for it, h of the next turn comes in while the
  // sums of this one are added up. Who streams has more use for that memory.
  const bool ahead = wide > 1 && !bucket.streams && fixed + rest * slice + 2 * copy <= kMostShared;
  plan.copies = !forward || ahead ? 2 : 1;
  const size_t used = fixed + plan.copies * copy;
  plan.kept = rest;
  if (bucket.streams) {
    const int fit = used < most_shared ? int((most_shared - used) / slice) : 0;
    const int at_once = streamed_at_once(plan.tiles);
    plan.kept = std::min(rest, fit / at_once * at_once);
  }
  plan.shared = used + plan.kept * slice;
  // Where turns follow each other, with 8 columns only if there is no kernel for 16. The widest has
  // no registers for it, and turns that stream take longer anyhow. Backward needs memory for it, of
  // gradients and of dh.
  // Those of few rows have one turn.
  plan.asks = bucket.units == kGridUnits && !bucket.streams &&
              (wide > 1 ? bucket.pairs < 9 : forward && product == Product::tf32x3);
  if (plan.asks && !forward) {
    const size_t asked = size_t(plan.pieces + kPiecesOfDh) * kGridThreads * 16;
    plan.asks = plan.shared + asked <= most_shared;
    if (plan.asks) plan.shared += asked;
  }
  return plan;
}

// Whether there are turns enough to take, or ask for, what the next one needs ahead. With as many
// as there are copies that is what the turn just before has still to hand on, or forward, with two
// copies, has just handed on.
constexpr LF_FN bool turns_follow(const GridPlan& plan, int turns) { return turns > plan.copies; }
constexpr LF_FN bool asks_ahead(const GridPlan& plan, int turns) {
  return plan.asks && turns_follow(plan, turns);
}

// Rounds of loads that a turn waits for, where nothing was asked for ahead.
constexpr int grid_rounds(Pass pass, const GridPlan& plan, int turns) {
  if (asks_ahead(plan, turns)) return 0;
  const auto rounds = [](int pieces) { return (pieces + kPiecesAtOnce - 1) / kPiecesAtOnce; };
  return rounds(plan.pieces) + (pass == Pass::forward ? 0 : rounds(kPiecesOfDh));
}

constexpr bool is_compiled(Product product, const GridBucket& bucket, Pass pass = Pass::forward) {
  return product != Product::ieee &&
         grid_plan(product, pass, bucket, kGridColumns, kMostShared).held > 0;
}

// The place in kGridBuckets of the first that holds H with at most `shared` bytes a block in either
// pass, whatever the rows, or -1.
constexpr int grid_bucket_of(Product product, long long H, size_t shared) {
  for (int k = 0; k < int(std::size(kGridBuckets)); ++k) {
    const GridBucket& bucket = kGridBuckets[k];
    if (!is_compiled(product, bucket) || bucket.units < kGridUnits) continue;
    const auto plan_of = [&](Pass pass) {
      return grid_plan(product, pass, bucket, kGridColumns, shared);
    };
    const GridPlan forward = plan_of(Pass::forward);
    if (H <= forward.width && std::max(forward.shared, plan_of(Pass::backward).shared) <= shared)
      return k;
  }
  return -1;
}

// Bytes of W_hh that a block streams.
constexpr size_t streamed_bytes(const GridPlan& plan) {
  return rest_bytes(plan.slices, plan.held + plan.kept, kGridThreads, plan.tiles);
}

// Blocks of a group.
constexpr int grid_blocks(Pass pass, long long H, int units = kGridUnits) {
  return pass == Pass::forward ? int((H + units - 1) / units)
                               : int((H + kGridOutputs - 1) / kGridOutputs * kGridParts);
}

// The same of a layer: one of few rows where a group for every 8 of them and every direction has
// room, and less to multiply.
constexpr int grid_bucket_for(Product product, Pass pass, long long B, int D, long long H,
                              int multiprocessors, size_t shared) {
  const int usual = grid_bucket_of(product, H, shared);
  if (usual < 0 || pass == Pass::backward) return usual;
  const long long groups = (B + kGridColumns - 1) / kGridColumns * D;
  if (groups * grid_blocks(pass, H, kGridFew) > multiprocessors) return usual;
  for (int k = 0; k < int(std::size(kGridBuckets)); ++k) {
    const GridBucket& few = kGridBuckets[k];
    if (few.units == kGridUnits || !is_compiled(product, few)) continue;
    const GridPlan plan = grid_plan(product, pass, few, kGridColumns, shared);
    const GridBucket& other = kGridBuckets[usual];
    if (H <= plan.width && plan.shared <= shared &&
        few.pairs * few.units < other.pairs * other.units)
      return k;
  }
  return usual;
}

// A sum of a block, and so a cell, has a place among those of a turn, 8 times its units for every 8
// columns. By this one the float4 that a quarter of a warp writes at once, 8 sums that come out of
// mma.sync, fall into different banks.
constexpr LF_FN int grid_place(int unit, int column, int units = kGridUnits) {
  return column / 8 * (8 * units) + column % 2 * (4 * units) + unit * 4 + column % 8 / 2;
}
constexpr LF_FN int grid_unit(int place, int units = kGridUnits) { return place % (4 * units) / 4; }
constexpr LF_FN int grid_column(int place, int units = kGridUnits) {
  return place / (8 * units) * 8 + place % 4 * 2 + place % (8 * units) / (4 * units);
}

// How B rows of D directions are cut: a launch has `directions`, `slices` of each, and a slice has
// `turns` of `columns` rows.
struct GridCut {
  int blocks;      // of a group
  int directions;  // at once: 2 where there is room for a group of each
  int slices;
  int turns;
};
constexpr GridCut grid_cut(long long B, int blocks, int D, int multiprocessors, int columns,
                           int most_turns) {
  GridCut cut{};
  cut.blocks = blocks;
  const int groups = multiprocessors / cut.blocks;
  if (groups == 0) return cut;  // no room for one
  cut.directions = D < groups ? D : groups;
  const int most = groups / cut.directions;
  const long long pieces = (B + columns - 1) / columns;
  const long long turns = (pieces + most - 1) / most;
  cut.turns = int(turns < most_turns ? turns : most_turns);
  const long long slices = (pieces + cut.turns - 1) / cut.turns;
  cut.slices = int(slices < most ? slices : most);
  return cut;
}

// Whether there is a kernel for 16 columns. tf32x3 has twice the sums, and registers for 8 alone;
// backward of the widest shared memory does not hold both fragments and twice 16 rows.
constexpr bool has_wide(Product product, Pass pass, const GridBucket& bucket) {
  return grid_plan(product, pass, bucket, kGridWide, kMostShared).held > 0;
}

// Columns at a time, with at most `shared` bytes a block: 16 where a group has more than 8 rows.
// Backward more than 24, as a step has two trips through L2, which hide behind the products of
// other turns, of which there must be enough; but not where a turn streams for longer than that.
constexpr int grid_columns(Product product, Pass pass, const GridBucket& bucket, long long B, int D,
                           long long H, int multiprocessors, size_t shared) {
  const bool fits = has_wide(product, pass, bucket) &&
                    grid_plan(product, pass, bucket, kGridWide, shared).shared <= shared;
  const GridCut cut =
      grid_cut(B, grid_blocks(pass, H), D, multiprocessors, kGridColumns, kMostRows / kGridColumns);
  const int few = pass == Pass::forward || bucket.streams ? 1 : 3;
  return fits && cut.turns > few ? kGridWide : kGridColumns;
}

// Calls launch(first_row, first_direction, cut) for all launches that a layer takes, one after the
// other; for none where there is no room.
template <class Launch>
void for_grid_launches(long long B, int blocks, int D, int multiprocessors, int columns,
                       int most_turns, const Launch& launch) {
  GridCut cut{};
  for (long long row = 0; row < B; row += 1LL * cut.slices * cut.turns * columns) {
    cut = grid_cut(B - row, blocks, D, multiprocessors, columns, most_turns);
    if (!cut.slices) return;
    for (int direction = 0; direction < D; direction += cut.directions) launch(row, direction, cut);
  }
}

}  // namespace lf::cuda
