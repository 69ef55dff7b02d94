// The CUDA variants as variants for CPU tensors, which run in the SIMT machine.
#pragma once

#include "contract/variant.h"

namespace simt {

// Context::gemm by this CPU.
void gemm(const lf::Context&, lf::DType dtype, lf::Matrix out, lf::Matrix a, lf::Matrix b,
          bool accumulate);

template <class Layer>
void run_here(void (*kernel)(const Layer&, const lf::Context&), const Layer& layer,
              const lf::Context& context) {
  lf::Context here = context;
  here.gemm = gemm;
  kernel(layer, here);
}

// The same variant under another name, on the CPU.
template <const lf::Variant& kVariant>
lf::Variant on_cpu(const char* name) {
  lf::Variant here = kVariant;
  here.name = name;
  here.device = lf::Device::cpu;
  here.forward = [](const lf::LayerForward& p, const lf::Context& context) {
    run_here(kVariant.forward, p, context);
  };
  here.backward = [](const lf::LayerBackward& p, const lf::Context& context) {
    run_here(kVariant.backward, p, context);
  };
  return here;
}

lf::Variant block();
bool block_knows_its_limits();  // of GPUs of several generations
lf::Variant cluster();
bool cluster_knows_its_limits();
lf::Variant decode();
lf::Variant grid();
bool grid_knows_its_limits();
bool grid_has_room_for_what_it_streams();
lf::Variant step();

}  // namespace simt
