// attention: against double under every kind of mask, and the equalities of bits that docs/numerics.md promises.
#include <algorithm>

#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

// A random problem, with arguments that point into it. Keys and values that nobody sees are NaN.
struct Problem {
  int rows;
  int64_t S, D, Dv, ldv;
  std::vector<Array> q, k, v, bias, out, weights;
  std::vector<int64_t> lo, hi;
  std::vector<const float*> q_rows, bias_rows;
  std::vector<const void*> k_pages, v_pages;
  std::vector<float*> out_rows, weight_rows;
  Array scratch;
  AttentionArgs args;

  Problem(int rows_, int64_t S_, int64_t D_, int64_t Dv_, bool padded, int mask_kind);
  float key(int64_t j, int64_t d) const { return k[size_t(j / kPage)][d * kPage + j % kPage]; }
  float value(int64_t j, int64_t c) const { return v[size_t(j / kPage)][j % kPage * ldv + c]; }
  bool masked(int r, int64_t j) const { return bias_rows[size_t(r)] && bias[size_t(r)][j] == -INFINITY; }
  AttentionArgs single_row(int r) const;
  void spoil(int64_t j) const;
};

constexpr float kUntouched = -123.0f;

Problem::Problem(int rows_, int64_t S_, int64_t D_, int64_t Dv_, bool padded, int mask_kind)
    : rows(rows_),
      S(S_),
      D(D_),
      Dv(Dv_),
      ldv(padded ? (Dv_ + 15) / 16 * 16 : Dv_),
      scratch(attention_scratch(rows_, D_)) {
  const int64_t pages = (S + kPage - 1) / kPage;
  for (int64_t p = 0; p < pages; ++p) {
    k.push_back(random_array(D * kPage));
    v.push_back(random_array(kPage * ldv));
    k_pages.push_back(k.back().data());
    v_pages.push_back(v.back().data());
  }
  int64_t end = 0;
  const int start = random_int(0, int(S));
  for (int r = 0; r < rows; ++r) {
    // ranges: all keys; causal; windows; anything, with empty ones
    int64_t low = 0, high = S;
    if (mask_kind == 1) high = std::min<int64_t>(start + r + 1, S);
    if (mask_kind == 2) low = std::max<int64_t>(start + r - 40, 0), high = std::min<int64_t>(start + r + 1, S);
    if (mask_kind >= 3) low = random_int(0, int(S)), high = random_int(0, int(S));
    lo.push_back(low);
    hi.push_back(high);
    end = std::max(end, high);
  }
  for (int r = 0; r < rows; ++r) {
    q.push_back(random_array(D));
    q_rows.push_back(q.back());
    bias.push_back(random_array(hi[size_t(r)]));
    for (int64_t j = 0; j < bias.back().size() && mask_kind >= 4; ++j)
      if (random_int(0, 3) == 0) bias.back()[j] = -INFINITY;
    for (int64_t j = 0; j < bias.back().size() && mask_kind == 5; ++j)
      if (j / kBlock == 0 || r == 1) bias.back()[j] = -INFINITY;
    bias_rows.push_back(r % 4 == 3 ? nullptr : bias.back().data());
    out.push_back(random_array(Dv));
    out_rows.push_back(out.back());
    weights.push_back(Array(end));
    weights.back().fill(kUntouched);
    weight_rows.push_back(weights.back());
  }
  if (mask_kind < 3)
    for (auto& row : bias_rows) row = nullptr;
  args = {rows,
          D,
          Dv,
          q_rows.data(),
          k_pages.data(),
          v_pages.data(),
          ldv,
          lo.data(),
          hi.data(),
          bias_rows.data(),
          1.0f / std::sqrt(float(D)),
          mask_kind % 2 ? 0.0f : 3.0f,
          out_rows.data(),
          weight_rows.data(),
          scratch};
  args.near = random_int(0, 1) == 1;
  args.later = v_pages.data();  // whatever is read next changes nothing
  args.later_pages = random_int(0, static_cast<int>(pages));
  for (int64_t j = 0; j < pages * kPage; ++j) {
    bool seen = false;
    for (int r = 0; r < rows; ++r) seen |= lo[size_t(r)] <= j && j < hi[size_t(r)] && !masked(r, j);
    if (!seen) spoil(j);
  }
}

void Problem::spoil(int64_t j) const {
  for (int64_t d = 0; d < D; ++d) k[size_t(j / kPage)][d * kPage + j % kPage] = NAN;
  for (int64_t c = 0; c < Dv; ++c) v[size_t(j / kPage)][j % kPage * ldv + c] = NAN;
}

AttentionArgs Problem::single_row(int r) const {
  AttentionArgs one = args;
  one.rows = 1;
  one.q += r, one.lo += r, one.hi += r, one.bias += r, one.out += r, one.weights += r;
  return one;
}

