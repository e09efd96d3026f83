// Weights as the ops read them: immutable, shared by all sessions of a model.
#pragma once

#include <cstdint>
#include <memory>

#include "base/buffer.h"
#include "kernels/kernels.h"

namespace fastattn {

// A matrix [rows, cols] = [out, in], or a vector (cols = 1).
struct Weight {
  int64_t rows = 0, cols = 0;
  Buffer<float> plain;   // row-major: vectors, and tables that are looked up
  Buffer<float> panels;  // [ceil(rows / kPanel)][cols][kPanel], zero padded: what linear_panel streams

  int64_t panel_count() const { return (rows + kPanel - 1) / kPanel; }
  const float* panel(int64_t p) const { return panels.data() + p * cols * kPanel; }
  int64_t bytes() const { return static_cast<int64_t>((plain.size() + panels.size()) * sizeof(float)); }
};

// Both copy; source rows are ld floats apart.
std::shared_ptr<Weight> plain_weight(const float* source, int64_t rows, int64_t cols, int64_t ld);
std::shared_ptr<Weight> packed_weight(const float* source, int64_t rows, int64_t cols, int64_t ld, int num_threads);

}  // namespace fastattn
