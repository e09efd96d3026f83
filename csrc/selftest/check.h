// Helpers of the self-test: arrays that end at a forbidden page, random numbers, and checks that count.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace fastattn::selftest {

constexpr double kEps = 1.1920928955078125e-07;  // spacing of floats above 1

extern long checks, failures;

// One line per failure, and no more than twenty of them.
void report(bool ok, const char* format, ...) __attribute__((format(printf, 2, 3)));

// |got - want| <= bound, NaN where NaN is wanted, the same infinity.
inline bool within(double got, double want, double bound) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want)) return got == want;
  return std::fabs(got - want) <= bound;
}

inline bool same_bits(const float* a, const float* b, int64_t n) {
  return n == 0 || std::memcmp(a, b, static_cast<size_t>(n) * sizeof(float)) == 0;
}

// n floats whose last one is followed by a page that may not be touched. The start is aligned to 4 bytes only (or to
// 64, for panels and pages, then their size makes up for it).
class Array {
 public:
  explicit Array(int64_t n) : n_(n) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), bytes = static_cast<size_t>(n) * sizeof(float);
    bytes_ = (bytes + page - 1) / page * page + page;
    base_ = static_cast<char*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) std::abort();
    mprotect(base_ + bytes_ - page, page, PROT_NONE);
    data_ = reinterpret_cast<float*>(base_ + bytes_ - page - bytes);
  }
  Array(Array&& other) noexcept : n_(other.n_), bytes_(other.bytes_), base_(other.base_), data_(other.data_) {
    other.base_ = nullptr;
  }
  Array(const Array&) = delete;
  ~Array() {
    if (base_) munmap(base_, bytes_);
  }
  operator float*() const { return data_; }
  float* data() const { return data_; }
  int64_t size() const { return n_; }
  void fill(float value) const {
    for (int64_t i = 0; i < n_; ++i) data_[i] = value;
  }

 private:
  int64_t n_;
  size_t bytes_;
  char* base_;
  float* data_;
};

inline std::mt19937& generator() {
  static std::mt19937 engine(1234);
  return engine;
}
inline int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator()); }
// Nearly normal, mean 0 and variance 1: the sum of four uniforms. No logarithms, which take minutes under an emulator.
inline float random_normal() {
  const uint32_t a = uint32_t(generator()()), b = uint32_t(generator()());
  const auto sum = int(a & 0xffff) + int(a >> 16) + int(b & 0xffff) + int(b >> 16);
  return float(sum - 2 * 0xffff) * 2.6429e-5f;  // sqrt(3) / 2^16
}

inline Array random_array(int64_t n) {
  Array a(n);
  for (int64_t i = 0; i < n; ++i) a[i] = random_normal();
  return a;
}

// Lengths around every vector width in use.
inline const std::vector<int>& sizes() {
  static const std::vector<int> all = {0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 130};
  return all;
}

void test_math(unsigned stride);
void test_rows();
void test_linear();
void test_scores();
void test_attention();
void test_attention_cache();
void test_attention_rounded();
void test_page_pool();
void measure();

}  // namespace fastattn::selftest
