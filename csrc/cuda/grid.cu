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

// How a pass of a layer runs on a device.
struct GridRun {
  Pass pass;
  const Dims& d;
  int multiprocessors, units, columns;
  GridPlan plan;

  GridRun(Product product, Pass pass, const GridBucket& bucket, const Dims& d,
          const dev::Limits& limits)
      : pass(pass),
        d(d),
        multiprocessors(limits.multiprocessors),
        units(bucket.units),
        columns(grid_columns(product, pass, bucket, d.B, int(d.D), d.H, limits.multiprocessors,
                             limits.shared)),
        plan(grid_plan(product, pass, bucket, columns, limits.shared)) {}

  // Calls launch(share, blocks) for all launches that it takes.
  template <class Launch>
  void for_launches(const Launch& launch) const {
    const int blocks = grid_blocks(pass, d.H, units);
    if (blocks > multiprocessors)
      throw std::runtime_error("lstm_fused: cuda.grid has no room on this device");
    for_grid_launches(d.B, blocks, int(d.D), multiprocessors, columns, plan.turns,
                      [&](int64_t row, int direction, const GridCut& cut) {
                        launch(
                            GridShare{int(row), direction, cut.turns},
                            dim3(unsigned(blocks), unsigned(cut.slices), unsigned(cut.directions)));
                      });
  }

  // The workspace, in bytes from its start: where each step's rows are, the word that says that the
  // pass is given up, what blocks stream, and what they hand on.
  size_t word_at() const {
    return size_t(ceil_div(int64_t(steps_bytes(d, kGridColumns)), 64) * 64);
  }
  size_t streamed_at() const { return word_at() + 64; }
  size_t handed_on_at() const { return streamed_at() + streamed(); }

  size_t streamed() const {
    const size_t of_block = streamed_bytes(plan);
    size_t blocks = 0;  // of the largest launch: they use it one after the other
    if (of_block)
      for_launches([&](const GridShare&, dim3 of_launch) {
        blocks = std::max(blocks, size_t(of_launch.x) * of_launch.y * of_launch.z);
      });
    return blocks * of_block;
  }
};

int bucket_for(Product product, Pass pass, const Dims& d, const dev::Limits& limits) {
  return grid_bucket_for(product, pass, d.B, int(d.D), d.H, limits.multiprocessors, limits.shared);
}

unsigned char* workspace_at(const Context& context, size_t bytes) {
  return static_cast<unsigned char*>(context.workspace) + bytes;
}

// The most that bytes_of(run) says: which product float32 has is Context's to say.
template <class BytesOf>
size_t of_any_product(DType dtype, Pass pass, const Dims& d, const BytesOf& bytes_of) {
  const dev::Limits limits = dev::limits();
  size_t most = 0;
  for (const bool tf32 : {false, true}) {
    const Product product = product_of(dtype, tf32, kGridFloat32);
    const int place = bucket_for(product, pass, d, limits);
    if (place >= 0)
      most = std::max(most, bytes_of(GridRun(product, pass, kGridBuckets[place], d, limits)));
  }
  return most;
}

size_t workspace_bytes(const LayerForward& p) {
  const Dims& d = p.d;
  return of_any_product(p.dtype, Pass::forward, d, [&](const GridRun& run) {
    return run.handed_on_at() +
           (in_y(d, p.dtype) ? 0 : size_t(d.D * d.N * state_bytes(d, p.dtype)));
  });
}

// Words of the two rings of a launch of backward.
struct Rings {
  int64_t dgates, dh;
};
Rings rings_of(DType dtype, const GridRun& run, const GridShare& share, dim3 blocks) {
  const int64_t hands = int64_t(blocks.y) * blocks.z * 2 * share.turns;
  return {hands * dgates_words(run.columns, run.plan.width, int(element_size(dtype))),
          hands * dh_words(int(blocks.x), run.plan.cells)};
}
size_t workspace_bytes(const LayerBackward& p, int) {
  return of_any_product(p.dtype, Pass::backward, p.d, [&](const GridRun& run) {
    int64_t words = 0;  // of the largest launch, as what is streamed
    run.for_launches([&](const GridShare& share, dim3 blocks) {
      const Rings rings = rings_of(p.dtype, run, share, blocks);
      words = std::max(words, rings.dgates + rings.dh);
    });
    return run.handed_on_at() + size_t(words) * sizeof(uint32_t);
  });
}

