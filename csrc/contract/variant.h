// A variant is one way to run a layer on one kind of device. Forward of one and backward of another
// may share a layer: what forward keeps is said in params.h, and nothing else passes between them.
#pragma once

#include "contract/params.h"

namespace lf {

struct Variant {
  const char* name;  // "device.word"
  Device device;
  // Does it do the products over all rows: forward the projection of the input, backward the
  // gradients of the weights and of the input? If not, the caller does (ops/products.h).
  bool whole_forward = false, whole_backward = false;
  // Why this machine or build cannot run it; nullptr: it can.
  const char* (*why_not_here)() = nullptr;
  // Why it refuses a case; nullptr: it takes it. tf32 is Context's.
  const char* (*why_not)(Cell, DType, const Dims&, bool tf32) = nullptr;
  size_t (*forward_workspace)(const LayerForward&) = nullptr;
  size_t (*backward_workspace)(const LayerBackward&, int threads) = nullptr;
  void (*forward)(const LayerForward&, const Context&) = nullptr;
  void (*backward)(const LayerBackward&, const Context&) = nullptr;
};

extern const Variant cpu_generic, cpu_avx2, cpu_avx512, cpu_avx512bf16, cpu_neon;
// Weak: objects built without nvcc link without them.
extern const Variant cuda_block __attribute__((weak));
extern const Variant cuda_cluster __attribute__((weak));
extern const Variant cuda_decode __attribute__((weak));
extern const Variant cuda_grid __attribute__((weak));
extern const Variant cuda_step __attribute__((weak));
// "13.0"; weak as well.
__attribute__((weak)) const char* cuda_toolkit_version();

}  // namespace lf
