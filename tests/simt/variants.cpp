#include "variants.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "machine.h"

namespace simt {
namespace {

double widen(float x) { return x; }
double widen(double x) { return x; }
double widen(__nv_bfloat16 x) { return __bfloat162float(x); }
double widen(__half x) { return __half2float(x); }

// Sums in double, rounded once: nobody's product is nearer to what is meant.
template <class T>
void multiply(lf::Matrix out, lf::Matrix a, lf::Matrix b, bool accumulate) {
  const auto at = [](const lf::Matrix& m, int64_t row, int64_t column) -> T& {
    return static_cast<T*>(m.data)[row * m.row_stride + column * m.col_stride];
  };
  for (int64_t row = 0; row < out.rows; ++row)
    for (int64_t column = 0; column < out.cols; ++column) {
      double sum = accumulate ? widen(at(out, row, column)) : 0;
      for (int64_t k = 0; k < a.cols; ++k) sum += widen(at(a, row, k)) * widen(at(b, k, column));
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
      return multiply<float>(out, a, b, accumulate);
    case lf::DType::f64:
      return multiply<double>(out, a, b, accumulate);
    case lf::DType::bf16:
      return multiply<__nv_bfloat16>(out, a, b, accumulate);
    case lf::DType::f16:
      return multiply<__half>(out, a, b, accumulate);
  }
}

}  // namespace simt
