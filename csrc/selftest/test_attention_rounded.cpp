// Attention whose products are of bfloat16, beside the same in double.
#include <algorithm>

#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

float nearest_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// What the products multiply, for the emulator rounded once.
std::vector<double> rounded(const Array& x, float scale) {
  std::vector<double> y(static_cast<size_t>(x.size()));
  for (int64_t i = 0; i < x.size(); ++i) y[size_t(i)] = nearest_bfloat16(x[i] * scale);
  return y;
}

struct Pages {
  std::vector<Array> memory;  // each has its guard behind the last element
  std::vector<const void*> pages;
  void add(int64_t bytes) {
    memory.emplace_back(bytes / 4);
    memory.back().fill(NAN);
    pages.push_back(memory.back().data());
  }
  float* last() { return memory.back().data(); }
};

enum class Bias { none, added, masking };

struct Problem {
  int rows;
  int64_t S, D, Dv;
  bool causal;
  Bias kind;
  int64_t first = 0;  // key that is seen
  float softcap = 0;
  int64_t ldv = round_up(Dv, kPage);
  Array q = random_array(rows * D), k = random_array(S * D), v = random_array(S * Dv), bias = random_array(rows * S);
  Pages keys = {}, values = {};
  std::vector<const float*> q_rows = {}, bias_rows = {};
  std::vector<int64_t> lo = {}, hi = {};
  std::vector<double> q_rounded = {}, k_rounded = {}, v_rounded = {};

  void prepare() {
    q_rounded = rounded(q, kScale * 1.44269502f), k_rounded = rounded(k, 1.0f), v_rounded = rounded(v, 1.0f);
    for (int64_t t = 0; t < S; t += kPage) {
      const int count = static_cast<int>(std::min<int64_t>(kPage, S - t));
      keys.add(kernels().rounded_page_bytes(D));
      kernels().round_keys(k + t * D, D, count, D, keys.last());
      values.add(kernels().rounded_page_bytes(ldv));
      kernels().round_values(v + t * Dv, Dv, count, Dv, values.last(), ldv);
    }
    // Some keys, the whole first block for one row in three, and all keys for another.
    for (int64_t i = 0; kind == Bias::masking && i < rows * S; ++i) {
      const int64_t r = i / S, j = i % S;
      if ((r + j) % 5 == 0 || (r % 3 == 1 && j < kBlock) || r % 7 == 2) bias[i] = -INFINITY;
    }
    for (int r = 0; r < rows; ++r) {
      q_rows.push_back(q + r * D), bias_rows.push_back(bias + r * S);
      lo.push_back(first), hi.push_back(causal ? std::max<int64_t>(S - rows + r + 1, 0) : S);
    }
  }

  static constexpr float kScale = 0.3f;
  AttentionArgs args(float* const* out, float* scratch, float* const* weights = nullptr) const {
    return {rows,
            D,
            Dv,
            q_rows.data(),
            keys.pages.data(),
            values.pages.data(),
            ldv,
            lo.data(),
            hi.data(),
            kind == Bias::none ? nullptr : bias_rows.data(),
            kScale,
            softcap,
            out,
            weights,
            scratch,
            DType::rounded};
  }

  // Scores of row r, to base 2; -inf where it sees nothing.
  std::vector<double> scores(int r) const {
    const double log2e = 1.4426950408889634;
    std::vector<double> s(size_t(S), -INFINITY);
    for (int64_t j = lo[size_t(r)]; j < hi[size_t(r)]; ++j) {
      const double *a = &q_rounded[size_t(r * D)], *b = &k_rounded[size_t(j * D)];
      double dot = 0;
      for (int64_t d = 0; d < D; ++d) dot += a[d] * b[d];
      if (softcap > 0) dot = double(softcap) * log2e * std::tanh(dot / (double(softcap) * log2e));
      s[size_t(j)] = dot + (kind == Bias::none ? 0.0 : double(bias[r * S + j]) * log2e);
    }
    return s;
  }
};

