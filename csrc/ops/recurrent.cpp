// Recurrent cells and whole sequences, and the attention of recurrent models.
#include <algorithm>
#include <cstring>

#include "ops/graph_ops.h"
#include "ops/linear.h"

namespace fastattn {
namespace {

enum Role { weight_ih, weight_hh, bias_ih, bias_hh };

const float* bias_of(const Node& n, Role role) { return n.weights[role] ? n.weights[role]->plain.data() : nullptr; }

// gates = x W^T + b for `rows` rows: (rows, gates * H). room: shared scratch.
void gates(const Node& n, Frame& f, Role weight, const float* x, int64_t ldx, int64_t rows, float* y, float* room,
           Team& team) {
  LinearPart part{};
  part.weight = n.weights[weight].get(), part.bias = bias_of(n, weight == weight_ih ? bias_ih : bias_hh);
  part.y = y, part.ldy = part.weight->rows;
  linear({*f.kernel, x, rows, ldx, &part, 1, room, f.scratch[static_cast<size_t>(team.ith)]}, team);
}

// Scratch of both products, for at most so many rows each.
LinearScratch gates_scratch(const Node& n, int64_t input_rows, int64_t state_rows) {
  const LinearScratch a = linear_scratch(*n.weights[weight_ih], input_rows),
                      b = linear_scratch(*n.weights[weight_hh], state_rows);
  return {std::max(a.shared, b.shared), std::max(a.per_thread, b.per_thread)};
}

// h: (B, H), c: (B, H) of the LSTM. One token of every one of `rows` sequences.
struct Cell {
  const KernelTable& kernel;
  bool lstm;
  int64_t H;

  void run(const float* gx, const float* gh, const float* h, const float* c, float* h_out, float* c_out) const {
    if (lstm) {
      kernel.lstm_cell_row(gx, gh, c, H, h_out, c_out);
    } else {
      kernel.gru_cell_row(gx, gh, h, H, h_out);
    }
  }
};

void run_cell(const Node& n, Frame& f, Team& team, bool lstm) {
  const int64_t rows = f.rows_of(n.inputs[0]), O = n.weights[weight_ih]->rows, H = n.weights[weight_hh]->cols;
  float* gx = f.shared;
  float* gh = gx + rows * O;
  float* room = f.shared + whole_lines(2 * rows * O);
  gates(n, f, weight_ih, f.data(n.inputs[0]), f.cols(n.inputs[0]), rows, gx, room, team);
  if (is_quantized(n.weights[weight_ih]->type)) team.barrier();  // the room is used again
  gates(n, f, weight_hh, f.data(n.inputs[1]), H, rows, gh, room, team);
  team.barrier();
  const Cell cell{*f.kernel, lstm, H};
  const Range mine = team.split(rows);
  for (int64_t r = mine.begin; r < mine.end; ++r)
    cell.run(gx + r * O, gh + r * O, f.data(n.inputs[1]) + r * H, lstm ? f.data(n.inputs[2]) + r * H : nullptr,
             f.data(n.outputs[0]) + r * H, lstm ? f.data(n.outputs[1]) + r * H : nullptr);
}

// All input products first, as one matrix product; then token by token over the sequences that are still long enough,
// which are the first ones in `by_length`. h and c are kept in that order, contiguous.
void run_sequence(const Node& n, Frame& f, Team& team, bool lstm) {
  const int64_t O = n.weights[weight_ih]->rows, H = n.weights[weight_hh]->cols;
  float* gx = f.shared;
  float* gh = gx + f.tokens * O;
  float* h = gh + f.batch * O;
  float* c = h + f.batch * H;
  float* room = f.shared + whole_lines((f.tokens + f.batch) * O + 2 * f.batch * H);
  gates(n, f, weight_ih, f.data(n.inputs[0]), f.cols(n.inputs[0]), f.tokens, gx, room, team);
  if (team.ith == 0) std::memset(h, 0, static_cast<size_t>(2 * f.batch * H) * sizeof(float));
  team.barrier();
  const Cell cell{*f.kernel, lstm, H};
  int64_t active = f.batch;
  for (int64_t t = 0;; ++t) {
    while (active > 0 && f.length(f.by_length[static_cast<size_t>(active - 1)]) <= t) --active;
    if (active == 0) break;
    gates(n, f, weight_hh, h, H, active, gh, room, team);
    team.barrier();
    const Range mine = team.split(active);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const int64_t s = f.by_length[static_cast<size_t>(i)];
      const int64_t row = f.offsets[static_cast<size_t>(s)] + (n.attrs.reverse ? f.length(s) - 1 - t : t);
      cell.run(gx + row * O, gh + i * O, h + i * H, c + i * H, h + i * H, c + i * H);
      std::memcpy(f.data(n.outputs[0]) + row * H, h + i * H, static_cast<size_t>(H) * sizeof(float));
    }
    team.barrier();
  }
  const Range mine = team.split(f.batch);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    const int64_t s = f.by_length[static_cast<size_t>(i)];
    std::memcpy(f.data(n.outputs[1]) + s * H, h + i * H, static_cast<size_t>(H) * sizeof(float));
    if (lstm) std::memcpy(f.data(n.outputs[2]) + s * H, c + i * H, static_cast<size_t>(H) * sizeof(float));
  }
}