// Row r in double. The scores err by (D + 4) eps of sum |q k| scale, which moves each p by that, relatively, and the
// sums over n keys by n eps; numerator and denominator both: out errs by (2 error_s + (n + 16) eps) max |v|.
void check_row(const Problem& p, int r, const char* what) {
  const int64_t low = p.lo[size_t(r)], high = p.hi[size_t(r)];
  std::vector<double> s(size_t(std::max<int64_t>(p.S, 1)), -INFINITY);
  double m = -INFINITY, error = 0.0, total = 0.0;
  for (int64_t j = low; j < high; ++j) {
    if (p.masked(r, j)) continue;
    double dot = 0.0, magnitude = 0.0;
    for (int64_t d = 0; d < p.D; ++d) {
      const double product = double(p.q[size_t(r)][d]) * p.key(j, d);
      dot += product, magnitude += std::fabs(product);
    }
    double x = dot * p.args.scale;
    if (p.args.softcap > 0) x = p.args.softcap * std::tanh(x / p.args.softcap);
    if (p.bias_rows[size_t(r)]) x += p.bias[size_t(r)][j];
    s[size_t(j)] = x;
    m = std::max(m, x);
    error = std::max(error, kEps * (double(p.D + 4) * magnitude * p.args.scale + 4 * std::fabs(x)));
  }
  if (m == -INFINITY) m = 0.0;  // nothing seen: all terms below are zero
  const double relative = 2 * error + kEps * double(std::max<int64_t>(high - low, 0) + 24) + kEps * 2 * std::fabs(m);
  for (double& x : s) total += x = std::exp(x - m);
  if (total == 0.0) total = 1.0;
  std::vector<double> want(size_t(p.Dv));
  double v_max = 0.0;
  for (int64_t j = low; j < high; ++j) {
    if (p.masked(r, j)) continue;  // its values may be NaN
    for (int64_t c = 0; c < p.Dv; ++c) {
      const double v = p.value(j, c);
      want[size_t(c)] += s[size_t(j)] / total * v, v_max = std::max(v_max, std::fabs(v));
    }
  }
  for (int64_t c = 0; c < p.Dv; ++c) {
    const float got = p.out[size_t(r)][c];
    report(within(got, want[size_t(c)], relative * v_max), "%s rows=%d S=%ld D=%ld Dv=%ld row %d [%ld]: %g, want %g",
           what, p.rows, long(p.S), long(p.D), long(p.Dv), r, long(c), got, want[size_t(c)]);
  }
  for (int64_t j = 0; j < p.weights[size_t(r)].size(); ++j) {
    const double weight = s[size_t(j)] / total;
    const float got = p.weights[size_t(r)][j];
    const bool exact_zero = (j < low || j >= high || p.masked(r, j)) ? got == 0.0f : true;
    report(exact_zero && within(got, weight, relative * weight + 1e-37), "%s weights row %d [%ld]: %g, want %g", what,
           r, long(j), got, weight);
  }
}

std::vector<float> copy_of(const std::vector<Array>& rows) {
  std::vector<float> all;
  for (const Array& row : rows) all.insert(all.end(), static_cast<float*>(row), row + row.size());
  return all;
}
bool equal_to(const std::vector<Array>& rows, const std::vector<float>& all) {
  const std::vector<float> now = copy_of(rows);
  return now.size() == all.size() && same_bits(now.data(), all.data(), int64_t(all.size()));
}
void forget(const Problem& p) {
  for (const Array& row : p.out) row.fill(kUntouched);
  for (const Array& row : p.weights) row.fill(kUntouched);
}

// The same bits from partial results of any division into ranges of blocks, merged.
void check_partials(const Problem& p, const std::vector<float>& out, const std::vector<float>& weights) {
  const int64_t blocks = (p.S + kBlock - 1) / kBlock;
  for (int64_t step : {int64_t{1}, int64_t{2}, std::max<int64_t>(blocks, 1)}) {
    forget(p);
    std::vector<int64_t> begins;
    std::vector<Array> partials;
    std::vector<const float*> pointers;
    for (int64_t b = 0; b < blocks; b += step) {
      const int64_t end = std::min(blocks, b + step);
      begins.push_back(b);
      partials.push_back(Array(partial_floats(end - b, p.rows, p.Dv)));
      kernels().attention_partial(&p.args, b, end, partials.back());
      pointers.push_back(partials.back());
    }
    begins.push_back(blocks);
    kernels().attention_merge(&p.args, int(pointers.size()), begins.data(), pointers.data());
    report(equal_to(p.out, out), "partial + merge, rows=%d S=%ld Dv=%ld step=%ld", p.rows, long(p.S), long(p.Dv),
           long(step));
    report(equal_to(p.weights, weights), "partial + merge: weights");
  }
}

