// Random numbers that are the same on every machine.
#pragma once

#include <cstdint>

namespace lf::oracle {

// SplitMix64.
struct Random {
  uint64_t state;

  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  int64_t from_to(int64_t low, int64_t high) { return low + int64_t(next() % (high - low + 1)); }
  bool one_in(int n) { return next() % n == 0; }
};

}  // namespace lf::oracle
