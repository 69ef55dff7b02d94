// cuda.cluster, driver and kernels, in the SIMT machine: variant "simt.cluster" for CPU tensors.
#include "cuda/cluster.cu"

#include <utility>

#include "variants.h"

namespace simt {

bool cluster_knows_its_limits() {
  using namespace lf;
  const dev::Limits sm_80{80, 163 << 10, 108}, sm_90{90, 227 << 10, 132},
      sm_100{100, 227 << 10, 148}, sm_120{120, 99 << 10, 170}, sliced{90, 227 << 10, 0};
  const auto refuses = [](const dev::Limits& limits, DType dtype, int64_t H, bool tf32 = false,
                          int64_t P = 0) {
    const dev::Limits before = std::exchange(dev::limits_here, limits);
    const Dims d{.T = 1, .B = 1, .H = H, .P = P ? P : H, .D = 1, .N = 1};
    const bool refused =
        cuda_cluster.why_not_here() || cuda_cluster.why_not(Cell::lstm, dtype, d, tf32);
    dev::limits_here = before;
    return refused;
  };
  const auto ends_at = [&](const dev::Limits& limits, DType dtype, int64_t H, bool tf32 = true) {
    return !refuses(limits, dtype, H, tf32) && refuses(limits, dtype, H + 1, tf32);
  };
  return ends_at(sm_90, DType::bf16, 512) && ends_at(sm_90, DType::f16, 512) &&
         ends_at(sm_90, DType::f32, 512) && ends_at(sm_100, DType::bf16, 512) &&
         ends_at(sm_100, DType::f32, 512) && ends_at(sm_120, DType::bf16, 512) &&
         ends_at(sm_120, DType::f32, 256) && ends_at(sm_90, DType::f32, 512, false) &&
         ends_at(sm_120, DType::f32, 256, false) && refuses(sm_80, DType::bf16, 8) &&
         refuses(sliced, DType::bf16, 256) && refuses(sm_90, DType::f64, 8) &&
         refuses(sm_90, DType::f64, 8, true) && refuses(sm_90, DType::bf16, 8, false, 7);
}

lf::Variant cluster() { return on_cpu<lf::cuda_cluster>("simt.cluster"); }

}  // namespace simt
