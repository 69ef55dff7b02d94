// Numbers of 16 bits for the tests without torch, rounded to the nearest, ties to even. Finite
// numbers only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "scan_oracle.h"

namespace lf::check {

// The upper half of a float.
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

// IEEE 754: 5 bits of exponent, 10 of the significand.
struct Float16 {
  uint16_t bits = 0;

  Float16() = default;
  Float16(double value) {
    const double size = std::fabs(value);
    const int exponent = size < 0x1p-14 ? -14 : std::ilogb(size);
    // 1024 to 2048 of these units, or fewer for a subnormal number; 2048 carries into the exponent.
    const auto units = uint16_t(std::nearbyint(std::ldexp(size, 10 - exponent)));
    bits = uint16_t((exponent + 14) << 10) + units;
    if (std::signbit(value)) bits |= 0x8000;
  }
  explicit operator float() const {
    const int exponent = bits >> 10 & 31, units = bits & 1023;
    const double size = exponent ? std::ldexp(1024 + units, exponent - 25) : std::ldexp(units, -24);
    return float(bits >> 15 ? -size : size);
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

template <>
struct Storage<check::Float16> {
  using State = float;
  static constexpr DType kDType = DType::f16;
  static constexpr const char* kName = "float16";
  static constexpr double kEps = 0x1p-10, kTolerance = 2;
};

}  // namespace lf::oracle
