#include "variants.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "machine.h"

namespace simt {
namespace {

template <class T, class State>
void multiply(lf::Matrix out, lf::Matrix a, lf::Matrix b, bool accumulate) {
  const auto at = [](const lf::Matrix& m, int64_t row, int64_t column) -> T& {
    return static_cast<T*>(m.data)[row * m.row_stride + column * m.col_stride];
  };
  for (int64_t row = 0; row < out.rows; ++row)
    for (int64_t column = 0; column < out.cols; ++column) {
      State sum = accumulate ? State(at(out, row, column)) : State(0);
      for (int64_t k = 0; k < a.cols; ++k) sum += State(at(a, row, k)) * State(at(b, k, column));
      at(out, row, column) = T(sum);
    }
}

}  // namespace

void gemm(const lf::Context&, lf::DType dtype, lf::Matrix out, lf::Matrix a, lf::Matrix b,
          bool accumulate) {
  if (a.rows != out.rows || b.cols != out.cols || a.cols != b.rows)
    throw Error("a product of matrices whose sizes do not fit");
  switch (dtype) {
    case lf::DType::f32:
      return multiply<float, float>(out, a, b, accumulate);
    case lf::DType::f64:
      return multiply<double, double>(out, a, b, accumulate);
    case lf::DType::bf16:
      return multiply<__nv_bfloat16, float>(out, a, b, accumulate);
    case lf::DType::f16:
      return multiply<__half, float>(out, a, b, accumulate);
  }
}

lf::Variant on_cpu(const lf::Variant& variant, const char* name) {
  lf::Variant here = variant;
  here.name = name;
  here.device = lf::Device::cpu;
  return here;
}

}  // namespace simt
