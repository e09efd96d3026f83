// Row kernels: softmax and its kin, top-k, normalisation, elementwise operations, recurrent cells.
#include <algorithm>
#include <numeric>

#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

void check_softmax(const Array& x) {
  const int64_t n = x.size();
  Array y(n), log_y(n);
  kernels().softmax_row(x, n, y);
  kernels().log_softmax_row(x, n, log_y);
  double m = -INFINITY, total = 0.0;
  for (int64_t i = 0; i < n; ++i) m = std::max<double>(m, x[i]);
  for (int64_t i = 0; i < n; ++i) total += std::exp(x[i] - m);
  const double lse = m + std::log(total);
  const float got = kernels().log_sum_exp(x, n);
  report(within(got, n ? lse : -INFINITY, 3 * kEps * (std::fabs(lse) + 1)), "log_sum_exp n=%ld: %g, want %g", long(n),
         got, lse);
  float largest = 0;
  const double sum = kernels().exp_sum(x, n, &largest);
  report(n == 0 || (largest == static_cast<float>(m) && kernels().maximum_of(x, n) == largest), "maximum_of n=%ld",
         long(n));
  report(within(largest + static_cast<float>(std::log(sum)), n ? got : -INFINITY, 0), "exp_sum n=%ld: %g", long(n),
         sum);
  kernels().subtract_row(x, 0.5f, 2.0f, n, y);
  for (int64_t i = 0; i < n; ++i) report(y[i] == (x[i] - 0.5f) - 2.0f, "subtract_row n=%ld", long(n));
  kernels().softmax_row(x, n, y);
  for (int64_t i = 0; i < n; ++i) {
    // x - m is rounded (eps |x - m| / 2), exp errs by 1.5 ULP, the float sums of 1024 / lanes terms by as many halves
    const double want = std::exp(x[i] - lse),
                 bound = want * kEps * (std::fabs(x[i] - m) + 4 + std::min<double>(n, 256));
    report(within(y[i], want, bound + 1e-37), "softmax n=%ld [%ld]: %g, want %g", long(n), long(i), y[i], want);
    const double log_bound = kEps * (std::fabs(x[i] - m) + std::fabs(lse - m) + std::min<double>(n, 256));
    report(within(log_y[i], x[i] - lse, log_bound), "log_softmax n=%ld: %g, want %g", long(n), log_y[i], x[i] - lse);
  }
  kernels().softmax_row(x, n, x);
  report(same_bits(x, y, n), "softmax in place n=%ld", long(n));
}

void check_softmax_special() {
  for (int n : {1, 4, 17, 40}) {
    Array x(n), y(n);
    x.fill(-INFINITY);
    kernels().softmax_row(x, n, y);
    for (int i = 0; i < n; ++i) report(y[i] == 0.0f, "softmax of -inf gives zeros");
    report(kernels().log_sum_exp(x, n) == -INFINITY, "log_sum_exp of -inf");
    float largest = 0;
    report(kernels().exp_sum(x, n, &largest) == 0.0 && largest == -INFINITY, "exp_sum of -inf");
    x[n / 2] = INFINITY;
    report(kernels().exp_sum(x, n, &largest) == 1.0 && largest == INFINITY, "exp_sum of inf");
    x[0] = NAN;
    report(std::isnan(kernels().exp_sum(x, n, &largest)), "exp_sum lets NaN through");
    x.fill(-INFINITY);
    kernels().log_softmax_row(x, n, y);
    for (int i = 0; i < n; ++i) report(y[i] == -INFINITY, "log_softmax of -inf");
    for (float other : {-INFINITY, 0.0f}) {
      x.fill(other);
      x[n / 2] = NAN;
      kernels().softmax_row(x, n, y);
      for (int i = 0; i < n; ++i) report(std::isnan(y[i]), "softmax lets NaN through");
      kernels().log_softmax_row(x, n, y);
      for (int i = 0; i < n; ++i) report(std::isnan(y[i]), "log_softmax lets NaN through");
      report(std::isnan(kernels().log_sum_exp(x, n)), "log_sum_exp lets NaN through");
    }
    x.fill(-INFINITY);
    x[n - 1] = 3.0f;
    kernels().softmax_row(x, n, y);
    for (int i = 0; i < n; ++i) report(y[i] == (i == n - 1 ? 1.0f : 0.0f), "softmax of one finite element");
    report(kernels().log_sum_exp(x, n) == 3.0f, "log_sum_exp of one finite element");
  }
}

