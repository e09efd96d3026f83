#include "engine/profile.h"

#include <algorithm>
#include <string>

namespace fastattn {
namespace {

// A look-up reads one row of its table for each of its own; a product reads its weights once.
double bytes_of_weights(const Node& node, const Frame& frame, double flops) {
  const std::string op = node.op->name;
  if (flops == 0) return 0;  // an output that nobody asked for
  double bytes = 0;
  for (const auto& weight : node.weights)
    if (weight) bytes += static_cast<double>(weight->bytes());
  if (op == "embedding" || op == "position_embedding")
    bytes *= static_cast<double>(frame.rows_of(node.outputs[0])) / static_cast<double>(node.weights[0]->rows);
  return bytes;
}

double bytes_of_value(int value, const Frame& frame) {
  return 4.0 * static_cast<double>(frame.rows_of(value) * frame.cols(value));
}

}  // namespace

void add_work(const Node& node, const Frame& frame, const Needs& needs, OpCost& cost) {
  cost.flops += needs.flops;
  cost.kept_bytes += needs.kept_bytes;
  cost.weight_bytes += bytes_of_weights(node, frame, needs.flops);
  for (const int value : node.inputs) cost.value_bytes += bytes_of_value(value, frame);
  for (const int value : node.outputs) cost.value_bytes += bytes_of_value(value, frame);
}

}  // namespace fastattn
