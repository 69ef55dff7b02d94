// What cuda.block needs for a hidden size: threads, registers, shared memory.
#pragma once

#include "cuda/lstm_fused/product_plan.h"

namespace lf::cuda {

// Of float32 whose factors may not be rounded to TF32.
constexpr Product kBlockFloat32 = Product::ieee;

// A hidden size that kernels are compiled for, and how many fragments of a tile registers hold,
// forward and backward: the most without a spill on any of the architectures that we compile for
// (a warning of ptxas is an error in CI). 0: W_hh does not fit into a block.
struct Bucket {
  int H;
  int half[2], tf32[2], ieee[2];
};
constexpr Bucket kBuckets[] = {
    {32, {2, 2}, {4, 4}, {4, 3}},
    {64, {4, 4}, {8, 6}, {7, 6}},
    {96, {6, 6}, {8, 7}, {6, 6}},
    {128, {8, 8}, {8, 7}, {6, 6}},
    // Three warps on a quarter of a multiprocessor: 168 registers a thread, before it 255.
    {160, {4, 1}, {}, {}},
};

struct BlockPlan {
  int threads;    // a warp for 16 units
  int slices;     // fragments of a tile
  int held;       // of them in registers; 0: there is no kernel
  int pitch;      // from one row of factors to the next, bytes
  size_t buffer;  // bytes of factors that a step hands to the next
  size_t shared;  // bytes of shared memory: two buffers, and the fragments that are not held
};

constexpr BlockPlan block_plan(Product product, Pass pass, const Bucket& bucket) {
  BlockPlan plan{};
  plan.threads = bucket.H / kTileRows * 32;
  plan.slices = slices_of(product, bucket.H);
  plan.held = (product == Product::ieee   ? bucket.ieee
               : product == Product::tf32 ? bucket.tf32
                                          : bucket.half)[int(pass)];
  plan.pitch = pitch(product, pass == Pass::forward ? bucket.H : kTiles * bucket.H);
  plan.buffer = size_t(columns_of(product)) * plan.pitch;
  plan.shared = 2 * plan.buffer + rest_bytes(plan.slices, plan.held, plan.threads);
  return plan;
}

constexpr bool is_compiled(Product product, const Bucket& bucket) {
  return product != Product::tf32x3 && block_plan(product, Pass::forward, bucket).held > 0;
}

// The place in kBuckets of the smallest that holds H with at most `shared` bytes a block in either
// pass, or -1.
constexpr int bucket_of(Product product, long long H, size_t shared) {
  for (int k = 0; k < int(std::size(kBuckets)); ++k) {
    const Bucket& bucket = kBuckets[k];
    if (H > bucket.H) continue;
    const size_t needed = std::max(block_plan(product, Pass::forward, bucket).shared,
                                   block_plan(product, Pass::backward, bucket).shared);
    return is_compiled(product, bucket) && needed <= shared ? k : -1;
  }
  return -1;
}

}  // namespace lf::cuda
