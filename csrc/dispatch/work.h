// What a scan asks of a GPU, as the plans of the CUDA variants cut it. lstm_fused/costs.py knows
// what each of these takes. Counting needs neither a GPU nor a build for one.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include "contract/params.h"

namespace lf {

struct ScanQuestion {
  std::string_view variant;  // "cuda.block", "cuda.cluster" or "cuda.grid"
  bool backward;
  DType dtype;
  bool tf32;  // Context's
  int64_t B, H;
  int D;
  int multiprocessors;
  size_t shared;  // bytes of shared memory that a block may have
};

// A part of the batch.
struct ScanShare {
  int turns;       // groups of rows that its slices run in turns
  int rounds = 0;  // of loads, one behind the other, that a turn waits for (grid_plan.h)
};

struct ScanWork {
  int launches;  // one after the other, as the shares
  std::vector<ScanShare> shares;
  double multiply_adds;           // of a turn's product, on one multiprocessor
  size_t fragments;               // bytes of W_hh that it reads out of shared memory for that
  size_t streamed = 0;            // and out of L2 (grid_plan.h)
  size_t streamed_by_all = 0;     // that, of all multiprocessors
  std::string_view product = {};  // Product's name (product_plan.h)
};

// Nothing for another variant, and for a layer that has no kernel or no room on any GPU like this.
std::optional<ScanWork> scan_work(const ScanQuestion& q);

}  // namespace lf
