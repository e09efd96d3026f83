// Aligned memory that only grows, and the count of every allocation the engine makes (a steady decode step makes none).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#  include <sys/mman.h>
#endif

namespace fastattn {

inline std::atomic<int64_t> allocation_count{0};

constexpr size_t kHugePage = size_t{2} << 20;  // bytes

// 64-byte aligned memory, to be given to free(); throws std::bad_alloc. Large ones stand in huge pages where the system
// has them on offer: a walk through weights or a long cache then finds its addresses without looking pages up.
inline void* aligned_memory(size_t bytes) {
  if (bytes > SIZE_MAX - kHugePage) throw std::bad_alloc();
  const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!memory && bytes) throw std::bad_alloc();
#if defined(__linux__)
  // Whole ones only: the rest of the last would be taken for nothing. It is advice, and may be refused.
  if (alignment == kHugePage) madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  allocation_count.fetch_add(1, std::memory_order_relaxed);
  return memory;
}

// 64-byte aligned array of plain values; resize() keeps the contents only when it does not have to grow.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t n) { resize(n); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { std::free(data_); }

  void resize(size_t n) {
    if (n > capacity_) grow(n);
    size_ = n;
  }

  void zero() {
    if (size_) std::memset(static_cast<void*>(data_), 0, size_ * sizeof(T));
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  size_t size() const { return size_; }
  int64_t bytes() const { return static_cast<int64_t>(capacity_ * sizeof(T)); }  // held
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

  void grow(size_t n) {
    if (n > SIZE_MAX / sizeof(T) - 64) throw std::bad_alloc();
    void* fresh = aligned_memory(n * sizeof(T));
    std::free(data_);
    data_ = static_cast<T*>(fresh);
    capacity_ = n;
  }

  T* data_ = nullptr;
  size_t size_ = 0, capacity_ = 0;
};

}  // namespace fastattn
