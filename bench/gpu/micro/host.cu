#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>

#include "host.cuh"

namespace lf::micro {

namespace {

const char* wanted = "";
bool only_names = false;

struct Event {
  cudaEvent_t event;
  Event() { dev::check(cudaEventCreate(&event), "event"); }
  ~Event() { cudaEventDestroy(event); }
  void record(const Gpu& gpu) {
    dev::check(cudaEventRecord(event, dev::stream_of(gpu.context)), "event");
  }
};

double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * double(sorted.size() - 1);
  const size_t k = size_t(at), next = std::min(k + 1, sorted.size() - 1);
  return sorted[k] + (at - double(k)) * (sorted[next] - sorted[k]);
}

void print(const std::string& name, const char* unit, const std::string& values,
           const Parameters& parameters) {
  std::printf("{\"%s\": {\"unit\": \"%s\", %s, \"parameters\": {", name.c_str(), unit,
              values.c_str());
  const char* comma = "";
  for (const auto& [key, value] : parameters)
    std::printf("%s\"%s\": %.6g", std::exchange(comma, ", "), key, value);
  std::printf("}}}\n");
  std::fflush(stdout);  // a time limit leaves what is there
}

void put_samples(const std::string& name, const char* unit, const Samples& samples,
                 const std::vector<double>& values, const Parameters& parameters) {
  if (samples.timed_out)
    put_reason(name, "timed out");
  else
    put(name, unit, values, parameters);
}

}  // namespace

Memory::Memory(size_t bytes) : bytes_(bytes) {
  dev::check(cudaMalloc(&data_, bytes), "cudaMalloc");
}
Memory::~Memory() { cudaFree(data_); }

double by_events(const Gpu& gpu, const std::function<void()>& work) {
  Event before, after;
  before.record(gpu);
  work();
  after.record(gpu);
  dev::check(cudaEventSynchronize(after.event), "a kernel");
  float milliseconds = 0;
  dev::check(cudaEventElapsedTime(&milliseconds, before.event, after.event), "event");
  return 1e6 * double(milliseconds);
}

void sample(const Gpu& gpu, Clocks* clocks, const std::function<void()>& launch, Samples& to) {
  dev::fill(gpu.context, clocks, 0, sizeof *clocks);
  const double outside = by_events(gpu, launch);
  Clocks seen{};
  dev::check(cudaMemcpy(&seen, clocks, sizeof seen, cudaMemcpyDeviceToHost), "a kernel");
  to.nanoseconds.push_back(double(seen.nanoseconds));
  to.cycles.push_back(double(seen.cycles));
  to.outside.push_back(outside);
  to.timed_out = to.timed_out || seen.timed_out;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return quantile(values, 0.5);
}

void put(const std::string& name, const char* unit, const std::vector<double>& values,
         const Parameters& parameters) {
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const double middle = quantile(sorted, 0.5);
  const double range = quantile(sorted, 0.75) - quantile(sorted, 0.25);
  char text[96];
  std::snprintf(text, sizeof text, "\"value\": %.6g, \"spread\": %.3g", middle,
                middle > 0 ? range / middle : 0);
  print(name, unit, text, parameters);
}

void put_reason(const std::string& name, const std::string& reason) {
  std::string quoted = reason;
  std::replace(quoted.begin(), quoted.end(), '"', '\'');
  std::replace(quoted.begin(), quoted.end(), '\n', ' ');
  print(name, "", "\"value\": null, \"spread\": null, \"reason\": \"" + quoted + "\"", {});
}

void put_time(const std::string& name, const Samples& samples, double operations,
              Parameters parameters) {
  std::vector<double> microseconds = samples.nanoseconds;
  for (double& value : microseconds) value *= 1e-3 / operations;
  parameters.insert(parameters.end(), {{"cycles", median(samples.cycles) / operations},
                                       {"outside", median(samples.outside) * 1e-3 / operations},
                                       {"operations", operations}});
  put_samples(name, "us", samples, microseconds, parameters);
}

void put_rate(const std::string& name, const char* unit, const Samples& samples, double work,
              Parameters parameters) {
  std::vector<double> rates = samples.cycles;
  for (double& value : rates) value = work / value;
  parameters.insert(parameters.end(), {{"cycles", median(samples.cycles)},
                                       {"nanoseconds", median(samples.nanoseconds)},
                                       {"outside", median(samples.outside) * 1e-3}});
  put_samples(name, unit, samples, rates, parameters);
}

void attempt(const std::string& name, const std::function<void()>& benchmark) {
  if (!std::strstr(name.c_str(), wanted)) return;
  if (only_names) {
    std::puts(name.c_str());
    return;
  }
  try {
    benchmark();
  } catch (const std::exception& error) {
    cudaGetLastError();  // takes back an error that was the launch's own
    put_reason(name, error.what());
  }
}

void ask_for(const char* part_of_a_name) { wanted = part_of_a_name; }
void ask_for_names() { only_names = true; }

}  // namespace lf::micro
