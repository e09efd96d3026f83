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

struct Problem {
  int rows;
  int64_t S, D, Dv;
  bool causal, biased;
  int64_t ldv = round_up(Dv, kPage);
  Array q = random_array(rows * D), k = random_array(S * D), v = random_array(S * Dv), bias = random_array(rows * S);
  Pages keys, values;
  std::vector<const float*> q_rows, bias_rows;
  std::vector<int64_t> lo, hi;

  void pack() {
    for (int64_t t = 0; t < S; t += kPage) {
      const int count = static_cast<int>(std::min<int64_t>(kPage, S - t));
      keys.add(kernels().rounded_page_bytes(D));
      kernels().round_keys(k + t * D, D, count, D, keys.last());
      values.add(kernels().rounded_page_bytes(ldv));
      kernels().round_values(v + t * Dv, Dv, count, Dv, values.last(), ldv);
    }
    for (int r = 0; r < rows; ++r) {
      q_rows.push_back(q + r * D), bias_rows.push_back(bias + r * S);
      lo.push_back(0), hi.push_back(causal ? std::max<int64_t>(S - rows + r + 1, 0) : S);
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
            biased ? bias_rows.data() : nullptr,
            kScale,
            0.0f,
            out,
            weights,
            scratch,
            DType::rounded};
  }

  // The powers of row r, not divided by their sum.
  std::vector<double> powers(int r) const {
    const float scale = kScale * 1.44269502f;
    std::vector<double> s;
    for (int64_t j = 0; j < hi[size_t(r)]; ++j) {
      double dot = 0;
      for (int64_t d = 0; d < D; ++d)
        dot += double(nearest_bfloat16(q[r * D + d] * scale)) * double(nearest_bfloat16(k[j * D + d]));
      s.push_back(dot + (biased ? double(bias[r * S + j]) * 1.4426950408889634 : 0.0));
    }
    const double most = s.empty() ? 0.0 : *std::max_element(s.begin(), s.end());
    for (double& x : s) x = std::exp2(x - most);
    return s;
  }
};

// Powers are rounded to the nearest bfloat16, by at most 2^-8 of themselves; their sum is not.
void check_row(const Problem& a, int r, const float* out, const float* weights) {
  const std::vector<double> p = a.powers(r);
  double total = 0;
  for (double x : p) total += x;
  const double own = (double(a.D) + double(a.S) + 32) * kEps * 16;
  for (int64_t c = 0; c < a.Dv; ++c) {
    double sum = 0, size = 0;
    for (size_t j = 0; j < p.size(); ++j) {
      const double v = nearest_bfloat16(a.v[int64_t(j) * a.Dv + c]);
      sum += p[j] * v, size += p[j] * std::fabs(v);
    }
    const double want = p.empty() ? 0.0 : sum / total, bound = p.empty() ? 0.0 : size / total * (0x1p-8 + own) + own;
    report(within(out[c], want, bound), "rounded, rows=%d S=%ld D=%ld Dv=%ld: %g, want %g", a.rows, long(a.S),
           long(a.D), long(a.Dv), out[c], want);
  }
  for (size_t j = 0; j < p.size(); ++j)
    report(within(weights[j], p[j] / total, own), "weight of a rounded row: %g, want %g", weights[j], p[j] / total);
}

void check(int rows, int64_t S, int64_t D, int64_t Dv, bool causal, bool biased) {
  Problem a = {rows, S, D, Dv, causal, biased};
  a.pack();
  const Array out(rows * Dv), again(rows * Dv), weights(rows * S), scratch(attention_scratch(rows, D));
  std::vector<float*> to, again_to, weights_to;
  for (int r = 0; r < rows; ++r)
    to.push_back(out + r * Dv), again_to.push_back(again + r * Dv), weights_to.push_back(weights + r * S);
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
  report(same_bits(out, again, rows * Dv), "%d rounded rows alone, S=%ld D=%ld", rows, long(S), long(D));
}

}  // namespace

void test_attention_rounded() {
  for (int rows : {1, 2, 7, 12, 13, 40})
    for (int64_t S : {1, 2, 15, 16, 33, 255, 256, 257, 700})
      for (const bool causal : {false, true})
        for (const bool biased : {false, true}) {
          check(rows, S, 16, 16, causal, biased);
          check(rows, S, 5, 33, causal, biased);
          if (S <= 257) check(rows, S, 64, 100, causal, biased);
        }
}

}  // namespace fastattn::selftest
