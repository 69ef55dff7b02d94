#include "ops/tensors.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

// These live in libtorch_cuda. Weak, so that the same binary loads into a CPU build of torch.
extern "C" {
__attribute__((weak)) AOTITorchError aoti_torch_cuda_mm_out(AtenTensorHandle out,
                                                            AtenTensorHandle self,
                                                            AtenTensorHandle mat2);
__attribute__((weak)) AOTITorchError aoti_torch_cuda_addmm_out(AtenTensorHandle out,
                                                               AtenTensorHandle self,
                                                               AtenTensorHandle mat1,
                                                               AtenTensorHandle mat2, double beta,
                                                               double alpha);
}

namespace lf::ops {

DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      return DType::f16;
    default:
      STD_TORCH_CHECK(false, "lstm_fused computes in float16, bfloat16, float32 and float64, got ",
                      torch::headeronly::toString(t.scalar_type()));
  }
}

ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ScalarType::Float;
    case DType::f64:
      return ScalarType::Double;
    case DType::bf16:
      return ScalarType::BFloat16;
    case DType::f16:
      return ScalarType::Half;
  }
  STD_TORCH_CHECK(false, "unknown dtype code ", int(dtype));
}

void poison(void* memory, size_t bytes) {
  static const bool asked_for = std::getenv("LSTM_FUSED_POISON") != nullptr;
  if (asked_for && bytes > 0) std::memset(memory, 0xff, bytes);
}

// On a CPU straight from the allocator: new_empty passes the dispatcher twice, 1.5 us against 0.4.
static Tensor empty(const Tensor& like, const int64_t* sizes, size_t dims, ScalarType dtype) {
  constexpr size_t kMaxDims = 4;
  STD_TORCH_CHECK(dims <= kMaxDims, "a tensor of ", dims, " dimensions");
  int64_t strides[kMaxDims], step = 1;
  for (size_t k = dims; k-- > 0; step *= std::max<int64_t>(sizes[k], 1)) strides[k] = step;
  int32_t device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle out;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(dims), sizes, strides, int32_t(dtype),
                                                  device, like.get_device_index(), &out));
  const Tensor result(out);
  if (!result.is_cuda()) poison(data(result), size_t(result.numel()) * result.element_size());
  return result;
}

Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes, DType dtype) {
  return empty(like, sizes.begin(), sizes.size(), scalar_type(dtype));
}

Tensor empty_bytes(const Tensor& like, size_t bytes) {
  const int64_t size = int64_t(bytes);
  return empty(like, &size, 1, ScalarType::Byte);
}

Tensor view(const Tensor& t, std::initializer_list<int64_t> sizes,
            std::initializer_list<int64_t> strides, int64_t offset) {
  AtenTensorHandle out;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(
      t.get(), int64_t(sizes.size()), sizes.begin(), strides.begin(), offset, &out));
  return Tensor(out);
}

Tensor matrix(const Tensor& t, int64_t rows, int64_t columns, int64_t offset) {
  return view(t, {rows, columns}, {columns, 1}, offset);
}

Tensor transposed(const Tensor& t) {
  return view(t, {t.size(1), t.size(0)}, {t.stride(1), t.stride(0)});
}

Tensor prepare(const Tensor& t, DType dtype) {
  const ScalarType wanted = scalar_type(dtype);
  const Tensor typed = t.scalar_type() == wanted ? t : torch::stable::to(t, wanted);
  return typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
}

OptionalTensor prepare(const OptionalTensor& t, DType dtype) {
  return t ? OptionalTensor(prepare(*t, dtype)) : std::nullopt;
}

void mm(const Tensor& out, const Tensor& a, const Tensor& b) {
  const auto product = out.is_cuda() ? aoti_torch_cuda_mm_out : aoti_torch_cpu_mm_out;
  TORCH_ERROR_CODE_CHECK(product(out.get(), a.get(), b.get()));
}

void addmm(const Tensor& out, const Tensor& bias, const Tensor& a, const Tensor& b) {
  const auto product = out.is_cuda() ? aoti_torch_cuda_addmm_out : aoti_torch_cpu_addmm_out;
  TORCH_ERROR_CODE_CHECK(product(out.get(), bias.get(), a.get(), b.get(), 1.0, 1.0));
}

}  // namespace lf::ops
