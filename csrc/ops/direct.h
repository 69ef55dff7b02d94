// Layers without gradients called from Python past the dispatcher of torch: see direct.cpp.
#pragma once

#include <Python.h>

namespace lf::ops {

// Adds bind_direct, direct_stack and direct_step to the module; false with a Python error.
bool add_direct_functions(PyObject* module);

}  // namespace lf::ops
