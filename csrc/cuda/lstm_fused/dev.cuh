// What a driver asks of the device: launches, copies, limits. All on the stream of the context and
// without waiting for it. The SIMT machine has a twin (tests/simt/include).
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>

#include "contract/params.h"

namespace lf::dev {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("lstm_fused: ") + what + ": " + cudaGetErrorString(error));
}

inline cudaStream_t stream_of(const Context& context) {
  return static_cast<cudaStream_t>(context.stream);
}

// Of the current device.
struct Limits {
  int capability;  // 90 is sm_90
  size_t shared;   // bytes of shared memory that a block may ask for
  int multiprocessors;
};
inline Limits limits() {
  int device, major, minor, shared, multiprocessors;
  check(cudaGetDevice(&device), "current device");
  const auto ask = [&](int& value, cudaDeviceAttr attribute) {
    check(cudaDeviceGetAttribute(&value, attribute, device), "attribute of the device");
  };
  ask(major, cudaDevAttrComputeCapabilityMajor);
  ask(minor, cudaDevAttrComputeCapabilityMinor);
  ask(shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  ask(multiprocessors, cudaDevAttrMultiProcessorCount);
  return {10 * major + minor, size_t(shared), multiprocessors};
}

// The shape of a launch.
struct Grid {
  dim3 blocks;
  unsigned threads;
  size_t shared = 0;         // bytes of dynamic shared memory
  unsigned cluster = 1;      // blocks per cluster, neighbours in x
  bool cooperative = false;  // all blocks run at once, or the launch fails
};

// What a launch may ask for without leave.
constexpr size_t kSharedByDefault = 48 << 10;
constexpr unsigned kClusterByDefault = 8;  // 16 blocks need a whole GPC of an H100

// A launch as the runtime wants it, after leave for all that it asks for.
struct Configured {
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};

  Configured(const Grid& grid, const void* kernel) {
    const auto allow = [&](cudaFuncAttribute attribute, int value, const char* what) {
      check(cudaFuncSetAttribute(kernel, attribute, value), what);
    };
    // All that there is, as leave is the kernel's: less would take away what another thread has
    // just asked for, for a larger launch. No kernel has static shared memory, which would count as
    // well.
    if (grid.shared > kSharedByDefault)
      allow(cudaFuncAttributeMaxDynamicSharedMemorySize, int(limits().shared),
            "shared memory of a launch");
    if (grid.cluster > kClusterByDefault)
      allow(cudaFuncAttributeNonPortableClusterSizeAllowed, 1, "cluster of a launch");
    config.gridDim = grid.blocks;
    config.blockDim = grid.threads;
    config.dynamicSmemBytes = grid.shared;
    config.attrs = attributes;
    if (grid.cluster > 1) {
      attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
      attributes[config.numAttrs++].val.clusterDim = {grid.cluster, 1, 1};
    }
    if (grid.cooperative) {
      attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
      attributes[config.numAttrs++].val.cooperative = 1;
    }
  }
  Configured(const Configured&) = delete;
};

template <class Parameters>
void launch(const Context& context, const Grid& grid, void (*kernel)(Parameters),
            const Parameters& p) {
  Configured launch(grid, reinterpret_cast<const void*>(kernel));
  launch.config.stream = stream_of(context);
  check(cudaLaunchKernelEx(&launch.config, kernel, p), "launch");
}

// The end of each device's last launch whose blocks wait for each other.
struct Turns {
  std::mutex mutex;
  std::map<int, cudaEvent_t> ended;
};
inline Turns turns;

// The same for kernels whose blocks wait for each other, one launch after the other on each device:
// two on two streams at once could each hold a part of the multiprocessors, and wait for the rest
// for ever. A stream that captures a graph knows nothing of other streams, and one process nothing
// of another: a graph with such a kernel must not run beside another launch of one, nor two
// processes by MPS. If they do and each holds a part, kernels give up, and set the alarm.
template <class Parameters>
void launch_in_turn(const Context& context, const Grid& grid, void (*kernel)(Parameters),
                    const Parameters& p) {
  const cudaStream_t stream = stream_of(context);
  cudaStreamCaptureStatus capturing;
  check(cudaStreamIsCapturing(stream, &capturing), "state of the stream");
  if (capturing != cudaStreamCaptureStatusNone) return launch(context, grid, kernel, p);
  int device;
  check(cudaGetDevice(&device), "current device");
  const std::lock_guard<std::mutex> lock(turns.mutex);
  cudaEvent_t& ended = turns.ended[device];
  if (ended)
    check(cudaStreamWaitEvent(stream, ended, 0), "wait for the launch before");
  else
    check(cudaEventCreateWithFlags(&ended, cudaEventDisableTiming), "event");
  launch(context, grid, kernel, p);
  check(cudaEventRecord(ended, stream), "event of the launch");
}