void check_top_k(const float* x, int n, int k, const char* kind) {
  std::vector<int32_t> order(static_cast<size_t>(n)), indices(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return std::isnan(x[b]) ? !std::isnan(x[a]) : x[a] > x[b]; });
  Array values(k);
  kernels().top_k(x, n, k, values, indices.data());
  for (int i = 0; i < k; ++i)
    report(indices[size_t(i)] == order[size_t(i)] && same_bits(values + i, x + order[size_t(i)], 1),
           "top_k %s n=%d k=%d: place %d holds %d, want %d", kind, n, k, i, indices[size_t(i)], order[size_t(i)]);
}

void test_top_k() {
  for (int n : {1, 5, 16, 33, 64, 65, 200, 1000})
    for (int k : {1, 2, 5, 64, 300}) {
      if (k > n) continue;
      Array x = random_array(n);
      check_top_k(x, n, k, "normal");
      for (int i = 0; i < n; ++i) x[i] = static_cast<float>(random_int(0, 3));
      check_top_k(x, n, k, "ties");
      for (int i = 0; i < n; ++i) x[i] = random_int(0, 2) ? random_normal() : NAN;
      check_top_k(x, n, k, "NaN");
      for (int i = 0; i < n; ++i) x[i] = random_int(0, 4) ? -INFINITY : NAN;
      check_top_k(x, n, k, "NaN and -inf");
      x.fill(NAN);
      check_top_k(x, n, k, "all NaN");
      for (int i = 0; i < n; ++i) x[i] = static_cast<float>(i);
      check_top_k(x, n, k, "ascending");
    }
}

// An error of c eps for each rounding on the way: the difference from the mean, its square's mean (half), the product.
void check_norms(int n) {
  if (n == 0) return;
  const Array x = random_array(n), weight = random_array(n), bias = random_array(n);
  Array y(n);
  const double eps = 1e-5;
  double mean = 0.0, variance = 0.0, square = 0.0;
  for (int i = 0; i < n; ++i) mean += x[i] / double(n), square += double(x[i]) * x[i] / n;
  for (int i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean) / n;
  const double factor = 1.0 / std::sqrt(variance + static_cast<float>(eps)),
               rms = 1.0 / std::sqrt(square + static_cast<float>(eps));
  for (int form = 0; form < 4; ++form) {
    const float *w = form & 1 ? weight.data() : nullptr, *b = form & 2 ? bias.data() : nullptr;
    kernels().layer_norm_row(x, n, w, b, static_cast<float>(eps), y);
    for (int i = 0; i < n; ++i) {
      const double scale = w ? w[i] : 1.0, shift = b ? b[i] : 0.0, want = (x[i] - mean) * factor * scale + shift;
      // the mean itself is known to (n + 2) eps of the mean magnitude only
      const double bound =
          kEps * ((n / 2 + 4) * factor * std::fabs(scale) + (n + 8) * std::fabs(want - shift) + 2 * std::fabs(want));
      report(within(y[i], want, bound), "layer_norm n=%d form=%d [%d]: %.9g, want %.9g", n, form, i, y[i], want);
    }
    if (b) continue;
    kernels().rms_norm_row(x, n, w, static_cast<float>(eps), y);
    for (int i = 0; i < n; ++i) {
      const double want = x[i] * rms * (w ? w[i] : 1.0);
      report(within(y[i], want, kEps * (n / 2 + 4) * std::fabs(want)), "rms_norm n=%d: %g, want %g", n, y[i], want);
    }
  }
}

