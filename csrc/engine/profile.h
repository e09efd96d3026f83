// What steps cost, op by op, as the first thread of a session sees it. Kept only while a session profiles.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "engine/program.h"

namespace fastattn {

struct OpCost {
  int64_t calls = 0, barriers = 0;
  double seconds = 0, waiting = 0;  // in the op itself; in the barriers behind it
  double weight_bytes = 0, kept_bytes = 0, value_bytes = 0, flops = 0;
};

// All steps of one program.
struct Profile {
  int64_t steps = 0, rows = 0;  // rows: tokens fed
  double seconds = 0;           // of whole calls
  std::vector<OpCost> ops;      // by node
};

// Adds what a call of the node moves and computes; `needs` are the node's in this step.
void add_work(const Node& node, const Frame& frame, const Needs& needs, OpCost& cost);

using Clock = std::chrono::steady_clock;
inline double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// Follows one thread through the ops of a step. `Unwatched` compiles to nothing.
struct Watch {
  std::vector<OpCost>& ops;
  Clock::time_point last = Clock::now();

  double lap() {
    const Clock::time_point now = Clock::now();
    return seconds_between(std::exchange(last, now), now);
  }
  void ran(size_t i) {
    ops[i].seconds += lap();
    ++ops[i].calls;
  }
  void waited(size_t i) {  // in the barrier before op i: for the op before it
    OpCost& cost = ops[i ? i - 1 : 0];
    cost.waiting += lap();
    ++cost.barriers;
  }
};
struct Unwatched {
  void ran(size_t) {}
  void waited(size_t) {}
};

}  // namespace fastattn
