// Backward of one layer: the variant turns the saved gates into their gradients, then large
// products over all rows give the gradients of the input and the weights.
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

Backward backward(const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
                  const Tensor& x, const OptionalTensor& h0_given, const OptionalTensor& c0_given,
                  const Layer& layer, const Tensor& y_given, const Tensor& gates, const Tensor& c,
                  int64_t cell, int64_t needs, bool overwrite) {
  const Dims& d = layer.d;
  const DType dtype = layer.dtype, state = state_dtype(dtype);
  const int64_t gate_columns = 4 * d.H;
  const bool projects = bool(layer.directions[0].w_hr);
  check_state("h0", h0_given, d, d.P);
  check_state("c0", c0_given, d, d.H);
  check_state("dh_n", dh_n, d, d.P);
  check_state("dc_n", dc_n, d, d.H);
  STD_TORCH_CHECK(gates.numel() == d.D * d.N * gate_columns && dtype_of(gates) == dtype &&
                      gates.is_contiguous() && c.numel() == d.D * d.N * d.H &&
                      dtype_of(c) == state && c.is_contiguous(),
                  "gates and c must be what layer_forward returned with save = True");
  STD_TORCH_CHECK(y_given.numel() == d.N * d.D * d.P && (!dy || dy->numel() == y_given.numel()),
                  "y and dy must have N*D*P = ", d.N * d.D * d.P, " elements, got ",
                  y_given.numel(), " and ", dy ? dy->numel() : 0);

  const OptionalTensor h0 = prepare(h0_given, dtype), c0 = prepare(c0_given, state);
  const OptionalTensor dy_ready = prepare(dy, dtype), dh_n_ready = prepare(dh_n, dtype);
  const OptionalTensor dc_n_ready = prepare(dc_n, state);
  const Tensor y = prepare(y_given, dtype), none = empty(x, {0}, layer.storage);
  const Tensor dgates = overwrite ? gates : empty(x, {d.D, d.N, 4, d.H}, dtype);
  const Tensor dh0 = needs & kH0 ? empty(x, {d.D, d.B, d.P}, dtype) : none;
  const Tensor dc0 = empty(x, {d.D, d.B, d.H}, state);
  const Tensor dh = projects ? empty(x, {d.D, d.N, d.P}, dtype) : none;
  const Tensor h_cell = projects ? empty(x, {d.D, d.N, d.H}, dtype) : none;

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
  p.dy = data(dy_ready);
  p.dh_n = data(dh_n_ready);
  p.dc_n = data(dc_n_ready);
  p.dgates = data(dgates);
  p.dh0 = needs & kH0 ? data(dh0) : nullptr;
  p.dc0 = data(dc0);
  p.dh = data(dh);
  p.h_cell = data(h_cell);
  const Run run(x, layer.variant->backward_workspace(p));
  if (d.N > 0) layer.variant->backward(p, run.context());

  Tensor dx = needs & kX ? empty(x, {d.N, layer.I}, dtype) : none;
  Tensor dw[kMaxDirections][4] = {{none, none, none, none}, {none, none, none, none}};
  for (int64_t i = 0; i < d.D; ++i) {
    const Direction& w = layer.directions[i];
    const Tensor rows = matrix(dgates, d.N, gate_columns, i * d.N * gate_columns);
    if (needs & kX && i == 0) mm(dx, rows, w.w_ih);
    if (needs & kX && i == 1) addmm(dx, dx, rows, w.w_ih);
    if (needs & kWih) {
      dw[i][0] = empty(x, {gate_columns, layer.I}, dtype);
      mm(dw[i][0], transposed(rows), layer.x);
    }
    if (needs & kWhh) dw[i][1] = weight_hh_gradient(layer, rows, y, h0, i);
    if (needs & kBias) {
      const int64_t dimension = 0;
      dw[i][2] = torch::stable::sum(rows, torch::headeronly::IntHeaderOnlyArrayRef(&dimension, 1));
    }
    if (needs & kWhr && projects) {
      dw[i][3] = empty(x, {d.P, d.H}, dtype);
      mm(dw[i][3], transposed(matrix(dh, d.N, d.P, i * d.N * d.P)),
         matrix(h_cell, d.N, d.H, i * d.N * d.H));
    }
  }
  if (needs & kX && x.dim() == 3) dx = view(dx, {d.T, d.B, layer.I}, {d.B * layer.I, layer.I, 1});
  const auto out = [&](const Tensor& t) { return prepare(t, layer.storage); };
  return {out(dx),       out(dh0),      needs & kC0 ? out(dc0) : none,
          out(dw[0][0]), out(dw[0][1]), out(dw[0][2]),
          out(dw[0][3]), out(dw[1][0]), out(dw[1][1]),
          out(dw[1][2]), out(dw[1][3])};
}

}  // namespace

#define LF_PARAMETERS                                                                          \
  const OptionalTensor &dy, const OptionalTensor &dh_n, const OptionalTensor &dc_n,            \
      const Tensor &x, const OptionalTensor &h0, const OptionalTensor &c0, const Tensor &w_ih, \
      const Tensor &w_hh, const OptionalTensor &w_hr, const OptionalTensor &w_ih_reverse,      \
      const OptionalTensor &w_hh_reverse, const OptionalTensor &w_hr_reverse, const Tensor &y, \
      const Tensor &gates, const Tensor &c, const OptionalTensor &batch_sizes, int64_t cell,   \
      int64_t variant, int64_t needs
#define LF_LAYER                                \
  make_layer(x, {w_ih, w_hh, none, none, w_hr}, \
             {w_ih_reverse, w_hh_reverse, none, none, w_hr_reverse}, batch_sizes, cell, variant)

static const OptionalTensor none;

Backward layer_backward(LF_PARAMETERS) {
  return backward(dy, dh_n, dc_n, x, h0, c0, LF_LAYER, y, gates, c, cell, needs, false);
}

Backward layer_backward_(LF_PARAMETERS) {
  return backward(dy, dh_n, dc_n, x, h0, c0, LF_LAYER, y, gates, c, cell, needs, true);
}

}  // namespace lf::ops
