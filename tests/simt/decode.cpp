// cuda.decode, driver and kernel, in the SIMT machine: variant "simt.decode" for CPU tensors.
#include "cuda/decode.cu"

#include "variants.h"

namespace simt {

lf::Variant decode() { return on_cpu<lf::cuda_decode>("simt.decode"); }

}  // namespace simt
