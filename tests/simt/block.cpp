// cuda.block, driver and kernels, in the SIMT machine: variant "simt.block" for CPU tensors.
#include "cuda/block.cu"

#include <utility>

#include "variants.h"

namespace simt {

bool block_knows_its_limits() {
  using namespace lf;
  const auto refuses = [](int capability, size_t shared, DType dtype, int64_t H, bool tf32 = false,
                          int64_t rows = 1) {
    const dev::Limits before = std::exchange(dev::limits_here, {capability, shared, 132});
    const Dims d{.T = rows, .B = 1, .H = H, .P = H, .D = 1, .N = rows};
    const bool refused =
        cuda_block.why_not_here() || cuda_block.why_not(Cell::lstm, dtype, d, tf32);
    dev::limits_here = before;
    return refused;
  };
  constexpr int64_t most_rows = (int64_t(1) << 31) - 1;
  const size_t most = 227 << 10, sm_80 = 163 << 10, sm_86 = 99 << 10;
  return !refuses(90, most, DType::bf16, 160) && refuses(90, most, DType::bf16, 161) &&
         !refuses(90, most, DType::f32, 128) && refuses(90, most, DType::f32, 129) &&
         !refuses(80, sm_80, DType::f16, 128) && refuses(80, sm_80, DType::f16, 129) &&
         !refuses(80, sm_80, DType::f32, 96) && refuses(80, sm_80, DType::f32, 97) &&
         !refuses(86, sm_86, DType::bf16, 128) && refuses(86, sm_86, DType::bf16, 129) &&
         refuses(75, most, DType::bf16, 8) &&
         !refuses(90, most, DType::bf16, 8, false, most_rows) &&
         refuses(90, most, DType::bf16, 8, false, most_rows + 1);
}

lf::Variant block() { return on_cpu<lf::cuda_block>("simt.block"); }

}  // namespace simt