// What the kernels of a pass are told in all of its launches. After one that is given up the
// results are wrong anyhow, so the word is set once.
template <class T>
struct Told {
  StreamedOfAll streamed;
  Waiting waiting;
  T scan;
};
template <class T, class Layer>
auto tell(const Layer& p, const Context& context, const GridRun& run) {
  unsigned char* const word = workspace_at(context, run.word_at());
  dev::fill(context, word, 0, sizeof(uint32_t));
  const int64_t* const offsets =
      upload_steps(context, p.d, p.offsets, run.columns, context.workspace);
  return Told{StreamedOfAll{workspace_at(context, run.streamed_at()), streamed_bytes(run.plan),
                            run.plan.kept},
              Waiting{reinterpret_cast<uint32_t*>(word), dev::alarm(), dev::patience()},
              parameters<T>(p, offsets)};
}

template <class Parameters>
void launch(const Context& context, dim3 blocks, const GridRun& run, void (*kernel)(Parameters),
            const std::type_identity_t<Parameters>& p) {
  dev::launch_in_turn(
      context,
      {.blocks = blocks, .threads = kGridThreads, .shared = run.plan.shared, .cooperative = true},
      kernel, p);
}

struct GridFamily {
  static constexpr const auto& buckets = kGridBuckets;
  static constexpr Product float32 = kGridFloat32;
  template <Product kProduct, Pass kPass, int kBucket>
  static constexpr int most_columns() {
    return has_wide(kProduct, kPass, buckets[kBucket]) ? kGridWide : kGridColumns;
  }
  static constexpr bool is_compiled(Product product, Pass pass, const GridBucket& bucket) {
    return cuda::is_compiled(product, bucket, pass);
  }
  static int bucket_of(Product product, const LayerForward& p) {
    return bucket_for(product, Pass::forward, p.d, dev::limits());
  }
  static int bucket_of(Product product, const LayerBackward& p) {
    return bucket_for(product, Pass::backward, p.d, dev::limits());
  }

  template <class CellType, Product kProduct, int kBucket>
  static void run(const LayerForward& p, const Context& context) {
    const Dims& d = p.d;
    const GridRun run(kProduct, Pass::forward, buckets[kBucket], d, dev::limits());
    constexpr int kMost = most_columns<kProduct, Pass::forward, kBucket>();
    const auto kernel = run.columns > kGridColumns
                            ? grid_forward<CellType, kProduct, kBucket, kMost>
                            : grid_forward<CellType, kProduct, kBucket, kGridColumns>;
    const auto told = tell<typename Kind<kProduct>::Storage>(p, context, run);
    const int64_t bytes = state_bytes(d, p.dtype);
    const Exchange exchange =
        in_y(d, p.dtype)
            ? Exchange{static_cast<unsigned char*>(p.y), int(d.D * bytes), bytes, true}
            : Exchange{workspace_at(context, run.handed_on_at()), int(bytes), d.N * bytes, false};
    dev::fill(context, exchange.first, kAbsentByte, size_t(d.D * d.N * bytes));
    run.for_launches([&](const GridShare& share, dim3 blocks) {
      launch(context, blocks, run, kernel,
             {told.scan, share, exchange, told.streamed, told.waiting});
    });
  }

  template <class CellType, Product kProduct, int kBucket>
  static void run(const LayerBackward& p, const Context& context) {
    static_assert(buckets[kBucket].units == kGridUnits);
    const GridRun run(kProduct, Pass::backward, buckets[kBucket], p.d, dev::limits());
    constexpr int kMost = most_columns<kProduct, Pass::backward, kBucket>();
    const auto kernel = run.columns > kGridColumns
                            ? grid_backward<CellType, kProduct, kBucket, kMost>
                            : grid_backward<CellType, kProduct, kBucket, kGridColumns>;
    const auto told = tell<typename Kind<kProduct>::Storage>(p, context, run);
    uint32_t* const dgates = reinterpret_cast<uint32_t*>(workspace_at(context, run.handed_on_at()));
    run.for_launches([&](const GridShare& share, dim3 blocks) {
      const Rings rings = rings_of(p.dtype, run, share, blocks);
      dev::fill(context, dgates, 0, size_t(rings.dgates + rings.dh) * sizeof(uint32_t));
      launch(context, blocks, run, kernel,
             {told.scan, share, dgates, dgates + rings.dgates, told.streamed, told.waiting,
              run.plan.asks});
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
