#include "ops/layer.h"

#include "ops/ops.h"

extern "C" {
__attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device,
                                                                        void** stream);
}

namespace lf::ops {
namespace {

#define LF_CHECK_SHAPE(name, t, ...)                                                \
  STD_TORCH_CHECK(has_shape(t, {__VA_ARGS__}), name " must be " #__VA_ARGS__ " = ", \
                  text({__VA_ARGS__}), ", got ", text(t))

bool has_shape(const Tensor& t, std::initializer_list<int64_t> sizes) {
  if (t.dim() != int64_t(sizes.size())) return false;
  int64_t i = 0;
  for (int64_t size : sizes)
    if (t.size(i++) != size) return false;
  return true;
}

template <class Sizes>
std::string text_of(const Sizes& sizes) {
  std::string s = "[";
  for (int64_t size : sizes) s += (s.size() > 1 ? ", " : "") + std::to_string(size);
  return s + "]";
}
std::string text(std::initializer_list<int64_t> sizes) { return text_of(sizes); }
std::string text(const Tensor& t) { return text_of(t.sizes()); }

std::vector<int64_t> offsets_of(const Tensor& x, const OptionalTensor& batch_sizes) {
  std::vector<int64_t> offsets{0};
  if (!batch_sizes) {
    STD_TORCH_CHECK(x.dim() == 3, "x must be [T, B, I], or [N, I] with batch_sizes, got ", text(x));
    STD_TORCH_CHECK(x.size(0) <= kMaxSteps, "x must have at most ", kMaxSteps, " time steps, got ",
                    x.size(0));
    for (int64_t t = 1; t <= x.size(0); ++t) offsets.push_back(t * x.size(1));
    return offsets;
  }
  STD_TORCH_CHECK(x.dim() == 2, "x must be [N, I] where batch_sizes is given, got ", text(x));
  STD_TORCH_CHECK(
      batch_sizes->dim() == 1 && batch_sizes->is_cpu() && batch_sizes->is_contiguous() &&
          batch_sizes->scalar_type() == ScalarType::Long,
      "batch_sizes must be a contiguous 1-D int64 tensor on the CPU, got ", batch_sizes->dim(),
      "-D of dtype ", torch::headeronly::toString(batch_sizes->scalar_type()));
  const int64_t* sizes = batch_sizes->const_data_ptr<int64_t>();
  for (int64_t t = 0; t < batch_sizes->size(0); ++t) {
    STD_TORCH_CHECK(sizes[t] > 0 && (t == 0 || sizes[t] <= sizes[t - 1]),
                    "batch_sizes must be positive and never grow, got ", sizes[t], " at step ", t);
    // Compared before it is added, as a sum of large sizes could wrap around to the right one.
    STD_TORCH_CHECK(sizes[t] <= x.size(0) - offsets.back(), "batch_sizes must add up to the ",
                    x.size(0), " rows of x, got more by step ", t);
    offsets.push_back(offsets.back() + sizes[t]);
  }
  STD_TORCH_CHECK(offsets.back() == x.size(0), "batch_sizes must add up to the ", x.size(0),
                  " rows of x, got a sum of ", offsets.back());
  return offsets;
}

// x decides where a layer runs and in what: a pointer of another device must not reach a kernel.
void check_like(const char* name, const Tensor& t, const Tensor& x) {
  STD_TORCH_CHECK(t.is_cuda() == x.is_cuda() && t.get_device_index() == x.get_device_index(), name,
                  " must be on the device of x");
  STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), name, " must have the dtype of x, ",
                  torch::headeronly::toString(x.scalar_type()), ", got ",
                  torch::headeronly::toString(t.scalar_type()));
}

Direction make_direction(const Weights& w, const Tensor& x, const Dims& d, int64_t I, bool projects,
                         DType dtype) {
  check_like("weight_ih", *w.w_ih, x);
  if (w.w_hh) check_like("weight_hh", *w.w_hh, x);
  if (w.b_ih) check_like("bias_ih", *w.b_ih, x);
  if (w.b_hh) check_like("bias_hh", *w.b_hh, x);
  if (w.w_hr) check_like("weight_hr", *w.w_hr, x);
  const int64_t gates = 4 * d.H, H = d.H, P = d.P;
  STD_TORCH_CHECK(w.w_hh && bool(w.w_hr) == projects,
                  "every direction must have a weight_hh, and all or none a weight_hr");
  LF_CHECK_SHAPE("weight_ih", *w.w_ih, gates, I);
  LF_CHECK_SHAPE("weight_hh", *w.w_hh, gates, P);
  if (w.b_ih) LF_CHECK_SHAPE("bias_ih", *w.b_ih, gates);
  if (w.b_hh) LF_CHECK_SHAPE("bias_hh", *w.b_hh, gates);
  if (w.w_hr) LF_CHECK_SHAPE("weight_hr", *w.w_hr, P, H);
  // A CPU widens matrices as it reads them: a copy of them took most of a step of one row.
  return {prepare(*w.w_ih, dtype_of(x)), prepare(*w.w_hh, dtype_of(x)), prepare(w.b_ih, dtype),
          prepare(w.b_hh, dtype), prepare(w.w_hr, dtype_of(x))};
}

