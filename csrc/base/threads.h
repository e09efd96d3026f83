// Threads: a region is entered once per step, and its team walks the ops together with a light barrier between them.
// threads.cpp is the only file that knows OpenMP.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace fastattn {

struct Range {
  int64_t begin, end;
};

// What a waiting thread does between two looks: spins briefly, then yields, for threads that share a core with
// something else must not burn its time.
void pause_between(int looks);

// Where the threads of a team meet.
class Barrier {
 public:
  void wait(int team_size);

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> generation_{0};
};

// What is left of each thread's part of some items: threads take from the front of their own part, and, when it is
// done, from the ends of others'. One word holds the call it belongs to and the range, so that nothing has to be reset
// between calls.
class Shares {
 public:
  static constexpr int kMostThreads = 64;
  static constexpr int64_t kMostItems = (1 << 20) - 1;

  // An item of the thread's part, which was `part` at the beginning of call number `call`; -1 if none is left.
  int64_t take(int thread, uint32_t call, Range part, bool from_end);

  // 0, 1, 2 … of call number `call`, each for one thread; -1 once another thread has gone on to the next call.
  int64_t next(uint32_t call);

 private:
  struct alignas(64) Share {
    std::atomic<uint64_t> state{0};
  };
  Share shares_[kMostThreads], queue_;
};

// One thread's view of the region it is in.
struct Team {
  int ith, nth;
  Barrier* shared;
  Shares* shares = nullptr;
  uint32_t calls = 0;  // of each(), and queues

  void barrier() {
    if (nth > 1) shared->wait(nth);
  }

  // Waits until ready(), which another thread of the team brings about.
  template <typename Ready>
  static void until(Ready&& ready) {
    for (int looks = 0; !ready(); ++looks) pause_between(looks);
  }

  // This thread's contiguous part of n items.
  Range split(int64_t n) const { return part(n, ith); }
  Range part(int64_t n, int thread) const { return {n * thread / nth, n * (thread + 1) / nth}; }

  // body(i) for all of n items, by the whole team: every thread calls it with the same n. Each begins with its own
  // part, in order, the same ones at every call; a thread that is done helps others, for one may be held up by
  // something else on its core.
  template <typename Body>
  void each(int64_t n, Body&& body) {
    if (nth == 1 || !shares || n > Shares::kMostItems) {
      const Range mine = split(n);
      for (int64_t i = mine.begin; i < mine.end; ++i) body(i);
      return;
    }
    ++calls;
    for (int other = 0; other < nth; ++other) {
      const int thread = (ith + other) % nth;
      for (int64_t i; (i = shares->take(thread, calls, part(n, thread), other > 0)) >= 0;) body(i);
    }
  }
};

// Deals items out to the threads, each to the first that is free. All threads go through the same items in the same
// order, and ask at each whether it is theirs.
class Queue {
 public:
  static constexpr bool kFixed = false;  // which items a thread gets depends on the others
  explicit Queue(Team& team) : team_(team), call_(++team.calls) { mine_ = next(); }
  bool mine() {
    if (item_++ != mine_) return false;
    mine_ = next();
    return true;
  }

 private:
  int64_t next() const {
    if (team_.nth == 1 || !team_.shares) return item_ + (team_.ith - item_ % team_.nth + team_.nth) % team_.nth;
    return team_.shares->next(call_);
  }
  Team& team_;
  uint32_t call_;
  int64_t item_ = 0, mine_;
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
