// What we use of DLPack's C exchange protocol (dmlc/dlpack, include/dlpack/dlpack.h, version 1.3):
// a table of functions that the class Tensor carries as a capsule, by which C sees a tensor in
// 50 ns. Our own words for it, as the headers of torch 2.10 need not have it.
#pragma once

#include <cstdint>

namespace lf::ops::dlpack {

constexpr uint32_t kMajor = 1;  // the layout of what follows
constexpr const char* kAttribute = "__dlpack_c_exchange_api__";
constexpr const char* kCapsule = "dlpack_exchange_api";

constexpr int32_t kCpu = 1;
constexpr uint8_t kFloat = 2;

struct Version {
  uint32_t major, minor;
};

struct Device {
  int32_t type, index;
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t dims;
  DataType dtype;
  int64_t* sizes;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* allocate;
  void* managed_from_python;
  void* managed_to_python;
  // Lends the tensor, which its owner keeps alive; 0, or -1 with a Python error set.
  int (*from_python)(void* object, Tensor* out);
  void* current_stream;
};

}  // namespace lf::ops::dlpack