void check_elementwise(int n) {
  const Array a = random_array(n), b = random_array(n);
  Array sum(n), product(n), scaled(n);
  kernels().add_row(a, b, n, sum);
  kernels().multiply_row(a, b, n, product);
  kernels().scale_row(a, 0.7f, n, scaled);
  for (int i = 0; i < n; ++i)
    report(sum[i] == a[i] + b[i] && product[i] == a[i] * b[i] && scaled[i] == a[i] * 0.7f, "elementwise n=%d", n);
}

// Each output is a product and a fused one: two roundings of products, one of the sum.
void check_rope(int half) {
  for (int rest : {0, 3}) {
    const int heads = 3, D = 2 * half + rest;
    const Array x = random_array(heads * D), rotations = random_array(2 * half);
    Array y(heads * D);
    kernels().rope_row(x, rotations, heads, D, half, y);
    for (int h = 0; h < heads; ++h) {
      const float *from = x + h * D, *to = y + h * D;
      for (int i = 0; i < half; ++i) {
        const double a = from[i], b = from[half + i], cos = rotations[i], sin = rotations[half + i];
        const double bound = kEps * 1.5 * (std::fabs(a * cos) + std::fabs(b * sin)),
                     other = kEps * 1.5 * (std::fabs(b * cos) + std::fabs(a * sin));
        report(within(to[i], a * cos - b * sin, bound) && within(to[half + i], b * cos + a * sin, other),
               "rope half=%d [%d]: %g %g", half, i, to[i], to[half + i]);
      }
      report(same_bits(from + 2 * half, to + 2 * half, rest), "rope half=%d copies the rest", half);
    }
    kernels().rope_row(x, rotations, heads, D, half, x);
    report(same_bits(x, y, heads * D), "rope in place half=%d", half);
  }
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// Sums of two float inputs err by eps/2 of them; the gates by a few ULP of values below 1, slope at most 1.
void check_cells(int H) {
  const Array gx = random_array(4 * H), gh = random_array(4 * H), h = random_array(H);
  Array out(H), cell(H);
  kernels().gru_cell_row(gx, gh, h, H, out);
  for (int i = 0; i < H; ++i) {
    const double r = sigmoid(double(gx[i]) + gh[i]), z = sigmoid(double(gx[H + i]) + gh[H + i]);
    const double n = std::tanh(gx[2 * H + i] + r * gh[2 * H + i]), want = (1 - z) * n + z * h[i];
    const double bound = 16 * kEps * (1 + std::fabs(h[i]) + std::fabs(gh[2 * H + i]));
    report(within(out[i], want, bound), "gru H=%d: %g, want %g", H, out[i], want);
  }
  kernels().lstm_cell_row(gx, gh, h, H, out, cell);
  for (int i = 0; i < H; ++i) {
    const auto gate = [&](int g) { return double(gx[g * H + i]) + gh[g * H + i]; };
    const double c = sigmoid(gate(1)) * h[i] + sigmoid(gate(0)) * std::tanh(gate(2));
    const double want = sigmoid(gate(3)) * std::tanh(c), bound = 16 * kEps * (1 + std::fabs(h[i]));
    report(within(cell[i], c, bound) && within(out[i], want, bound), "lstm H=%d: %g, want %g", H, out[i], want);
  }
}

}  // namespace

void test_rows() {
  for (int n : sizes()) {
    check_softmax(random_array(n));
    check_norms(n);
    check_elementwise(n);
    check_rope(n);
    check_cells(n);
  }
  Array wide = random_array(5003);
  for (int64_t i = 0; i < wide.size(); ++i) wide[i] *= 20.0f;
  check_softmax(wide);
  check_norms(3001);
  check_softmax_special();
  test_top_k();
  Array numbers(1001);
  numbers.fill(0.5f);
  report(kernels().read_sum(numbers, 1001) == 500.5f, "read_sum");
  report(kernels().fma_peak(10) > 0.0, "fma_peak");
}

}  // namespace fastattn::selftest
