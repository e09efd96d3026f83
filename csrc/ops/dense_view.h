// Arrays as the ops API hands them over: any strides, counted in elements; negative and zero ones included.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/buffer.h"
#include "base/threads.h"
#include "kernels/kernels.h"

namespace fastattn::dense {

template <typename T, int N>
struct View {
  T* data = nullptr;
  int64_t shape[N] = {};
  int64_t stride[N] = {};
};

template <int N>
using In = View<const float, N>;
template <int N>
using Out = View<float, N>;

// Whether the kernels can read the last axis as it stands. The strides of an empty array mean nothing.
template <typename T, int N>
bool rows_contiguous(const View<T, N>& x) {
  if (std::find(x.shape, x.shape + N, 0) != x.shape + N) return true;
  return x.stride[N - 1] == 1 || x.shape[N - 1] <= 1;
}

// n floats that stand `stride` apart, side by side.
inline void gather(const float* from, int64_t stride, int64_t n, float* to) {
  if (stride == 1) {
    std::copy_n(from, n, to);
    return;
  }
  for (int64_t i = 0; i < n; ++i) to[i] = from[i * stride];
}

// Some rows of n floats, `row_stride` apart, as rows side by side, `ld` apart. Where rows are nearer to each other than
// their elements, a line of the cache holds an element of several rows: it is read for all of them, before lines that
// lie alike in the cache (a power of two apart, say) drive it out.
inline void gather_rows(const float* from, int64_t row_stride, int64_t stride, int64_t rows, int64_t n, float* to,
                        int64_t ld) {
  if (row_stride == 1) {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t r = 0; r < rows; ++r) to[r * ld + i] = from[i * stride + r];
  } else {
    for (int64_t r = 0; r < rows; ++r) gather(from + r * row_stride, stride, n, to + r * ld);
  }
}

// Waking a second thread costs some microseconds, so each thread must have at least this much to do. The unit is a
// floating-point operation of a matrix product; a float read from memory counts as four.
constexpr double kWorkPerThread = 1e6;

inline int threads_for(double work) {
  const double useful = 1 + work / kWorkPerThread;
  return std::max(1, static_cast<int>(std::min<double>(default_num_threads(), useful)));
}

// Scratch of the calling thread, reused from call to call: fresh pages from the system cost more than small problems.
// What a large problem took is given back, so that one long prompt does not stay in memory for ever.
class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    const size_t wanted = static_cast<size_t>(floats);
    local().resize(wanted > kSmall ? std::max(wanted, kHugePage / sizeof(float)) : wanted);
    next_ = local().data();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (local().size() > kKeep) local() = Buffer<float>();
  }

  // Room for n floats as counted by `padded`.
  float* take(int64_t n) {
    float* p = next_;
    next_ += padded(n);
    return p;
  }

  static int64_t padded(int64_t n) { return whole_lines(n); }

 private:
  static constexpr size_t kKeep = 4u << 20;  // floats
  // From here on a huge page is asked for, of each thread that calls: attention reads packed keys again and again, and
  // lines of small pages, wherever these happen to lie in memory, may crowd into few sets of the second-level cache.
  static constexpr size_t kSmall = 16u << 10;  // floats
  static Buffer<float>& local() {
    static thread_local Buffer<float> buffer;
    return buffer;
  }
  float* next_;
};

}  // namespace fastattn::dense
