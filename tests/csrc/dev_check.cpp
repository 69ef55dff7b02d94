// The real dev.cuh over a CUDA runtime that writes down what it is asked for:   dev_check [broken]
//
// Everywhere else in CI its twin of the SIMT machine stands in its place.
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "cuda/lstm_fused/dev.cuh"

namespace {

using namespace lf;

struct Parameters {
  int64_t a;
  const void* b;
};
void kernel(Parameters) {}

struct Launched {
  int times = 0;
  const void* function;
  cudaLaunchConfig_t config;
  std::vector<cudaLaunchAttribute> attributes;
  Parameters p;
} launched;
std::map<cudaFuncAttribute, int> attributes_of_kernel;
struct Moved {
  std::string what;
  void* to;
  const void* from;
  size_t to_stride, from_stride, bytes, rows;
  int byte;
  cudaMemcpyKind kind;
  cudaStream_t stream;
} moved;
cudaError_t answer = cudaSuccess;
int device = 3;
constexpr int kSharedOfDevice = 99 << 10;
cudaError_t occupancy_answer = cudaSuccess;
int occupancy_asked = 0;
cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
size_t events = 0;                                                 // that were made: 1, 2, ...
cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;  // of this thread
uint32_t pages[4] = {7, 7, 7, 7};                                  // what cudaHostAlloc gives
int pages_given = 0;
std::string told;     // what launch_in_turn asks for, in this order
std::string failing;  // of these the one that does not answer as the others

// A stream is the address of its name.
cudaError_t tell(const std::string& what, cudaStream_t stream) {
  told += what + " on " + *reinterpret_cast<const char*>(stream) + "; ";
  return what == failing ? cudaErrorInvalidValue : answer;
}
std::string number(cudaEvent_t event) { return std::to_string(reinterpret_cast<size_t>(event)); }

int wrong = 0;
void check(bool right, const char* what) {
  if (right) return;
  std::printf("%s\n", what);
  ++wrong;
}

}  // namespace

extern "C" {
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
  launched = {launched.times + 1, function, *config, {}, {}};
  launched.attributes.assign(config->attrs, config->attrs + config->numAttrs);
  std::memcpy(&launched.p, arguments[0], sizeof launched.p);
  return tell("launch", config->stream);
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  check(function == reinterpret_cast<const void*>(&kernel), "an attribute of another function");
  check(launched.times == 0, "an attribute is set after the launch");
  attributes_of_kernel[attribute] = value;
  return answer;
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function,
                                           const cudaLaunchConfig_t* config) {
  launched = {0, function, *config, {}, {}};
  launched.attributes.assign(config->attrs, config->attrs + config->numAttrs);
  *clusters = 15 + occupancy_asked++;
  return answer == cudaSuccess ? occupancy_answer : answer;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  moved = {"copy", to, from, 0, 0, bytes, 1, 0, kind, stream};
  return answer;
}
cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t stream) {
  moved = {"fill", to, nullptr, 0, 0, bytes, 1, byte, cudaMemcpyDefault, stream};
  return answer;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_stride, const void* from, size_t from_stride,
                              size_t bytes, size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
  moved = {"rows", to, from, to_stride, from_stride, bytes, rows, 0, kind, stream};
  return answer;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = capturing;
  return tell("state", stream);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  check(flags == cudaEventDisableTiming, "an event with a clock");
  if (failing == "event") return cudaErrorInvalidValue;
  *event = reinterpret_cast<cudaEvent_t>(++events);
  told += "event " + number(*event) + "; ";
  return answer;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  check(flags == cudaEventWaitDefault, "a wait with flags");
  return tell("wait for " + number(event), stream);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return tell("record " + number(event), stream);
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(capture_mode, *mode);
  return failing == "mode" ? cudaErrorInvalidValue : answer;
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags) {
  check(capture_mode == cudaStreamCaptureModeRelaxed, "memory that a capture forbids");
  check(bytes == sizeof(uint32_t) && flags == (cudaHostAllocMapped | cudaHostAllocPortable),
        "memory of the host: what is asked for");
  *memory = &pages[pages_given];
  if (failing == "memory") return cudaErrorInvalidValue;
  ++pages_given;
  return answer;
}
// Kernels of another device have another address of it.
void* address_for_kernels(void* here, int on) {
  return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(here) + uintptr_t(on));
}
cudaError_t cudaHostGetDevicePointer(void** there, void* here, unsigned flags) {
  check(capture_mode == cudaStreamCaptureModeRelaxed && flags == 0, "an address for kernels");
  *there = address_for_kernels(here, device);
  return failing == "address" ? cudaErrorInvalidValue : answer;
}
cudaError_t cudaGetDevice(int* current) {
  *current = device;
  return failing == "device" ? cudaErrorInvalidValue : answer;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int of) {
  check(of == device, "an attribute of another device");
  *value = attribute == cudaDevAttrComputeCapabilityMajor         ? 8
           : attribute == cudaDevAttrComputeCapabilityMinor       ? 6
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? kSharedOfDevice
           : attribute == cudaDevAttrMultiProcessorCount          ? 28
                                                                  : -1;
  return answer;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  return answer;
}
int errors_taken = 0;
cudaError_t cudaGetLastError() {
  ++errors_taken;
  return answer;
}
const char* cudaGetErrorString(cudaError_t) { return "its words"; }
}

