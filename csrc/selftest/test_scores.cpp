// Scores and sums of the recurrent models' attention, and the transposition of keys into pages.
#include <utility>

#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

// out[i, c], rows ldo apart, against the sum of factors(i, c, n) over n < terms, and nothing written behind a row.
template <class Factors>
void check_sums(const char* name, const Array& out, int64_t ldo, int rows, int columns, int terms, Factors factors) {
  for (int i = 0; i < rows; ++i) {
    for (int c = 0; c < columns; ++c) {
      double sum = 0.0, size = 0.0;
      for (int n = 0; n < terms; ++n) {
        const auto [a, b] = factors(i, c, n);
        sum += double(a) * b, size += std::fabs(double(a) * b);
      }
      report(within(out[i * ldo + c], sum, kEps * (terms + 1) * size), "%s %d terms, [%d, %d]: %g, want %g", name,
             terms, i, c, out[i * ldo + c], sum);
    }
    for (int64_t c = columns; c < ldo; ++c)
      report(out[i * ldo + c] == -5.0f, "%s writes beyond %d columns, row %d", name, columns, i);
  }
}

void check_dot(int S, int D, int rows) {
  const int64_t ldq = D + random_int(0, 2), ldk = D + random_int(0, 2), ldo = S + random_int(0, 2);
  const Array q = random_array(rows * ldq), keys = random_array(S * ldk);
  Array out(rows * ldo), alone(S);
  out.fill(-5.0f);
  kernels().dot_scores(q, ldq, rows, keys, ldk, S, D, out, ldo);
  check_sums("dot", out, ldo, rows, S, D,
             [&](int i, int j, int d) { return std::pair(q[i * ldq + d], keys[j * ldk + d]); });
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < S; ++j) kernels().dot_scores(q + i * ldq, ldq, 1, keys + j * ldk, ldk, 1, D, alone + j, 1);
    report(same_bits(alone, out + i * ldo, S), "dot: a query and a key alone, S=%d D=%d row %d of %d", S, D, i, rows);
  }
}

void check_additive(int S, int D) {
  const int64_t ld = D + random_int(0, 2);
  const Array q = random_array(D), v = random_array(D), keys = random_array(S * ld);
  Array out(S);
  kernels().additive_scores(q, keys, ld, S, D, v, out);
  for (int j = 0; j < S; ++j) {
    double a = 0.0, size = 0.0;
    for (int d = 0; d < D; ++d) {
      const double k = keys[j * ld + d];
      a += v[d] * std::tanh(q[d] + k);
      size += std::fabs(v[d]) * (1 + std::fabs(q[d] + k));
    }
    report(within(out[j], a, kEps * (D + 5) * size), "additive S=%d A=%d: %g, want %g", S, D, out[j], a);
  }
}

void check_weighted_sum(int S, int D, int rows) {
  const int64_t ldw = S + random_int(0, 2), ldv = D + random_int(0, 2), ldo = D + random_int(0, 2);
  const Array w = random_array(rows * ldw), values = random_array(S * ldv);
  Array out(rows * ldo), alone(D);
  out.fill(-5.0f);
  kernels().weighted_sum(w, ldw, rows, values, ldv, S, D, out, ldo);
  check_sums("weighted_sum", out, ldo, rows, D, S,
             [&](int i, int d, int j) { return std::pair(w[i * ldw + j], values[j * ldv + d]); });
  for (int i = 0; i < rows; ++i) {
    kernels().weighted_sum(w + i * ldw, ldw, 1, values, ldv, S, D, alone, D);
    report(same_bits(alone, out + i * ldo, D), "weighted_sum: a row alone, S=%d D=%d row %d of %d", S, D, i, rows);
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
  for (int S : {0, 1, 3, 4, 5, 9, 16, 21, 600})
    for (int D : sizes()) {
      if (S > 100 && D > 100) continue;
      check_additive(S, D);
      for (int rows : {1, 2, 3, 4, 7}) {
        check_dot(S, D, rows);
        check_weighted_sum(S, D, rows);
      }
    }
  for (int D : {1, 3, 4, 16, 17, 33, 64})
    for (int count : {0, 1, 5, 16})
      for (int offset : {0, 3, 11})
        if (count + offset <= kPage) check_pack_keys(count, D, offset);
}

}  // namespace fastattn::selftest
