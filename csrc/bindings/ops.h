// fastattn._native.ops: the dense ops on NumPy arrays.
#pragma once

#include <pybind11/pybind11.h>

namespace fastattn {

void bind_ops(pybind11::module_& m);

}  // namespace fastattn
