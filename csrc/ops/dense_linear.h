// y = act(x W^T + bias) + residual over arrays as they come. A weight that is not packed yet is packed on the way,
// panel by panel.
#pragma once

#include <memory>

#include "kernels/kernels.h"
#include "ops/dense_view.h"
#include "ops/weight.h"

namespace fastattn::dense {

struct Linear {
  In<2> x;       // (rows, I)
  In<2> weight;  // (O, I), any strides; data null: `packed` is used, from panel `first_panel` on
  const Weight* packed;
  int64_t first_panel;
  const float* bias;  // (O), or null
  Activation activation;
  In<2> residual;  // (rows, O), last axis contiguous; data null: none
  Out<2> y;        // (rows, O), last axis contiguous
};

void linear(const Linear& op);

inline Source source_of(const In<2>& w) {
  return {Source::Type::float32, w.data, w.shape[0], w.shape[1], w.stride[0], w.stride[1]};
}

// Threads that packing a matrix pays for.
inline int threads_to_pack(const In<2>& w) {
  return threads_for(8.0 * static_cast<double>(w.shape[0]) * static_cast<double>(w.shape[1]));
}

// A weight packed once, for many calls.
std::shared_ptr<Weight> pack(const In<2>& weight, DType type);

}  // namespace fastattn::dense