// How often such kernels look for what another block hands on before they give up: some 10 seconds,
// as a look takes 0.3 us and more.
inline unsigned patience() { return 1u << 25; }

// A word by which the kernels of a device tell the host that they gave up, in page-locked memory of
// the host, who so need not wait for the device to read it.
struct Alarm {
  uint32_t *here, *there;  // as the host knows it, and as kernels do
};
// By device, and for ever, as graphs hold the address.
struct Alarms {
  std::mutex mutex;
  std::map<int, Alarm> made;
};
inline Alarms alarms;

// Of the current device, for its kernels.
inline uint32_t* alarm() {
  int device;
  check(cudaGetDevice(&device), "current device");
  const std::lock_guard<std::mutex> lock(alarms.mutex);
  if (const auto known = alarms.made.find(device); known != alarms.made.end())
    return known->second.there;
  void *here = nullptr, *there = nullptr;
  // Memory is not of the graph that a stream may be capturing: so it is allowed.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "mode of capture");
  cudaError_t error =
      cudaHostAlloc(&here, sizeof(uint32_t), cudaHostAllocMapped | cudaHostAllocPortable);
  if (error == cudaSuccess) error = cudaHostGetDevicePointer(&there, here, 0);
  check(cudaThreadExchangeStreamCaptureMode(&mode), "mode of capture");
  check(error, "page-locked memory");
  uint32_t* const word = static_cast<uint32_t*>(here);
  *word = 0;
  alarms.made[device] = {word, static_cast<uint32_t*>(there)};
  return static_cast<uint32_t*>(there);
}

// Whether a kernel on the current device has set its word since this was last asked.
inline bool take_alarm() {
  int device;
  check(cudaGetDevice(&device), "current device");
  const std::lock_guard<std::mutex> lock(alarms.mutex);
  const auto known = alarms.made.find(device);
  return known != alarms.made.end() && std::atomic_ref(*known->second.here).exchange(0) != 0;
}

inline void copy(const Context& context, void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(context)), "copy");
}

inline void fill(const Context& context, void* to, int byte, size_t bytes) {
  check(cudaMemsetAsync(to, byte, bytes, stream_of(context)), "memset");
}

// rows of `bytes` each, `stride` bytes apart.
inline void copy_rows(const Context& context, void* to, size_t to_stride, const void* from,
                      size_t from_stride, size_t bytes, size_t rows) {
  check(cudaMemcpy2DAsync(to, to_stride, from, from_stride, bytes, rows, cudaMemcpyDeviceToDevice,
                          stream_of(context)),
        "copy of rows");
}

// What clusters_at_once has found, as every layer asks for it.
struct ClustersAtOnce {
  std::mutex mutex;
  std::map<std::tuple<const void*, int, unsigned, size_t, unsigned>, int> found;
};
inline ClustersAtOnce clusters_found;

// Clusters of such a launch that the device runs at once, or blocks where it has no clusters, one
// on a multiprocessor; 0: there is no place for any.
template <class Parameters>
int clusters_at_once(const Grid& grid, void (*kernel)(Parameters)) {
  if (grid.cluster == 1) return limits().multiprocessors;
  const void* const function = reinterpret_cast<const void*>(kernel);
  int device;
  check(cudaGetDevice(&device), "current device");
  const std::tuple asked(function, device, grid.threads, grid.shared, grid.cluster);
  const std::lock_guard<std::mutex> lock(clusters_found.mutex);
  if (const auto known = clusters_found.found.find(asked); known != clusters_found.found.end())
    return known->second;
  const Configured launch(grid, function);
  int clusters = 0;
  const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, function, &launch.config);
  if (error == cudaErrorInvalidClusterSize) {
    cudaGetLastError();  // takes back the error that was ours
    clusters = 0;        // the answer of a slice of a GPU that is too small for one
  } else {
    check(error, "clusters at once");
  }
  return clusters_found.found[asked] = clusters;
}

// Why there is no device; nullptr: there is one.
inline const char* why_not_here() {
  static const char* const reason = []() -> const char* {
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error == cudaSuccess) return devices ? nullptr : "this machine has no CUDA device";
    cudaGetLastError();  // takes back the error that was ours
    return cudaGetErrorString(error);
  }();
  return reason;
}

}  // namespace lf::dev
