// cuda.grid, driver and kernels, in the SIMT machine: variant "simt.grid" for CPU tensors.
#include "cuda/grid.cu"

#include "variants.h"

namespace simt {

lf::Variant grid() { return on_cpu<lf::cuda_grid>("simt.grid"); }

}  // namespace simt
