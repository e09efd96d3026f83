// y = act(x W^T + b) * multiply + residual on a team of threads, for several weights at once: the product under the
// linear op, the recurrent cells and the public ops.
#pragma once

#include "base/threads.h"
#include "ops/weight.h"

namespace fastattn {

struct LinearPart {
  const Weight* weight;  // packed [O, I]
  const float* bias = nullptr;
  Activation activation = Activation::none;
  float* y = nullptr;  // (rows, O), rows ldy apart
  int64_t ldy = 0;
  const float* residual = nullptr;  // (rows, O), or null
  int64_t ld_residual = 0;
  const float* multiply = nullptr;  // (rows, O), or null
  int64_t ld_multiply = 0;
};

// One x, multiplied by each part's weight; all weights have the same I. A part may multiply by the y of the part before
// it (a gate); the same thread then computes both, column by column, and no barrier is needed between them.
struct LinearArgs {
  const KernelTable& kernel;
  const float* x;  // (rows, I), rows ldx apart
  int64_t rows, ldx;
  const LinearPart* parts;
  int count;
  float* shared;   // scratch as linear_scratch says, one for the team
  float* scratch;  // and one of each thread
  // With one part: runs of `grain` panels, counted from panel 0, stay on one thread, and where `finished` is given, it
  // is called by that thread after each, while what was computed is in its cache.
  int64_t grain = 1;
  void (*finished)(const void* context, Range panels, Range rows) = nullptr;
  const void* context = nullptr;
};

// Scratch in floats. What is enough for some number of rows is enough for fewer.
struct LinearScratch {
  int64_t shared = 0, per_thread = 0;
};
LinearScratch linear_scratch(const LinearPart* parts, int count, int64_t rows);
LinearScratch linear_scratch(const Weight& weight, int64_t rows);

// This thread's share; the result is complete after the team's next barrier. It does not depend on the team's size.
// There may be a barrier inside.
void linear(const LinearArgs& args, Team& team);

// x: (rows, K) in chunks, as the kernels take several rows; out: rows * chunks(4 K) * kLinearChunk bytes.
void arrange_rows(const float* x, int64_t ldx, int64_t rows, int64_t K, float* out);

// The kernel for panels of a type.
using PanelKernel = void (*)(const PanelArgs*);
PanelKernel panel_kernel(const KernelTable& kernels, DType type);

}  // namespace fastattn
