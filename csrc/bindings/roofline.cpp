#include "bindings/roofline.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/threads.h"
#include "bindings/unlocked.h"
#include "dispatch/dispatch.h"

namespace py = pybind11;

namespace fastattn {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// GFLOP/s of fused multiply-adds in registers on num_threads threads at once.
double fma_gflops(int num_threads, double budget) {
  const Unlocked unlocked;
  num_threads = std::max(1, num_threads);
  std::vector<double> rates(static_cast<size_t>(num_threads), 0.0);
  parallel(num_threads, [&](Team& team) {
    double flops = 0;
    team.barrier();
    const double begin = seconds();
    double now = begin;
    for (; now - begin < budget; now = seconds()) flops += kernels().fma_peak(100000);
    rates[static_cast<size_t>(team.ith)] = flops / (now - begin) / 1e9;
  });
  double total = 0;
  for (const double rate : rates) total += rate;
  return total;
}

// GB/s of streaming reads of `array`, each thread its own part, the best of `repeats` passes.
double read_gbs(const py::array_t<float, py::array::c_style>& array, int num_threads, int repeats) {
  const float* data = array.data();
  const int64_t n = array.size();
  const Unlocked unlocked;
  double best = 0;
  for (int i = 0; i < repeats; ++i) {
    const double begin = seconds();
    volatile float sink = 0;
    parallel(num_threads, [&](Team& team) {
      const Range mine = team.split(n);
      sink = kernels().read_sum(data + mine.begin, mine.end - mine.begin);
    });
    best = std::max(best, static_cast<double>(n) * sizeof(float) / (seconds() - begin) / 1e9);
    (void)sink;
  }
  return best;
}

}  // namespace

void bind_roofline(py::module_& m) {
  m.def("fma_gflops", &fma_gflops, py::arg("num_threads"), py::arg("seconds"),
        "GFLOP/s of fused multiply-adds held in registers.");
  m.def("read_gbs", &read_gbs, py::arg("array"), py::arg("num_threads"), py::arg("repeats"),
        "GB/s of streaming reads of a float32 array: best of some passes.");
}

}  // namespace fastattn
