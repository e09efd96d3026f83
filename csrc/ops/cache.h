// What sequences keep between steps: paged keys and values, memories of the encoder, and the tables that share them.
#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "kernels/kernels.h"
#include "ops/attention_bias.h"

namespace fastattn {

// Keys and values of one layer inside a page: G heads of keys [D][kPage], then G heads of values [kPage][Dv], each of
// page_bytes(type, width) bytes (kernels.h). offset in bytes.
struct PagedLayer {
  int64_t heads = 0, key_size = 0, value_size = 0, offset = 0;
  DType type = DType::float32;

  int64_t bytes() const { return heads * (page_bytes(type, key_size) + page_bytes(type, value_size)); }
  int64_t key_offset(int64_t g) const { return offset + g * page_bytes(type, key_size); }
  int64_t value_offset(int64_t g) const {
    return offset + heads * page_bytes(type, key_size) + g * page_bytes(type, value_size);
  }
};

// Pages of kPage tokens, each for all layers, counted by reference: beams and shared prefixes hold the same page.
class PagePool {
 public:
  void set_layers(std::vector<PagedLayer> layers, DType type);
  const PagedLayer& layer(int64_t i) const { return layers_[static_cast<size_t>(i)]; }
  size_t layer_count() const { return layers_.size(); }
  int64_t page_bytes() const { return page_bytes_; }  // a multiple of 64

  int32_t take();  // a page with one reference; its contents are whatever they were
  void retain(int32_t page) { ++references_[static_cast<size_t>(page)]; }
  void release(int32_t page);
  void release_all() noexcept;
  int references(int32_t page) const { return references_[static_cast<size_t>(page)]; }
  uint8_t* data(int32_t page) const { return pages_[static_cast<size_t>(page)]; }
  int64_t pages_in_use() const { return static_cast<int64_t>(pages_.size() - free_.size()); }

 private:
  void grow();

  std::vector<PagedLayer> layers_;
  int64_t page_bytes_ = 0;
  std::vector<Buffer<uint8_t>> chunks_;
  std::vector<uint8_t*> pages_;
  std::vector<int> references_;
  std::vector<int32_t> free_;
};

// The encoder's output for one input, shared by its beams: paged keys and values for cross-attention, and plain rows by
// slot.
struct Memory {
  int references = 0;
  int64_t length = 0;
  std::vector<int32_t> pages;
  std::vector<Buffer<float>> rows;  // by slot: (length, width)
};

// One sequence in flight.
struct Sequence {
  int64_t length = 0;          // tokens seen
  std::vector<int32_t> pages;  // ceil(length / kPage), where the model has a cache
  int32_t memory = -1;
};

// Everything a session keeps. States are one matrix: a row per sequence, all named vectors side by side.
struct State {
  PagePool cache, memory_pages;
  std::vector<Memory> memories;
  std::vector<int32_t> free_memories;
  std::vector<Sequence> sequences, spare;  // spare keeps the capacity of its vectors for the next reorder
  std::vector<int64_t> row_widths;         // memory rows, by slot
  std::vector<int64_t> state_widths, state_offsets;
  int64_t state_width = 0;
  DistanceBiases biases;
  Buffer<float> states, spare_states;

  float* state(int64_t sequence, int slot) {
    return states.data() + sequence * state_width + state_offsets[static_cast<size_t>(slot)];
  }
  int32_t take_memory();
  void release_memory(int32_t id);
  void release(Sequence& sequence);
  // sequences[i] becomes the old sequences[parents[i]].
  void reorder(const int32_t* parents, int64_t n);
  // Every sequence and memory goes, whatever holds them: for a session in which something failed half-way.
  void forget() noexcept;
};

}  // namespace fastattn
