// Names that every layer of the library shares.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lf {

// The codes are part of the Python interface: lstm_fused/ops.py holds the same list, a test
// compares.
enum class DType : int32_t { f32 = 0, f64 = 1, bf16 = 2, f16 = 3 };
enum class Device : int32_t { cpu = 0, cuda = 1 };
enum class Cell : int32_t { lstm = 0 };

// static, as everything here: a copy of its own for every file, so the linker has none to choose
// from (macros.h).
static constexpr size_t element_size(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

// What gates are computed and cell states kept in: float for the 16-bit storage types.
static constexpr DType state_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

constexpr int kMaxDirections = 2;

static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace lf
