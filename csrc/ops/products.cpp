#include "ops/products.h"

namespace lf::ops {
namespace {

// The columns of direction i in y [N, D*P].
Tensor output_of(const Layer& layer, const Tensor& y, int64_t i, int64_t row, int64_t rows) {
  const int64_t P = layer.d.P, stride = layer.d.D * P;
  return view(y, {rows, P}, {stride, 1}, row * stride + i * P);
}

// The state that each row of direction i started from, [N, P]: for rows of unequal count per step.
Tensor states_before(const Layer& layer, const Scanned& scanned, int64_t i) {
  const Dims& d = layer.d;
  const Tensor out =
      scanned.h0 ? empty(scanned.y, {d.N, d.P}, layer.dtype)
                 : torch::stable::new_zeros(scanned.y, {d.N, d.P}, scalar_type(layer.dtype));
  for (int64_t t = 0; t < d.T; ++t) {
    const int64_t row = layer.offsets[t], rows = layer.offsets[t + 1] - row,
                  before = i == 0 ? t - 1 : t + 1;
    const int64_t there =
        before < 0 || before >= d.T ? 0 : layer.offsets[before + 1] - layer.offsets[before];
    const int64_t continued = rows < there ? rows : there;
    if (continued) {
      Tensor to = matrix(out, continued, d.P, row * d.P);
      torch::stable::copy_(to, output_of(layer, scanned.y, i, layer.offsets[before], continued));
    }
    if (scanned.h0 && continued < rows) {
      Tensor to = matrix(out, rows - continued, d.P, (row + continued) * d.P);
      torch::stable::copy_(to,
                           matrix(*scanned.h0, rows - continued, d.P, (i * d.B + continued) * d.P));
    }
  }
  return out;
}

// dw_hh of direction i [4H, P] = sum over rows of dgates^T times the state the row started from.
void weight_hh_gradient(const Layer& layer, const Scanned& scanned, const Tensor& dgates, int64_t i,
                        const Tensor& dw) {
  const Dims& d = layer.d;
  const int64_t gates = 4 * d.H;
  if (d.N != d.T * d.B) return mm(dw, transposed(dgates), states_before(layer, scanned, i));
  // B rows at every step: the states are y itself, one step apart, and h0.
  const int64_t later = d.N - d.B, start = i == 0 ? 0 : later;
  const Tensor later_gates = matrix(dgates, later, gates, i == 0 ? d.B * gates : 0);
  mm(dw, transposed(later_gates), output_of(layer, scanned.y, i, i == 0 ? 0 : d.B, later));
  if (scanned.h0)
    addmm(dw, dw, transposed(matrix(dgates, d.B, gates, start * gates)),
          matrix(*scanned.h0, d.B, d.P, i * d.B * d.P));
}

}  // namespace

void project_input(const Layer& layer, const Direction& weights, const Tensor& gates) {
  if (!weights.b_ih && !weights.b_hh) return mm(gates, layer.x, transposed(weights.w_ih));
  // a - (-1) b: the stable ABI has subtract with a scale, and no add.
  const Tensor bias = weights.b_ih && weights.b_hh
                          ? torch::stable::subtract(*weights.b_ih, *weights.b_hh, -1.0)
                      : weights.b_ih ? *weights.b_ih
                                     : *weights.b_hh;
  addmm(gates, bias, layer.x, transposed(weights.w_ih));
}

void multiply_gradients(const Layer& layer, const Scanned& scanned, Gradients& out) {
  const Dims& d = layer.d;
  const int64_t gates = 4 * d.H, rows_dimension = 0;
  for (int64_t i = 0; i < d.D; ++i) {
    const Tensor dgates = matrix(scanned.dgates, d.N, gates, i * d.N * gates);
    auto& g = out.directions[i];
    if (g.w_ih) mm(*g.w_ih, transposed(dgates), layer.x);
    if (g.w_hh) weight_hh_gradient(layer, scanned, dgates, i, *g.w_hh);
    if (g.bias)
      g.bias =
          torch::stable::sum(dgates, torch::headeronly::IntHeaderOnlyArrayRef(&rows_dimension, 1));
    if (g.w_hr)
      mm(*g.w_hr, transposed(matrix(*scanned.dh, d.N, d.P, i * d.N * d.P)),
         matrix(*scanned.h_cell, d.N, d.H, i * d.N * d.H));
    if (out.x && i == 0) mm(*out.x, dgates, layer.directions[0].w_ih);
    if (out.x && i == 1) addmm(*out.x, *out.x, dgates, layer.directions[1].w_ih);
  }
}

}  // namespace lf::ops
