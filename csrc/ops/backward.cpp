// Backward of one layer: the variant turns the saved gates into their gradients, then large
// products over all rows give the gradients of the input and the weights.
#include <algorithm>
#include <cstring>

#include "ops/layer.h"
#include "ops/ops.h"

namespace lf::ops {
namespace {

// The columns of direction i in y [N, D*P].
Tensor output_of(const Layer& layer, const Tensor& y, int64_t i, int64_t row, int64_t rows) {
  const int64_t P = layer.d.P, stride = layer.d.D * P;
  return view(y, {rows, P}, {stride, 1}, row * stride + i * P);
}

void copy_rows(const Layer& layer, const Tensor& to, const Tensor& from) {
  if (from.size(0) == 0) return;
  if (to.is_cuda()) {
    Tensor target = to;
    torch::stable::copy_(target, from);
    return;
  }
  const size_t element = element_size(layer.dtype), row = size_t(to.size(1)) * element;
  for (int64_t r = 0; r < to.size(0); ++r)
    std::memcpy(static_cast<char*>(data(to)) + r * row,
                static_cast<const char*>(from.const_data_ptr()) + r * from.stride(0) * element,
                row);
}

// The state that each row of direction i started from, [N, P]: for rows of unequal count per step.
Tensor previous_states(const Layer& layer, const Tensor& y, const OptionalTensor& h0, int64_t i) {
  const Dims& d = layer.d;
  const Tensor out = h0 ? empty(y, {d.N, d.P}, layer.dtype)
                        : torch::stable::new_zeros(y, {d.N, d.P}, scalar_type(layer.dtype));
  for (int64_t t = 0; t < d.T; ++t) {
    const int64_t row = layer.offsets[t], rows = layer.offsets[t + 1] - row,
                  before = i == 0 ? t - 1 : t + 1;
    const int64_t there =
        before < 0 || before >= d.T ? 0 : layer.offsets[before + 1] - layer.offsets[before];
    const int64_t continued = rows < there ? rows : there;
    if (continued)
      copy_rows(layer, matrix(out, continued, d.P, row * d.P),
                output_of(layer, y, i, layer.offsets[before], continued));
    if (h0)
      copy_rows(layer, matrix(out, rows - continued, d.P, (row + continued) * d.P),
                matrix(*h0, rows - continued, d.P, (i * d.B + continued) * d.P));
  }
  return out;
}

// dw_hh of direction i [4H, P] = sum over rows of dgates^T times the state the row started from.
Tensor weight_hh_gradient(const Layer& layer, const Tensor& dgates, const Tensor& y,
                          const OptionalTensor& h0, int64_t i) {
  const Dims& d = layer.d;
  const int64_t gates = 4 * d.H;
  Tensor dw = empty(y, {gates, d.P}, layer.dtype);
  if (d.N != d.T * d.B) {
    mm(dw, transposed(dgates), previous_states(layer, y, h0, i));
    return dw;
  }
  // B rows at every step: the states are y itself, one step apart, and h0.
  const int64_t later = d.N - d.B, start = i == 0 ? 0 : later;
  const Tensor later_gates = matrix(dgates, later, gates, i == 0 ? d.B * gates : 0);
  mm(dw, transposed(later_gates), output_of(layer, y, i, i == 0 ? 0 : d.B, later));
  if (h0)
    addmm(dw, dw, transposed(matrix(dgates, d.B, gates, start * gates)),
          matrix(*h0, d.B, d.P, i * d.B * d.P));
  return dw;
}

// The weights' gradients of one direction; empty where they are not wanted.
struct Gradients {
  OptionalTensor w_ih, w_hh, bias, w_hr;
};

Gradients weight_gradients(const Layer& layer, const Tensor& dgates, const Tensor& y,
                           const OptionalTensor& h0, const OptionalTensor& dh,
                           const OptionalTensor& h_cell, int64_t i, int64_t needs) {
  const Dims& d = layer.d;
  const int64_t gates = 4 * d.H, dimension = 0;
  Gradients g;
  if (needs & kWih) {
    g.w_ih = empty(y, {gates, layer.I}, layer.dtype);
    mm(*g.w_ih, transposed(dgates), layer.x);
  }
  if (needs & kWhh) g.w_hh = weight_hh_gradient(layer, dgates, y, h0, i);
  if (needs & kBias)
    g.bias = torch::stable::sum(dgates, torch::headeronly::IntHeaderOnlyArrayRef(&dimension, 1));
  if (needs & kWhr && dh) {
    g.w_hr = empty(y, {d.P, d.H}, layer.dtype);
    mm(*g.w_hr, transposed(matrix(*dh, d.N, d.P, i * d.N * d.P)),
       matrix(*h_cell, d.N, d.H, i * d.N * d.H));
  }
  return g;
}

OptionalTensor input_gradient(const Layer& layer, const Tensor& dgates) {
  const Dims& d = layer.d;
  const int64_t gates = 4 * d.H;
  const Tensor dx = empty(dgates, {d.N, layer.I}, layer.dtype);
  mm(dx, matrix(dgates, d.N, gates), layer.directions[0].w_ih);
  if (d.D == 2) addmm(dx, dx, matrix(dgates, d.N, gates, d.N * gates), layer.directions[1].w_ih);
  return dx;
}

void check_saved(const Layer& layer, const OptionalTensor& dy, const Tensor& y, const Tensor& gates,
                 const Tensor& c) {
  const Dims& d = layer.d;
  const int64_t outputs = d.N * d.D * d.P;
  STD_TORCH_CHECK(gates.numel() == d.D * d.N * 4 * d.H && dtype_of(gates) == layer.dtype &&
                      gates.is_contiguous() && c.numel() == d.D * d.N * d.H &&
                      dtype_of(c) == state_dtype(layer.dtype) && c.is_contiguous(),
                  "gates and c must be what layer_forward returned with save = True");
  STD_TORCH_CHECK(y.numel() == outputs, "y must have N*D*P = ", outputs, " elements, got ",
                  y.numel());
  if (!dy) return;
  STD_TORCH_CHECK(dy->dim() == y.dim(), "dy must have the shape of y");
  for (int64_t i = 0; i < y.dim(); ++i)
    STD_TORCH_CHECK(dy->size(i) == y.size(i), "dy must have the shape of y, got ", dy->size(i),
                    " for ", y.size(i), " in dimension ", i);
}

}  // namespace

template <bool kOverwrite>
Backward layer_backward(const OptionalTensor& dy_given, const OptionalTensor& dh_n_given,
                        const OptionalTensor& dc_n_given, const Tensor& x,
                        const OptionalTensor& h0_given, const OptionalTensor& c0_given,
                        const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& w_hr,
                        const OptionalTensor& w_ih_reverse, const OptionalTensor& w_hh_reverse,
                        const OptionalTensor& w_hr_reverse, const Tensor& y_given,
                        const Tensor& gates, const Tensor& c, const OptionalTensor& batch_sizes,
                        int64_t cell, int64_t variant, int64_t needs) {
  const OptionalTensor no_bias;
  const Layer layer = make_layer(x, {w_ih, w_hh, no_bias, no_bias, w_hr},
                                 {w_ih_reverse, w_hh_reverse, no_bias, no_bias, w_hr_reverse},
                                 batch_sizes, cell, variant);
  const Dims& d = layer.d;
  const DType dtype = layer.dtype, state = state_dtype(dtype);
  check_state("h0", h0_given, x, d, d.P);
  check_state("c0", c0_given, x, d, d.H);
  check_state("dh_n", dh_n_given, x, d, d.P);
  check_state("dc_n", dc_n_given, x, d, d.H);
  check_saved(layer, dy_given, y_given, gates, c);

  const OptionalTensor h0 = prepare(h0_given, dtype), c0 = prepare(c0_given, state);
  const OptionalTensor dy = prepare(dy_given, dtype), dh_n = prepare(dh_n_given, dtype);
  const OptionalTensor dc_n = prepare(dc_n_given, state);
  const Tensor y = prepare(y_given, dtype);
  const Tensor dgates = kOverwrite ? gates : empty(x, {d.D, d.N, 4, d.H}, dtype);
  const Tensor dc0 = empty(x, {d.D, d.B, d.H}, state);
  OptionalTensor dh0, dh, h_cell;
  if (needs & kH0) dh0 = empty(x, {d.D, d.B, d.P}, dtype);
  if (w_hr) {
    dh = empty(x, {d.D, d.N, d.P}, dtype);
    h_cell = empty(x, {d.D, d.N, d.H}, dtype);
  }

  LayerBackward p{};
  p.cell = Cell(cell);
  p.dtype = dtype;
  p.d = d;
  p.offsets = layer.offsets.data();
  for (int64_t i = 0; i < d.D; ++i) {
    p.w_hh[i] = layer.directions[i].w_hh.const_data_ptr();
    p.w_hr[i] = data(layer.directions[i].w_hr);
  }
  p.c0 = data(c0);
  p.gates = gates.const_data_ptr();
  p.c = c.const_data_ptr();
  p.dy = data(dy);
  p.dh_n = data(dh_n);
  p.dc_n = data(dc_n);
  p.dgates = data(dgates);
  p.dh0 = dh0 ? data(*dh0) : nullptr;
  p.dc0 = data(dc0);
  p.dh = dh ? data(*dh) : nullptr;
  p.h_cell = h_cell ? data(*h_cell) : nullptr;
  const Run run(x, layer.variant->backward_workspace(p));
  if (d.N > 0) layer.variant->backward(p, run.context());

  OptionalTensor dx;
  if (needs & kX) dx = input_gradient(layer, dgates);
  if (dx && x.dim() == 3)
    dx = view(*dx, {d.T, d.B, layer.I}, {std::max<int64_t>(d.B, 1) * layer.I, layer.I, 1});
  Gradients g[kMaxDirections];
  for (int64_t i = 0; i < d.D; ++i)
    g[i] = weight_gradients(layer, matrix(dgates, d.N, 4 * d.H, i * d.N * 4 * d.H), y, h0, dh,
                            h_cell, i, needs);
  // Each empty result is a tensor of its own: an op must not return one tensor twice.
  const auto out = [&](const OptionalTensor& t) {
    return t ? prepare(*t, layer.storage) : empty(x, {0}, layer.storage);
  };
  return {out(dx),        out(dh0),       needs & kC0 ? out(dc0) : out(std::nullopt),
          out(g[0].w_ih), out(g[0].w_hh), out(g[0].bias),
          out(g[0].w_hr), out(g[1].w_ih), out(g[1].w_hh),
          out(g[1].bias), out(g[1].w_hr)};
}

template decltype(layer_backward<false>) layer_backward<false>;
template decltype(layer_backward<true>) layer_backward<true>;

}  // namespace lf::ops
