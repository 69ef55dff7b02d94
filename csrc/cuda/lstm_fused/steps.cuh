// Where the rows of each step are, for kernels that run a whole sequence.
#pragma once

#include <vector>

#include "cuda/lstm_fused/upload.cuh"

namespace lf::cuda {

inline bool is_ragged(const Dims& d) { return d.N != d.T * d.B; }

// Bytes of what upload_steps writes, for slices of so many batch rows.
inline size_t steps_bytes(const Dims& d, int rows) {
  return is_ragged(d) ? (d.T + 1 + ceil_div(d.B, rows)) * sizeof(int64_t) : 0;
}

// The offsets [T + 1] and behind them the steps that each slice of `rows` batch rows has; nullptr
// where every row has all.
inline const int64_t* upload_steps(const Context& context, const Dims& d, const int64_t* offsets,
                                   int rows, void* place) {
  if (!is_ragged(d)) return nullptr;
  std::vector<int64_t> numbers(offsets, offsets + d.T + 1);
  int64_t steps = d.T;
  for (int64_t row = 0; row < d.B; row += rows) {
    while (offsets[steps] - offsets[steps - 1] <= row) --steps;
    numbers.push_back(steps);
  }
  int64_t* const to = static_cast<int64_t*>(place);
  upload(context, to, numbers.data(), int64_t(numbers.size()));
  return to;
}

}  // namespace lf::cuda
