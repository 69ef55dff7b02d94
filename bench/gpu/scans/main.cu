// A scan by itself, without the products over all rows:   scans LABEL CASE...
//
// A case is dtype:T,B,H,D. Prints a line of JSON for each pass of each case as soon as it is there:
// microseconds a time step, the launch and what is filled before it included. The numbers are
// random, so that the tensor cores draw the power that they draw in a model.
//
// Compiled with LF_SCANS="cuda/grid.cu" and LF_VARIANT=cuda_grid, or another's
// (bench/gpu/scans.py).
#include LF_SCANS

#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

namespace {

using namespace lf;

constexpr int kRepetitions = 9;  // after one that is thrown away

__device__ unsigned hash(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return unsigned((x ^ x >> 31) >> 32);
}

// Evenly between -size and size.
template <class T>
__global__ void draw(T* out, int64_t count, float size, uint64_t seed) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t k = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; k < count; k += step)
    out[k] = T((hash(seed << 40 | k) * 0x1p-31f - 1) * size);
}

// Device memory of random numbers.
template <class T>
class Numbers {
 public:
  Numbers(int64_t count, float size, uint64_t seed) : count_(count) {
    dev::check(cudaMalloc(&data_, size_t(count) * sizeof(T)), "memory");
    draw<<<1024, 256>>>(data_, count, size, seed);
    dev::check(cudaGetLastError(), "random numbers");
  }
  ~Numbers() { cudaFree(data_); }
  Numbers(const Numbers&) = delete;
  operator T*() const { return data_; }
  void copy_to(T* other, cudaStream_t stream) const {
    dev::check(
        cudaMemcpyAsync(other, data_, size_t(count_) * sizeof(T), cudaMemcpyDeviceToDevice, stream),
        "copy");
  }

 private:
  T* data_ = nullptr;
  int64_t count_;
};

struct Case {
  char dtype[8];
  long T, B, H, D;
};

void put(const char* label, const Case& c, const char* pass, std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const double median = values[values.size() / 2];
  const double spread = (values[values.size() * 3 / 4] - values[values.size() / 4]) / median;
  std::printf(
      "{\"%s.%s.t%ldb%ldh%ldd%ld.%s\": {\"unit\": \"us\", \"value\": %.4f, \"spread\": "
      "%.4f, \"parameters\": {}}}\n",
      label, c.dtype, c.T, c.B, c.H, c.D, pass, median, spread);
  std::fflush(stdout);
}

void put_reason(const char* label, const Case& c, const char* reason) {
  std::printf(
      "{\"%s.%s.t%ldb%ldh%ldd%ld\": {\"unit\": \"\", \"value\": null, \"spread\": null, "
      "\"reason\": \"%s\", \"parameters\": {}}}\n",
      label, c.dtype, c.T, c.B, c.H, c.D, reason);
  std::fflush(stdout);
}

// Of each repetition of `work` between two events, `before` outside of them.
std::vector<double> microseconds(cudaStream_t stream, const std::function<void()>& before,
                                 const std::function<void()>& work) {
  cudaEvent_t start, end;
  dev::check(cudaEventCreate(&start), "event");
  dev::check(cudaEventCreate(&end), "event");
  std::vector<double> found;
  for (int k = 0; k <= kRepetitions; ++k) {
    before();
    dev::check(cudaEventRecord(start, stream), "start");
    work();
    dev::check(cudaEventRecord(end, stream), "end");
    dev::check(cudaStreamSynchronize(stream), "the scan");
    float milliseconds;
    dev::check(cudaEventElapsedTime(&milliseconds, start, end), "time");
    if (k) found.push_back(milliseconds * 1e3);
  }
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  return found;
}

