// cuda.grid, driver and kernels, in the SIMT machine: variant "simt.grid" for CPU tensors.
#include "cuda/grid.cu"

#include <utility>

#include "variants.h"

namespace simt {

bool grid_knows_its_limits() {
  using namespace lf;
  // Of GPUs of the generations 7.5, 8.0, 8.6, 9.0, 10.0 and 12.0, and a small one.
  const dev::Limits sm_75{75, 64 << 10, 72}, sm_80{80, 163 << 10, 108}, sm_86{86, 99 << 10, 84},
      sm_90{90, 227 << 10, 132}, sm_100{100, 227 << 10, 148}, sm_120{120, 99 << 10, 170},
      small{90, 227 << 10, 8};
  const auto refuses = [](const dev::Limits& limits, DType dtype, int64_t H, bool tf32 = false,
                          int64_t P = 0) {
    const dev::Limits before = std::exchange(dev::limits_here, limits);
    bool refused = false;
    for (int64_t D = 1; D <= 2; ++D) {
      const Dims d{.T = 1, .B = 1, .H = H, .P = P ? P : H, .D = D, .N = 1};
      refused |= cuda_grid.why_not_here() || cuda_grid.why_not(Cell::lstm, dtype, d, tf32);
    }
    dev::limits_here = before;
    return refused;
  };
  const auto ends_at = [&](const dev::Limits& limits, DType dtype, int64_t H, bool tf32 = true) {
    return !refuses(limits, dtype, H, tf32) && refuses(limits, dtype, H + 1, tf32);
  };
  // What ends it: no bucket, a block's shared memory, or the number of multiprocessors.
  return ends_at(sm_100, DType::bf16, 2304) && ends_at(sm_100, DType::f32, 2048) &&
         ends_at(sm_90, DType::f16, 2048) && ends_at(sm_90, DType::f32, 2048) &&
         ends_at(sm_80, DType::bf16, 1664) && ends_at(sm_80, DType::f32, 1664) &&
         ends_at(sm_86, DType::f16, 1280) && ends_at(sm_86, DType::f32, 1280) &&
         ends_at(sm_120, DType::bf16, 2048) && ends_at(sm_120, DType::f32, 2048, false) &&
         ends_at(small, DType::bf16, 128) && ends_at(small, DType::f32, 128) &&
         ends_at(sm_90, DType::f32, 2048, false) && ends_at(sm_80, DType::f32, 1664, false) &&
         ends_at(sm_86, DType::f32, 1280, false) && refuses(sm_75, DType::f16, 8) &&
         refuses(sm_90, DType::f64, 8) && refuses(sm_90, DType::f64, 8, true) &&
         refuses(sm_90, DType::bf16, 8, false, 7);
}

bool grid_has_room_for_what_it_streams() {
  using namespace lf;
  using namespace lf::cuda;
  const dev::Limits before = dev::limits_here;
  const auto part = [](Pass pass, int64_t H, int64_t B, bool tf32) {
    const Product product = product_of(DType::f32, tf32, kGridFloat32);
    const GridBucket& bucket = kGridBuckets[grid_bucket_of(product, H, dev::limits_here.shared)];
    const Dims d{.T = 1, .B = B, .H = H, .P = H, .D = 1, .N = B};
    return GridRun(product, pass, bucket, d, dev::limits_here).streamed();
  };
  // Two groups of 32 blocks; of 230 rows the second launch has but one slice.
  dev::limits_here = {86, 99 << 10, 80};
  bool room = part(Pass::backward, 390, 224, false) > 0 &&
              part(Pass::backward, 390, 230, false) == part(Pass::backward, 390, 224, false) &&
              part(Pass::backward, 390, 8, false) * 2 == part(Pass::backward, 390, 224, false);
  // Which product is asked for the kernel hears, and not who allots.
  dev::limits_here = {90, 227 << 10, 132};
  LayerForward p{};
  p.dtype = DType::f32;
  p.d = {.T = 1, .B = 32, .H = 2048, .P = 2048, .D = 1, .N = 32};
  for (const bool tf32 : {false, true})
    room = room && workspace_bytes(p) >= part(Pass::forward, 2048, 32, tf32);
  room = room && part(Pass::forward, 2048, 32, true) > part(Pass::forward, 2048, 32, false);
  dev::limits_here = before;
  return room;
}

lf::Variant grid() { return on_cpu<lf::cuda_grid>("simt.grid"); }

}  // namespace simt
