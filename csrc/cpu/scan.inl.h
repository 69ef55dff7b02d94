// What an isa_*.cpp exports: the scan over every cell and dtype that the CPU computes in.
#pragma once

#include "cell/list.h"
#include "contract/variant.h"
#include "cpu/backward.inl.h"
#include "cpu/forward.inl.h"

namespace lf::LF_ISA {

static const char* why_not(Cell, DType dtype, const Dims&) {
  return dtype == DType::f32 || dtype == DType::f64
             ? nullptr
             : "the CPU kernels compute in float32 and float64; 16-bit tensors are widened first";
}

static size_t forward_workspace(const LayerForward& p) {
  return p.dtype == DType::f64 ? forward_workspace_of<double>(p) : forward_workspace_of<float>(p);
}

static size_t backward_workspace(const LayerBackward& p, int threads) {
  return p.dtype == DType::f64 ? backward_workspace_of<double>(p, threads)
                               : backward_workspace_of<float>(p, threads);
}

#define LF_CASE(id, CellType)                                           \
  case Cell::id:                                                        \
    return p.dtype == DType::f64 ? LF_RUN<double, CellType>(p, context) \
                                 : LF_RUN<float, CellType>(p, context);

static void forward(const LayerForward& p, const Context& context) {
  switch (p.cell) {
#define LF_RUN forward_of
    LF_FOR_EACH_CELL(LF_CASE)
#undef LF_RUN
  }
}

static void backward(const LayerBackward& p, const Context& context) {
  switch (p.cell) {
#define LF_RUN backward_of
    LF_FOR_EACH_CELL(LF_CASE)
#undef LF_RUN
  }
}

#undef LF_CASE

}  // namespace lf::LF_ISA
