// Small tools over torch's stable ABI. Every file that includes torch pins the ABI to 2.10 here, so
// that one binary serves every torch from 2.10 on.
#pragma once

#define TORCH_TARGET_VERSION 0x020a000000000000ULL
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>

#include "common/types.h"

namespace lf::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

DType dtype_of(const Tensor& t);
ScalarType scalar_type(DType dtype);

// Uninitialised, contiguous, on the device of `like`.
Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes, DType dtype);
Tensor empty_bytes(const Tensor& like, size_t bytes);

// Fills memory of the CPU with NaN where the tests ask for it (LSTM_FUSED_POISON): torch's own
// switch for that is above our allocations.
void poison(void* memory, size_t bytes);

// A strided view without a dispatcher round trip (0.2 us against 1); offset in elements from the
// tensor's own start.
Tensor view(const Tensor& t, std::initializer_list<int64_t> sizes,
            std::initializer_list<int64_t> strides, int64_t offset = 0);
// [rows, columns] of a contiguous tensor from an element offset on.
Tensor matrix(const Tensor& t, int64_t rows, int64_t columns, int64_t offset = 0);
Tensor transposed(const Tensor& t);

// Contiguous and of the wanted dtype; the tensor itself where it is so already.
Tensor prepare(const Tensor& t, DType dtype);
OptionalTensor prepare(const OptionalTensor& t, DType dtype);

// out = a b, and out = bias + a b; bias may be out.
void mm(const Tensor& out, const Tensor& a, const Tensor& b);
void addmm(const Tensor& out, const Tensor& bias, const Tensor& a, const Tensor& b);

inline void* data(const Tensor& t) { return t.mutable_data_ptr(); }
inline const void* data(const OptionalTensor& t) { return t ? t->const_data_ptr() : nullptr; }

}  // namespace lf::ops
