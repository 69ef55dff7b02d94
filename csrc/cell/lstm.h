// One LSTM unit: Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, in the
// form and gate order (i, f, g, o) of torch.nn.LSTM.
//
//   i = sigmoid(pre_i)   f = sigmoid(pre_f)   g = tanh(pre_g)   o = sigmoid(pre_o)
//   c = f c_prev + i g   h = o tanh(c)
#pragma once

#include "common/math.h"

namespace lf::LF_ISA {

struct LstmCell {
  static constexpr int kGates = 4;
  static constexpr LF_FN bool is_sigmoid(int gate) { return gate != 2; }

  // gate: pre-activations in, activations out. c: c_prev in, c out. kept: the activations as 16
  // bits keep them.
  template <class V>
  static LF_FN void forward(V (&gate)[kGates], V& c, V& h, V (&kept)[kGates]) {
    update(gate, c, kept);
    h = output(gate[3], c);
  }

  // The two halves of forward.
  template <class V>
  static LF_FN void update(V (&gate)[kGates], V& c, V (&kept)[kGates]) {
    gate[0] = sigmoid(gate[0], kept[0]);
    gate[1] = sigmoid(gate[1], kept[1]);
    gate[2] = kept[2] = tanh(gate[2]);
    gate[3] = sigmoid(gate[3], kept[3]);
    c = gate[1] * c + gate[0] * gate[2];
  }
  template <class V>
  static LF_FN V output(V o, V c) {
    return o * tanh(c);
  }

  // gate: activations in, gradients of the pre-activations out. dc: gradient of c that the later
  // steps sent in, gradient of c_prev out. h: recomputed output, for the projection's weight
  // gradient.
  template <class V>
  static LF_FN void backward(V (&gate)[kGates], V c_prev, V c, V dh, V& dc, V& h) {
    const V i = gate[0], f = gate[1], g = gate[2], o = gate[3], one = V(1);
    const V tanh_c = tanh(c);
    h = o * tanh_c;
    dc = dc + dh * o * ((one - tanh_c) * (one + tanh_c));
    gate[0] = dc * g * i * (one - i);
    gate[1] = dc * c_prev * f * (one - f);
    gate[2] = dc * i * ((one - g) * (one + g));
    gate[3] = dh * h * (one - o);
    dc = dc * f;
  }
};

}  // namespace lf::LF_ISA