// The same bits from one walk in several parts.
void check_parts(const Problem& p, const std::vector<float>& out, const std::vector<float>& weights) {
  const int64_t blocks = (p.S + kBlock - 1) / kBlock;
  for (int64_t step : {int64_t{1}, int64_t{2}}) {
    forget(p);
    Array state(2 * p.rows);
    for (int64_t b = 0; b <= blocks; b += step) {
      const AttentionPart part = {b, b + step, state, b == 0, b + step > blocks};
      kernels().attention_part(&p.args, &part);
    }
    report(equal_to(p.out, out) && equal_to(p.weights, weights), "parts, rows=%d S=%ld Dv=%ld step=%ld", p.rows,
           long(p.S), long(p.Dv), long(step));
  }
}

// The same bits from keys that lie as rows.
void check_key_rows(const Problem& p, const std::vector<float>& out, const std::vector<float>& weights) {
  for (int64_t ldk : {p.D, p.D + 3}) {
    std::vector<Array> rows;
    std::vector<const void*> pages;
    for (size_t page = 0; page < p.k.size(); ++page) {
      rows.push_back(random_array((kPage - 1) * ldk + p.D));  // ends with the last key: nothing behind it may be read
      for (int64_t j = 0; j < kPage; ++j)
        for (int64_t d = 0; d < p.D; ++d) rows.back()[j * ldk + d] = p.k[page][d * kPage + j];
      pages.push_back(rows.back().data());
    }
    AttentionArgs args = p.args;
    args.k_pages = pages.data();
    args.ldk = ldk;
    args.later_pages = 0;
    args.near = random_int(0, 1) == 1;  // how memory is fetched changes no bit
    forget(p);
    kernels().attention(&args);
    report(equal_to(p.out, out) && equal_to(p.weights, weights), "keys as rows, rows=%d S=%ld D=%ld ldk=%ld", p.rows,
           long(p.S), long(p.D), long(ldk));
    const int64_t blocks = (p.S + kBlock - 1) / kBlock, range[] = {0, blocks};
    const Array partials(partial_floats(blocks, p.rows, p.Dv));
    const float* all = partials;
    forget(p);
    kernels().attention_partial(&args, 0, blocks, partials);
    kernels().attention_merge(&args, 1, range, &all);
    report(equal_to(p.out, out) && equal_to(p.weights, weights), "keys as rows, partial + merge, rows=%d S=%ld D=%ld",
           p.rows, long(p.S), long(p.D));
  }
}

// The same bits from a row alone, even when all that it does not see is NaN.
void check_rows_alone(Problem& p, const std::vector<float>& out) {
  const std::vector<float> k = copy_of(p.k), v = copy_of(p.v);
  const auto restore = [](const std::vector<Array>& pages, const std::vector<float>& all) {
    for (size_t i = 0, at = 0; i < pages.size(); at += size_t(pages[i++].size()))
      std::memcpy(pages[i], all.data() + at, size_t(pages[i].size()) * sizeof(float));
  };
  for (int r = 0; r < p.rows; ++r) {
    for (int64_t j = 0; j < int64_t(p.k.size()) * kPage; ++j)
      if (j < p.lo[size_t(r)] || j >= p.hi[size_t(r)] || p.masked(r, j)) p.spoil(j);
    AttentionArgs one = p.single_row(r);
    one.weights = nullptr;
    one.near = !p.args.near;
    p.out[size_t(r)].fill(kUntouched);
    kernels().attention(&one);
    report(same_bits(p.out[size_t(r)], out.data() + r * p.Dv, p.Dv), "row %d of %d alone, S=%ld D=%ld Dv=%ld", r,
           p.rows, long(p.S), long(p.D), long(p.Dv));
    restore(p.k, k);
    restore(p.v, v);
  }
}

void check_problem(int rows, int64_t S, int64_t D, int64_t Dv, bool padded, int mask_kind) {
  Problem p(rows, S, D, Dv, padded, mask_kind);
  kernels().attention(&p.args);
  for (int r = 0; r < rows; ++r) check_row(p, r, "attention");
  const std::vector<float> out = copy_of(p.out), weights = copy_of(p.weights);
  check_partials(p, out, weights);
  check_parts(p, out, weights);
  check_key_rows(p, out, weights);
  check_rows_alone(p, out);
  forget(p);
  p.args.weights = nullptr;
  kernels().attention(&p.args);
  report(equal_to(p.out, out), "attention without weights, rows=%d S=%ld", rows, long(S));
}