namespace {

Context context_on(void* stream) {
  Context context{};
  context.stream = stream;
  return context;
}
char stream = 's';
const Context context = context_on(&stream);
const auto* const on_stream = reinterpret_cast<cudaStream_t>(&stream);

const cudaLaunchAttribute* attribute(cudaLaunchAttributeID id) {
  for (const cudaLaunchAttribute& one : launched.attributes)
    if (one.id == id) return &one;
  return nullptr;
}

void launch(const dev::Grid& grid) {
  launched.times = 0;
  attributes_of_kernel.clear();
  dev::launch(context, grid, kernel, {42, &stream});
  const cudaLaunchConfig_t& c = launched.config;
  check(launched.times == 1 && launched.function == reinterpret_cast<const void*>(&kernel),
        "launch: the kernel, once");
  check(launched.p.a == 42 && launched.p.b == &stream, "launch: the parameters");
  check(
      c.gridDim.x == grid.blocks.x && c.gridDim.y == grid.blocks.y && c.gridDim.z == grid.blocks.z,
      "launch: the grid");
  check(c.blockDim.x == grid.threads && c.blockDim.y == 1 && c.blockDim.z == 1,
        "launch: the block");
  check(c.dynamicSmemBytes == grid.shared && c.stream == on_stream, "launch: memory and stream");
  const auto* const cluster = attribute(cudaLaunchAttributeClusterDimension);
  check(grid.cluster > 1 ? cluster && cluster->val.clusterDim.x == grid.cluster &&
                               cluster->val.clusterDim.y == 1 && cluster->val.clusterDim.z == 1
                         : !cluster,
        "launch: the cluster");
  const auto* const cooperative = attribute(cudaLaunchAttributeCooperative);
  check(grid.cooperative ? cooperative && cooperative->val.cooperative == 1 : !cooperative,
        "launch: all blocks at once");
  // What the CUDA programming guide has a kernel ask leave for: over 48 KB of shared memory, and
  // clusters of more than 8 blocks. Of memory all, as another thread may be about to launch the
  // same kernel with more.
  const auto leave = [&](cudaFuncAttribute what) {
    const auto found = attributes_of_kernel.find(what);
    return found == attributes_of_kernel.end() ? 0 : found->second;
  };
  check(leave(cudaFuncAttributeMaxDynamicSharedMemorySize) ==
            (grid.shared > 48 << 10 ? kSharedOfDevice : 0),
        "launch: leave for much shared memory");
  check(leave(cudaFuncAttributeNonPortableClusterSizeAllowed) == (grid.cluster > 8),
        "launch: leave for a large cluster");
}

// What a launch in turn asks for on the current device.
std::string told_in_turn(char on) {
  told.clear();
  launched.times = 0;
  dev::launch_in_turn(context_on(&on), {{7, 2}, 96, 100, 1, true}, kernel, {43, &stream});
  check(launched.times == 1 && launched.p.a == 43 && launched.p.b == &stream &&
            launched.config.gridDim.x == 7 && launched.config.gridDim.y == 2 &&
            launched.config.blockDim.x == 96 && launched.config.dynamicSmemBytes == 100 &&
            attribute(cudaLaunchAttributeCooperative),
        "launch_in_turn: the launch");
  return told;
}

template <class Action>
void check_throws(const char* what, Action action) {
  answer = cudaErrorInvalidValue;
  try {
    action();
    check(false, what);
  } catch (const std::runtime_error& error) {
    check(std::strstr(error.what(), "its words"), what);
  }
  answer = cudaSuccess;
}

// A launch in turn of which one call fails throws, and asks for nothing more.
void check_fails_in_turn(const char* call, const std::string& expected) {
  failing = call;
  try {
    told_in_turn('a');
    check(false, call);
  } catch (const std::runtime_error& error) {
    check(std::strstr(error.what(), "its words") && told == expected, call);
  }
  failing.clear();
}

void check_turns() {
  check(told_in_turn('a') == "state on a; event 1; launch on a; record 1 on a; ",
        "the first launch in turn");
  check(told_in_turn('b') == "state on b; wait for 1 on b; launch on b; record 1 on b; ",
        "the second launch in turn");
  device = 5;
  check(told_in_turn('a') == "state on a; event 2; launch on a; record 2 on a; ",
        "a launch in turn on another device");
  device = 3;
  check(told_in_turn('a') == "state on a; wait for 1 on a; launch on a; record 1 on a; ",
        "a launch in turn on the first device again");
  for (const auto status : {cudaStreamCaptureStatusActive, cudaStreamCaptureStatusInvalidated}) {
    capturing = status;
    check(told_in_turn('c') == "state on c; launch on c; ", "a launch in turn that is captured");
  }
  capturing = cudaStreamCaptureStatusNone;

  check_fails_in_turn("state", "state on a; ");
  check_fails_in_turn("device", "state on a; ");
  check_fails_in_turn("wait for 1", "state on a; wait for 1 on a; ");
  check_fails_in_turn("launch", "state on a; wait for 1 on a; launch on a; ");
  check_fails_in_turn("record 1", "state on a; wait for 1 on a; launch on a; record 1 on a; ");
  device = 7;
  check_fails_in_turn("event", "state on a; ");
  check(told_in_turn('a') == "state on a; event 3; launch on a; record 3 on a; ",
        "a launch in turn after one without an event");
  device = 3;
}

// The word by which kernels of a device tell the host that they gave up.
void check_alarms() {
  const auto raised = [](int on) {
    device = on;
    return dev::take_alarm();
  };
  check(!raised(3) && pages_given == 0, "take_alarm where there is none");
  for (const char* const call : {"mode", "memory", "address", "device"}) {
    failing = call;
    try {
      dev::alarm();
      check(false, call);
    } catch (const std::runtime_error& error) {
      check(std::strstr(error.what(), "its words"), call);
    }
    failing.clear();
    // What could not be changed could not be changed back.
    if (!std::strcmp(call, "mode")) capture_mode = cudaStreamCaptureModeGlobal;
    check(capture_mode == cudaStreamCaptureModeGlobal, "alarm: the mode of capture is given back");
    check(!raised(3), "take_alarm after an alarm that could not be made");
  }
  pages_given = 0;
  capture_mode = cudaStreamCaptureModeThreadLocal;
  const void *const first = address_for_kernels(pages, 3), *const second =
                                                               address_for_kernels(pages + 1, 5);
  check(dev::alarm() == first && pages[0] == 0 && dev::alarm() == first && pages_given == 1 &&
            capture_mode == cudaStreamCaptureModeThreadLocal,
        "alarm: once for a device");
  device = 5;
  check(dev::alarm() == second && pages[1] == 0 && pages_given == 2, "alarm: once for each device");
  pages[0] = 1;
  check(!raised(5) && raised(3) && pages[0] == 0 && !raised(3), "take_alarm: once");
  pages[1] = 1;
  check(!raised(3) && !raised(4) && raised(5) && !raised(5), "take_alarm: on its own device");
  device = 3;
}

}  // namespace

