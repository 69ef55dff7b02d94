// Tensors as Python hands them over, seen from C without torch's dispatcher: through DLPack's
// exchange protocol, at 50 ns each.
#pragma once

#include <Python.h>

#include <initializer_list>
#include <memory>

#include "ops/dlpack.h"

namespace lf::ops {

struct Forget {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
using Object = std::unique_ptr<PyObject, Forget>;  // owns a reference

// A contiguous tensor on the CPU whose numbers may be read as they lie. Its owner keeps it alive.
struct Seen {
  const void* data = nullptr;
  dlpack::DataType dtype{};
  int dims = 0;
  int64_t sizes[3] = {};

  bool is(std::initializer_list<int64_t> wanted) const {
    int k = 0;
    for (int64_t size : wanted)
      if (k >= dims || sizes[k++] != size) return false;
    return k == dims;
  }
  bool has_dtype_of(const Seen& other) const {
    return dtype.code == other.dtype.code && dtype.bits == other.dtype.bits &&
           dtype.lanes == other.dtype.lanes;
  }
};

// Once, before all else: torch.Tensor and torch.nn.Parameter. False: this torch lacks the protocol.
bool bind_torch(PyObject* tensor, PyObject* parameter);

// False, without a Python error: it is no such tensor, or has nothing in it.
bool see(PyObject* object, Seen& seen);

// A new tensor with the dtype and the device of another, and where its numbers go; nullptr with a
// Python error.
Object new_empty(PyObject* like, std::initializer_list<int64_t> sizes, void*& data);

}  // namespace lf::ops
