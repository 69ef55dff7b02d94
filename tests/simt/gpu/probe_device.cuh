// What the program that runs the probes asks of a GPU. The SIMT machine has a twin of this too
// (../include).
#pragma once

#include <string>
#include <vector>

#include "probes_table.cuh"

namespace lf::probes {

// An array in device memory.
class DeviceWords {
 public:
  explicit DeviceWords(const std::vector<uint32_t>& values) : count_(values.size()) {
    dev::check(cudaMalloc(&words_, bytes()), "cudaMalloc");
    dev::check(cudaMemcpy(words_, values.data(), bytes(), cudaMemcpyHostToDevice), "copy in");
  }
  ~DeviceWords() { cudaFree(words_); }
  DeviceWords(const DeviceWords&) = delete;

  uint32_t* data() { return words_; }
  // After all launches so far; throws what went wrong in them.
  std::vector<uint32_t> read() const {
    std::vector<uint32_t> values(count_);
    dev::check(cudaMemcpy(values.data(), words_, bytes(), cudaMemcpyDeviceToHost), "a kernel");
    return values;
  }

 private:
  size_t bytes() const { return count_ * sizeof *words_; }

  uint32_t* words_ = nullptr;
  size_t count_;
};

// Why this GPU cannot run the probe; empty: it can.
inline std::string why_not(const Probe& probe) {
  if (const char* reason = dev::why_not_here()) throw std::runtime_error(reason);
  int major = 0, most = 0;
  dev::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "capability");
  if (probe.needs_sm_90() && major < 9) return "needs sm_90";
  if (probe.cluster > 1) {
    const dev::Grid grid = probe.grid();
    if (probe.cluster > dev::kClusterByDefault)
      dev::check(
          cudaFuncSetAttribute(probe.kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "cluster of a launch");
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {probe.cluster, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = grid.blocks;
    config.blockDim = grid.threads;
    config.dynamicSmemBytes = grid.shared;
    config.attrs = &attribute;
    config.numAttrs = 1;
    const cudaError_t error = cudaOccupancyMaxActiveClusters(&most, probe.kernel, &config);
    cudaGetLastError();  // takes back the error that was ours
    if (error != cudaSuccess || most == 0)
      return "this GPU has no clusters of " + std::to_string(probe.cluster);
  }
  return "";
}

inline void set_schedule(uint64_t) {}

}  // namespace lf::probes