// A power is the nearest bfloat16 beside the largest of its block; only where it lies next to a tie may it be the other
// one. `l` sums powers as they are.
void check_row(const Problem& a, int r, const float* out, const float* weights) {
  const std::vector<double> s = a.scores(r);
  const double most = *std::max_element(s.begin(), s.end());
  const double own = (double(a.D) + double(a.S) + 32) * kEps * 16;
  const double near = (double(a.D) + 16) * kEps * 16;  // what a power may err by itself
  double total = 0;
  std::vector<double> p(s.size()), factor(s.size()), doubt(s.size());
  for (size_t block = 0; block < s.size(); block += kBlock) {
    const size_t end = std::min(s.size(), block + kBlock);
    const double top = *std::max_element(s.begin() + long(block), s.begin() + long(end)), back = std::exp2(top - most);
    for (size_t j = block; j < end; ++j) {
      if (s[j] == -INFINITY) continue;
      const double power = std::exp2(s[j] - top), low = nearest_bfloat16(float(power * (1 - near))),
                   high = nearest_bfloat16(float(power * (1 + near)));
      p[j] = power * back, factor[j] = (low + high) / 2 * back, doubt[j] = (high - low) / 2 * back;
      total += p[j];
    }
  }
  for (int64_t c = 0; c < a.Dv; ++c) {
    double sum = 0, size = 0, bound = 0;
    for (size_t j = 0; j < p.size(); ++j) {
      const double v = a.v_rounded[j * size_t(a.Dv) + size_t(c)];
      sum += factor[j] * v, size += p[j] * std::fabs(v), bound += doubt[j] * std::fabs(v);
    }
    const double want = total > 0 ? sum / total : 0.0;
    if (total > 0) bound = (bound + size * own) / total;
    report(within(out[c], want, bound + own), "rounded, rows=%d S=%ld D=%ld Dv=%ld: %g, want %g", a.rows, long(a.S),
           long(a.D), long(a.Dv), out[c], want);
  }
  for (size_t j = 0; j < p.size(); ++j) {
    const double want = total > 0 ? p[j] / total : 0.0;
    report(within(weights[j], want, want > 0 ? own : 0.0), "weight of a rounded row: %g, want %g", weights[j], want);
  }
}

void check(Problem a) {
  a.prepare();
  const int rows = a.rows;
  const Array out(rows * a.Dv), again(rows * a.Dv), weights(rows * a.S), scratch(attention_scratch(rows, a.D));
  weights.fill(7.0f);
  std::vector<float*> to, again_to, weights_to;
  for (int r = 0; r < rows; ++r)
    to.push_back(out + r * a.Dv), again_to.push_back(again + r * a.Dv), weights_to.push_back(weights + r * a.S);
  const AttentionArgs all = a.args(to.data(), scratch, weights_to.data());
  kernels().attention_rounded(&all);
  for (int r = 0; r < rows; ++r) check_row(a, r, to[size_t(r)], weights_to[size_t(r)]);
  const AttentionArgs each = a.args(again_to.data(), scratch);
  for (int r = 0; r < rows; ++r) {
    AttentionArgs one = each;
    one.rows = 1, one.q += r, one.lo += r, one.hi += r, one.out += r, one.near = r % 2 != 0;
    if (one.bias) one.bias += r;
    kernels().attention_rounded(&one);
  }
  report(same_bits(out, again, rows * a.Dv), "%d rounded rows alone, S=%ld D=%ld", rows, long(a.S), long(a.D));
}

// A NaN in a query is in its row and in no other.
void check_nan() {
  Problem a = {5, 40, 16, 16, false, Bias::none};
  a.q[2 * a.D + 3] = NAN;
  a.prepare();
  const Array out(a.rows * a.Dv), scratch(attention_scratch(a.rows, a.D));
  std::vector<float*> to;
  for (int r = 0; r < a.rows; ++r) to.push_back(out + r * a.Dv);
  const AttentionArgs args = a.args(to.data(), scratch);
  kernels().attention_rounded(&args);
  for (int64_t i = 0; i < a.rows * a.Dv; ++i)
    report(std::isnan(out[i]) == (i / a.Dv == 2), "NaN of row 2 in row %ld", long(i / a.Dv));
}

}  // namespace

void test_attention_rounded() {
  for (int rows : {1, 2, 7, 12, 13, 40})
    for (int64_t S : {1, 2, 15, 16, 33, 255, 256, 257, 700})
      for (const bool causal : {false, true})
        for (const Bias bias : {Bias::none, Bias::added, Bias::masking}) {
          check({rows, S, 16, 16, causal, bias});
          check({rows, S, 33, 33, causal, bias, S / 3});
          if (S <= 257) check({rows, S, 64, 100, causal, bias, 0, 1.5f});
        }
  check({200, 300, 64, 64, false, Bias::none});
  check({13, 2600, 65, 272, false, Bias::added});
  check({2, 2600, 5, 48, false, Bias::none});
  check_nan();
}

}  // namespace fastattn::selftest
