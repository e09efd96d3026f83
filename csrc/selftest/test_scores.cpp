// Scores and sums of the recurrent models' attention, and the transposition of keys into pages.
#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

void check_scores(int S, int D) {
  const int64_t ld = D + random_int(0, 2), size = S ? (S - 1) * ld + D : 0;
  const Array q = random_array(D), v = random_array(D), w = random_array(S), keys = random_array(size);
  Array dot(S), additive(S), context(D);
  kernels().dot_scores(q, keys, ld, S, D, dot);
  kernels().additive_scores(q, keys, ld, S, D, v, additive);
  kernels().weighted_sum(w, keys, ld, S, D, context);
  for (int j = 0; j < S; ++j) {
    double s = 0.0, a = 0.0, dot_size = 0.0, v_size = 0.0;
    for (int d = 0; d < D; ++d) {
      const double k = keys[j * ld + d];
      s += q[d] * k;
      a += v[d] * std::tanh(q[d] + k);
      dot_size += std::fabs(q[d] * k);
      v_size += std::fabs(v[d]) * (1 + std::fabs(q[d] + k));
    }
    report(within(dot[j], s, kEps * (D + 1) * dot_size), "dot S=%d D=%d: %g, want %g", S, D, dot[j], s);
    report(within(additive[j], a, kEps * (D + 5) * v_size), "additive S=%d A=%d: %g, want %g", S, D, additive[j], a);
  }
  for (int d = 0; d < D; ++d) {
    double s = 0.0, size_of = 0.0;
    for (int j = 0; j < S; ++j)
      s += double(w[j]) * keys[j * ld + d], size_of += std::fabs(double(w[j]) * keys[j * ld + d]);
    report(within(context[d], s, kEps * (S + 1) * size_of), "weighted_sum S=%d D=%d: %g, want %g", S, D, context[d], s);
  }
  Array one(1);
  if (S) {
    kernels().dot_scores(q, keys + (S - 1) * ld, ld, 1, D, one);
    report(same_bits(one, dot + (S - 1), 1), "dot: a key alone, S=%d D=%d", S, D);
  }
}

void check_pack_keys(int count, int D, int offset) {
  const int64_t ld = D + 1;
  const Array k = random_array(count ? (count - 1) * ld + D : 0);
  Array page(int64_t(D) * kPage);
  page.fill(-5.0f);
  kernels().pack_keys(k, ld, count, D, page, offset);
  for (int d = 0; d < D; ++d)
    for (int t = 0; t < kPage; ++t) {
      const bool written = offset <= t && t < offset + count;
      const float want = written ? k[(t - offset) * ld + d] : -5.0f;
      report(page[d * kPage + t] == want, "pack_keys count=%d D=%d offset=%d", count, D, offset);
    }
}

}  // namespace

void test_scores() {
  for (int S : {0, 1, 3, 4, 5, 9})
    for (int D : sizes()) check_scores(S, D);
  for (int D : {1, 3, 4, 16, 17, 33, 64})
    for (int count : {0, 1, 5, 16})
      for (int offset : {0, 3, 11})
        if (count + offset <= kPage) check_pack_keys(count, D, offset);
}

}  // namespace fastattn::selftest
