// Attention of the recurrent models over whole arrays: Bahdanau's and Luong's scores, their softmax, the context.
#pragma once

#include "kernels/kernels.h"
#include "ops/dense_view.h"

namespace fastattn::dense {

// scores[t, j] = q_t . k_j, or with v: v . tanh(q_t + k_j);   weights = softmax over j < lengths;   context = weights
// values
struct ScoreAttention {
  In<3> q;                 // (B, T, A)
  In<3> k;                 // (B, S, A)
  const float* v;          // (A), or null
  In<3> values;            // (B, S, C)
  const int64_t* lengths;  // (B): at most S
  float* weights;          // (B, T, S) contiguous
  float* context;          // (B, T, C) contiguous
};

// The last axes of q, k and values are contiguous.
void score_attention(const ScoreAttention& op);

}  // namespace fastattn::dense
