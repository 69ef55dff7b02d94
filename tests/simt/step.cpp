// cuda.step, driver and kernels, in the SIMT machine: variant "simt.step" for CPU tensors.
#include "cuda/step.cu"

#include "variants.h"

namespace simt {

lf::Variant step() { return on_cpu<lf::cuda_step>("simt.step"); }

}  // namespace simt
