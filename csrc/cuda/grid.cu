// cuda.grid: all steps of a layer in one launch, W_hh of a direction in the registers and shared
// memory of a group of blocks, who hand states and gradients to each other (grid_forward.cuh,
// grid_backward.cuh).
//
// The products over all rows are left to the caller. The host never waits for the device. Launches
// of a device take turns; what a captured graph must not run beside says dev::launch_in_turn.
#define LF_ISA cuda
#include "contract/variant.h"
#include "cuda/lstm_fused/family.cuh"
#include "cuda/lstm_fused/grid_backward.cuh"
#include "cuda/lstm_fused/grid_forward.cuh"
#include "cuda/lstm_fused/steps.cuh"

namespace lf::cuda {
namespace {

// Bytes of a state that is handed on: whole pieces of 16.
int64_t state_bytes(const Dims& d, DType dtype) {
  return ceil_div(d.H * int64_t(element_size(dtype)), 16) * 16;
}
// Whether y itself can hold what is handed on.
bool in_y(const Dims& d, DType dtype) {
  return state_bytes(d, dtype) == d.H * int64_t(element_size(dtype));
}

// Of what may not be rounded to TF32.
constexpr Product kFloat32 = Product::tf32x3;

GridCut cut_of(Pass pass, const Dims& d, int64_t first_row) {
  const GridCut cut =
      grid_cut(d.B - first_row, grid_blocks(pass, d.H), int(d.D), dev::limits().multiprocessors);
  if (!cut.slices) throw std::runtime_error("lstm_fused: cuda.grid has no room on this device");
  return cut;
}

// Calls launch(share, blocks) for all launches that a layer takes.
template <class Launch>
void for_launches(Pass pass, const Dims& d, const Launch& launch) {
  GridShare share{};
  GridCut cut;
  for (; share.first_row < d.B; share.first_row += cut.slices * cut.turns * kGridColumns) {
    cut = cut_of(pass, d, share.first_row);
    share.turns = cut.turns;
    for (share.first_direction = 0; share.first_direction < d.D;
         share.first_direction += cut.directions)
      launch(share, dim3(unsigned(cut.blocks), unsigned(cut.slices), unsigned(cut.directions)));
  }
}

template <class Parameters>
void launch(const Context& context, dim3 blocks, const GridPlan& plan, void (*kernel)(Parameters),
            const std::type_identity_t<Parameters>& p) {
  dev::launch_in_turn(
      context,
      {.blocks = blocks, .threads = kGridThreads, .shared = plan.shared, .cooperative = true},
      kernel, p);
}

// The first part of a workspace, in bytes: where each step's rows are. Behind it lies what blocks
// hand on.
size_t steps_part(const Dims& d) {
  return size_t(ceil_div(int64_t(steps_bytes(d, kGridColumns)), 64) * 64);
}

unsigned char* handed_on(const Dims& d, const Context& context) {
  return static_cast<unsigned char*>(context.workspace) + steps_part(d);
}
template <class T, class Layer>
auto scan_of(const Layer& p, const Context& context) {
  return parameters<T>(p, upload_steps(context, p.d, p.offsets, kGridColumns, context.workspace));
}

size_t workspace_bytes(const LayerForward& p) {
  const Dims& d = p.d;
  return steps_part(d) + (in_y(d, p.dtype) ? 0 : size_t(d.D * d.N * state_bytes(d, p.dtype)));
}

// Words of the two rings of a launch of backward.
struct Rings {
  int64_t dgates, dh;
};
Rings rings_of(const LayerBackward& p, const GridShare& share, dim3 blocks) {
  const Product product = product_of(p.dtype, true, kFloat32);  // tf32x3 is as wide as tf32
  const int bucket = grid_bucket_of(product, p.d.H, kMostShared);
  const int width = grid_plan(product, Pass::backward, kGridBuckets[bucket]).width;
  const int64_t hands = int64_t(blocks.y) * blocks.z * 2 * share.turns;
  return {hands * dgates_words(width, int(element_size(p.dtype))), hands * dh_words(int(blocks.x))};
}
size_t workspace_bytes(const LayerBackward& p, int) {
  int64_t words = 0;  // of the largest launch: they use it one after the other
  for_launches(Pass::backward, p.d, [&](const GridShare& share, dim3 blocks) {
    const Rings rings = rings_of(p, share, blocks);
    words = std::max(words, rings.dgates + rings.dh);
  });
  return steps_part(p.d) + size_t(words) * sizeof(uint32_t);
}

struct GridFamily {
  static constexpr const auto& buckets = kGridBuckets;
  static constexpr Product float32 = kFloat32;
  static int bucket_of(Product product, int64_t H) {
    return grid_bucket_of(product, H, kMostShared);
  }

