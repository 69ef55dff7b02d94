// From a layer to the kernel that was compiled for its cell, its product and its bucket of hidden
// sizes: what the drivers of cuda.block, cuda.cluster and cuda.grid share.
#pragma once

#include <stdexcept>
#include <type_traits>

#include "cell/list.h"
#include "cuda/lstm_fused/dev.cuh"
#include "cuda/lstm_fused/earlier.cuh"
#include "cuda/lstm_fused/product_plan.h"

namespace lf::cuda {

// A Family has
//   buckets                                  its table
//   float32                                  its product of float32 that may not be rounded to TF32
//   bucket_of(product, p)                    the place there of the one for a layer
//   run<Cell, product, place>(p, context)    the launch
//   is_compiled(product, pass, bucket)       whether there are kernels
//
template <class Layer>
constexpr Pass kPassOf = std::is_same_v<Layer, LayerForward> ? Pass::forward : Pass::backward;

// Tries the buckets from kBucket on.
template <class Family, class CellType, Product kProduct, int kBucket, class Layer>
void run_bucket(const Layer& p, const Context& context, int bucket) {
  if constexpr (kBucket < std::size(Family::buckets)) {
    if constexpr (Family::is_compiled(kProduct, kPassOf<Layer>, Family::buckets[kBucket]))
      if (bucket == kBucket) return Family::template run<CellType, kProduct, kBucket>(p, context);
    run_bucket<Family, CellType, kProduct, kBucket + 1>(p, context, bucket);
  } else {
    throw std::logic_error("lstm_fused: a layer that why_not should have refused");
  }
}

template <class Family, class CellType, class Layer>
void run_product(const Layer& p, const Context& context) {
  const Product product = product_of(p.dtype, context.tf32, Family::float32);
  const int bucket = Family::bucket_of(product, p);
  switch (product) {
    case Product::bf16:
      return run_bucket<Family, CellType, Product::bf16, 0>(p, context, bucket);
    case Product::f16:
      return run_bucket<Family, CellType, Product::f16, 0>(p, context, bucket);
    case Product::tf32:
      return run_bucket<Family, CellType, Product::tf32, 0>(p, context, bucket);
    case Product::ieee:
      return run_bucket<Family, CellType, Product::ieee, 0>(p, context, bucket);
    case Product::tf32x3:
      return run_bucket<Family, CellType, Product::tf32x3, 0>(p, context, bucket);
  }
}

template <class Family, class Layer>
void run(const Layer& p, const Context& context) {
  switch (p.cell) {
#define LF_CASE(id, CellType) \
  case Cell::id:              \
    return run_product<Family, CellType>(p, context);
    LF_FOR_EACH_CELL(LF_CASE)
#undef LF_CASE
  }
}

// A pass of a Variant.
template <class Family, class Layer>
void run_pass(const Layer& p, const Context& context) {
  say_what_failed_earlier();
  run<Family>(p, context);
}

// What no family takes; which types of numbers each does is its own to say.
inline const char* why_no_scan(const Dims& d) {
  if (d.P != d.H) return "it takes no projections";
  if (d.N >= int64_t(1) << 31) return "it takes fewer than 2^31 rows, time steps times sequences";
  return nullptr;
}

// mma.sync and cp.async came with this generation.
inline const char* why_not_here() {
  if (const char* const reason = dev::why_not_here()) return reason;
  return dev::limits().capability >= 80 ? nullptr : "it needs a GPU of capability 8.0 or later";
}

}  // namespace lf::cuda
