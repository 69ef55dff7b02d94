// What cuda.block needs for a hidden size: threads, registers, shared memory.
#pragma once

#include "cuda/lstm_fused/product_plan.h"

namespace lf::cuda {

// Hidden sizes that kernels are compiled for; a layer takes the smallest that holds it.
constexpr int kBuckets[] = {32, 64, 96, 128, 160, 192};

enum class Pass { forward, backward };

struct BlockPlan {
  int threads;    // a warp for 16 units
  int steps;      // fragments of a tile
  int held;       // of them in registers
  int pitch;      // from one row of factors to the next, bytes
  size_t buffer;  // bytes of factors that a step hands to the next
  size_t shared;  // bytes of shared memory: two buffers, and the fragments that are not held
};

constexpr BlockPlan block_plan(Product product, Pass pass, int bucket) {
  // What a thread needs beside the fragments, by ptxas -v: sums, inputs of two steps, addresses.
  const int others = product == Product::ieee ? 128 : 96;
  BlockPlan plan{};
  plan.threads = bucket / kTileRows * 32;
  plan.steps = steps_of(product, bucket);
  plan.held = held_steps(plan.steps, plan.threads, others);
  plan.pitch = pitch(product, pass == Pass::forward ? bucket : kTiles * bucket);
  plan.buffer = size_t(columns_of(product)) * plan.pitch;
  plan.shared = 2 * plan.buffer + rest_bytes(plan.steps, plan.held, plan.threads);
  return plan;
}

// The largest of what forward and backward ask for.
constexpr size_t block_shared(Product product, int bucket) {
  return std::max(block_plan(product, Pass::forward, bucket).shared,
                  block_plan(product, Pass::backward, bucket).shared);
}

// 227 KiB: a block's limit on sm_90 and sm_100; others have less (dev.cuh).
constexpr size_t kMostShared = 227 << 10;

constexpr bool is_compiled(Product product, int bucket) {
  return block_shared(product, bucket) <= kMostShared;
}

// The bucket of a hidden size, or 0 if none holds it with `shared` bytes a block.
constexpr int bucket_of(Product product, long long H, size_t shared) {
  for (const int bucket : kBuckets)
    if (H <= bucket)
      return is_compiled(product, bucket) && block_shared(product, bucket) <= shared ? bucket : 0;
  return 0;
}

}  // namespace lf::cuda
