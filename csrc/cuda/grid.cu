// cuda.grid: all steps of a layer in one launch, W_hh of a direction in the registers and shared
// memory of a group of blocks, or what of it fits there, and states and gradients handed from block
// to block (grid_forward.cuh, grid_backward.cuh).
//
// The products over all rows are left to the caller. The host never waits for the device. Launches
// of a device take turns; what a captured graph must not run beside says dev::launch_in_turn, and
// what becomes of it if it does grid.cuh: look_again.
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

// The plan on this device.
GridPlan plan_of(Product product, Pass pass, const GridBucket& bucket, int columns) {
  return grid_plan(product, pass, bucket, columns, dev::limits().shared);
}
int columns_of(const Dims& d, Product product, Pass pass, const GridBucket& bucket) {
  const dev::Limits limits = dev::limits();
  return grid_columns(product, pass, bucket, d.B, int(d.D), d.H, limits.multiprocessors,
                      limits.shared);
}

// Calls launch(share, blocks) for all launches that a layer takes.
template <class Launch>
void for_launches(Pass pass, const Dims& d, int columns, const Launch& launch) {
  const int blocks = grid_blocks(pass, d.H), multiprocessors = dev::limits().multiprocessors;
  if (blocks > multiprocessors)
    throw std::runtime_error("lstm_fused: cuda.grid has no room on this device");
  for_grid_launches(d.B, blocks, int(d.D), multiprocessors, columns,
                    [&](int64_t row, int direction, const GridCut& cut) {
                      launch(
                          GridShare{int(row), direction, cut.turns},
                          dim3(unsigned(blocks), unsigned(cut.slices), unsigned(cut.directions)));
                    });
}

template <class Parameters>
void launch(const Context& context, dim3 blocks, const GridPlan& plan, void (*kernel)(Parameters),
            const std::type_identity_t<Parameters>& p) {
  dev::launch_in_turn(
      context,
      {.blocks = blocks, .threads = kGridThreads, .shared = plan.shared, .cooperative = true},
      kernel, p);
}

// The parts of a workspace, in bytes: where each step's rows are, the word that says that a pass is
// given up, and what blocks stream. Behind them lies what they hand on.
size_t steps_part(const Dims& d) {
  return size_t(ceil_div(int64_t(steps_bytes(d, kGridColumns)), 64) * 64);
}
constexpr size_t kWordPart = 64;

size_t streamed_part(Pass pass, const Dims& d, int columns, const GridPlan& plan) {
  const size_t of_block = streamed_bytes(plan);
  size_t blocks = 0;  // of the largest launch: they use it one after the other
  if (of_block)
    for_launches(pass, d, columns, [&](const GridShare&, dim3 of_launch) {
      blocks = std::max(blocks, size_t(of_launch.x) * of_launch.y * of_launch.z);
    });
  return blocks * of_block;
}

StreamedOfAll streamed_of(const Dims& d, const Context& context, const GridPlan& plan) {
  return {static_cast<unsigned char*>(context.workspace) + steps_part(d) + kWordPart,
          streamed_bytes(plan), plan.kept};
}

// For all launches of a pass: after one that is given up the results are wrong anyhow.
Waiting waiting(const Dims& d, const Context& context) {
  void* const word = static_cast<unsigned char*>(context.workspace) + steps_part(d);
  dev::fill(context, word, 0, sizeof(uint32_t));
  return {static_cast<uint32_t*>(word), dev::alarm(), dev::patience()};
}
template <class T, class Layer>
auto scan_of(const Layer& p, const Context& context, int columns) {
  return parameters<T>(p, upload_steps(context, p.d, p.offsets, columns, context.workspace));
}

// The most that bytes_of(product, bucket) says: which product float32 has is Context's to say.
template <class BytesOf>
size_t of_any_product(DType dtype, int64_t H, const BytesOf& bytes_of) {
  size_t most = 0;
  for (const bool tf32 : {false, true}) {
    const Product product = product_of(dtype, tf32, kGridFloat32);
    const int place = grid_bucket_of(product, H, dev::limits().shared);
    if (place >= 0) most = std::max(most, bytes_of(product, kGridBuckets[place]));
  }
  return most;
}

size_t workspace_bytes(const LayerForward& p) {
  const Dims& d = p.d;
  const size_t streamed =
      of_any_product(p.dtype, d.H, [&](Product product, const GridBucket& bucket) {
        const int columns = columns_of(d, product, Pass::forward, bucket);
        const GridPlan plan = plan_of(product, Pass::forward, bucket, columns);
        return streamed_part(Pass::forward, d, columns, plan);
      });
  return steps_part(d) + kWordPart + streamed +
         (in_y(d, p.dtype) ? 0 : size_t(d.D * d.N * state_bytes(d, p.dtype)));
}

