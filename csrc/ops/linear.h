// y = act(x W^T + bias) + residual on a team of threads: the product under the linear op, the recurrent cells and the
// public ops.
#pragma once

#include "base/threads.h"
#include "ops/weight.h"

namespace fastattn {

struct LinearArgs {
  const Weight* weight;  // packed [O, I]
  const float* x;        // (rows, I), rows ldx apart
  int64_t rows, ldx;
  float* y;  // (rows, O), rows ldy apart
  int64_t ldy;
  const float* bias;  // [O] or null
  Activation activation;
  const float* residual;  // (rows, O) or null, rows ld_residual apart
  int64_t ld_residual;
};

// This thread's share; the result is complete after the team's next barrier. It does not depend on the team's size.
void linear(const LinearArgs& args, const Team& team);

}  // namespace fastattn
