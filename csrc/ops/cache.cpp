#include "ops/cache.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

namespace fastattn {

void PagePool::set_layers(std::vector<PagedLayer> layers, DType type) {
  layers_ = std::move(layers);
  strips_.clear();
  page_bytes_ = 0;
  for (PagedLayer& layer : layers_) {  // every strip starts on a cache line
    layer.type = type;
    layer.offset = page_bytes_;
    page_bytes_ += layer.bytes();
    for (int64_t g = 0; g < layer.heads; ++g) strips_.push_back({layer.key_offset(g), layer.key_bytes()});
    for (int64_t g = 0; g < layer.heads; ++g) strips_.push_back({layer.value_offset(g), layer.value_bytes()});
  }
}

void PagePool::grow() {
  constexpr int64_t kLargestChunk = int64_t{32} << 20;  // bytes
  const int64_t doubled = std::max<int64_t>(16, static_cast<int64_t>(places_.size()));
  const int64_t count = std::max<int64_t>(1, std::min(doubled, kLargestChunk / std::max<int64_t>(page_bytes_, 1)));
  Buffer<uint8_t> chunk(static_cast<size_t>(count * page_bytes_));
  const size_t first = places_.size(), pages = first + static_cast<size_t>(count);
  chunks_.reserve(chunks_.size() + 1);
  places_.reserve(pages);
  references_.reserve(pages);
  free_.reserve(pages);  // from here on nothing throws
  references_.resize(pages, 0);
  for (int64_t i = 0; i < count; ++i) {  // ascending numbers are a heap
    places_.push_back({chunk.data(), i, count});
    free_.push_back(static_cast<int32_t>(first) + static_cast<int32_t>(i));
  }
  chunks_.push_back(std::move(chunk));
}

int32_t PagePool::take() {
  if (free_.empty()) grow();
  std::pop_heap(free_.begin(), free_.end(), std::greater<>());
  const int32_t page = free_.back();
  free_.pop_back();
  references_[static_cast<size_t>(page)] = 1;
  return page;
}

void PagePool::release_all() noexcept {
  free_.resize(places_.size());
  std::iota(free_.begin(), free_.end(), 0);
  std::fill(references_.begin(), references_.end(), 0);
}

void PagePool::release(int32_t page) {
  if (--references_[static_cast<size_t>(page)] > 0) return;
  free_.push_back(page);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

void PagePool::copy(int32_t from, int32_t to, int64_t begin, int64_t end) const {
  for (int64_t i = begin; i < end; ++i) {
    const Strip& part = strips_[static_cast<size_t>(i)];
    std::memcpy(strip(to, part), strip(from, part), static_cast<size_t>(part.bytes));
  }
}

int32_t State::take_memory() {
  if (free_memories.empty()) {
    free_memories.push_back(static_cast<int32_t>(memories.size()));
    memories.emplace_back();
    memories.back().rows.resize(row_widths.size());
  }
  const int32_t id = free_memories.back();
  free_memories.pop_back();
  memories[static_cast<size_t>(id)].references = 1;
  return id;
}

void State::release_memory(int32_t id) {
  Memory& memory = memories[static_cast<size_t>(id)];
  if (--memory.references > 0) return;
  for (const int32_t page : memory.pages) memory_pages.release(page);
  memory.pages.clear();
  free_memories.push_back(id);
}

void State::release(Sequence& sequence) {
  for (const int32_t page : sequence.pages) cache.release(page);
  sequence.pages.clear();
  if (sequence.memory >= 0) release_memory(sequence.memory);
  sequence.memory = -1;
  sequence.length = 0;
}

void State::reorder(const int32_t* parents, int64_t n) {
  if (static_cast<int64_t>(spare.size()) < n) spare.resize(static_cast<size_t>(n));
  spare_states.resize(static_cast<size_t>(n * state_width));
  for (int64_t i = 0; i < n; ++i) {
    const Sequence& parent = sequences[static_cast<size_t>(parents[i])];
    Sequence& child = spare[static_cast<size_t>(i)];
    child.length = parent.length;
    child.pages.assign(parent.pages.begin(), parent.pages.end());
    child.memory = parent.memory;
    for (const int32_t page : child.pages) cache.retain(page);
    if (child.memory >= 0) ++memories[static_cast<size_t>(child.memory)].references;
    std::copy_n(states.data() + parents[i] * state_width, state_width, spare_states.data() + i * state_width);
  }
  for (Sequence& sequence : sequences) release(sequence);
  std::swap(sequences, spare);
  std::swap(states, spare_states);
  // sequences beyond n stay in the vector, empty, for their capacity; the session knows its batch
}

void State::forget() noexcept {
  sequences.clear();
  spare.clear();
  memories.clear();
  free_memories.clear();
  cache.release_all();
  memory_pages.release_all();
}

}  // namespace fastattn
