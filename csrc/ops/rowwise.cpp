// Ops that take one row at a time: look-ups, norms, elementwise functions, moving rows. Threads split the rows.
#include <algorithm>
#include <cstring>

#include "ops/graph_ops.h"

namespace fastattn {
namespace {

// Row r of an input or output value.
float* row(const Frame& f, int value, int64_t r) { return f.data(value) + r * f.cols(value); }

template <typename Body>
void each_row(const Node& n, Frame& f, Team& team, Body body) {
  const Range mine = team.split(f.rows_of(n.outputs[0]));
  for (int64_t r = mine.begin; r < mine.end; ++r) body(r);
}

void copy(const float* from, int64_t n, float* to) { std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float)); }

}  // namespace

Needs rowwise_needs(const Node& n, const Frame& f) {
  if (n.outputs.empty()) return {};
  const bool costly = n.attrs.activation != Activation::none;
  return {0, 0, (costly ? 16.0 : 4.0) * static_cast<double>(f.rows_of(n.outputs[0]) * f.cols(n.outputs[0]))};
}

void run_embedding(const Node& n, Frame& f, Team& team) {
  const Weight& table = *n.weights[0];
  const float scale = static_cast<float>(n.attrs.scale);
  each_row(n, f, team, [&](int64_t r) {
    const int64_t id = f.ids[r];
    float* out = row(f, n.outputs[0], r);
    f.kernel->unpack_row(table.type, table.panel(id / kPanel), table.cols, static_cast<int>(id % kPanel), out);
    if (scale != 1.0f) f.kernel->scale_row(out, scale, table.cols, out);
  });
}

void run_position_embedding(const Node& n, Frame& f, Team& team) {
  const Weight& table = *n.weights[0];
  each_row(n, f, team, [&](int64_t r) {
    const int64_t s = f.row_sequence[static_cast<size_t>(r)];
    const int64_t position =
        f.positions[static_cast<size_t>(s)] + r - f.offsets[static_cast<size_t>(s)] + n.attrs.offset;
    f.kernel->add_row(row(f, n.inputs[0], r), table.plain.data() + position * table.cols, table.cols,
                      row(f, n.outputs[0], r));
  });
}

void run_layer_norm(const Node& n, Frame& f, Team& team) {
  each_row(n, f, team, [&](int64_t r) {
    f.kernel->layer_norm_row(row(f, n.inputs[0], r), f.cols(n.inputs[0]), n.weights[0]->plain.data(),
                             n.weights[1]->plain.data(), static_cast<float>(n.attrs.eps), row(f, n.outputs[0], r));
  });
}

void run_rms_norm(const Node& n, Frame& f, Team& team) {
  each_row(n, f, team, [&](int64_t r) {
    f.kernel->rms_norm_row(row(f, n.inputs[0], r), f.cols(n.inputs[0]), n.weights[0]->plain.data(),
                           static_cast<float>(n.attrs.eps), row(f, n.outputs[0], r));
  });
}

void run_activation(const Node& n, Frame& f, Team& team) {
  each_row(n, f, team, [&](int64_t r) {
    f.kernel->activation_row(n.attrs.activation, row(f, n.inputs[0], r), f.cols(n.inputs[0]), row(f, n.outputs[0], r));
  });
}

void run_add(const Node& n, Frame& f, Team& team) {
  each_row(n, f, team, [&](int64_t r) {
    f.kernel->add_row(row(f, n.inputs[0], r), row(f, n.inputs[1], r), f.cols(n.inputs[0]), row(f, n.outputs[0], r));
  });
}

void run_multiply(const Node& n, Frame& f, Team& team) {
  each_row(n, f, team, [&](int64_t r) {
    f.kernel->multiply_row(row(f, n.inputs[0], r), row(f, n.inputs[1], r), f.cols(n.inputs[0]),
                           row(f, n.outputs[0], r));
  });
}

void run_concat(const Node& n, Frame& f, Team& team) {
  each_row(n, f, team, [&](int64_t r) {
    float* out = row(f, n.outputs[0], r);
    for (const int input : n.inputs) {
      copy(row(f, input, r), f.cols(input), out);
      out += f.cols(input);
    }
  });
}

void run_select_rows(const Node& n, Frame& f, Team& team) {
  each_row(n, f, team, [&](int64_t r) {
    copy(row(f, n.inputs[0], f.last_rows[static_cast<size_t>(r)]), f.cols(n.inputs[0]), row(f, n.outputs[0], r));
  });
}

void run_state_read(const Node& n, Frame& f, Team& team) {
  each_row(n, f, team,
           [&](int64_t r) { copy(f.state->state(r, n.attrs.slot), f.cols(n.outputs[0]), row(f, n.outputs[0], r)); });
}

void run_state_write(const Node& n, Frame& f, Team& team) {
  const Range mine = team.split(f.batch);
  for (int64_t r = mine.begin; r < mine.end; ++r)
    copy(row(f, n.inputs[0], r), f.cols(n.inputs[0]), f.state->state(r, n.attrs.slot));
}

void run_memory_rows_write(const Node& n, Frame& f, Team& team) {
  const Range mine = team.split(f.tokens);
  const int64_t width = f.cols(n.inputs[0]);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const int64_t s = f.row_sequence[static_cast<size_t>(r)];
    Memory& memory = f.state->memories[static_cast<size_t>(f.state->sequences[static_cast<size_t>(s)].memory)];
    copy(row(f, n.inputs[0], r), width,
         memory.rows[static_cast<size_t>(n.attrs.slot)].data() + (r - f.offsets[static_cast<size_t>(s)]) * width);
  }
}

}  // namespace fastattn
