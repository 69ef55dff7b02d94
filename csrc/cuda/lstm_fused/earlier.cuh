// What went wrong in an earlier launch, said at the start of every pass of every CUDA variant: the
// host waits for no launch, and a kernel cannot throw.
#pragma once

#include <stdexcept>

#include "cuda/lstm_fused/dev.cuh"

namespace lf::cuda {

// Throws if a launch of cuda.grid on the current device was given up (grid.cuh: look_again) since
// this was last asked.
inline void say_what_failed_earlier() {
  if (!dev::take_alarm()) return;
  throw std::runtime_error(
      "lstm_fused: the results of an earlier call on this GPU are wrong, NaN for the most part. "
      "The blocks of a launch of cuda.grid must all run at once, and some waited for others in "
      "vain, for 10 seconds or more. Probably another such launch ran beside it, as two captured "
      "CUDA graphs do that are replayed at once, or another process by MPS. Replay such graphs one "
      "after the other, or choose another kernel: lstm_fused.variant(\"cuda.step\"). What is "
      "called from now on is right again");
}

}  // namespace lf::cuda
