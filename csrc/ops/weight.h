// Weights as the ops read them: immutable, shared by all sessions of a model.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/buffer.h"
#include "kernels/kernels.h"

namespace fastattn {

// A matrix [rows, cols] = [out, in], or a vector (cols = 1). It is plain or packed.
struct Weight {
  int64_t rows = 0, cols = 0;
  DType type = DType::float32;
  Buffer<float> plain;                    // row-major: vectors, and tables of positions
  std::shared_ptr<const uint8_t> panels;  // [panel_count()][panel_bytes(type, cols)], owned or borrowed

  int64_t panel_count() const { return (rows + kPanel - 1) / kPanel; }
  const uint8_t* panel(int64_t p) const { return panels.get() + p * panel_bytes(type, cols); }
  bool packed() const { return panels != nullptr; }
  int64_t packed_bytes() const { return packed() ? panel_count() * panel_bytes(type, cols) : 0; }
  int64_t bytes() const { return static_cast<int64_t>(plain.size() * sizeof(float)) + packed_bytes(); }
};

// A matrix as it is given: elements of any strides, counted in elements, negative and zero ones included.
struct Source {
  enum class Type { float32, float16, bfloat16 } type;
  const void* data;
  int64_t rows, cols, row_stride, col_stride;
};

// Panel p of the source as [cols][kPanel] floats, zero padded.
void read_panel(const Source& source, int64_t p, float* columns);

// All panels of the source, as `type`; they have packed_bytes() of room.
void pack_panels(const Source& source, DType type, int num_threads, uint8_t* panels);

// Both copy. packed_weight throws std::invalid_argument if the type cannot hold as many columns.
std::shared_ptr<Weight> plain_weight(const Source& source);
std::shared_ptr<Weight> packed_weight(const Source& source, DType type, int num_threads);

// Panels that were packed before and stay where they are. Throws std::invalid_argument unless `bytes` is exactly their
// size and they begin at a multiple of 4.
std::shared_ptr<Weight> borrowed_weight(std::shared_ptr<const uint8_t> panels, int64_t bytes, int64_t rows,
                                        int64_t cols, DType type);

// The rows [first_panel * kPanel, first_panel * kPanel + rows) of a packed weight, which share its memory.
Weight part_of(const Weight& weight, int64_t first_panel, int64_t rows);

// "float32", "bfloat16" (narrow too: it is how it is kept), "int8", "int4", "float16"; type_named throws
// std::invalid_argument for any other name.
const char* type_name(DType type);
DType type_named(const std::string& name);

}  // namespace fastattn