int main(int argc, char**) {
  launch({7, 64});
  launch({{5, 2}, 96, 48 << 10});
  launch({{5, 2, 3}, 96, (48 << 10) + 16});
  launch({16, 32, 100, 8});
  launch({16, 32, 100, 16});
  launch({16, 32, 227 << 10, 2, true});
  launch({3, 1024, 0, 1, true});

  char to[8], from[8];
  dev::copy(context, to, from, 5);
  check(moved.what == "copy" && moved.to == to && moved.from == from && moved.bytes == 5 &&
            moved.kind == cudaMemcpyDeviceToDevice && moved.stream == on_stream,
        "copy");
  dev::fill(context, to, 0x5a, 6);
  check(moved.what == "fill" && moved.to == to && moved.byte == 0x5a && moved.bytes == 6 &&
            moved.stream == on_stream,
        "fill");
  dev::copy_rows(context, to, 11, from, 12, 7, 9);
  check(moved.what == "rows" && moved.to == to && moved.to_stride == 11 && moved.from == from &&
            moved.from_stride == 12 && moved.bytes == 7 && moved.rows == 9 &&
            moved.kind == cudaMemcpyDeviceToDevice && moved.stream == on_stream,
        "copy_rows");

  check_turns();
  check_alarms();

  launched.times = 0;
  attributes_of_kernel.clear();
  const int at_once = dev::clusters_at_once({12, 96, 100 << 10, 12}, kernel);
  const auto* const cluster = attribute(cudaLaunchAttributeClusterDimension);
  check(at_once == 15 && launched.function == reinterpret_cast<const void*>(&kernel) &&
            launched.config.blockDim.x == 96 && launched.config.dynamicSmemBytes == 100 << 10 &&
            cluster && cluster->val.clusterDim.x == 12 && attributes_of_kernel.size() == 2,
        "clusters_at_once: the launch that it is about");
  check(dev::clusters_at_once({12, 96, 100, 1}, kernel) == 28, "clusters_at_once: no clusters");
  const auto asks = [](const dev::Grid& grid) {
    const int before = occupancy_asked;
    const int found = dev::clusters_at_once(grid, kernel);
    check(dev::clusters_at_once(grid, kernel) == found && occupancy_asked <= before + 1,
          "clusters_at_once: a second time");
    return occupancy_asked > before;
  };
  check(!asks({24, 96, 100 << 10, 12}) && asks({12, 96, 90 << 10, 12}) &&
            asks({12, 96, 100 << 10, 6}) && asks({12, 64, 100 << 10, 12}),
        "clusters_at_once: once for each launch");
  device = 4;
  check(asks({12, 96, 100 << 10, 12}), "clusters_at_once: once for each device");
  device = 3;

  const dev::Limits limits = dev::limits();
  check(limits.capability == 86 && limits.shared == 99 << 10 && limits.multiprocessors == 28,
        "limits");
  // It asks once.
  const bool broken = argc > 1;
  if (broken) answer = cudaErrorInvalidValue;
  const char* const reason = broken ? "its words" : "this machine has no CUDA device";
  check(!std::strcmp(dev::why_not_here(), reason) && errors_taken == broken, "why_not_here");
  answer = cudaSuccess;

  check_throws("leave that is not given", [] {
    launched.times = 0;
    dev::launch(context, {1, 1, 100 << 10}, kernel, {});
  });
  check(launched.times == 0, "a launch without leave");
  check_throws("a launch that fails", [] { dev::launch(context, {1, 1}, kernel, {}); });
  check_throws("a copy that fails", [&] { dev::copy(context, to, from, 1); });
  check_throws("a fill that fails", [&] { dev::fill(context, to, 0, 1); });
  check_throws("rows that fail", [&] { dev::copy_rows(context, to, 1, from, 1, 1, 1); });
  check_throws("clusters that fail", [] { dev::clusters_at_once({2, 32, 0, 2}, kernel); });
  check(asks({2, 32, 0, 2}), "clusters_at_once: again after a failure");
  occupancy_answer = cudaErrorInvalidClusterSize;
  const int taken = errors_taken;
  const int none = dev::clusters_at_once({4, 32, 0, 4}, kernel);
  occupancy_answer = cudaSuccess;
  check(none == 0 && errors_taken == taken + 1 && !asks({4, 32, 0, 4}),
        "clusters_at_once: too large for the device");
  check_throws("limits that fail", [] { dev::limits(); });
  check_throws("an alarm that fails", [] { dev::take_alarm(); });
  if (!wrong) std::puts("ok");
  return wrong != 0;
}
