// The last op of a decoder: what the caller wants of the logits is taken here, so that a row of the vocabulary's size
// never travels to Python unless it is asked for.
//
// With a weight the final projection is part of it. The vocabulary is cut into chunks; right behind a chunk's product,
// while it is in the cache, the thread that did it takes the chunk's largest logit and sum of exponentials. When all
// are there, one thread merges a row's chunks in their order, so that the bits do not depend on threads; and it looks
// for the best tokens only in chunks whose largest element may be among them.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/graph_ops.h"
#include "ops/linear.h"

namespace fastattn {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kChunkPanels = 16, kChunk = kChunkPanels * kPanel;  // columns

int64_t chunk_count(int64_t V) { return (V + kChunk - 1) / kChunk; }

LinearPart projection(const Node& n, const Frame& f) {
  LinearPart part{};
  part.weight = n.weights[0].get();
  part.bias = n.weights[1] ? n.weights[1]->plain.data() : nullptr;
  part.y = f.data(n.outputs[0]), part.ldy = n.weights[0]->rows;
  return part;
}

// The logits, and of each chunk of each row the largest element and the sum of e^(x - largest).
struct Logits {
  const KernelTable& kernel;
  int64_t rows, V, chunks;
  float* values;   // (rows, V)
  double* sums;    // (rows, chunks)
  float* largest;  // (rows, chunks)

  Logits(const Node& n, const Frame& f, float* shared)
      : kernel(*f.kernel),
        rows(f.last),
        V(f.cols(n.weights[0] ? n.outputs[0] : n.inputs[0])),
        chunks(chunk_count(V)),
        values(f.data(n.weights[0] ? n.outputs[0] : n.inputs[0])),
        sums(reinterpret_cast<double*>(shared)),
        largest(shared + 2 * rows * chunks) {}
  static int64_t scratch_floats(int64_t rows, int64_t chunks) { return whole_lines(3 * rows * chunks); }

  float* row(int64_t r) const { return values + r * V; }
  int64_t begin(int64_t c) const { return c * kChunk; }
  int64_t size(int64_t c) const { return std::min(kChunk, V - c * kChunk); }

  void measure(Range chunk_range, Range row_range) const {
    for (int64_t r = row_range.begin; r < row_range.end; ++r)
      for (int64_t c = chunk_range.begin; c < chunk_range.end; ++c)
        sums[r * chunks + c] = kernel.exp_sum(row(r) + begin(c), size(c), &largest[r * chunks + c]);
  }
};

// log sum e^x = top + log_sum; log_sum is 0 where the top alone is the answer (infinite), and NaN with NaN.
struct Normaliser {
  float top = -kInfinity, log_sum = 0;

  Normaliser(const double* sums, const float* largest, int64_t chunks) {
    for (int64_t c = 0; c < chunks; ++c) top = std::max(top, largest[c]);
    double total = 0;
    for (int64_t c = 0; c < chunks; ++c)
      total += sums[c] * (largest[c] == top ? 1.0 : std::exp(static_cast<double>(largest[c]) - top));
    if (std::isnan(total)) {
      log_sum = std::numeric_limits<float>::quiet_NaN();
    } else if (!std::isinf(top)) {
      log_sum = static_cast<float>(std::log(total));
    }
  }
  float of(float x) const { return top == -kInfinity ? top + log_sum : x - top - log_sum; }
  void apply(const KernelTable& kernel, const float* x, int64_t n, float* y) const {
    if (top == -kInfinity) {
      std::fill(y, y + n, top + log_sum);
    } else {
      kernel.subtract_row(x, top, log_sum, n, y);
    }
  }
};

// Larger first, equal ones by index, NaN last.
bool ranks_before(float a, int32_t i, float b, int32_t j) {
  if (a != b && !std::isnan(a) && !std::isnan(b)) return a > b;
  return std::isnan(a) == std::isnan(b) ? i < j : std::isnan(b);
}

// The k best of a row so far, in order, in the caller's arrays.
struct Best {
  const KernelTable& kernel;
  int k;
  float* scores;
  int32_t* tokens;
  float* new_scores;    // [min(k, kChunk)] of a chunk
  int32_t* new_tokens;  // the same
  int found = 0;

  static int64_t scratch_floats(int64_t k) { return 2 * std::min(k, kChunk) + kChunk; }

  // Whether a chunk whose largest element is this may hold one of the k best.
  bool wants(float largest) const { return found < k || !(largest < scores[k - 1]); }

