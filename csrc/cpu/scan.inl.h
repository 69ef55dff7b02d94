// What an isa_*.cpp exports: the scan over every cell and dtype that the CPU computes in.
#pragma once

#include "cell/list.h"
#include "contract/variant.h"
#include "cpu/backward.inl.h"
#include "cpu/forward.inl.h"

namespace lf::LF_ISA {

#ifdef LF_BFLOAT16
#define LF_BY_DTYPE(RUN) RUN(LF_BFLOAT16)
#else
#define LF_BY_DTYPE(RUN) (p.dtype == DType::f64 ? RUN(double) : RUN(float))
#endif

static const char* why_not(Cell, DType dtype, const Dims&, bool) {
#ifdef LF_BFLOAT16
  return dtype == DType::bf16 ? nullptr : "it takes bfloat16 only";
#else
  return dtype == DType::f32 || dtype == DType::f64
             ? nullptr
             : "the CPU kernels compute in float32 and float64; tensors of 16 bits are widened";
#endif
}

static size_t forward_workspace(const LayerForward& p) {
#define LF_RUN(S) forward_workspace_of<S>(p)
  return LF_BY_DTYPE(LF_RUN);
#undef LF_RUN
}

static size_t backward_workspace(const LayerBackward& p, int threads) {
#define LF_RUN(S) backward_workspace_of<S>(p, threads)
  return LF_BY_DTYPE(LF_RUN);
#undef LF_RUN
}

#define LF_CASE(id, CellType)   \
  case Cell::id: {              \
    using Unit = CellType;      \
    return LF_BY_DTYPE(LF_RUN); \
  }

static void forward(const LayerForward& p, const Context& context) {
  switch (p.cell) {
#define LF_RUN(S) forward_of<S, Unit>(p, context)
    LF_FOR_EACH_CELL(LF_CASE)
#undef LF_RUN
  }
}

static void backward(const LayerBackward& p, const Context& context) {
  switch (p.cell) {
#define LF_RUN(S) backward_of<S, Unit>(p, context)
    LF_FOR_EACH_CELL(LF_CASE)
#undef LF_RUN
  }
}

#undef LF_CASE
#undef LF_BY_DTYPE

}  // namespace lf::LF_ISA
