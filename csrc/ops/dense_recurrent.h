// One layer and direction of a GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997) over whole sequences.
#pragma once

#include "ops/dense_view.h"
#include "ops/weight.h"

namespace fastattn::dense {

enum class Cell { gru, lstm };  // gates in PyTorch's order: r z n, or i f g o

struct Matrix {
  In<2> rows;            // any strides
  const Weight* packed;  // null: `rows` is used
};

struct Recurrent {
  Cell cell;
  enum class Direction { forward, reverse } direction;
  In<3> x;                         // (B, T, I), last axis contiguous
  Matrix weight_ih, weight_hh;     // (gates H, I), (gates H, H)
  const float *bias_ih, *bias_hh;  // (gates H), or null
  const int64_t* lengths;          // (B): at most T
  Out<3> out;                      // (B, T, H), last axis contiguous; zero beyond a length
  float *h, *c;                    // (B, H): the state before, and after; c for the LSTM only
};

void recurrent(const Recurrent& op);

// One step of B rows, from the products of their inputs and of their states (B, gates H), biases added. h, c (B, H):
// the state before, and after; c for the LSTM only.
void cell(Cell cell, const float* from_x, const float* from_h, int64_t B, int64_t H, float* h, float* c);

}  // namespace fastattn::dense
