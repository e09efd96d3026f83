#pragma once

#include <pybind11/pybind11.h>

namespace fastattn {

void bind_engine(pybind11::module_& m);  // Weight, Program, Session

}  // namespace fastattn
