// The plans, index maps and cuts of cuda.grid, over all hidden sizes, batches and GPUs:
//   grid_plan_check
#define LF_ISA oracle
#include "cuda/lstm_fused/grid_plan.h"
#include "plan_check.h"

using namespace lf::cuda;

namespace {

// The largest H of each product on the GPUs of kShared; of sm_90 why_not (grid.cu) and the README
// speak. 0: there is no kernel.
constexpr int kLimits[][5] = {
    {2048, 2048, 2048, 0, 2048}, {2048, 2048, 2048, 0, 2048}, {2304, 2304, 2048, 0, 2048}};
// And up to which W_hh is held.
constexpr int kHeldTo[][5] = {
    {1536, 1536, 768, 0, 768}, {1024, 1024, 512, 0, 384}, {2304, 2304, 1152, 0, 1024}};

GridPlan plan_on(size_t shared, Product product, Pass pass, const GridBucket& bucket,
                 int columns = kGridColumns) {
  return grid_plan(product, pass, bucket, columns, shared);
}

void check_buckets() {
  for (const Product product : kProducts)
    for (int gpu = 0; gpu < 3; ++gpu) {
      const int limit = kLimits[gpu][int(product)];
      for (int H = 1; H <= 3000; ++H) {
        const int place = grid_bucket_of(product, H, kShared[gpu]);
        check((place >= 0) == (H <= limit), "a hidden size has no bucket, or should not", product,
              H);
        if (place < 0) continue;
        check(kGridBuckets[place].streams == (H > kHeldTo[gpu][int(product)]),
              "a block streams what it could hold, or holds what it cannot", product, H);
        const auto width = [&](int k) {
          return plan_on(kShared[gpu], product, Pass::forward, kGridBuckets[k]).width;
        };
        check(width(place) >= H, "the bucket is too small", product, H);
        for (int k = 0; k < place; ++k) {
          const bool same = kGridBuckets[k].streams == kGridBuckets[place].streams;
          check(!same || width(k) < H || !is_compiled(product, kGridBuckets[k]),
                "not the smallest bucket", product, H);
        }
      }
    }
}

void check_plan(size_t shared, Product product, Pass pass, const GridBucket& bucket, int columns) {
  const GridPlan plan = plan_on(shared, product, pass, bucket, columns);
  const bool forward = pass == Pass::forward;
  check(plan.slices % 2 == 0, "a warp reads the fragments of two slices at once", product,
        bucket.pairs);
  // The warps hold the block's part of W_hh once: 64 rows of it, or as much of both sides.
  const int tiles = kTiles * bucket.units / kGridUnits;
  check(kGridWarps * plan.tiles * plan.slices == tiles * slices_of(product, plan.width),
        "fragments", product, bucket.pairs);
  check(!forward ||
            (plan.tiles % 2 == 0 && plan.shares * plan.slices == slices_of(product, plan.width) &&
             kGridWarps / plan.shares * plan.tiles == tiles),
        "the warps' terms", product, bucket.pairs);
  check(plan.held >= 1 && plan.held <= plan.slices, "held", product, bucket.pairs);
  check(product != Product::tf32x3 || plan.held % 2 == 0, "held in pairs", product, bucket.pairs);
  check(plan.held * plan.tiles * 4 < 255, "held in registers", product, bucket.pairs);
  const int rest = plan.slices - plan.held, at_once = streamed_at_once(plan.tiles);
  if (bucket.streams) {
    check(at_once * plan.tiles == 8 && rest % at_once == 0 && plan.held % 2 == 0 &&
              plan.kept % at_once == 0 && plan.kept >= 0 && plan.kept <= rest,
          "streamed slices", product, bucket.pairs);
    const size_t slice = size_t(plan.tiles) * kGridThreads * 16;
    check(streamed_bytes(plan) == (rest - plan.kept) * slice, "streamed bytes", product,
          bucket.pairs);
    check(plan.kept == rest || plan.shared + at_once * slice > shared,
          "what would fit into shared memory is streamed", product, bucket.pairs);
  } else {
    check(plan.kept == rest && streamed_bytes(plan) == 0, "all is held", product, bucket.pairs);
  }
  check(plan.cells == bucket.units * columns && plan.cells <= kGridThreads, "cells", product,
        bucket.pairs);
  check(plan.turns >= 1 && plan.turns * columns <= kMostRows, "turns", product, bucket.pairs);
  check(plan.buffer % 16 == 0 && plan.buffer == size_t(columns) * plan.pitch, "buffer", product,
        bucket.pairs);
  // Backward a part's gates come with as many tags.
  check(plan.pieces * kGridThreads * 16 == columns * plan.width * factor_size(product), "pieces",
        product, bucket.pairs);
  check(plan.shared <= shared && plan.shared % 16 == 0, "shared", product, bucket.pairs);
  check(plan.copies == 1 || plan.copies == 2, "copies", product, bucket.pairs);
  // What is asked for ahead: of 16 rows, or of 8 where that is all there is, and never streamed.
  const bool may_ask =
      !bucket.streams && bucket.units == kGridUnits &&
      (columns == kGridWide ? bucket.pairs < 9 : forward && product == Product::tf32x3);
  const bool room = forward || bucket.pairs < (shared < kMostShared ? 6 : 8);
  check(plan.asks == (may_ask && room), "asks", product, bucket.pairs);
  // Who changes copies with the turn owns a cell.
  check(!forward || plan.copies == 1 || plan.cells == kGridThreads, "copies of idle threads",
        product, bucket.pairs);
  // A row of h, or of the four gates of a part.
  const int factors = forward ? plan.width : 4 * plan.width / kGridParts;
  check(plan.pitch >= factors * factor_size(product), "pitch", product, bucket.pairs);
  // A tile of backward is a gate of a part; a part is whole blocks' units.
  check(forward ||
            (plan.tiles == kTiles && slices_of(product, plan.width / kGridParts) == plan.slices &&
             plan.width / kGridParts % kGridUnits == 0),
        "parts", product, bucket.pairs);
  check_banks(product, plan.pitch);
  check_fragments(product, plan.slices);
}

void check_plans() {
  for (const Product product : kProducts)
    for (const GridBucket& bucket : kGridBuckets) {
      if (bucket.units < kGridUnits) continue;
      // What is held, to 9 pairs where registers are enough; and what streams, to H = 2048.
      const bool fits = product == Product::ieee ? false
                        : bucket.streams         ? factor_size(product) * bucket.pairs <= 64 &&
                                               (factor_size(product) == 4 || bucket.pairs == 8)
                                         : product != Product::tf32x3 || bucket.pairs < 9;
      check(is_compiled(product, bucket) == fits, "compiled", product, bucket.pairs);
      if (!is_compiled(product, bucket)) continue;
      for (const size_t shared : kShared) {
        if (!bucket.streams && shared < kMostShared) continue;  // what is held needs what it needs
        for (const Pass pass : {Pass::forward, Pass::backward}) {
          check_plan(shared, product, pass, bucket, kGridColumns);
          const auto wide = plan_on(shared, product, pass, bucket, kGridWide);
          if (has_wide(product, pass, bucket) && wide.shared <= shared)
            check_plan(shared, product, pass, bucket, kGridWide);
        }
      }
    }
}

// Of few rows: all of W_hh in registers, but by three products at H = 1024; H of one bucket of 16
// units or of several; and no kernels for more rows or backward.
void check_few() {
  for (const Product product : kProducts)
    for (const GridBucket& bucket : kGridBuckets) {
      if (bucket.units == kGridUnits || !is_compiled(product, bucket)) continue;
      check(bucket.units == kGridFew && !bucket.streams, "few units", product, bucket.pairs);
      check_plan(kMostShared, product, Pass::forward, bucket, kGridColumns);
      const GridPlan plan = plan_on(kMostShared, product, Pass::forward, bucket);
      check(plan.held == (product == Product::tf32x3 && bucket.pairs == 8 ? 12 : plan.slices),
            "held of few units", product, bucket.pairs);
      check(!has_wide(product, Pass::forward, bucket) &&
                !has_wide(product, Pass::backward, bucket) &&
                plan_on(kMostShared, product, Pass::backward, bucket).held == 0,
            "a kernel for more rows", product, bucket.pairs);
    }
  for (const Product product : kProducts)
    for (const int multiprocessors : {8, 84, 108, 132, 148})
      for (const size_t shared : kShared)
        for (int D = 1; D <= 2; ++D)
          for (int H = 1; H <= 2400; H += 1 + H / 50)
            for (const int B : {1, 8, 9, 16, 17, 64, 65}) {
              const int usual = grid_bucket_of(product, H, shared);
              const auto of = [&](Pass pass) {
                return grid_bucket_for(product, pass, B, D, H, multiprocessors, shared);
              };
              check(of(Pass::backward) == usual, "backward of few units", product, H);
              const int place = of(Pass::forward);
              if (usual < 0 || place == usual) {
                check(place == usual, "a bucket where there is none", product, H);
                const int last = product == Product::ieee ? 0 : 1024;
                const bool room = (B + 7) / 8 * D * ((H + 7) / 8) <= multiprocessors;
                check(usual < 0 || H < 257 || H > last || !room, "16 units for few rows", product,
                      H);
                continue;
              }
              const GridBucket& few = kGridBuckets[place];
              const GridPlan plan = plan_on(shared, product, Pass::forward, few);
              check(few.units == kGridFew && is_compiled(product, few) && plan.width >= H &&
                        plan.shared <= shared,
                    "few units for another H", product, H);
              const GridCut cut = grid_cut(B, grid_blocks(Pass::forward, H, few.units), D,
                                           multiprocessors, kGridColumns, plan.turns);
              check(cut.turns == 1 && cut.directions == D && cut.slices * 8 >= B,
                    "few units for many rows", product, H);
              check(few.units * plan.width <
                        kGridUnits *
                            plan_on(shared, product, Pass::forward, kGridBuckets[usual]).width,
                    "few units for more to multiply", product, H);
            }
}

// A cell has one place, and a place one cell.
void check_places(int units) {
  const Product any = Product::bf16;
  std::set<int> places;
  for (int unit = 0; unit < units; ++unit)
    for (int column = 0; column < kGridWide; ++column) {
      const int place = grid_place(unit, column, units);
      places.insert(place);
      check(grid_unit(place, units) == unit && grid_column(place, units) == column,
            "not the place's cell", any, place);
    }
  const int all = units * kGridWide;
  check(int(places.size()) == all && *places.begin() == 0 && *places.rbegin() == all - 1, "places",
        any, int64_t(places.size()));
  // Sums come out of mma.sync in rows lane / 4 and columns lane % 4 * 2 of two tiles. 8 lanes write
  // 16 bytes each at once: 8 groups of 4 banks.
  for (int half = 0; half < units / 8; ++half)
    for (int own = 0; own < 2; ++own)
      for (int first = 0; first < 32; first += 8) {
        std::set<int> groups;
        for (int lane = first; lane < first + 8; ++lane)
          groups.insert(grid_place(lane / 4 + half * 8, lane % 4 * 2 + own, units) % 8);
        check(groups.size() == 8, "sums meet in a bank, from lane", any, first);
      }
}

// Whether a launch has room, and its slices none but rows that there are, of `left`.
bool is_cut_well(const GridCut& cut, int64_t left, int blocks, int D, int multiprocessors,
                 int columns, int most_turns) {
  if (cut.blocks != blocks) return false;
  // A group does not wait for a block that has no multiprocessor.
  if (cut.directions < 1 || D % cut.directions || cut.slices < 1) return false;
  if (cut.blocks * cut.slices * cut.directions > multiprocessors) return false;
  if (cut.turns < 1 || cut.turns > most_turns) return false;
  // Both directions at once where there is room, and turns only where there is none.
  const int groups = multiprocessors / cut.blocks, most = groups / cut.directions;
  if (cut.directions < D && groups >= D) return false;
  if ((cut.turns - 1) * int64_t(most) * columns >= left) return false;
  const int64_t of_slice = int64_t(cut.turns) * columns;
  const bool full = cut.slices == most && cut.turns == most_turns;
  return (full || cut.slices * of_slice >= left) && (cut.slices - 1) * of_slice < left;
}

// Whether a layer's launches take every row of every direction once.
bool is_cut_well(int64_t B, int blocks, int D, int multiprocessors, int columns, int most_turns) {
  bool well = true;
  int64_t row = 0;  // that the next launch begins with
  int direction = 0;
  for_grid_launches(B, blocks, D, multiprocessors, columns, most_turns,
                    [&](int64_t first_row, int first_direction, const GridCut& cut) {
                      well = well && first_row == row && first_direction == direction &&
                             is_cut_well(cut, B - row, blocks, D, multiprocessors, columns,
                                         most_turns);
                      direction += cut.directions;
                      if (direction < D) return;
                      direction = 0;
                      row += int64_t(cut.slices) * cut.turns * columns;
                    });
  return well && direction == 0 && row >= B;
}

void check_cuts() {
  const Product any = Product::bf16;
  for (const int multiprocessors : {1, 8, 13, 108, 132, 148})
    for (int D = 1; D <= 2; ++D)
      for (int blocks = 1; blocks <= 150; ++blocks)
        for (int64_t B = 1; B <= 2000; ++B) {
          if (blocks > multiprocessors) {
            check(grid_cut(B, blocks, D, multiprocessors, kGridColumns, 16).slices == 0,
                  "a cut without room", any, blocks);
            continue;
          }
          for (const int columns : {kGridColumns, kGridWide}) {
            if (is_cut_well(B, blocks, D, multiprocessors, columns, kMostRows / columns) &&
                is_cut_well(B, blocks, D, multiprocessors, columns, kMostRowsOfWidest / columns))
              continue;
            std::printf("cut of B%lld, %d blocks, D%d for %d multiprocessors\n",
                        static_cast<long long>(B), blocks, D, multiprocessors);
            ++wrong;
          }
        }
}

// 16 columns where a group has more than 8 rows, backward more than 24 if it does not stream, and
// memory for them: of an H100 always but for backward of the widest, and of a GPU with 99 KB a
// block to H = 768 in 16 bits, backward 1024. Of H = 1024 an H100 has two groups.
void check_columns(Product product, Pass pass, const GridBucket& bucket) {
  const auto columns = [&](int64_t B, int D, size_t shared) {
    return grid_columns(product, pass, bucket, B, D, 1024, 132, shared);
  };
  const bool backward = pass == Pass::backward;
  const bool wide = product != Product::tf32x3 && !(backward && bucket.pairs == 9);
  check(has_wide(product, pass, bucket) == wide, "16 columns", product, bucket.pairs);
  if (!wide) {
    check(columns(5000, 1, kMostShared) == 8, "columns", product, bucket.pairs);
    return;
  }
  const int eights =
      backward && !bucket.streams ? 3 : 1;  // of a group, that it does not run as 16 rows
  const bool right =
      columns(8 * eights, 2, kMostShared) == 8 && columns(16 * eights, 1, kMostShared) == 8 &&
      columns(8 * eights + 1, 2, kMostShared) == 16 &&
      columns(16 * eights + 1, 1, kMostShared) == 16 && columns(5000, 1, kMostShared) == 16;
  check(right, "columns", product, bucket.pairs);
  const int to = bucket.streams ? 8 : backward ? 4 : 3;
  check(columns(5000, 1, 99 << 10) == (bucket.pairs <= to ? 16 : 8), "columns with little memory",
        product, bucket.pairs);
  // An A100 holds more backward, where what is asked for ahead is left out.
  const bool most = bucket.streams || bucket.pairs <= (backward ? 6 : 4);
  check(columns(5000, 1, 163 << 10) == (most ? 16 : 8), "columns with 163 KB", product,
        bucket.pairs);
}
void check_columns() {
  for (const Product product : kProducts)
    for (const GridBucket& bucket : kGridBuckets)
      for (const Pass pass : {Pass::forward, Pass::backward})
        if (is_compiled(product, bucket) && bucket.units == kGridUnits)
          check_columns(product, pass, bucket);
}

// Every unit has a block that owns it; backward, whole outputs of all parts have their blocks.
void check_blocks() {
  for (int H = 1; H <= 2600; ++H) {
    const int forward = grid_blocks(Pass::forward, H), backward = grid_blocks(Pass::backward, H);
    check(forward * kGridUnits >= H && (forward - 1) * kGridUnits < H, "blocks, forward",
          Product::bf16, H);
    check(backward % kGridParts == 0 && backward / kGridParts * kGridOutputs >= H &&
              (backward / kGridParts - 1) * kGridOutputs < H && backward >= forward,
          "blocks, backward", Product::bf16, H);
  }
}

}  // namespace

int main() {
  check_buckets();
  check_plans();
  check_few();
  check_places(kGridUnits);
  check_places(kGridFew);
  check_blocks();
  check_cuts();
  check_columns();
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