// The GEMM of Context: torch's, on the current stream.
void gemm(const Context& context, DType dtype, Matrix out, Matrix a, Matrix b, bool accumulate) {
  const auto wrap = [&](const Matrix& m) {
    const int64_t sizes[] = {m.rows, m.cols}, strides[] = {m.row_stride, m.col_stride};
    AtenTensorHandle handle;
    TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(
        m.data, 2, sizes, strides, 0, int32_t(scalar_type(dtype)), aoti_torch_device_type_cuda(),
        context.device_index, &handle));
    return Tensor(handle);
  };
  const Tensor result = wrap(out);
  if (accumulate)
    addmm(result, result, wrap(a), wrap(b));
  else
    mm(result, wrap(a), wrap(b));
}

}  // namespace

How How::forward(int64_t code) {
  if (code < 0) return {code, code, false};
  return {code, code % kTf32, code % kBackward >= kTf32};
}

How How::backward(int64_t code) {
  How how = forward(code);
  // An unknown one for forward stays, and is refused.
  const bool known = how.variant < int64_t(variant_table().size());
  if (code >= kBackward && known) how.variant = code / kBackward - 1;
  return how;
}

Layer make_layer(const Tensor& x, const Weights& forward, const Weights& reverse,
                 const OptionalTensor& batch_sizes, int64_t cell, const How& how) {
  const auto [code, variant, tf32] = how;
  STD_TORCH_CHECK(cell == int64_t(Cell::lstm), "unknown cell code ", cell);
  STD_TORCH_CHECK(forward.w_ih && forward.w_ih->dim() == 2 && forward.w_ih->size(0) % 4 == 0,
                  "weight_ih must be [4*H, I]");
  const DType storage = dtype_of(x);
  std::vector<int64_t> offsets = offsets_of(x, batch_sizes);
  Dims d{};
  d.T = int64_t(offsets.size()) - 1;
  STD_TORCH_CHECK(d.T > 0, "x must have at least one time step");
  d.N = offsets.back();
  d.B = offsets[1];
  d.D = reverse.w_ih ? 2 : 1;
  d.H = forward.w_ih->size(0) / 4;
  d.P = forward.w_hr ? forward.w_hr->size(0) : d.H;
  STD_TORCH_CHECK(d.H > 0 && d.P > 0, "hidden_size and proj_size must be greater than zero, got ",
                  d.H, " and ", d.P);
  STD_TORCH_CHECK(reverse.w_ih || !(reverse.w_hh || reverse.b_ih || reverse.b_hh || reverse.w_hr),
                  "the reverse direction must have a weight_ih where it has another weight");
  const int64_t known = int64_t(variant_table().size());
  STD_TORCH_CHECK(variant < known && code < kBackward * (1 + known), "unknown variant code ", code);
  const Device device = x.is_cuda() ? Device::cuda : Device::cpu;
  // A variant asks the current device how much a block may have.
  std::optional<torch::stable::accelerator::DeviceGuard> guard;
  if (x.is_cuda()) guard.emplace(x.get_device_index());
  const char* reason;
  DType dtype = storage;
  const Variant* chosen = choose(device, Cell(cell), dtype, d, tf32, int(variant), &reason);
  if (!chosen && device == Device::cpu) {  // in 16 bits: widen
    dtype = state_dtype(storage);
    chosen = choose(device, Cell(cell), dtype, d, tf32, int(variant), &reason);
  }
  STD_TORCH_CHECK(chosen,
                  variant < 0 ? "no variant takes this layer: " : variant_table()[variant].name,
                  variant < 0 ? "" : " refuses this layer: ", reason);

  const int64_t I = x.size(x.dim() - 1);
  std::vector<Direction> directions;
  for (const Weights* w : {&forward, &reverse})
    if (w->w_ih) directions.push_back(make_direction(*w, x, d, I, bool(forward.w_hr), dtype));
  return {Cell(cell),
          d,
          I,
          storage,
          dtype,
          std::move(offsets),
          matrix(prepare(x, dtype), d.N, I),
          std::move(directions),
          chosen,
          tf32};
}

void check_state(const char* name, const OptionalTensor& t, const Tensor& x, const Dims& d,
                 int64_t size) {
  if (!t) return;
  check_like(name, *t, x);
  STD_TORCH_CHECK(has_shape(*t, {d.D, d.B, size}), name,
                  " must be [D, B, size] = ", text({d.D, d.B, size}), ", got ", text(*t));
}

Run::Run(const Layer& layer, const Tensor& like) {
  context_.tf32 = layer.tf32;
  if (like.is_cuda()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream, "this torch has no CUDA");
    context_.device_index = like.get_device_index();
    guard_.emplace(context_.device_index);
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(context_.device_index, &context_.stream));
    context_.gemm = gemm;
  } else {
    // Asked at every call: OpenMP's own default in a new thread ignores torch.set_num_threads.
    context_.threads = int(torch::stable::get_num_threads());
  }
}

void Run::allocate(const Tensor& like, size_t workspace) {
  if (!workspace) return;
  workspace_ = empty_bytes(like, workspace);
  context_.workspace = data(*workspace_);
}

}  // namespace lf::ops
