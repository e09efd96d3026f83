// Scaled dot-product attention over arrays as they come (Vaswani et al. 2017), with all that the ONNX operator asks
// for.
#pragma once

#include "kernels/kernels.h"
#include "ops/dense_view.h"

namespace fastattn::dense {

// Broadcast to (B, H, T, S) by zero strides; strides count elements.
struct Mask {
  enum class Kind { none, boolean, added } kind = Kind::none;
  const void* data = nullptr;  // bool (true: attend), or float (added to the score)
  int64_t stride[4] = {};
};

// The keys around a query's own position that it may see; a side below zero is unbounded. Causal: right = 0.
struct Window {
  int64_t left, right;
};

struct Attention {
  In<4> q;  // (B, H, T, D)
  In<4> k;  // (B, G, S, D), H a multiple of G
  In<4> v;  // (B, G, S, Dv)
  Mask mask;
  Window window;
  const int64_t* q_start;     // (B): position of query 0 among the keys
  const int64_t* kv_lengths;  // (B): at most S; keys from there on do not exist
  float scale, softcap;
  Out<4> out;      // (B, H, T, Dv), last axis contiguous
  float* weights;  // (B, H, T, S) contiguous, or null
};

void attention(const Attention& op);

}  // namespace fastattn::dense
