// Forward of one layer: project the input by one large product, unless the variant does the whole
// layer, then let it run.
#include <algorithm>

#include "ops/ops.h"
#include "ops/products.h"

namespace lf::ops {

Forward layer_forward(const Tensor& x, const OptionalTensor& h0, const OptionalTensor& c0,
                      const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& b_ih,
                      const OptionalTensor& b_hh, const OptionalTensor& w_hr,
                      const OptionalTensor& w_ih_reverse, const OptionalTensor& w_hh_reverse,
                      const OptionalTensor& b_ih_reverse, const OptionalTensor& b_hh_reverse,
                      const OptionalTensor& w_hr_reverse, const OptionalTensor& batch_sizes,
                      int64_t cell, int64_t variant, bool save) {
  const Layer layer =
      make_layer(x, {w_ih, w_hh, b_ih, b_hh, w_hr},
                 {w_ih_reverse, w_hh_reverse, b_ih_reverse, b_hh_reverse, w_hr_reverse},
                 batch_sizes, cell, How::forward(variant));
  const Dims& d = layer.d;
  const int64_t gate_rows = 4 * d.H;
  check_state("h0", h0, x, d, d.P);
  check_state("c0", c0, x, d, d.H);

  const DType state = state_dtype(layer.dtype);
  const bool project = !layer.variant->whole_forward;
  const Tensor gates = empty(x, {save ? d.D : 0, d.N, 4, d.H}, layer.storage);
  const Tensor work = project && !save ? empty(x, {d.D, d.N, 4, d.H}, layer.dtype) : gates;
  const Tensor c = empty(x, {save ? d.D : 0, d.N, d.H}, state);
  const Tensor y = empty(x, {d.N, d.D * d.P}, layer.dtype);
  const Tensor h_n = empty(x, {d.D, d.B, d.P}, layer.dtype);
  const Tensor c_n = empty(x, {d.D, d.B, d.H}, state);
  const OptionalTensor h0_ready = prepare(h0, layer.dtype), c0_ready = prepare(c0, state);

  LayerForward p{};
  p.cell = Cell(cell);
  p.dtype = layer.dtype;
  p.storage = layer.storage;
  p.d = d;
  p.offsets = layer.offsets.data();
  p.I = layer.I;
  p.x = layer.x.const_data_ptr();
  for (int64_t i = 0; i < d.D; ++i) {
    const Direction& w = layer.directions[i];
    p.w_ih[i] = w.w_ih.const_data_ptr();
    p.b_ih[i] = data(w.b_ih);
    p.b_hh[i] = data(w.b_hh);
    p.w_hh[i] = w.w_hh.const_data_ptr();
    p.w_hr[i] = data(w.w_hr);
  }
  p.h0 = data(h0_ready);
  p.c0 = data(c0_ready);
  p.gates = data(work);
  p.y = data(y);
  p.h_n = data(h_n);
  p.c_n = data(c_n);
  p.c = save ? data(c) : nullptr;

  if (d.N > 0) {
    Run run(layer, x);
    run.allocate(x, layer.variant->forward_workspace(p));
    for (int64_t i = 0; project && i < d.D; ++i)
      project_input(layer, layer.directions[i], matrix(work, d.N, gate_rows, i * d.N * gate_rows));
    layer.variant->forward(p, run.context());
  }
  const Tensor shaped = x.dim() == 3 ? view(y, {d.T, d.B, d.D * d.P},
                                            {std::max<int64_t>(d.B, 1) * d.D * d.P, d.D * d.P, 1})
                                     : y;
  return {prepare(shaped, layer.storage), prepare(h_n, layer.storage), prepare(c_n, layer.storage),
          gates, c};
}

}  // namespace lf::ops
