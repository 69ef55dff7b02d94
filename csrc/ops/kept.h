// Gates between forward and backward of a layer whose kernels compute in another dtype than its
// tensors have: CPU kernels, 16-bit tensors.
#pragma once

#include "ops/layer.h"

namespace lf::ops {

// The activated gates [D, N, 4, H] in the dtype to keep them in; may overwrite `gates`.
Tensor keep_gates(const Layer& layer, const Tensor& gates);
// The same gates in the dtype of the kernels: another tensor, or `kept` itself where that fits.
Tensor kept_gates(const Layer& layer, const Tensor& kept);

}  // namespace lf::ops
