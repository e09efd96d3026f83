#include <cstring>

#include "ops/graph_ops.h"

namespace fastattn {
namespace {

// One row per row of fastattn/ops/table.py.
const Op kOps[] = {
    {"embedding", run_embedding, rowwise_needs, Reach::rows},
    {"position_embedding", run_position_embedding, rowwise_needs, Reach::rows},
    {"linear", run_linear, linear_needs, Reach::values},
    {"projections", run_projections, projections_needs, Reach::values},
    {"gated_linear", run_gated_linear, gated_linear_needs, Reach::values},
    {"layer_norm", run_layer_norm, rowwise_needs, Reach::rows},
    {"rms_norm", run_rms_norm, rowwise_needs, Reach::rows},
    {"activation", run_activation, rowwise_needs, Reach::rows},
    {"add", run_add, rowwise_needs, Reach::rows},
    {"multiply", run_multiply, rowwise_needs, Reach::rows},
    {"rotations", run_rotations, rotations_needs, Reach::rows},
    {"rope", run_rope, rowwise_needs, Reach::rows},
    {"concat", run_concat, rowwise_needs, Reach::rows},
    {"attention", run_attention, attention_needs},
    {"memory_write", run_memory_write, memory_write_needs},
    {"cross_attention", run_cross_attention, cross_attention_needs},
    {"gru_sequence", run_gru_sequence, sequence_needs},
    {"lstm_sequence", run_lstm_sequence, sequence_needs},
    {"gru_cell", run_gru_cell, cell_needs},
    {"lstm_cell", run_lstm_cell, cell_needs},
    {"state_read", run_state_read, rowwise_needs},
    {"state_write", run_state_write, rowwise_needs},
    {"memory_rows_write", run_memory_rows_write, rowwise_needs},
    {"rnn_attention", run_rnn_attention, rnn_attention_needs},
    {"select_rows", run_select_rows, rowwise_needs, Reach::rows},
    {"output", run_output, output_needs},
};

}  // namespace

const Op* find_op(const std::string& name) {
  for (const Op& op : kOps)
    if (name == op.name) return &op;
  return nullptr;
}

}  // namespace fastattn