template <class T>
void measure(const char* label, const Case& c, DType dtype, bool tf32, cudaStream_t stream) {
  const Dims d{c.T, c.B, c.H, c.H, c.D, c.T * c.B};
  if (const char* reason = LF_VARIANT.why_not(Cell::lstm, dtype, d, tf32))
    return put_reason(label, c, reason);
  std::vector<int64_t> offsets(size_t(d.T) + 1);
  for (int64_t t = 0; t <= d.T; ++t) offsets[size_t(t)] = t * d.B;
  const int64_t outputs = d.D * d.N * d.H, states = d.D * d.B * d.H;
  const Numbers<T> w0(4 * d.H * d.H, 1 / std::sqrt(float(d.H)), 1);
  const Numbers<T> w1(4 * d.H * d.H, 1 / std::sqrt(float(d.H)), 2);
  const Numbers<T> input(4 * outputs, 1.5f, 3), gates(4 * outputs, 0, 0), y(outputs, 0, 0);
  const Numbers<T> dy(outputs, 0.1f, 4), h_n(states, 0, 0), dh0(states, 0, 0);
  const Numbers<float> c_kept(outputs, 0, 0), c_n(states, 0, 0), dc0(states, 0, 0);

  LayerForward forward{};
  forward.dtype = forward.storage = dtype, forward.d = d, forward.offsets = offsets.data(),
  forward.I = d.H;
  forward.w_hh[0] = w0, forward.w_hh[1] = w1;
  forward.gates = gates, forward.y = y, forward.h_n = h_n, forward.c_n = c_n;
  LayerBackward backward{};
  backward.dtype = backward.storage = dtype, backward.d = d, backward.offsets = offsets.data(),
  backward.I = d.H;
  backward.w_hh[0] = w0, backward.w_hh[1] = w1;
  backward.y = y, backward.gates = gates, backward.c = c_kept, backward.dy = dy;
  backward.dgates = gates, backward.dh0 = dh0, backward.dc0 = dc0;

  Context context{};
  context.stream = stream, context.tf32 = tf32;
  const size_t bytes =
      std::max(LF_VARIANT.forward_workspace(forward), LF_VARIANT.backward_workspace(backward, 1));
  const Numbers<unsigned char> workspace(int64_t(bytes) + 64, 0, 0);
  context.workspace = workspace;
  dev::check(cudaDeviceSynchronize(), "preparation");

  const auto refill = [&] { input.copy_to(gates, stream); };
  const auto run_forward = [&] { LF_VARIANT.forward(forward, context); };
  const auto a_step = [&](std::vector<double> all) {
    for (double& one : all) one /= double(d.T);
    return all;
  };
  put(label, c, "inference", a_step(microseconds(stream, refill, run_forward)));
  forward.c = c_kept;
  put(label, c, "forward", a_step(microseconds(stream, refill, run_forward)));
  const auto activations = [&] {
    refill();
    run_forward();
  };
  put(label, c, "backward",
      a_step(microseconds(stream, activations, [&] { LF_VARIANT.backward(backward, context); })));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (const char* reason = LF_VARIANT.why_not_here()) throw std::runtime_error(reason);
    cudaStream_t stream;
    dev::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    for (int k = 2; k < argc; ++k) {
      Case c;
      if (std::sscanf(argv[k], "%7[a-z0-9]:%ld,%ld,%ld,%ld", c.dtype, &c.T, &c.B, &c.H, &c.D) != 5)
        throw std::runtime_error(std::string("a case is dtype:T,B,H,D, got ") + argv[k]);
      const std::string dtype = c.dtype;
      if (dtype == "bf16")
        measure<__nv_bfloat16>(argv[1], c, DType::bf16, true, stream);
      else if (dtype == "fp16")
        measure<__half>(argv[1], c, DType::f16, true, stream);
      else if (dtype == "tf32" || dtype == "fp32")
        measure<float>(argv[1], c, DType::f32, dtype == "tf32", stream);
      else
        throw std::runtime_error("a dtype is bf16, fp16, tf32 or fp32, got " + dtype);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
