// y = act(x W^T + bias) + residual over arrays as they come: the weight is packed on the way, panel by panel.
#pragma once

#include "kernels/kernels.h"
#include "ops/dense_view.h"

namespace fastattn::dense {

struct Linear {
  In<2> x;            // (rows, I)
  In<2> weight;       // (O, I), any strides
  const float* bias;  // (O), or null
  Activation activation;
  In<2> residual;  // (rows, O), last axis contiguous; data null: none
  Out<2> y;        // (rows, O), last axis contiguous
};

void linear(const Linear& op);

// Floats of one panel of a weight with K columns, and of all panels of one with O rows.
inline int64_t panel_floats(int64_t K) { return K * kPanel; }
inline int64_t panel_count(int64_t O) { return (O + kPanel - 1) / kPanel; }

// Panel p of the weight as [K][kPanel], zero padded.
void pack_panel(const In<2>& weight, int64_t p, float* panel);

}  // namespace fastattn::dense
