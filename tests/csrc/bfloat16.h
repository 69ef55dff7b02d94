// bfloat16 for the tests without torch: the upper half of a float, rounded to the nearest, ties to
// even. Finite numbers only.
#pragma once

#include <cstdint>
#include <cstring>

#include "scan_oracle.h"

namespace lf::check {

struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  BFloat16(double value) {
    const float narrow = float(value);
    uint32_t wide;
    std::memcpy(&wide, &narrow, sizeof wide);
    bits = uint16_t((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
  }
  explicit operator float() const {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
};

}  // namespace lf::check

namespace lf::oracle {

template <>
struct Storage<check::BFloat16> {
  using State = float;
  static constexpr DType kDType = DType::bf16;
  static constexpr const char* kName = "bfloat16";
  static constexpr double kEps = 0x1p-7, kTolerance = 2;
};

}  // namespace lf::oracle
