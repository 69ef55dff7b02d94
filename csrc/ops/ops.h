// The functions behind the registered ops; schema.cpp gives their schemas.
#pragma once

#include <tuple>

#include "ops/tensors.h"

namespace lf::ops {

// y [T, B, D*P] or [N, D*P], h_n [D, B, P], c_n [D, B, H], and for backward gates [D, N, 4, H]
// in the dtype of x and c [D, N, H] in its state dtype, both empty unless save.
using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Forward layer_forward(const Tensor& x, const OptionalTensor& h0, const OptionalTensor& c0,
                      const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& b_ih,
                      const OptionalTensor& b_hh, const OptionalTensor& w_hr,
                      const OptionalTensor& w_ih_reverse, const OptionalTensor& w_hh_reverse,
                      const OptionalTensor& b_ih_reverse, const OptionalTensor& b_hh_reverse,
                      const OptionalTensor& w_hr_reverse, const OptionalTensor& batch_sizes,
                      int64_t cell, int64_t variant, bool save);

// The argument `variant`: a place in the table, or less than 0: the first that takes the layer. To
// a place may be added kTf32 (Context::tf32), and, where another variant runs backward, 1 + its
// place times kBackward. Part of the Python interface.
constexpr int64_t kTf32 = 256, kBackward = 512;

// Which gradients are wanted; the others come back empty. The codes are part of the Python
// interface.
enum Need : int64_t { kX = 1, kH0 = 2, kC0 = 4, kWih = 8, kWhh = 16, kBias = 32, kWhr = 64 };

// dx, dh0, dc0, then dw_ih, dw_hh, dbias (of either bias), dw_hr of each direction.
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                            Tensor, Tensor>;

// kOverwrite: the gradients of the gates are written over the gates.
template <bool kOverwrite>
Backward layer_backward(const OptionalTensor& dy, const OptionalTensor& dh_n,
                        const OptionalTensor& dc_n, const Tensor& x, const OptionalTensor& h0,
                        const OptionalTensor& c0, const Tensor& w_ih, const Tensor& w_hh,
                        const OptionalTensor& w_hr, const OptionalTensor& w_ih_reverse,
                        const OptionalTensor& w_hh_reverse, const OptionalTensor& w_hr_reverse,
                        const Tensor& y, const Tensor& gates, const Tensor& c,
                        const OptionalTensor& batch_sizes, int64_t cell, int64_t variant,
                        int64_t needs);

}  // namespace lf::ops
