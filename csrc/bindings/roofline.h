#pragma once

#include <pybind11/pybind11.h>

namespace fastattn {

void bind_roofline(pybind11::module_& m);  // what the machine can do at most

}  // namespace fastattn