// A NaN in a key that the row sees must reach its output, also when every other score is masked.
void check_nan(int64_t S, int64_t at, bool others_masked) {
  Problem p(3, S, 16, 20, false, 3);
  p.bias.clear();
  for (size_t r = 0; r < 3; ++r) {
    p.lo[r] = 0;
    p.hi[r] = S;
    p.weight_rows[r] = nullptr;
    p.bias.push_back(Array(S));
    p.bias[r].fill(others_masked ? -INFINITY : 0.0f);
    p.bias[r][at] = r == 1 ? -INFINITY : 0.0f;
    p.bias_rows[r] = p.bias[r];
  }
  for (auto* pages : {&p.k, &p.v})
    for (const Array& page : *pages) page.fill(0.5f);
  p.spoil(at);
  kernels().attention(&p.args);
  for (int64_t c = 0; c < p.Dv; ++c) {
    report(std::isnan(p.out[0][c]) && std::isnan(p.out[2][c]), "NaN reaches the output, S=%ld at=%ld", long(S),
           long(at));
    report(p.out[1][c] == (others_masked || S == 1 ? 0.0f : 0.5f), "a masked NaN does not, S=%ld: %g", long(S),
           p.out[1][c]);
  }
}

// 2^x as attention takes it: with a first key of score 0, and values that pick one key each, results are the powers.
void check_powers() {
  const int64_t S = kBlock, Dv = S - 1;
  Problem p(1, S, 1, Dv, false, 1);
  p.lo[0] = 0, p.hi[0] = S;
  p.args.scale = 1.0f, p.args.softcap = 0.0f, p.args.weights = nullptr;
  p.q[0][0] = 1.0f;
  for (int64_t j = 0; j < S; ++j)
    for (int64_t c = 0; c < Dv; ++c) p.v[size_t(j / kPage)][j % kPage * Dv + c] = j == c + 1 ? 1.0f : 0.0f;
  Array partials(partial_floats(1, 1, Dv));
  double worst = 0.0;
  for (int round = 0; round < 4000; ++round) {
    for (int64_t j = 0; j < S; ++j) {
      const float low = round % 2 ? -1.0f : -100.0f;
      p.k[size_t(j / kPage)][j % kPage] = j ? std::uniform_real_distribution<float>(low, 0.0f)(generator()) : 0.0f;
    }
    kernels().attention_partial(&p.args, 0, 1, partials);
    for (int64_t c = 0; c < Dv; ++c) {
      const float x = 1.44269502f * p.k[size_t((c + 1) / kPage)][(c + 1) % kPage], got = partials[2 + c];
      const double want = std::exp2(double(x));
      if (x < -126.0f) {
        report(got == 0.0f || x >= -126.5f, "2^%.9g is %.9g, expected 0", double(x), double(got));
      } else {
        worst = std::fmax(worst, std::fabs(got - want) / std::ldexp(1.0, int(std::floor(double(x))) - 23));
      }
    }
  }
  report(worst <= 1.5, "powers of 2: %.3g ULP, allowed 1.5", worst);
  std::printf("  %-10s worst error %.3g ULP\n", "2^x", worst);
}

}  // namespace

void test_attention() {
  check_powers();
  int variant = 0;
  for (int rows : {1, 2, 3, 4, 5, 6, 7, 13})
    for (int64_t S : {1, 5, 16, 17, 33, 256, 257, 300}) {
      const int64_t D = std::vector<int64_t>{1, 3, 16, 33, 64, 8, 24, 40}[size_t(variant) % 9 % 8];
      const int64_t Dv = std::vector<int64_t>{1, 5, 16, 17, 64, 80, 100}[size_t(variant) % 7];
      for (int kind = 0; kind < 6; ++kind) check_problem(rows, S, D, Dv, variant % 2 == 0, kind);
      ++variant;
    }
  for (int rows : {4, 12})  // columns in several groups, and more of them than are summed a page at a time
    for (int64_t Dv : {128, 256, 272})
      for (int kind = 0; kind < 6; ++kind) check_problem(rows, 300, 64, Dv, rows == 4, kind);
  for (int rows : {1, 2, 5})  // runs of several blocks, more than one of them
    for (int64_t Dv : {64, 160})
      for (int kind = 0; kind < 6; ++kind) check_problem(rows, 8 * kBlock + 300, 48, Dv, rows == 2, kind);
  for (int rows : {kRowsAtOnce, kRowsAtOnce + 13})  // all tiles of a call, and a second round of them
    for (int kind = 0; kind < 6; ++kind) check_problem(rows, 300, 20, 24, rows == kRowsAtOnce, kind);
  check_problem(0, 0, 4, 4, false, 0);
  check_problem(2, 0, 4, 4, false, 0);
  for (int64_t S : {1, 20, 300})
    for (int64_t at : {int64_t{0}, S - 1})
      for (bool others_masked : {false, true}) check_nan(S, at, others_masked);
}

}  // namespace fastattn::selftest
