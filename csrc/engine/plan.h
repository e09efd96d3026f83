// How the threads of a team share the ops of a step, and where they must wait for each other.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/program.h"

namespace fastattn {

// An op is done by all threads together, by the first alone, or, where a barrier would cost more than the op, by each
// for itself: its result is then private to the thread, and nobody has to wait for it.
enum class Who : uint8_t { all, first, each };

// Who has touched a place since the last barrier.
enum class Touch : uint8_t { nobody, first, others };

struct PlannedOp {
  Who who = Who::first;
  bool barrier = false;  // before the op
};

// Kept from step to step: made anew only when the rows of the step change.
class Plan {
 public:
  std::vector<PlannedOp> ops;          // by node
  std::vector<bool> is_private;        // by value
  int64_t shared = 0, per_thread = 0;  // floats of scratch
  bool single = true;                  // the whole step is the calling thread's
  // Returns whether anything that places values in memory may have changed.
  bool update(const Program& program, const Frame& frame, int num_threads);
  const Needs& needs(size_t node) const { return needs_[node]; }

 private:
  void share_out(const Program& program);
  void find_barriers(const Program& program);

  struct Shape {
    const Program* program = nullptr;
    int64_t tokens = 0, batch = 0, last = 0;
    int threads = 0;
    bool chooses = false;
  } shape_;
  std::vector<Needs> needs_;
  std::vector<Who> who_, who_before_;
  std::vector<Touch> written_, read_;  // by slot, since the last barrier
};

}  // namespace fastattn