// Words of the two rings of a launch of backward.
struct Rings {
  int64_t dgates, dh;
};
Rings rings_of(DType dtype, const GridPlan& plan, int columns, const GridShare& share,
               dim3 blocks) {
  const int64_t hands = int64_t(blocks.y) * blocks.z * 2 * share.turns;
  return {hands * dgates_words(columns, plan.width, int(element_size(dtype))),
          hands * dh_words(int(blocks.x), plan.cells)};
}
size_t workspace_bytes(const LayerBackward& p, int) {
  const Dims& d = p.d;
  const size_t bytes = of_any_product(p.dtype, d.H, [&](Product product, const GridBucket& bucket) {
    const int columns = columns_of(d, product, Pass::backward, bucket);
    const GridPlan plan = plan_of(product, Pass::backward, bucket, columns);
    int64_t words = 0;  // of the largest launch, as what is streamed
    for_launches(Pass::backward, d, columns, [&](const GridShare& share, dim3 blocks) {
      const Rings rings = rings_of(p.dtype, plan, columns, share, blocks);
      words = std::max(words, rings.dgates + rings.dh);
    });
    return streamed_part(Pass::backward, d, columns, plan) + size_t(words) * sizeof(uint32_t);
  });
  return steps_part(d) + kWordPart + bytes;
}

struct GridFamily {
  static constexpr const auto& buckets = kGridBuckets;
  static constexpr Product float32 = kGridFloat32;
  template <Product kProduct, Pass kPass, int kBucket>
  static constexpr int most_columns() {
    return has_wide(kProduct, kPass, buckets[kBucket]) ? kGridWide : kGridColumns;
  }
  static int bucket_of(Product product, int64_t H) {
    return grid_bucket_of(product, H, dev::limits().shared);
  }

  template <class CellType, Product kProduct, int kBucket>
  static void run(const LayerForward& p, const Context& context) {
    const Dims& d = p.d;
    const int columns = columns_of(d, kProduct, Pass::forward, buckets[kBucket]);
    const GridPlan plan = plan_of(kProduct, Pass::forward, buckets[kBucket], columns);
    constexpr int kMost = most_columns<kProduct, Pass::forward, kBucket>();
    const auto kernel = columns > kGridColumns
                            ? grid_forward<CellType, kProduct, kBucket, kMost>
                            : grid_forward<CellType, kProduct, kBucket, kGridColumns>;
    const auto scan = scan_of<typename Kind<kProduct>::Storage>(p, context, columns);
    const int64_t bytes = state_bytes(d, p.dtype);
    const StreamedOfAll streamed = streamed_of(d, context, plan);
    unsigned char* const handed_on =
        streamed.first + streamed_part(Pass::forward, d, columns, plan);
    const Exchange exchange =
        in_y(d, p.dtype) ? Exchange{static_cast<unsigned char*>(p.y), int(d.D * bytes), bytes, true}
                         : Exchange{handed_on, int(bytes), d.N * bytes, false};
    dev::fill(context, exchange.first, kAbsentByte, size_t(d.D * d.N * bytes));
    const Waiting waits = waiting(d, context);
    for_launches(Pass::forward, d, columns, [&](const GridShare& share, dim3 blocks) {
      launch(context, blocks, plan, kernel, {scan, share, exchange, streamed, waits});
    });
  }

  template <class CellType, Product kProduct, int kBucket>
  static void run(const LayerBackward& p, const Context& context) {
    const Dims& d = p.d;
    const int columns = columns_of(d, kProduct, Pass::backward, buckets[kBucket]);
    const GridPlan plan = plan_of(kProduct, Pass::backward, buckets[kBucket], columns);
    constexpr int kMost = most_columns<kProduct, Pass::backward, kBucket>();
    const auto kernel = columns > kGridColumns
                            ? grid_backward<CellType, kProduct, kBucket, kMost>
                            : grid_backward<CellType, kProduct, kBucket, kGridColumns>;
    const auto scan = scan_of<typename Kind<kProduct>::Storage>(p, context, columns);
    const StreamedOfAll streamed = streamed_of(d, context, plan);
    uint32_t* const dgates = reinterpret_cast<uint32_t*>(
        streamed.first + streamed_part(Pass::backward, d, columns, plan));
    const Waiting waits = waiting(d, context);
    for_launches(Pass::backward, d, columns, [&](const GridShare& share, dim3 blocks) {
      const Rings rings = rings_of(p.dtype, plan, columns, share, blocks);
      dev::fill(context, dgates, 0, size_t(rings.dgates + rings.dh) * sizeof(uint32_t));
      launch(context, blocks, plan, kernel,
             {scan, share, dgates, dgates + rings.dgates, streamed, waits});
    });
  }
};

const char* why_not(Cell, DType dtype, const Dims& d, bool tf32) {
  if (dtype == DType::f64) return "it computes in fp16, bf16, tf32 and fp32, not in fp64";
  if (const char* const reason = why_no_scan(d)) return reason;
  const Product product = product_of(dtype, tf32, kGridFloat32);
  if (grid_bucket_of(product, d.H, kMostShared) < 0)
    return dtype == DType::f32
               ? "in float32 H must be at most 2048, for which kernels are compiled"
               : "in 16 bits H must be at most 2304, so that a group of blocks can hold W_hh";
  const dev::Limits limits = dev::limits();
  if (grid_bucket_of(product, d.H, limits.shared) < 0)
    return "beyond H of 2048 a block needs more shared memory than a block of this GPU has";
  if (grid_blocks(Pass::backward, d.H) > limits.multiprocessors)
    return "H must be at most 128 for every 8 multiprocessors of this GPU, where a group's blocks "
           "must all run at once";
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
    .forward = cuda::run_pass<cuda::GridFamily, LayerForward>,
    .backward = cuda::run_pass<cuda::GridFamily, LayerBackward>,
};

}  // namespace lf