double flops_of(const Node& n, int64_t rows) {
  return 2.0 * static_cast<double>(rows * n.weights[weight_ih]->rows *
                                   (n.weights[weight_ih]->cols + n.weights[weight_hh]->cols));
}

}  // namespace

Needs cell_needs(const Node& n, const Frame& f) {
  const int64_t rows = f.rows_of(n.inputs[0]);
  const LinearScratch scratch = gates_scratch(n, rows, rows);
  return {whole_lines(2 * rows * n.weights[weight_ih]->rows) + scratch.shared, scratch.per_thread, flops_of(n, rows)};
}

void run_gru_cell(const Node& n, Frame& f, Team& team) { run_cell(n, f, team, false); }
void run_lstm_cell(const Node& n, Frame& f, Team& team) { run_cell(n, f, team, true); }

Needs sequence_needs(const Node& n, const Frame& f) {
  const int64_t O = n.weights[weight_ih]->rows, H = n.weights[weight_hh]->cols;
  const LinearScratch scratch = gates_scratch(n, f.tokens, f.batch);
  return {whole_lines((f.tokens + f.batch) * O + 2 * f.batch * H) + scratch.shared, scratch.per_thread,
          flops_of(n, f.tokens)};
}

void run_gru_sequence(const Node& n, Frame& f, Team& team) { run_sequence(n, f, team, false); }
void run_lstm_sequence(const Node& n, Frame& f, Team& team) { run_sequence(n, f, team, true); }

// Bahdanau's and Luong's attention over the memory's rows; the threads split the sequences.
// scores_j = q . k_j, or v . tanh(q + bias + k_j); weights = softmax(scores); context = sum_j weights_j value_j
Needs rnn_attention_needs(const Node& n, const Frame& f) {
  int64_t longest = 0, total = 0;
  for (int64_t s = 0; s < f.batch; ++s) {
    longest = std::max(longest, f.memory(s).length);
    total += f.memory(s).length;
  }
  const double width = static_cast<double>(f.cols(n.inputs[0])) * (n.attrs.additive ? 24 : 2) +
                       2.0 * static_cast<double>(f.cols(n.outputs[0]));
  return {0, 2 * longest + f.cols(n.inputs[0]), static_cast<double>(total) * width,
          4.0 * static_cast<double>(total * (f.cols(n.inputs[0]) + f.cols(n.outputs[0])))};
}

void run_rnn_attention(const Node& n, Frame& f, Team& team) {
  const KernelTable& k = *f.kernel;
  const int64_t A = f.cols(n.inputs[0]), C = f.cols(n.outputs[0]);
  const Range mine = team.split(f.batch);
  for (int64_t s = mine.begin; s < mine.end; ++s) {
    const Memory& memory = f.memory(s);
    const float* keys = memory.rows[static_cast<size_t>(n.attrs.slot)].data();
    const float* values = memory.rows[static_cast<size_t>(n.attrs.values_slot)].data();
    const float* query = f.data(n.inputs[0]) + s * A;
    float* biased = f.scratch[static_cast<size_t>(team.ith)];
    float* scores = biased + A;
    float* weights = scores + memory.length;
    if (n.weights[1]) {
      k.add_row(query, n.weights[1]->plain.data(), A, biased);
      query = biased;
    }
    if (n.attrs.additive) {
      k.additive_scores(query, keys, A, memory.length, A, n.weights[0]->plain.data(), scores);
    } else {
      k.dot_scores(query, A, 1, keys, A, memory.length, A, scores, memory.length);
    }
    k.softmax_row(scores, memory.length, weights);
    k.weighted_sum(weights, memory.length, 1, values, C, memory.length, C, f.data(n.outputs[0]) + s * C, C);
    if (f.records) {
      Record& record = f.records[static_cast<size_t>(n.record)];
      std::memcpy(record.weights.data() + s * record.span, weights, static_cast<size_t>(memory.length) * sizeof(float));
      std::memcpy(record.scores.data() + s * record.span, scores, static_cast<size_t>(memory.length) * sizeof(float));
    }
  }
}

}  // namespace fastattn
