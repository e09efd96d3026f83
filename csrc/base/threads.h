// Threads: a region is entered once per step, and its team walks the ops together with a light barrier between them.
// threads.cpp is the only file that knows OpenMP.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace fastattn {

// Spins briefly, then yields: threads that share a core with something else must not burn its time.
class Barrier {
 public:
  void wait(int team_size);

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> generation_{0};
};

struct Range {
  int64_t begin, end;
};

// One thread's view of the region it is in.
struct Team {
  int ith, nth;
  Barrier* shared;

  void barrier() {
    if (nth > 1) shared->wait(nth);
  }

  // This thread's contiguous part of n items.
  Range split(int64_t n) const { return {n * ith / nth, n * (ith + 1) / nth}; }
};

using RegionBody = void (*)(void* context, Team& team);
void run_region(int num_threads, RegionBody body, void* context);

// Runs body(team) on num_threads threads. Regions of several threads run one after another: more would only share the
// cores.
template <typename Body>
void parallel(int num_threads, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  run_region(
      num_threads, [](void* context, Team& team) { (*static_cast<Plain*>(context))(team); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

// CPUs this process may use: affinity mask and cgroup quota (rounded down, at least 1).
int usable_cpus();

// The process-wide default number of threads: usable_cpus(), lowered by OMP_NUM_THREADS, until it is set.
int default_num_threads();
void set_default_num_threads(int n);

}  // namespace fastattn
