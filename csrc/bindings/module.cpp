// The extension module fastattn._native: function pointers and docstrings, no logic.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/threads.h"
#include "bindings/engine.h"
#include "bindings/ops.h"
#include "bindings/roofline.h"
#include "dispatch/dispatch.h"

namespace py = pybind11;

PYBIND11_MODULE(_native, m) {
  m.doc() = "The C++ engine of fastattn.";
  try {
    fastattn::init_isa_from_env();
  } catch (const std::invalid_argument& error) {
    throw py::import_error(error.what());
  }

  m.def("available_isas", &fastattn::available_isas, "Instruction sets this CPU can run, best first.");
  m.def("active_isa", &fastattn::active_isa, "The instruction set in use.");
  m.def("set_isa", &fastattn::set_isa, py::arg("name"),
        "Chooses the instruction set; ValueError if this CPU cannot run it.");
  m.def("usable_cpus", &fastattn::usable_cpus, "CPUs this process may use: affinity and cgroup quota.");
  m.def("get_num_threads", &fastattn::default_num_threads, "The default number of threads.");
  m.def("set_num_threads", &fastattn::set_default_num_threads, py::arg("num_threads"),
        "Sets the default number of threads.");

  fastattn::bind_engine(m);
  fastattn::bind_roofline(m);
  py::module_ ops = m.def_submodule("ops", "Single operations on NumPy arrays.");
  fastattn::bind_ops(ops);
}
