#include "ops/dense_scores.h"

#include <atomic>

#include "dispatch/dispatch.h"

namespace fastattn::dense {
namespace {

constexpr int64_t kKeysAtOnce = 64;    // a multiple of what dot_scores takes together
constexpr int64_t kQueriesAtOnce = 4;  // the same; they share what is read, if there are enough for all threads

// Scores of queries from t on and keys [begin, end) go where the weights will stand.
void score(const KernelTable& kernel, const ScoreAttention& op, int64_t b, int64_t t, int64_t queries, int64_t begin,
           int64_t end) {
  if (begin >= end) return;
  const int64_t A = op.q.shape[2], S = op.k.shape[1], ldk = op.k.stride[1];
  const float* q = op.q.data + b * op.q.stride[0] + t * op.q.stride[1];
  const float* k = op.k.data + b * op.k.stride[0] + begin * ldk;
  float* out = op.weights + (b * op.q.shape[1] + t) * S + begin;
  if (op.v) {
    for (int64_t i = 0; i < queries; ++i)
      kernel.additive_scores(q + i * op.q.stride[1], k, ldk, end - begin, A, op.v, out + i * S);
  } else {
    kernel.dot_scores(q, op.q.stride[1], queries, k, ldk, end - begin, A, out, S);
  }
}

// What lies beyond the length gets no weight and is not read: it may hold anything.
void weigh(const KernelTable& kernel, const ScoreAttention& op, int64_t b, int64_t t, int64_t queries) {
  const int64_t S = op.k.shape[1], C = op.values.shape[2], length = op.lengths[b];
  float* weights = op.weights + (b * op.q.shape[1] + t) * S;
  float* context = op.context + (b * op.q.shape[1] + t) * C;
  for (int64_t i = 0; i < queries; ++i) std::fill(weights + i * S + length, weights + (i + 1) * S, 0.0f);
  if (length == 0) {
    std::fill_n(context, queries * C, 0.0f);
    return;
  }
  for (int64_t i = 0; i < queries; ++i) kernel.softmax_row(weights + i * S, length, weights + i * S);
  kernel.weighted_sum(weights, S, queries, op.values.data + b * op.values.stride[0], op.values.stride[1], length, C,
                      context, C);
}

}  // namespace

void score_attention(const ScoreAttention& op) {
  const KernelTable& kernel = kernels();
  const int64_t B = op.q.shape[0], T = op.q.shape[1], S = op.k.shape[1];
  const double width =
      static_cast<double>(op.q.shape[2]) * (op.v ? 24 : 2) + 2.0 * static_cast<double>(op.values.shape[2]);
  const int threads = threads_for(static_cast<double>(B * T) * static_cast<double>(S) * width);
  const int64_t together = threads > 1 && (op.v || B * T < 2 * threads * kQueriesAtOnce) ? 1 : kQueriesAtOnce;
  const int64_t pieces = (S + kKeysAtOnce - 1) / kKeysAtOnce, groups = (T + together - 1) / together;
  const auto first = [&](int64_t group) { return group % groups * together; };  // query of a group
  const auto queries = [&](int64_t group) { return std::min(together, T - first(group)); };
  std::atomic<int64_t> next_score{0}, next_group{0};
  parallel(threads, [&](Team& team) {
    for (int64_t i; (i = next_score.fetch_add(1, std::memory_order_relaxed)) < B * groups * pieces;) {
      const int64_t group = i / pieces, b = group / groups, begin = i % pieces * kKeysAtOnce;
      score(kernel, op, b, first(group), queries(group), begin, std::min(begin + kKeysAtOnce, op.lengths[b]));
    }
    team.barrier();
    for (int64_t group; (group = next_group.fetch_add(1, std::memory_order_relaxed)) < B * groups;)
      weigh(kernel, op, group / groups, first(group), queries(group));
  });
}

}  // namespace fastattn::dense
