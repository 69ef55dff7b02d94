// The products over all rows of a layer, by torch: for variants that leave them to their caller.
#pragma once

#include "ops/layer.h"

namespace lf::ops {

// gates [N, 4H] of one direction = x w_ih^T + b_ih + b_hh.
void project_input(const Layer& layer, const Direction& weights, const Tensor& gates);

// What backward gives of the input and, per direction, of the weights; absent: not wanted.
struct Gradients {
  OptionalTensor x;  // [N, I]
  struct {
    OptionalTensor w_ih, w_hh, bias, w_hr;
  } directions[kMaxDirections];
};

// What a scan leaves and started from: h0 [D, B, P], y [N, D*P], dgates [D, N, 4, H], and with a
// projection dh [D, N, P] and h_cell [D, N, H].
struct Scanned {
  const OptionalTensor& h0;
  const Tensor& y;
  const Tensor& dgates;
  const OptionalTensor& dh;
  const OptionalTensor& h_cell;
};

void multiply_gradients(const Layer& layer, const Scanned& scanned, Gradients& out);

}  // namespace lf::ops
