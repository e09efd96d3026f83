// Ops that take one row at a time: softmax, norms, activations, the best of a row, lookups.
#pragma once

#include "kernels/kernels.h"
#include "ops/dense_view.h"
#include "ops/weight.h"

namespace fastattn::dense {

// x, y: (rows, n); x with any strides, y contiguous.
void softmax(const In<2>& x, float* y);
void log_softmax(const In<2>& x, float* y);
void activation(const In<2>& x, Activation kind, float* y);
void layer_norm(const In<2>& x, const float* weight, const float* bias, float eps,
                float* y);                                                // weight, bias may be null
void rms_norm(const In<2>& x, const float* weight, float eps, float* y);  // weight may be null

// values, indices: (rows, k), best first; 0 <= k <= n
void top_k(const In<2>& x, int k, float* values, int32_t* indices);

// y[i] = table[ids[i]] * scale: (count, C). The ids are inside the table.
void embedding(const int64_t* ids, int64_t count, const In<2>& table, float scale, float* y);
void embedding(const int64_t* ids, int64_t count, const Weight& table, float scale, float* y);  // packed

}  // namespace fastattn::dense
