// Backward of one layer: the variant turns the saved gates into their gradients; large products
// over all rows, its own or torch's, give the gradients of the input and the weights.
#include <algorithm>

#include "ops/ops.h"
#include "ops/products.h"

namespace lf::ops {
namespace {

// Room for what is wanted. A layer without rows has gradients of zero.
Gradients allocate_gradients(const Layer& layer, int64_t needs) {
  const Dims& d = layer.d;
  const auto room = [&](int64_t need, std::initializer_list<int64_t> sizes) -> OptionalTensor {
    if (!(needs & need)) return std::nullopt;
    return d.N > 0 ? empty(layer.x, sizes, layer.dtype)
                   : torch::stable::new_zeros(layer.x, {sizes.begin(), sizes.size()},
                                              scalar_type(layer.dtype));
  };
  const int64_t gates = 4 * d.H;
  Gradients out;
  out.x = room(kX, {d.N, layer.I});
  for (int64_t i = 0; i < d.D; ++i)
    out.directions[i] = {room(kWih, {gates, layer.I}), room(kWhh, {gates, d.P}),
                         room(kBias, {gates}),
                         layer.directions[i].w_hr ? room(kWhr, {d.P, d.H}) : std::nullopt};
  return out;
}

void check_saved(const Layer& layer, const OptionalTensor& dy, const Tensor& y, const Tensor& gates,
                 const Tensor& c) {
  const Dims& d = layer.d;
  const int64_t outputs = d.N * d.D * d.P;
  STD_TORCH_CHECK(gates.numel() == d.D * d.N * 4 * d.H && dtype_of(gates) == layer.storage &&
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
                                 batch_sizes, cell, How::backward(variant));
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
  // Over the gates if they may be; else a variant that needs them for its own products alone finds
  // a place for some at a time.
  OptionalTensor dgates;
  if (kOverwrite && layer.storage == dtype)
    dgates = gates;
  else if (!layer.variant->whole_backward)
    dgates = empty(x, {d.D, d.N, 4, d.H}, dtype);
  const Tensor dc0 = empty(x, {d.D, d.B, d.H}, state);
  OptionalTensor dh0, dh, h_cell;
  if (needs & kH0) dh0 = empty(x, {d.D, d.B, d.P}, dtype);
  if (w_hr) {
    dh = empty(x, {d.D, d.N, d.P}, dtype);
    h_cell = empty(x, {d.D, d.N, d.H}, dtype);
  }

  Gradients g = allocate_gradients(layer, needs);
  const auto address = [](const OptionalTensor& t) { return t ? data(*t) : nullptr; };
  LayerBackward p{};
  p.cell = Cell(cell);
  p.dtype = dtype;
  p.storage = layer.storage;
  p.d = d;
  p.offsets = layer.offsets.data();
  p.I = layer.I;
  p.x = layer.x.const_data_ptr();
  for (int64_t i = 0; i < d.D; ++i) {
    p.w_ih[i] = layer.directions[i].w_ih.const_data_ptr();
    p.w_hh[i] = layer.directions[i].w_hh.const_data_ptr();
    p.w_hr[i] = data(layer.directions[i].w_hr);
    p.dw_ih[i] = address(g.directions[i].w_ih);
    p.dw_hh[i] = address(g.directions[i].w_hh);
    p.db[i] = address(g.directions[i].bias);
    p.dw_hr[i] = address(g.directions[i].w_hr);
  }
  p.h0 = data(h0);
  p.c0 = data(c0);
  p.y = y.const_data_ptr();
  p.gates = gates.const_data_ptr();
  p.c = c.const_data_ptr();
  p.dy = data(dy);
  p.dh_n = data(dh_n);
  p.dc_n = data(dc_n);
  p.dgates = address(dgates);
  p.dh0 = address(dh0);
  p.dc0 = data(dc0);
  p.dh = address(dh);
  p.h_cell = address(h_cell);
  p.dx = address(g.x);
  if (d.N > 0) {
    Run run(layer, x);
    run.allocate(x, layer.variant->backward_workspace(p, run.context().threads));
    layer.variant->backward(p, run.context());
    if (!layer.variant->whole_backward) multiply_gradients(layer, {h0, y, *dgates, dh, h_cell}, g);
  }

  if (g.x && x.dim() == 3)
    g.x = view(*g.x, {d.T, d.B, layer.I}, {std::max<int64_t>(d.B, 1) * layer.I, layer.I, 1});
  // Each empty result is a tensor of its own: an op must not return one tensor twice.
  const auto out = [&](const OptionalTensor& t) {
    return t ? prepare(*t, layer.storage) : empty(x, {0}, layer.storage);
  };
  const auto& [first, second] = g.directions;
  return {out(g.x),         out(dh0),         needs & kC0 ? out(dc0) : out(std::nullopt),
          out(first.w_ih),  out(first.w_hh),  out(first.bias),
          out(first.w_hr),  out(second.w_ih), out(second.w_hh),
          out(second.bias), out(second.w_hr)};
}

template decltype(layer_backward<false>) layer_backward<false>;
template decltype(layer_backward<true>) layer_backward<true>;

}  // namespace lf::ops
