// cuda.block, driver and kernels, in the SIMT machine: variant "simt.block" for CPU tensors.
#include "cuda/block.cu"

#include "variants.h"

namespace simt {

lf::Variant block() { return on_cpu<lf::cuda_block>("simt.block"); }

}  // namespace simt
