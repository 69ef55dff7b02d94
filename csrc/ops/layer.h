// What the forward and the backward op share: checked shapes, and the context that a variant runs
// in.
#pragma once

#include <vector>

#include "dispatch/registry.h"
#include "ops/tensors.h"

namespace lf::ops {

// Each step has an offset on the host: 2 GiB of them.
constexpr int64_t kMaxSteps = int64_t(1) << 28;

// The tensors of one direction, contiguous.
struct Direction {
  Tensor w_ih;          // [4H, I] storage dtype, as all w
  Tensor w_hh;          // [4H, P]
  OptionalTensor b_ih;  // [4H] compute dtype, as all b
  OptionalTensor b_hh;  // [4H]
  OptionalTensor w_hr;  // [P, H]
};

struct Layer {
  Cell cell;
  Dims d;
  int64_t I;
  DType storage;                 // of the tensors given and returned
  DType dtype;                   // computed in: CPUs compute 16-bit storage in float32
  std::vector<int64_t> offsets;  // [T + 1]
  Tensor x;                      // [N, I]
  std::vector<Direction> directions;
  const Variant* variant;
  bool tf32;  // Context
};

// One direction's weights as an op receives them.
struct Weights {
  const OptionalTensor& w_ih;
  const OptionalTensor& w_hh;
  const OptionalTensor& b_ih;
  const OptionalTensor& b_hh;
  const OptionalTensor& w_hr;
};

// What the op's argument `variant` says of a pass.
struct How {
  int64_t code;
  int64_t variant;  // its place in the table, or less than 0
  bool tf32;        // Context

  static How forward(int64_t code);
  static How backward(int64_t code);
};

// Checks every shape, and says what is wrong by the argument's name. x is [T, B, I], or [N, I] with
// batch_sizes [T] on the CPU. Without reverse.w_ih there is one direction.
Layer make_layer(const Tensor& x, const Weights& forward, const Weights& reverse,
                 const OptionalTensor& batch_sizes, int64_t cell, const How& how);

// A state or its gradient: [D, B, size] like x, or absent.
void check_state(const char* name, const OptionalTensor& t, const Tensor& x, const Dims& d,
                 int64_t size);

// The device guard, stream and workspace of one run.
class Run {
 public:
  Run(const Layer& layer, const Tensor& like);
  void allocate(const Tensor& like, size_t workspace);
  const Context& context() const { return context_; }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  std::optional<Tensor> workspace_;
  Context context_{};
};

}  // namespace lf::ops
