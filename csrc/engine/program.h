// A graph made ready to run: ops resolved, values placed in an arena, what it keeps in a session collected.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ops/frame.h"

namespace fastattn {

struct Tap {
  std::string name;
  int value;
};

// Built once by the bindings, node by node, then finish(); immutable afterwards and shared by all sessions.
class Program {
 public:
  std::string name;
  bool sequential = false;  // one token per sequence and step
  std::vector<ValueInfo> values;
  std::vector<Node> nodes;
  std::vector<Tap> taps;
  std::vector<Record> records;  // kind, layer and heads of what a capture returns; Node::record indexes them
  int output = -1;              // the logits, or -1

  // What sessions keep for it.
  std::map<int64_t, PagedLayer> cache_layers, memory_layers;
  std::vector<int64_t> memory_row_widths, state_widths;

  int64_t vocabulary = 0;     // ids must be below it; 0: no embedding
  int64_t max_positions = 0;  // 0: no table of positions
  bool cuttable = true;       // a step's tokens may come in pieces: each looks back only, at what is cached
  int slots = 0;

  // Collects the above from the nodes and gives every value its place; throws std::invalid_argument.
  void finish();

 private:
  void collect(Node& node);
  void place_values();
};

}  // namespace fastattn
