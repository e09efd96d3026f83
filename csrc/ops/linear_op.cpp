#include "ops/graph_ops.h"
#include "ops/linear.h"

namespace fastattn {

Needs linear_needs(const Node& n, const Frame& f) {
  const Weight& w = *n.weights[0];
  const int64_t rows = f.rows_of(n.inputs[0]);
  const LinearScratch scratch = linear_scratch(w, rows);
  return {scratch.shared, scratch.per_thread, 2.0 * static_cast<double>(rows * w.rows * w.cols)};
}

void run_linear(const Node& n, Frame& f, Team& team) {
  const bool residual = n.inputs.size() > 1;
  const int64_t O = n.weights[0]->rows;
  LinearPart part{};
  part.weight = n.weights[0].get();
  part.bias = n.weights[1] ? n.weights[1]->plain.data() : nullptr;
  part.activation = n.attrs.activation;
  part.y = f.data(n.outputs[0]), part.ldy = O;
  part.residual = residual ? f.data(n.inputs[1]) : nullptr, part.ld_residual = O;
  linear({f.data(n.inputs[0]), f.rows_of(n.inputs[0]), f.cols(n.inputs[0]), &part, 1, f.shared,
          f.scratch[static_cast<size_t>(team.ith)]},
         team);
}

}  // namespace fastattn
