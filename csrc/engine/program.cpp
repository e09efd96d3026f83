#include "engine/program.h"

#include <algorithm>
#include <stdexcept>

namespace fastattn {
namespace {

bool is(const Node& node, const char* name) { return std::string(node.op->name) == name; }

template <typename T>
void at_least(std::vector<T>& v, int slot, T value) {
  if (static_cast<int>(v.size()) <= slot) v.resize(static_cast<size_t>(slot) + 1, T{});
  v[static_cast<size_t>(slot)] = value;
}

constexpr int kGrace = 3;  // ops

// Rows of a table that can be looked up, at least one.
int64_t table_rows(const Weight& table, int64_t offset) {
  if (offset < 0 || offset >= table.rows)
    throw std::invalid_argument("a table of " + std::to_string(table.rows) + " rows, the first of them number " +
                                std::to_string(offset) + ": expected one row at least");
  return table.rows - offset;
}

int64_t smallest(int64_t a, int64_t b) { return a == 0 ? b : std::min(a, b); }

}  // namespace

void Program::collect(Node& node) {
  const auto cols = [&](size_t i) { return values[static_cast<size_t>(node.inputs[i])].cols; };
  const Attrs& a = node.attrs;
  const auto record = [&](Kind kind, int64_t layer, int64_t heads) {
    node.record = static_cast<int>(records.size());
    records.emplace_back();
    records.back().kind = kind, records.back().layer = layer, records.back().heads = heads;
  };
  if (is(node, "embedding")) vocabulary = smallest(vocabulary, table_rows(*node.weights[0], 0));
  if (is(node, "position_embedding")) max_positions = smallest(max_positions, table_rows(*node.weights[0], a.offset));
  cuttable = cuttable && (node.op->reach != Reach::kept || is(node, "cross_attention") || is(node, "output") ||
                          (is(node, "attention") && a.cache >= 0 && a.causal));
  if (is(node, "attention")) {
    record(name == "encoder" ? Kind::encoder : Kind::self, a.layer, a.heads);
    if (a.cache >= 0) cache_layers[a.cache] = {a.kv_heads, cols(1) / a.kv_heads, cols(2) / a.kv_heads, 0};
  }
  if (is(node, "memory_write")) memory_layers[a.layer] = {a.kv_heads, cols(0) / a.kv_heads, cols(1) / a.kv_heads, 0};
  if (is(node, "cross_attention")) record(Kind::cross, a.layer, a.heads);
  if (is(node, "rnn_attention")) {
    record(Kind::cross, a.layer, 1);
    records.back().keeps_scores = true;
  }
  if (is(node, "memory_rows_write")) at_least(memory_row_widths, a.slot, cols(0));
  if (is(node, "state_write")) at_least(state_widths, a.slot, cols(0));
  if (is(node, "output")) output = node.weights[0] ? node.outputs[0] : node.inputs[0];
}

void Program::finish() {
  for (Node& node : nodes) collect(node);
  place_values();
}

// Linear scan: a slot is free again some ops behind the last reader of its value, so that threads need not wait for a
// reader before they write the next value there. Values that are tapped or read after the step
// keep theirs. Slots are shared only between values of one shape, so that a slot's size follows from the rows of the
// step.
void Program::place_values() {
  const int end = static_cast<int>(nodes.size());
  std::vector<int> last_use(values.size(), -1);
  for (int i = 0; i < end; ++i) {
    for (const int v : nodes[static_cast<size_t>(i)].inputs) last_use[static_cast<size_t>(v)] = i;
    for (const int v : nodes[static_cast<size_t>(i)].outputs) last_use[static_cast<size_t>(v)] = i;
  }
  for (const Tap& tap : taps) last_use[static_cast<size_t>(tap.value)] = end;
  if (output >= 0) last_use[static_cast<size_t>(output)] = end;

  std::vector<std::vector<int>> dying(static_cast<size_t>(end) + 1);
  for (size_t v = 0; v < values.size(); ++v)
    if (last_use[v] >= 0)
      dying[static_cast<size_t>(std::min(end, last_use[v] + kGrace))].push_back(static_cast<int>(v));
  std::map<std::pair<int, int64_t>, std::vector<int>> free_slots;
  const auto shape = [&](int v) {
    return std::make_pair(static_cast<int>(values[static_cast<size_t>(v)].rows), values[static_cast<size_t>(v)].cols);
  };
  for (int i = 0; i < end; ++i) {
    for (const int v : nodes[static_cast<size_t>(i)].outputs) {
      std::vector<int>& free = free_slots[shape(v)];
      if (free.empty()) free.push_back(slots++);
      values[static_cast<size_t>(v)].slot = free.back();
      free.pop_back();
    }
    for (const int v : dying[static_cast<size_t>(i)])
      if (values[static_cast<size_t>(v)].slot >= 0) free_slots[shape(v)].push_back(values[static_cast<size_t>(v)].slot);
  }
}

}  // namespace fastattn