  void take(const float* x, int64_t first, int64_t n) {
    const int count = static_cast<int>(std::min<int64_t>(k, n));
    kernel.top_k(x, n, count, new_scores, new_tokens);
    for (int i = 0; i < count; ++i) {
      const float score = new_scores[i];
      const int32_t token = new_tokens[i] + static_cast<int32_t>(first);
      if (found == k && !ranks_before(score, token, scores[k - 1], tokens[k - 1])) return;
      int at = found < k ? found++ : k - 1;
      for (; at > 0 && ranks_before(score, token, scores[at - 1], tokens[at - 1]); --at)
        scores[at] = scores[at - 1], tokens[at] = tokens[at - 1];
      scores[at] = score, tokens[at] = token;
    }
  }
};

// Penalties, then bans; the chunks they touch are looked at again.
void change_row(const Select& s, const Logits& logits, int64_t r) {
  float* row = logits.row(r);
  float* largest = logits.largest + r * logits.chunks;
  const auto touched = [&](int32_t token) { largest[token / kChunk] = std::numeric_limits<float>::quiet_NaN(); };
  if (s.penalised)
    for (int32_t i = s.penalised_rows[r]; i < s.penalised_rows[r + 1]; ++i) {
      float& score = row[s.penalised[i]];
      score = score < 0 ? score * s.penalty : score / s.penalty;
      touched(s.penalised[i]);
    }
  if (s.banned)
    for (int32_t i = s.banned_rows[r]; i < s.banned_rows[r + 1]; ++i) {
      row[s.banned[i]] = -kInfinity;
      touched(s.banned[i]);
    }
  for (int64_t c = 0; c < logits.chunks; ++c)
    if (std::isnan(largest[c])) largest[c] = logits.kernel.maximum_of(row + logits.begin(c), logits.size(c));
}

bool changes(const Select& s, int64_t r) {
  return (s.penalised && s.penalised_rows[r] < s.penalised_rows[r + 1]) ||
         (s.banned && s.banned_rows[r] < s.banned_rows[r + 1]);
}

// scratch: Best::scratch_floats
void finish_row(const Select& s, const Logits& logits, int64_t r, Results& results, float* scratch) {
  float* largest = logits.largest + r * logits.chunks;
  const Normaliser normaliser(logits.sums + r * logits.chunks, largest, logits.chunks);
  results.log_sum_exp[static_cast<size_t>(r)] = normaliser.top + normaliser.log_sum;
  // where the row itself changes, all of it becomes log-probabilities; else only the chunks that are looked at
  const bool whole = s.log_probs && (s.logits || changes(s, r));
  if (whole) normaliser.apply(logits.kernel, logits.row(r), logits.V, logits.row(r));
  if (s.log_probs)
    for (int64_t c = 0; c < logits.chunks; ++c) largest[c] = normaliser.of(largest[c]);
  if (changes(s, r)) change_row(s, logits, r);
  if (!s.k) return;
  const int64_t most = std::min<int64_t>(s.k, kChunk);
  Best best{logits.kernel,
            s.k,
            results.scores.data() + r * s.k,
            results.tokens.data() + r * s.k,
            scratch + kChunk,
            reinterpret_cast<int32_t*>(scratch + kChunk + most)};
  const auto look_at = [&](int64_t c) {
    if (!best.wants(largest[c])) return;
    const float* x = logits.row(r) + logits.begin(c);
    if (s.log_probs && !whole) {
      normaliser.apply(logits.kernel, x, logits.size(c), scratch);
      x = scratch;
    }
    best.take(x, logits.begin(c), logits.size(c));
  };
  // the chunk with the largest element first: after it, most others are passed over
  const int64_t first = std::max_element(largest, largest + logits.chunks) - largest;
  look_at(first);
  for (int64_t c = 0; c < logits.chunks; ++c)
    if (c != first) look_at(c);
}

}  // namespace

Needs output_needs(const Node& n, const Frame& f) {
  const Select& s = *f.select;
  if (!s.k && !s.logits) return {};
  const bool projects = n.weights[0] != nullptr;
  const int64_t V = f.cols(projects ? n.outputs[0] : n.inputs[0]);
  const LinearScratch scratch = projects ? linear_scratch(*n.weights[0], f.last) : LinearScratch{};
  const double width = 20.0 + (projects ? 2.0 * static_cast<double>(n.weights[0]->cols) : 0.0);
  return {Logits::scratch_floats(f.last, chunk_count(V)) + scratch.shared,
          std::max(Best::scratch_floats(s.k), scratch.per_thread), width * static_cast<double>(f.last * V)};
}

void run_output(const Node& n, Frame& f, Team& team) {
  const Select& select = *f.select;
  if (!select.k && !select.logits) return;
  float* scratch = f.scratch[static_cast<size_t>(team.ith)];
  const Logits logits(n, f, f.shared);
  if (n.weights[0]) {
    const LinearPart part = projection(n, f);
    LinearArgs args{*f.kernel,
                    f.data(n.inputs[0]),
                    f.last,
                    f.cols(n.inputs[0]),
                    &part,
                    1,
                    f.shared + Logits::scratch_floats(logits.rows, logits.chunks),
                    scratch};
    args.grain = kChunkPanels;
    args.finished = [](const void* context, Range panels, Range rows) {
      static_cast<const Logits*>(context)->measure(
          {panels.begin / kChunkPanels, (panels.end + kChunkPanels - 1) / kChunkPanels}, rows);
    };
    args.context = &logits;
    linear(args, team);
  } else {
    const bool by_rows = logits.chunks < 2 * team.nth && logits.rows > 1;
    logits.measure(by_rows ? Range{0, logits.chunks} : team.split(logits.chunks),
                   by_rows ? team.split(logits.rows) : Range{0, logits.rows});
  }
  team.barrier();
  for (int64_t r = team.ith; r < logits.rows; r += team.nth) finish_row(select, logits, r, *f.results, scratch);
}

}  // namespace fastattn
