// What sequences keep between steps: paged keys and values, memories of the encoder, and the tables that share them.
#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "kernels/kernels.h"
#include "ops/attention_bias.h"

namespace fastattn {

// The strips of kPage keys, [D][kPage], or of kPage values, [kPage][Dv], of one head, page_bytes(type, width) bytes
// each (kernels.h). A layer has those of its keys first, one for each head, then those of its values; `offset` is where
// they begin when the strips of one page are laid side by side, in bytes.
struct PagedLayer {
  int64_t heads = 0, key_size = 0, value_size = 0, offset = 0;
  DType type = DType::float32;

  int64_t key_bytes() const { return page_bytes(type, key_size); }
  int64_t value_bytes() const { return page_bytes(type, value_size); }
  int64_t bytes() const { return heads * (key_bytes() + value_bytes()); }
  int64_t key_offset(int64_t g) const { return offset + g * key_bytes(); }
  int64_t value_offset(int64_t g) const { return offset + heads * key_bytes() + g * value_bytes(); }
};

// Pages of kPage tokens, each for all layers, counted by reference: beams and shared prefixes hold the same page.
// Memory comes in chunks of some pages, in which the strips of a head stand one after the other, page by page: a
// sequence whose pages are neighbours is read as one stream.
class PagePool {
 public:
  void set_layers(std::vector<PagedLayer> layers, DType type);
  const PagedLayer& layer(int64_t i) const { return layers_[static_cast<size_t>(i)]; }
  size_t layer_count() const { return layers_.size(); }

  int32_t take();  // the first free page, with one reference; its contents are whatever they were
  void retain(int32_t page) { ++references_[static_cast<size_t>(page)]; }
  void release(int32_t page);
  void release_all() noexcept;
  int references(int32_t page) const { return references_[static_cast<size_t>(page)]; }
  int64_t bytes() const { return static_cast<int64_t>(places_.size()) * page_bytes_; }  // of all pages
  int64_t pages_in_use() const { return static_cast<int64_t>(places_.size() - free_.size()); }

  // Head g's strips, each 64-byte aligned.
  uint8_t* keys(int32_t page, const PagedLayer& layer, int64_t g) const {
    return strip(page, {layer.key_offset(g), layer.key_bytes()});
  }
  uint8_t* values(int32_t page, const PagedLayer& layer, int64_t g) const {
    return strip(page, {layer.value_offset(g), layer.value_bytes()});
  }
  // Strips [begin, end) of strip_count() of one page become those of another.
  int64_t strip_count() const { return static_cast<int64_t>(strips_.size()); }
  void copy(int32_t from, int32_t to, int64_t begin, int64_t end) const;

 private:
  struct Strip {
    int64_t offset, bytes;
  };
  struct Place {
    uint8_t* chunk;
    int64_t index, pages;  // of the chunk
  };
  uint8_t* strip(int32_t page, Strip strip) const {
    const Place& place = places_[static_cast<size_t>(page)];
    return place.chunk + strip.offset * place.pages + strip.bytes * place.index;
  }
  void grow();

  std::vector<PagedLayer> layers_;
  std::vector<Strip> strips_;
  int64_t page_bytes_ = 0;  // a multiple of 64
  std::vector<Buffer<uint8_t>> chunks_;
  std::vector<Place> places_;
  std::vector<int> references_;
  std::vector<int32_t> free_;  // a heap, the lowest first
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
