// linear, and what the fusion passes make of several of them that share one x.
#include "ops/graph_ops.h"
#include "ops/linear.h"

namespace fastattn {
namespace {

LinearPart part_of_node(const Node& n, size_t weight, float* y) {
  LinearPart part{};
  part.weight = n.weights[weight].get();
  part.bias = n.weights[weight + 1] ? n.weights[weight + 1]->plain.data() : nullptr;
  part.y = y, part.ldy = part.weight->rows;
  return part;
}

void multiply(const Node& n, Frame& f, Team& team, const LinearPart* parts, int count, float* shared) {
  linear({*f.kernel, f.data(n.inputs[0]), f.rows_of(n.inputs[0]), f.cols(n.inputs[0]), parts, count, shared,
          f.scratch[static_cast<size_t>(team.ith)]},
         team);
}

// Of the parameters weight, bias, weight, bias, ...: scratch and arithmetic.
Needs needs_of(const Node& n, const Frame& f) {
  const int64_t rows = f.rows_of(n.inputs[0]);
  Needs needs;
  LinearPart parts[kRoles / 2] = {};
  int count = 0;
  for (size_t i = 0; i < kRoles && n.weights[i]; i += 2) {
    parts[count++].weight = n.weights[i].get();
    needs.flops += 2.0 * static_cast<double>(rows * n.weights[i]->rows * n.weights[i]->cols);
  }
  const LinearScratch scratch = linear_scratch(parts, count, rows);
  needs.shared = scratch.shared, needs.per_thread = scratch.per_thread;
  return needs;
}

}  // namespace

Needs linear_needs(const Node& n, const Frame& f) { return needs_of(n, f); }

void run_linear(const Node& n, Frame& f, Team& team) {
  LinearPart part = part_of_node(n, 0, f.data(n.outputs[0]));
  part.activation = n.attrs.activation;
  part.residual = n.inputs.size() > 1 ? f.data(n.inputs[1]) : nullptr, part.ld_residual = part.ldy;
  multiply(n, f, team, &part, 1, f.shared);
}

Needs projections_needs(const Node& n, const Frame& f) { return needs_of(n, f); }

void run_projections(const Node& n, Frame& f, Team& team) {
  LinearPart parts[kRoles / 2];
  const size_t count = n.outputs.size();
  for (size_t i = 0; i < count; ++i) parts[i] = part_of_node(n, 2 * i, f.data(n.outputs[i]));
  multiply(n, f, team, parts, static_cast<int>(count), f.shared);
}

// The ungated half waits in the shared scratch.
int64_t up_floats(const Node& n, const Frame& f) { return whole_lines(f.rows_of(n.outputs[0]) * f.cols(n.outputs[0])); }

Needs gated_linear_needs(const Node& n, const Frame& f) {
  Needs needs = needs_of(n, f);
  needs.shared += up_floats(n, f);
  return needs;
}

void run_gated_linear(const Node& n, Frame& f, Team& team) {
  const int64_t floats = up_floats(n, f);
  LinearPart parts[2] = {part_of_node(n, 2, f.shared), part_of_node(n, 0, f.data(n.outputs[0]))};
  parts[1].activation = n.attrs.activation;
  parts[1].multiply = parts[0].y, parts[1].ld_multiply = parts[0].ldy;
  multiply(n, f, team, parts, 2, f.shared + floats);
}

}  // namespace fastattn
