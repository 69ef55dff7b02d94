// The CUDA variants as variants for CPU tensors, which run in the SIMT machine.
#pragma once

#include "contract/variant.h"

namespace simt {

// The same variant under another name and device, with products of this CPU for the context's.
lf::Variant on_cpu(const lf::Variant& variant, const char* name);

lf::Variant step();

// Context::gemm, in the state type of the dtype.
void gemm(const lf::Context&, lf::DType dtype, lf::Matrix out, lf::Matrix a, lf::Matrix b,
          bool accumulate);

}  // namespace simt
