#include "ops/graph_ops.h"
#include "ops/linear.h"

namespace fastattn {

Needs linear_needs(const Node& n, const Frame& f) {
  return {0, 0, 2.0 * static_cast<double>(f.rows_of(n.inputs[0]) * n.weights[0]->rows * n.weights[0]->cols)};
}

void run_linear(const Node& n, Frame& f, Team& team) {
  const bool residual = n.inputs.size() > 1;
  const int64_t O = n.weights[0]->rows;
  linear({n.weights[0].get(), f.data(n.inputs[0]), f.rows_of(n.inputs[0]), f.cols(n.inputs[0]), f.data(n.outputs[0]), O,
          n.weights[1] ? n.weights[1]->plain.data() : nullptr, n.attrs.activation,
          residual ? f.data(n.inputs[1]) : nullptr, O},
         team);
}

}  // namespace fastattn
