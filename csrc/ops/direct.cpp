// The forward of one direction on a CPU, for callers who want numbers and nothing else: no
// gradient, no transform, no mode. The dispatcher and the boxing of 18 arguments take 4 us of a
// call, which is all of a small step; here tensors are seen through DLPack's C exchange protocol.
//
// Whatever is not exactly what a kernel takes is answered with None: the op then does it, or says
// what is wrong.
#include "ops/direct.h"

#include <cstdlib>
#include <exception>
#include <memory>
#include <vector>

#include "dispatch/registry.h"
#include "ops/dlpack.h"
#include "ops/tensors.h"

namespace lf::ops {
namespace {

// torch.Tensor, torch.nn.Parameter, and names of methods: they live as long as the process.
struct Bound {
  PyObject *tensor, *parameter, *is_neg, *new_empty;
  const dlpack::ExchangeApi* api;
} bound;

struct Forget {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
using Object = std::unique_ptr<PyObject, Forget>;  // owns a reference

// A contiguous tensor on the CPU that a kernel may read as it lies.
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
};

bool is_contiguous(const dlpack::Tensor& t) {
  int64_t step = 1;
  for (int k = t.dims; k-- > 0; step *= t.sizes[k])
    if (t.sizes[k] != 1 && t.strides[k] != step) return false;
  return step > 0;  // and something is there
}

// False: it is no such tensor. A view that negates what it shows shares its memory and is one only
// by name.
bool see(PyObject* object, Seen& seen) {
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  if (type != bound.tensor && type != bound.parameter) return false;
  dlpack::Tensor t;
  if (bound.api->from_python(object, &t) != 0) {  // sparse, say
    PyErr_Clear();
    return false;
  }
  if (t.device.type != dlpack::kCpu || t.dims < 1 || t.dims > 3 || !is_contiguous(t) || !t.data)
    return false;
  const Object negated(PyObject_CallMethodNoArgs(object, bound.is_neg));
  if (negated.get() != Py_False) {
    PyErr_Clear();
    return false;
  }
  seen.data = static_cast<const char*>(t.data) + t.byte_offset;
  seen.dtype = t.dtype;
  seen.dims = t.dims;
  for (int k = 0; k < t.dims; ++k) seen.sizes[k] = t.sizes[k];
  return true;
}

// Everything that a call gives, of one dtype.
struct Given {
  Seen x, h0, c0;
  bool has_states = false;
  Seen weights[5];
  Py_ssize_t count = 0;  // of weights: 2, 4 or 5
  DType dtype{};
  PyObject* like = nullptr;  // x
};

// x, hx, weights
bool see_all(PyObject* const* arguments, Given& given) {
  if (!see(arguments[0], given.x)) return false;
  const dlpack::DataType& dtype = given.x.dtype;
  if (dtype.code != dlpack::kFloat || dtype.lanes != 1 || (dtype.bits != 32 && dtype.bits != 64))
    return false;
  given.dtype = dtype.bits == 32 ? DType::f32 : DType::f64;
  const auto like_x = [&](const Seen& t) {
    return t.dtype.code == dtype.code && t.dtype.bits == dtype.bits && t.dtype.lanes == 1;
  };

  PyObject* const hx = arguments[1];
  given.has_states = hx != Py_None;
  if (given.has_states) {
    if (!(PyTuple_CheckExact(hx) || PyList_CheckExact(hx)) || PySequence_Fast_GET_SIZE(hx) != 2)
      return false;
    PyObject* const* const pair = PySequence_Fast_ITEMS(hx);
    if (!see(pair[0], given.h0) || !see(pair[1], given.c0)) return false;
    if (!like_x(given.h0) || !like_x(given.c0)) return false;
  }

  PyObject* const weights = arguments[2];
  if (!(PyTuple_CheckExact(weights) || PyList_CheckExact(weights))) return false;
  given.count = PySequence_Fast_GET_SIZE(weights);
  if (given.count != 2 && given.count != 4 && given.count != 5) return false;
  for (Py_ssize_t k = 0; k < given.count; ++k) {
    if (!see(PySequence_Fast_GET_ITEM(weights, k), given.weights[k])) return false;
    if (!like_x(given.weights[k])) return false;
  }
  given.like = arguments[0];
  return true;
}

// Fills in the sizes and the pointers of what is given; false: a shape is not what it must be.
bool describe(const Given& given, int64_t T, int64_t B, LayerForward& p) {
  const Seen* const w = given.weights;
  if (w[0].dims != 2 || w[0].sizes[0] % 4) return false;
  Dims& d = p.d;
  d.T = T, d.B = B, d.D = 1, d.N = T * B;
  d.H = w[0].sizes[0] / 4;
  d.P = given.count == 5 ? w[4].sizes[0] : d.H;
  p.I = given.x.sizes[given.x.dims - 1];
  if (!w[0].is({4 * d.H, p.I}) || !w[1].is({4 * d.H, d.P})) return false;
  if (given.count > 2 && (!w[2].is({4 * d.H}) || !w[3].is({4 * d.H}))) return false;
  if (given.count == 5 && !w[4].is({d.P, d.H})) return false;
  p.cell = Cell::lstm;
  p.dtype = given.dtype;
  p.x = given.x.data;
  p.w_ih[0] = w[0].data, p.w_hh[0] = w[1].data;
  p.b_ih[0] = w[2].data, p.b_hh[0] = w[3].data;
  p.w_hr[0] = w[4].data;
  p.h0 = given.h0.data, p.c0 = given.c0.data;
  return true;
}

// A new tensor like x, and where its numbers go. Sizes as arguments of their own: as a tuple, or
// with a dtype by name, torch takes 1.4 us to read them instead of 0.9.
Object make(const Given& given, std::initializer_list<int64_t> sizes, void*& data) {
  Object numbers[3];
  PyObject* arguments[4] = {given.like};
  size_t count = 1;
  for (int64_t size : sizes) {
    numbers[count - 1].reset(PyLong_FromLongLong(size));
    arguments[count] = numbers[count - 1].get();
    if (!arguments[count++]) return {};
  }
  Object tensor(PyObject_VectorcallMethod(bound.new_empty, arguments, count, nullptr));
  dlpack::Tensor t;
  if (!tensor || bound.api->from_python(tensor.get(), &t) != 0) return {};
  data = t.data;
  return tensor;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// The scan itself, by the variant with that code; false with a Python error set.
bool run(const Variant& variant, LayerForward& p, void* scratch_y) {
  std::exception_ptr failure;
  Py_BEGIN_ALLOW_THREADS;
  try {
    if (scratch_y) p.y = scratch_y;
    std::vector<int64_t> offsets(size_t(p.d.T) + 1);
    for (int64_t t = 0; t <= p.d.T; ++t) offsets[size_t(t)] = t * p.d.B;
    p.offsets = offsets.data();
    Context context{};
    context.threads = int(torch::stable::get_num_threads());
    const size_t bytes = (variant.forward_workspace(p) + 63) / 64 * 64;
    const std::unique_ptr<void, Free> workspace(bytes ? std::aligned_alloc(64, bytes) : nullptr);
    if (bytes && !workspace) throw std::bad_alloc();
    poison(workspace.get(), bytes);
    context.workspace = workspace.get();
    variant.forward(p, context);
  } catch (...) {
    failure = std::current_exception();
  }
  Py_END_ALLOW_THREADS;
  if (!failure) return true;
  try {
    std::rethrow_exception(failure);
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return false;
}

// The variant that runs the layer as it is given, or nullptr.
const Variant* chosen(const LayerForward& p, PyObject* code) {
  const long forced = PyLong_AsLong(code);
  const char* reason;
  return choose(lf::Device::cpu, p.cell, p.dtype, p.d, false, int(forced), &reason);
}

PyObject* none() { Py_RETURN_NONE; }

// bind_direct(Tensor, Parameter) -> whether this torch has the protocol
PyObject* bind_direct(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2) return PyErr_Format(PyExc_TypeError, "bind_direct takes Tensor and Parameter");
  const Object capsule(PyObject_GetAttrString(arguments[0], dlpack::kAttribute));
  const auto* const api = static_cast<const dlpack::ExchangeApi*>(
      capsule ? PyCapsule_GetPointer(capsule.get(), dlpack::kCapsule) : nullptr);
  PyErr_Clear();
  if (!api || api->version.major != dlpack::kMajor) Py_RETURN_FALSE;
  bound.api = api;
  bound.tensor = Py_NewRef(arguments[0]);
  bound.parameter = Py_NewRef(arguments[1]);
  bound.is_neg = PyUnicode_InternFromString("is_neg");
  bound.new_empty = PyUnicode_InternFromString("new_empty");
  Py_RETURN_TRUE;
}

// direct_layer(x, hx, weights, batch_first, variant) -> (y, (h_n, c_n)) or None
PyObject* direct_layer(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 5) return PyErr_Format(PyExc_TypeError, "direct_layer takes 5 arguments");
  Given given;
  if (!see_all(arguments, given) || given.x.dims != 3) return none();
  const bool batch_first = arguments[3] == Py_True;
  const int64_t T = given.x.sizes[batch_first], B = given.x.sizes[!batch_first];
  if (batch_first && T > 1 && B > 1) return none();  // rows of time do not lie next to each other
  LayerForward p{};
  if (!describe(given, T, B, p)) return none();
  const int64_t H = p.d.H, P = p.d.P;
  if (given.has_states && !(given.h0.is({1, B, P}) && given.c0.is({1, B, H}))) return none();
  const Variant* const variant = chosen(p, arguments[4]);
  if (!variant) return none();
  const Object y = batch_first ? make(given, {B, T, P}, p.y) : make(given, {T, B, P}, p.y);
  const Object h_n = make(given, {1, B, P}, p.h_n), c_n = make(given, {1, B, H}, p.c_n);
  if (!y || !h_n || !c_n || !run(*variant, p, nullptr)) return nullptr;
  const Object states(PyTuple_Pack(2, h_n.get(), c_n.get()));
  return states ? PyTuple_Pack(2, y.get(), states.get()) : nullptr;
}

// direct_step(x, hx, weights, variant) -> (h, c) or None
PyObject* direct_step(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 4) return PyErr_Format(PyExc_TypeError, "direct_step takes 4 arguments");
  Given given;
  if (!see_all(arguments, given) || given.x.dims != 2 || given.count == 5) return none();
  const int64_t B = given.x.sizes[0];
  LayerForward p{};
  if (!describe(given, 1, B, p)) return none();
  const int64_t H = p.d.H;
  if (given.has_states && !(given.h0.is({B, H}) && given.c0.is({B, H}))) return none();
  const Variant* const variant = chosen(p, arguments[3]);
  if (!variant) return none();
  const Object h = make(given, {B, H}, p.h_n), c = make(given, {B, H}, p.c_n);
  // A step's output is its last state.
  if (!h || !c || !run(*variant, p, p.h_n)) return nullptr;
  return PyTuple_Pack(2, h.get(), c.get());
}

template <class Function>
PyCFunction as_method(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function));
}

PyMethodDef methods[] = {
    {"bind_direct", as_method(bind_direct), METH_FASTCALL,
     "bind_direct(Tensor, Parameter): whether this torch has what the others need."},
    {"direct_layer", as_method(direct_layer), METH_FASTCALL,
     "direct_layer(x, hx, weights, batch_first, variant) -> (y, (h_n, c_n)), or None: use the op."},
    {"direct_step", as_method(direct_step), METH_FASTCALL,
     "direct_step(x, hx, weights, variant) -> (h, c), or None: use the op."},
    {},
};

}  // namespace

bool add_direct_functions(PyObject* module) { return PyModule_AddFunctions(module, methods) == 0; }

}  // namespace lf::ops
