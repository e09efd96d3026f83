// The last op of a decoder: what the caller wants of the logits is taken here, so that a row of the vocabulary's size
// never travels to Python unless it is asked for. Threads split the rows.
#include <cmath>
#include <limits>

#include "dispatch/dispatch.h"
#include "ops/graph_ops.h"

namespace fastattn {
namespace {

void penalise(const Select& s, int64_t r, float* row) {
  if (!s.penalised) return;
  for (int32_t i = s.penalised_rows[r]; i < s.penalised_rows[r + 1]; ++i) {
    float& score = row[s.penalised[i]];
    score = score < 0 ? score * s.penalty : score / s.penalty;
  }
}

void ban(const Select& s, int64_t r, float* row) {
  if (!s.banned) return;
  for (int32_t i = s.banned_rows[r]; i < s.banned_rows[r + 1]; ++i)
    row[s.banned[i]] = -std::numeric_limits<float>::infinity();
}

}  // namespace

Needs output_needs(const Node& n, const Frame& f) {
  const bool idle = !f.select->k && !f.select->logits;
  return {0, 0, idle ? 0 : 20.0 * static_cast<double>(f.last * f.cols(n.inputs[0]))};
}

void run_output(const Node& n, Frame& f, Team& team) {
  const Select& select = *f.select;
  if (!select.k && !select.logits) return;
  const KernelTable& k = kernels();
  const int64_t V = f.cols(n.inputs[0]);
  const Range mine = team.split(f.last);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    float* row = f.data(n.inputs[0]) + r * V;
    f.results->log_sum_exp[static_cast<size_t>(r)] = k.log_sum_exp(row, V);
    if (select.log_probs) k.log_softmax_row(row, V, row);
    penalise(select, r, row);
    ban(select, r, row);
    if (select.k)
      k.top_k(row, V, select.k, f.results->scores.data() + r * select.k, f.results->tokens.data() + r * select.k);
  }
}

}  // namespace fastattn
