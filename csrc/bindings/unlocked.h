// The GIL, given up for a scope.
#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace fastattn {

// While the interpreter shuts down, CPython up to 3.13 ends a daemon thread that wants the GIL back by pthread_exit.
// Its unwinding ends the process where it meets a destructor that may not throw, as that of py::gil_scoped_release.
// Here the thread sleeps until the process ends, which is what CPython does from 3.14 on.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() {
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind&) {
      for (;;) pause();
    }
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace fastattn
