// One step as the ops see it. A graph op is a function run(node, frame, team): each thread of the team does its share;
// where they must wait for each other the plan says (engine/plan.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/threads.h"
#include "ops/cache.h"
#include "ops/weight.h"

namespace fastattn {

enum class Rows : int { tokens, batch, last };

struct ValueInfo {
  Rows rows = Rows::tokens;
  int64_t cols = 0;
  int slot = -1;  // place in the arena; -1: the token ids
};

// Attributes of all ops (fastattn/ops/table.py); an op reads its own.
struct Attrs {
  double scale = 1, softcap = 0, eps = 1e-5;
  int64_t heads = 1, kv_heads = 1, layer = 0, cache = -1, causal = 0, window_left = -1, window_right = -1, rounded = 0;
  int64_t max_distance = 0, bidirectional = 0;
  int64_t offset = 0, reverse = 0, additive = 0;
  Activation activation = Activation::none;
  int slot = -1, values_slot = -1;  // state, memory rows (keys), memory rows (values)
};

enum class Kind : int { self, cross, encoder };

// What a step keeps for its caller beside its results: the graph's taps, or these and all attention weights.
enum class Capture : int { nothing, taps, attention };

// Attention weights of one layer in this step, where they are captured: (rows, heads, span).
struct Record {
  Kind kind = Kind::self;
  int64_t layer = 0, rows = 0, heads = 0, span = 0;
  bool keeps_scores = false;
  Buffer<float> weights;
  Buffer<float> scores;  // before the softmax, shaped as `weights`, where they are kept
};

struct Frame;
struct Node;
using Run = void (*)(const Node&, Frame&, Team&);

// Memory an op needs beside its outputs, in floats; its arithmetic in flops (to see whether threads pay), and what it
// reads of keys, values and memories, in bytes.
struct Needs {
  int64_t shared = 0, per_thread = 0;
  double flops = 0, kept_bytes = 0;
};

// What an op reads and writes beside the values of the graph and its own thread's scratch.
enum class Reach : int {
  kept,    // what the session keeps, the shared scratch, or an input in place; its needs may differ from step to step
  values,  // nothing
  rows     // nothing, nor any scratch, and each row of its outputs depends on few rows of its inputs
};

struct Op {
  const char* name;
  Run run;
  Needs (*needs)(const Node&, const Frame&);
  Reach reach = Reach::kept;
};

// The native function of a row of the op table, or null.
const Op* find_op(const std::string& name);

constexpr int kRoles = 6;  // parameters of an op at most, in the order of its row of the op table

struct Node {
  const Op* op = nullptr;
  std::vector<int> inputs, outputs;
  std::shared_ptr<const Weight> weights[kRoles];
  Attrs attrs;
  int record = -1;  // index of its Record, -1 for ops that attend to nothing
};

// What the caller wants of the last rows; see fastattn.runtime.Select.
struct Select {
  int k = 0;
  bool log_probs = false, logits = false;
  float penalty = 1;
  const int32_t *penalised_rows = nullptr, *penalised = nullptr;  // CSR, or null
  const int32_t *banned_rows = nullptr, *banned = nullptr;
};

struct Results {
  Buffer<float> scores;           // (last, k)
  Buffer<int32_t> tokens;         // (last, k)
  Buffer<float> log_sum_exp;      // (last)
  const float* logits = nullptr;  // (last, V), in the arena
  int64_t vocabulary = 0;
};

// A step as one thread sees it. Threads differ in `values` only: some are private to each.
struct Frame {
  int64_t batch = 0, tokens = 0, last = 0;
  const int32_t* ids = nullptr;           // (tokens)
  const int64_t* offsets = nullptr;       // (batch + 1): first token row of each sequence
  const int64_t* positions = nullptr;     // (batch): tokens seen before this step
  const int64_t* last_rows = nullptr;     // (last): token rows that want an output
  const int64_t* by_length = nullptr;     // (batch): sequences, most tokens first
  const int64_t* row_sequence = nullptr;  // (tokens): the sequence of each token row
  const ValueInfo* infos = nullptr;
  float* const* values = nullptr;   // by value index
  float* shared = nullptr;          // this node's shared scratch
  float* const* scratch = nullptr;  // by thread
  State* state = nullptr;
  const KernelTable* kernel = nullptr;  // of this step: threads read what others have packed
  Capture capture = Capture::nothing;
  Record* records = nullptr;  // null: attention is not captured
  const Select* select = nullptr;
  Results* results = nullptr;

  int64_t rows(Rows space) const { return space == Rows::tokens ? tokens : space == Rows::batch ? batch : last; }
  int64_t rows_of(int value) const { return rows(infos[value].rows); }
  int64_t cols(int value) const { return infos[value].cols; }
  float* data(int value) const { return values[static_cast<size_t>(value)]; }
  int64_t length(int64_t sequence) const {  // tokens of a sequence in this step
    return offsets[static_cast<size_t>(sequence) + 1] - offsets[static_cast<size_t>(sequence)];
  }
  const Memory& memory(int64_t sequence) const {
    return state->memories[static_cast<size_t>(state->sequences[static_cast<size_t>(sequence)].memory)];
  }
};

}  // namespace fastattn