  template <class CellType, Product kProduct, int kBucket>
  static void run(const LayerForward& p, const Context& context) {
    const Dims& d = p.d;
    const auto scan = scan_of<typename Kind<kProduct>::Storage>(p, context);
    const int64_t bytes = state_bytes(d, p.dtype);
    const Exchange exchange =
        in_y(d, p.dtype) ? Exchange{static_cast<unsigned char*>(p.y), d.D * bytes, bytes, true}
                         : Exchange{handed_on(d, context), bytes, d.N * bytes, false};
    dev::fill(context, exchange.first, kAbsentByte, size_t(d.D * d.N * bytes));
    for_launches(Pass::forward, d, [&](const GridShare& share, dim3 blocks) {
      launch(context, blocks, grid_plan(kProduct, Pass::forward, buckets[kBucket]),
             grid_forward<CellType, kProduct, kBucket>, {scan, share, exchange});
    });
  }

  template <class CellType, Product kProduct, int kBucket>
  static void run(const LayerBackward& p, const Context& context) {
    const auto scan = scan_of<typename Kind<kProduct>::Storage>(p, context);
    uint32_t* const dgates = reinterpret_cast<uint32_t*>(handed_on(p.d, context));
    for_launches(Pass::backward, p.d, [&](const GridShare& share, dim3 blocks) {
      const Rings rings = rings_of(p, share, blocks);
      dev::fill(context, dgates, 0, size_t(rings.dgates + rings.dh) * sizeof(uint32_t));
      launch(context, blocks, grid_plan(kProduct, Pass::backward, buckets[kBucket]),
             grid_backward<CellType, kProduct, kBucket>,
             {scan, share, dgates, dgates + rings.dgates});
    });
  }
};

const char* why_not(Cell, DType dtype, const Dims& d, bool tf32) {
  if (dtype == DType::f64) return "it computes in fp16, bf16, tf32 and fp32, not in fp64";
  if (const char* const reason = why_no_scan(d)) return reason;
  const Product product = product_of(dtype, tf32, kFloat32);
  if (grid_bucket_of(product, d.H, kMostShared) < 0)
    return dtype != DType::f32
               ? "in 16 bits H must be at most 2304, so that a group of blocks can hold W_hh"
           : tf32
               ? "in float32 H must be at most 1152, so that a group of blocks can hold W_hh"
               : "in float32 H must be at most 1024 where factors may not be rounded to TF32, so "
                 "that a group of blocks can hold W_hh";
  const dev::Limits limits = dev::limits();
  if (grid_bucket_of(product, d.H, limits.shared) < 0)
    return "a block's part of W_hh needs more shared memory than a block of this GPU has";
  if (grid_blocks(Pass::backward, d.H) > limits.multiprocessors)
    return "H must be at most 128 for every 8 multiprocessors of this GPU, which must hold W_hh";
  return nullptr;
}

}  // namespace
}  // namespace lf::cuda

namespace lf {

const Variant cuda_grid{
    .name = "cuda.grid",
    .device = Device::cuda,
    .why_not_here = cuda::why_not_here,
    .why_not = cuda::why_not,
    .forward_workspace = cuda::workspace_bytes,
    .backward_workspace = cuda::workspace_bytes,
    .forward = cuda::run<cuda::GridFamily, LayerForward>,
    .backward = cuda::run<cuda::GridFamily, LayerBackward>,
};

}  // namespace lf
