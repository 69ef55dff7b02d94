// Every op of the library. layer is layer_forward with an autograd formula, which Python registers;
// the others know no autograd. The argument lists stand once here and once in lstm_fused/ops.py.
#include "ops/ops.h"

#define LF_STATE "Tensor x, Tensor? h0, Tensor? c0, "
#define LF_WEIGHTS(suffix, must)                                                                   \
  "Tensor" must " weight_ih" suffix ", Tensor" must " weight_hh" suffix ", Tensor? bias_ih" suffix \
  ", Tensor? bias_hh" suffix ", Tensor? weight_hr" suffix ", "
#define LF_MATRICES(suffix, must)                                       \
  "Tensor" must " weight_ih" suffix ", Tensor" must " weight_hh" suffix \
  ", Tensor? weight_hr" suffix ", "
#define LF_FORWARD \
  "(" LF_STATE LF_WEIGHTS("", "") LF_WEIGHTS("_reverse", "?") "Tensor? batch_sizes, int cell, int variant, " \
  "bool save) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor gates, Tensor c)"
#define LF_BACKWARD(gates)                                                                     \
  "(Tensor? dy, Tensor? dh_n, Tensor? dc_n, " LF_STATE LF_MATRICES("", "") LF_MATRICES(        \
      "_reverse",                                                                              \
      "?") "Tensor y, " gates                                                                  \
           " gates, Tensor c, Tensor? batch_sizes, int cell, int variant, int needs) -> "      \
           "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, " \
           "Tensor)"

STABLE_TORCH_LIBRARY(lstm_fused, m) {
  m.def("layer" LF_FORWARD);
  m.def("layer_forward" LF_FORWARD);
  m.def("layer_backward" LF_BACKWARD("Tensor"));
  m.def("layer_backward_" LF_BACKWARD("Tensor(a!)"));
}

#define LF_IMPLEMENT(m)                                                 \
  m.impl("layer", TORCH_BOX(&lf::ops::layer_forward));                  \
  m.impl("layer_forward", TORCH_BOX(&lf::ops::layer_forward));          \
  m.impl("layer_backward", TORCH_BOX(&lf::ops::layer_backward<false>)); \
  m.impl("layer_backward_", TORCH_BOX(&lf::ops::layer_backward<true>))

STABLE_TORCH_LIBRARY_IMPL(lstm_fused, CPU, m) { LF_IMPLEMENT(m); }
STABLE_TORCH_LIBRARY_IMPL(lstm_fused, CUDA, m) { LF_IMPLEMENT(m); }
