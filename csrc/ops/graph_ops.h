// The native functions of the op table (fastattn/ops/table.py), one per row; their list is in table.cpp.
#pragma once

#include "ops/frame.h"

namespace fastattn {

Needs rowwise_needs(const Node&, const Frame&);
void run_embedding(const Node&, Frame&, Team&);
void run_position_embedding(const Node&, Frame&, Team&);
void run_layer_norm(const Node&, Frame&, Team&);
void run_rms_norm(const Node&, Frame&, Team&);
void run_activation(const Node&, Frame&, Team&);
void run_add(const Node&, Frame&, Team&);
void run_multiply(const Node&, Frame&, Team&);
void run_rope(const Node&, Frame&, Team&);
void run_concat(const Node&, Frame&, Team&);
void run_select_rows(const Node&, Frame&, Team&);
void run_state_read(const Node&, Frame&, Team&);
void run_state_write(const Node&, Frame&, Team&);
void run_memory_rows_write(const Node&, Frame&, Team&);

Needs rotations_needs(const Node&, const Frame&);
void run_rotations(const Node&, Frame&, Team&);

Needs linear_needs(const Node&, const Frame&);
void run_linear(const Node&, Frame&, Team&);
Needs projections_needs(const Node&, const Frame&);
void run_projections(const Node&, Frame&, Team&);
Needs gated_linear_needs(const Node&, const Frame&);
void run_gated_linear(const Node&, Frame&, Team&);

Needs attention_needs(const Node&, const Frame&);
void run_attention(const Node&, Frame&, Team&);
Needs memory_write_needs(const Node&, const Frame&);
void run_memory_write(const Node&, Frame&, Team&);
Needs cross_attention_needs(const Node&, const Frame&);
void run_cross_attention(const Node&, Frame&, Team&);

Needs sequence_needs(const Node&, const Frame&);
void run_gru_sequence(const Node&, Frame&, Team&);
void run_lstm_sequence(const Node&, Frame&, Team&);
Needs cell_needs(const Node&, const Frame&);
void run_gru_cell(const Node&, Frame&, Team&);
void run_lstm_cell(const Node&, Frame&, Team&);
Needs rnn_attention_needs(const Node&, const Frame&);
void run_rnn_attention(const Node&, Frame&, Team&);

Needs output_needs(const Node&, const Frame&);
void run_output(const Node&, Frame&, Team&);

}  // namespace fastattn
