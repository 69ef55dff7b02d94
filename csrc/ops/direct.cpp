// The forward of a stack of layers on a CPU, for callers who want numbers and nothing else: no
// gradient, no transform, no mode. The dispatcher and the boxing of 18 arguments take 4 us of an
// op, which is most of a small step.
//
// Whatever is not exactly what a kernel takes is answered with None: the op then does it, or says
// what is wrong.
#include "ops/direct.h"

#include <cstdlib>
#include <exception>
#include <vector>

#include "dispatch/registry.h"
#include "ops/layer.h"
#include "ops/seen.h"
#include "ops/tensors.h"

namespace lf::ops {
namespace {

// What a call gives, of one dtype, and its sizes.
struct Stack {
  PyObject* like = nullptr;  // x
  Object pair, all_weights;  // tuples, which nobody changes while others have Python
  Seen x, h0, c0;
  bool has_states = false;
  std::vector<Seen> weights;  // of each layer, of each direction, `kinds` of them
  size_t kinds = 0;           // 2, 4 (with biases) or 5 (with a projection as well)
  DType dtype{};
  int64_t L = 0;
  Dims d{};  // of each layer

  size_t element() const { return element_size(dtype); }
  const Seen* of(int64_t layer, int64_t direction) const {
    return &weights[size_t(layer * d.D + direction) * kinds];
  }
};

// A list as a tuple, a tuple as it is; nullptr for anything else.
Object as_tuple(PyObject* object) {
  const bool is_one = PyTuple_CheckExact(object) || PyList_CheckExact(object);
  return Object(is_one ? PySequence_Tuple(object) : nullptr);
}

// x, hx, weights
bool see_all(PyObject* const* arguments, Stack& s) {
  s.like = arguments[0];
  if (!see(s.like, s.x)) return false;
  const dlpack::DataType& dtype = s.x.dtype;
  if (dtype.code != dlpack::kFloat || dtype.lanes != 1 || (dtype.bits != 32 && dtype.bits != 64))
    return false;
  s.dtype = dtype.bits == 32 ? DType::f32 : DType::f64;

  PyObject* const hx = arguments[1];
  s.has_states = hx != Py_None;
  if (s.has_states) {
    s.pair = as_tuple(hx);
    if (!s.pair || PyTuple_GET_SIZE(s.pair.get()) != 2) return false;
    if (!see(PyTuple_GET_ITEM(s.pair.get(), 0), s.h0)) return false;
    if (!see(PyTuple_GET_ITEM(s.pair.get(), 1), s.c0)) return false;
    if (!s.h0.has_dtype_of(s.x) || !s.c0.has_dtype_of(s.x)) return false;
  }
  s.all_weights = as_tuple(arguments[2]);
  if (!s.all_weights) return false;
  const Py_ssize_t count = PyTuple_GET_SIZE(s.all_weights.get());
  try {
    s.weights.resize(size_t(count));
  } catch (const std::bad_alloc&) {  // no exception may reach Python's frames
    return false;
  }
  for (Py_ssize_t k = 0; k < count; ++k) {
    Seen& weight = s.weights[size_t(k)];
    if (!see(PyTuple_GET_ITEM(s.all_weights.get(), k), weight)) return false;
    if (!weight.has_dtype_of(s.x)) return false;
  }
  return true;
}

// Sets the sizes; false: a shape is not what it must be.
bool measure(Stack& s, long layers, long directions, int64_t T, int64_t B) {
  if (layers < 1 || directions < 1 || directions > 2 || T > kMaxSteps) return false;
  const size_t groups = size_t(layers) * size_t(directions);
  s.L = layers;
  s.kinds = s.weights.size() / groups;
  if (s.weights.size() % groups || (s.kinds != 2 && s.kinds != 4 && s.kinds != 5)) return false;
  const Seen& first = s.weights[0];
  if (first.dims != 2 || first.sizes[0] % 4) return false;
  Dims& d = s.d;
  d.T = T, d.B = B, d.D = directions, d.N = T * B;
  d.H = first.sizes[0] / 4;
  d.P = s.kinds == 5 ? s.weights[4].sizes[0] : d.H;
  int64_t I = s.x.sizes[s.x.dims - 1];
  for (int64_t layer = 0; layer < s.L; ++layer, I = d.D * d.P)
    for (int64_t direction = 0; direction < d.D; ++direction) {
      const Seen* const w = s.of(layer, direction);
      if (!w[0].is({4 * d.H, I}) || !w[1].is({4 * d.H, d.P})) return false;
      if (s.kinds > 2 && (!w[2].is({4 * d.H}) || !w[3].is({4 * d.H}))) return false;
      if (s.kinds == 5 && !w[4].is({d.P, d.H})) return false;
    }
  return true;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

// As torch allocates, with what the tests want to find there.
Memory allocate(size_t bytes) {
  const size_t whole = (bytes + 63) / 64 * 64;
  Memory memory(whole ? std::aligned_alloc(64, whole) : nullptr);
  if (whole && !memory) throw std::bad_alloc();
  poison(memory.get(), whole);
  return memory;
}

// One layer after the other. y [N, D*P], h_n [L*D, B, P] and c_n [L*D, B, H]; y may be h_n where
// the only output is the only state.
void run_layers(const Stack& s, const Variant& variant, void* y, void* h_n, void* c_n) {
  const Dims& d = s.d;
  std::vector<int64_t> offsets(size_t(d.T) + 1);
  for (int64_t t = 0; t <= d.T; ++t) offsets[size_t(t)] = t * d.B;
  Context context{};
  context.threads = int(torch::stable::get_num_threads());
  // What layers hand to the next, in two places by turns.
  const size_t between = size_t(d.N * d.D * d.P) * s.element();
  const Memory handed_on[2] = {allocate(s.L > 1 ? between : 0), allocate(s.L > 2 ? between : 0)};

  LayerForward p{};
  p.cell = Cell::lstm;
  p.dtype = p.storage = s.dtype;
  p.d = d;
  p.offsets = offsets.data();
  for (int64_t layer = 0; layer < s.L; ++layer) {
    const auto at = [&](const void* first, int64_t width) {
      return first ? static_cast<const char*>(first) + layer * d.D * d.B * width * s.element()
                   : nullptr;
    };
    p.I = layer ? d.D * d.P : s.x.sizes[s.x.dims - 1];
    p.x = layer ? p.y : s.x.data;
    p.y = layer + 1 < s.L ? handed_on[layer % 2].get() : y;
    for (int64_t direction = 0; direction < d.D; ++direction) {
      const Seen* const w = s.of(layer, direction);
      p.w_ih[direction] = w[0].data, p.w_hh[direction] = w[1].data;
      if (s.kinds > 2) p.b_ih[direction] = w[2].data, p.b_hh[direction] = w[3].data;
      if (s.kinds > 4) p.w_hr[direction] = w[4].data;
    }
    p.h0 = at(s.h0.data, d.P), p.c0 = at(s.c0.data, d.H);
    p.h_n = const_cast<char*>(at(h_n, d.P)), p.c_n = const_cast<char*>(at(c_n, d.H));
    const Memory workspace = allocate(variant.forward_workspace(p));
    context.workspace = workspace.get();
    variant.forward(p, context);
  }
}

// The same while others may have Python; false with a Python error.
bool run(const Stack& s, const Variant& variant, void* y, void* h_n, void* c_n) {
  std::exception_ptr failure;
  Py_BEGIN_ALLOW_THREADS;
  try {
    run_layers(s, variant, y, h_n, c_n);
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

// The variant that runs the layers as they are given, or nullptr.
const Variant* chosen(const Stack& s, PyObject* code) {
  const long forced = PyLong_AsLong(code);
  const char* reason;
  if (PyErr_Occurred()) return nullptr;
  const Variant* const variant =
      choose(lf::Device::cpu, Cell::lstm, s.dtype, s.d, false, int(forced), &reason);
  return variant && variant->whole_forward ? variant : nullptr;  // nobody projects the input here
}

PyObject* none() {
  PyErr_Clear();
  Py_RETURN_NONE;
}

PyObject* bind_direct(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2) return PyErr_Format(PyExc_TypeError, "bind_direct takes Tensor and Parameter");
  return PyBool_FromLong(bind_torch(arguments[0], arguments[1]));
}

PyObject* direct_stack(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 7) return PyErr_Format(PyExc_TypeError, "direct_stack takes 7 arguments");
  Stack s;
  if (!see_all(arguments, s) || s.x.dims != 3) return none();
  const int batch_first = PyObject_IsTrue(arguments[5]);
  if (batch_first < 0 || !PyLong_Check(arguments[3])) return none();
  const int64_t T = s.x.sizes[batch_first], B = s.x.sizes[!batch_first];
  if (batch_first && T > 1 && B > 1) return none();  // rows of time do not lie next to each other
  if (!measure(s, PyLong_AsLong(arguments[3]), PyLong_AsLong(arguments[4]), T, B)) return none();
  const int64_t H = s.d.H, P = s.d.P, cells = s.L * s.d.D, width = s.d.D * P;
  if (s.has_states && !(s.h0.is({cells, B, P}) && s.c0.is({cells, B, H}))) return none();
  const Variant* const variant = chosen(s, arguments[6]);
  if (!variant) return none();
  void *y_data, *h_data, *c_data;
  const Object y = batch_first ? new_empty(s.like, {B, T, width}, y_data)
                               : new_empty(s.like, {T, B, width}, y_data);
  if (!y) return nullptr;
  const Object h_n = new_empty(s.like, {cells, B, P}, h_data);
  if (!h_n) return nullptr;
  const Object c_n = new_empty(s.like, {cells, B, H}, c_data);
  if (!c_n || !run(s, *variant, y_data, h_data, c_data)) return nullptr;
  const Object states(PyTuple_Pack(2, h_n.get(), c_n.get()));
  return states ? PyTuple_Pack(2, y.get(), states.get()) : nullptr;
}

PyObject* direct_step(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 4) return PyErr_Format(PyExc_TypeError, "direct_step takes 4 arguments");
  Stack s;
  if (!see_all(arguments, s) || s.x.dims != 2) return none();
  const int64_t B = s.x.sizes[0];
  if (!measure(s, 1, 1, 1, B) || s.kinds == 5) return none();
  const int64_t H = s.d.H;
  if (s.has_states && !(s.h0.is({B, H}) && s.c0.is({B, H}))) return none();
  const Variant* const variant = chosen(s, arguments[3]);
  if (!variant) return none();
  void *h_data, *c_data;
  const Object h = new_empty(s.like, {B, H}, h_data);
  if (!h) return nullptr;
  const Object c = new_empty(s.like, {B, H}, c_data);
  if (!c || !run(s, *variant, h_data, h_data, c_data)) return nullptr;
  return PyTuple_Pack(2, h.get(), c.get());
}

template <class Function>
PyCFunction as_method(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function));
}

PyMethodDef methods[] = {
    {"bind_direct", as_method(bind_direct), METH_FASTCALL,
     "bind_direct(Tensor, Parameter): whether this torch has what the others need."},
    {"direct_stack", as_method(direct_stack), METH_FASTCALL,
     "direct_stack(x, hx, weights, num_layers, directions, batch_first, variant) -> "
     "(y, (h_n, c_n)), or None: use the op."},
    {"direct_step", as_method(direct_step), METH_FASTCALL,
     "direct_step(x, hx, weights, variant) -> (h, c), or None: use the op."},
    {},
};

}  // namespace

bool add_direct_functions(PyObject* module) { return PyModule_AddFunctions(module, methods) == 0; }

}  // namespace lf::ops
