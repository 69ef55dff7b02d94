// A layer's forward called from Python past torch's dispatcher: see direct.cpp.
#pragma once

#include <Python.h>

namespace lf::ops {

// Adds bind_direct, direct_layer and direct_step to the module.
bool add_direct_functions(PyObject* module);

}  // namespace lf::ops
