// What the microbenchmarks ask of the host: memory, repetitions, and a line of JSON for each
// figure.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "clocked.cuh"
#include "cuda/lstm_fused/dev.cuh"

namespace lf::micro {

constexpr int kRepetitions = 9;  // after one that is thrown away

struct Gpu {
  int multiprocessors;
  Context context{};  // with a stream of our own
};

// Device memory; zeros wherever it is zeroed.
class Memory {
 public:
  explicit Memory(size_t bytes);
  ~Memory();
  Memory(const Memory&) = delete;

  void zero(const Gpu& gpu) { dev::fill(gpu.context, data_, 0, bytes_); }
  template <class T>
  T* at() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

// A sample per repetition, of one kernel or of one run of many.
struct Samples {
  std::vector<double> nanoseconds, cycles;  // by the kernel's own clocks
  std::vector<double> outside;              // nanoseconds by events around it
  bool timed_out = false;
};

// Nanoseconds between two events around `work`, in which it only enqueues.
double by_events(const Gpu& gpu, const std::function<void()>& work);

// Adds one sample of what `launch` launches, which leaves its clocks there.
void sample(const Gpu& gpu, Clocks* clocks, const std::function<void()>& launch, Samples& to);

// prepare: before each repetition, outside of what is timed.
template <class P>
Samples repeat(const Gpu& gpu, void (*kernel)(P), const dev::Grid& grid, P p,
               const std::function<void(P&, int repetition)>& prepare = {}) {
  const Memory clocks(sizeof(Clocks));
  p.clocks = clocks.at<Clocks>();
  Samples samples;
  for (int k = 0; k <= kRepetitions && !samples.timed_out; ++k) {
    if (prepare) prepare(p, k);
    Samples warm_up;
    sample(
        gpu, p.clocks, [&] { dev::launch(gpu.context, grid, kernel, p); }, k ? samples : warm_up);
    samples.timed_out = samples.timed_out || warm_up.timed_out;
  }
  return samples;
}

using Parameters = std::vector<std::pair<const char*, double>>;

// Prints {name: {unit, value, spread, parameters}}: the median, and the quartiles' distance over
// it.
void put(const std::string& name, const char* unit, const std::vector<double>& values,
         const Parameters& parameters);
// The same without a value, and why.
void put_reason(const std::string& name, const std::string& reason);

// Microseconds of one of `operations`, with its cycles and the time outside as parameters.
void put_time(const std::string& name, const Samples& samples, double operations,
              Parameters parameters);
// What a cycle did of `work` in all.
void put_rate(const std::string& name, const char* unit, const Samples& samples, double work,
              Parameters parameters);

double median(std::vector<double> values);

// Runs a benchmark, if its name was asked for; what it throws is put in the place of its value.
void attempt(const std::string& name, const std::function<void()>& benchmark);
void ask_for(const char* part_of_a_name);
void ask_for_names();  // which are printed instead

// Each in a file of its own.
void measure_clusters(const Gpu& gpu);
void measure_grid(const Gpu& gpu);
void measure_block(const Gpu& gpu);
void measure_launches(const Gpu& gpu);
void measure_memory(const Gpu& gpu);

}  // namespace lf::micro
