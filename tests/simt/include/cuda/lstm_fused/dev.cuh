// The twin of csrc/cuda/lstm_fused/dev.cuh for the SIMT machine: every launch and copy happens at
// once.
#pragma once

#include <cstring>
#include <utility>

#include "contract/params.h"
#include "machine.h"

namespace lf::dev {

struct Grid {
  dim3 blocks;
  unsigned threads;
  size_t shared = 0;
  unsigned cluster = 1;
  bool cooperative = false;
};

template <class Parameters>
void launch(const Context&, const Grid& grid, void (*kernel)(Parameters), const Parameters& p) {
  simt::run({grid.blocks, grid.threads, grid.shared, grid.cluster, grid.cooperative},
            [&] { kernel(p); });
}

template <class Parameters>
void launch_in_turn(const Context& context, const Grid& grid, void (*kernel)(Parameters),
                    const Parameters& p) {
  launch(context, grid, kernel, p);
}

inline unsigned patience_here = 1u << 25;
inline unsigned patience() { return patience_here; }
inline uint32_t alarm_here = 0;
inline uint32_t* alarm() { return &alarm_here; }
inline bool take_alarm() { return std::exchange(alarm_here, 0u) != 0; }

inline void copy(const Context&, void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}

inline void fill(const Context&, void* to, int byte, size_t bytes) { std::memset(to, byte, bytes); }

inline void copy_rows(const Context&, void* to, size_t to_stride, const void* from,
                      size_t from_stride, size_t bytes, size_t rows) {
  for (size_t row = 0; row < rows; ++row)
    std::memcpy(static_cast<char*>(to) + row * to_stride,
                static_cast<const char*>(from) + row * from_stride, bytes);
}

struct Limits {
  int capability;
  size_t shared;
  int multiprocessors;
};
// A small GPU, so that a batch soon needs groups of blocks to take turns.
inline Limits limits_here{90, 227 << 10, 8};
inline Limits limits() { return limits_here; }

// One at the least, so that every cluster can be tried, unless there is nothing to run it.
template <class Parameters>
int clusters_at_once(const Grid& grid, void (*)(Parameters)) {
  if (limits_here.multiprocessors == 0) return 0;
  const int clusters = limits_here.multiprocessors / int(grid.cluster);
  return clusters > 0 ? clusters : 1;
}

inline const char* why_not_here() { return nullptr; }

}  // namespace lf::dev
