#include "base/threads.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <new>
#include <sstream>
#include <string>
#include <thread>

namespace fastattn {
namespace {

inline void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Each thread of a region claims the CPU it runs on; one that finds it claimed moves to a free one. A kernel may wake a
// thread on the CPU of the one that woke it though another is idle (seen in virtual machines); spinning there, each
// would keep the other from running, region after region, and two threads were slower than one.
class Places {
 public:
  void claim() {
    const int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= kMost || take(cpu)) return;
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
    for (int other = 0; other < kMost; ++other) {
      if (!CPU_ISSET(other, &allowed) || !take(other)) continue;
      CPU_ZERO(&one);
      CPU_SET(other, &one);
      if (sched_setaffinity(0, sizeof(one), &one) == 0) sched_setaffinity(0, sizeof(allowed), &allowed);
      return;
    }
  }

 private:
  static constexpr int kMost = CPU_SETSIZE;

  bool take(int cpu) {
    const uint64_t bit = uint64_t{1} << (cpu % 64);
    return !(taken_[cpu / 64].fetch_or(bit, std::memory_order_relaxed) & bit);
  }

  std::atomic<uint64_t> taken_[kMost / 64] = {};
};

void run_openmp(int num_threads, RegionBody body, void* context) {
  Barrier barrier;
  Shares shares;
  Places places;
  places.claim();  // the calling thread is the first of the team
#pragma omp parallel num_threads(num_threads)
  {
    Team team{omp_get_thread_num(), omp_get_num_threads(), &barrier};
    if (team.nth <= Shares::kMostThreads) team.shares = &shares;
    if (team.ith > 0) places.claim();
    body(context, team);
  }
}

// After fork() the child has none of the OpenMP pool's threads, and a region entered from a thread that owns such a
// pool would wait for them for ever. A thread born in the child has no pool yet, so the child enters its regions from
// one.
class Leader {
 public:
  Leader() {
    std::thread([this] { serve(); }).detach();
  }

  void run(int num_threads, RegionBody body, void* context) {
    std::unique_lock<std::mutex> lock(mutex_);
    num_threads_ = num_threads, body_ = body, context_ = context, busy_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !busy_; });
  }

 private:
  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return busy_; });
      run_openmp(num_threads_, body_, context_);
      busy_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  int num_threads_ = 1;
  RegionBody body_ = nullptr;
  void* context_ = nullptr;
  bool busy_ = false;
};

// Never destroyed: threads may still be inside while the process exits.
struct Regions {
  std::mutex mutex;
  bool orphan = false;  // a forked child: OpenMP's pool may be its parent's, whoever used it there
  Leader* leader = nullptr;
};

Regions* regions = nullptr;

void after_fork_in_child() {
  regions = new Regions;  // the old mutex may be held by a thread that does not exist here
  regions->orphan = true;
}

const bool initialised = [] {
  regions = new Regions;
  pthread_atfork(nullptr, nullptr, after_fork_in_child);
  return true;
}();

double read_ratio(const std::string& path) {
  std::ifstream file(path);
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
  return std::atof(quota.c_str()) / period;
}

double read_number(const std::string& path) {
  std::ifstream file(path);
  double value = 0;
  return (file >> value) ? value : 0;
}

// CPUs' worth of time the cgroup allows, 0 when unlimited: the smallest limit on the way to the root (v2), or the v1
// quota.
double cgroup_quota() {
  double quota = 0;
  const auto lower = [&quota](double q) {
    if (q > 0) quota = quota > 0 ? std::min(quota, q) : q;
  };
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("0::", 0) != 0) continue;
    for (std::string path = line.substr(3); !path.empty(); path.erase(path.find_last_of('/')))
      lower(read_ratio("/sys/fs/cgroup" + (path == "/" ? "" : path) + "/cpu.max"));
  }
  lower(read_ratio("/sys/fs/cgroup/cpu.max"));
  const double period = read_number("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (period > 0) lower(read_number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") / period);
  return quota;
}

// OpenMP ends the process where a thread cannot be started; so many can be, and more would help nobody.
int most_threads() {
  static const int most = std::max(64, 8 * usable_cpus());
  return most;
}

std::atomic<int> chosen_threads{0};

}  // namespace

void pause_between(int looks) {
  if (looks < 2000) {
    pause_cpu();
  } else {
    sched_yield();
  }
}

void Barrier::wait(int team_size) {
  const unsigned generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == team_size) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  Team::until([&] { return generation_.load(std::memory_order_acquire) != generation; });
}

int64_t Shares::take(int thread, uint32_t call, Range part, bool from_end) {
  constexpr uint64_t kIndex = kMostItems;
  std::atomic<uint64_t>& state = shares_[thread].state;
  for (uint64_t now = state.load(std::memory_order_relaxed);;) {
    const uint32_t at = static_cast<uint32_t>(now >> 40);
    if (at > call) return -1;  // its owner has gone on: nothing was left
    uint64_t begin = static_cast<uint64_t>(part.begin), end = static_cast<uint64_t>(part.end);
    if (at == call) begin = now >> 20 & kIndex, end = now & kIndex;
    if (begin == end) return -1;
    const uint64_t item = from_end ? --end : begin++;
    // what an item writes is read by others only after a barrier, which orders it
    const uint64_t next = uint64_t{call} << 40 | begin << 20 | end;
    if (state.compare_exchange_weak(now, next, std::memory_order_relaxed)) return static_cast<int64_t>(item);
  }
}

int64_t Shares::next(uint32_t call) {
  constexpr uint64_t kIndex = (uint64_t{1} << 32) - 1;
  std::atomic<uint64_t>& state = queue_.state;
  for (uint64_t now = state.load(std::memory_order_relaxed);;) {
    const uint32_t at = static_cast<uint32_t>(now >> 32);
    if (at > call) return -1;
    const uint64_t item = at == call ? now & kIndex : 0;
    if (state.compare_exchange_weak(now, uint64_t{call} << 32 | (item + 1), std::memory_order_relaxed))
      return static_cast<int64_t>(item);
  }
}

void run_region(int num_threads, RegionBody body, void* context) {
  if (num_threads <= 1) {
    Team alone{0, 1, nullptr};
    body(context, alone);
    return;
  }
  num_threads = std::min(num_threads, most_threads());
  Regions* mine = regions;
  std::lock_guard<std::mutex> lock(mine->mutex);
  if (mine->orphan) {
    if (!mine->leader) mine->leader = new Leader;
    mine->leader->run(num_threads, body, context);
  } else {
    run_openmp(num_threads, body, context);
  }
}

int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus =
      sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const double quota = cgroup_quota();
  if (quota > 0) cpus = std::min(cpus, static_cast<int>(quota));
  return std::max(cpus, 1);
}

int default_num_threads() {
  const int chosen = chosen_threads.load(std::memory_order_relaxed);
  if (chosen > 0) return chosen;
  static const int initial = [] {
    const char* text = std::getenv("OMP_NUM_THREADS");
    const int wanted = text ? std::atoi(text) : 0;
    return wanted > 0 ? std::min(wanted, usable_cpus()) : usable_cpus();
  }();
  return initial;
}

void set_default_num_threads(int n) { chosen_threads.store(n, std::memory_order_relaxed); }

}  // namespace fastattn
