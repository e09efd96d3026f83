// linear_panel: against double, with every epilogue, and a row alone against the same row among others.
#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::tanh: return std::tanh(x);
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
    case Activation::silu: return x / (1 + std::exp(-x));
    default: return x;
  }
}

void check_panel(int64_t rows, int64_t K, int cols, Activation activation, int form) {
  const int64_t ldx = K + random_int(0, 3), ldy = cols + random_int(0, 2);
  const int64_t x_size = rows ? (rows - 1) * ldx + K : 0, y_size = rows ? (rows - 1) * ldy + cols : 0;
  const Array x = random_array(x_size), bias = random_array(cols), residual = random_array(y_size);
  alignas(64) static float panel[200 * kPanel];
  for (int64_t i = 0; i < K * kPanel; ++i) panel[i] = i % kPanel < cols ? random_normal() : 0.0f;
  const Epilogue e = {form & 1 ? bias.data() : nullptr, activation, form & 2 ? residual.data() : nullptr, ldy};
  Array y(y_size), alone(cols);
  y.fill(-77.0f);
  kernels().linear_panel(x, ldx, rows, panel, K, y, ldy, cols, &e);
  for (int64_t i = 0; i < rows; ++i) {
    for (int c = 0; c < cols; ++c) {
      double s = 0.0, magnitude = 0.0;
      for (int64_t k = 0; k < K; ++k) {
        s += double(x[i * ldx + k]) * panel[k * kPanel + c];
        magnitude += std::fabs(double(x[i * ldx + k]) * panel[k * kPanel + c]);
      }
      if (e.bias) s += bias[c], magnitude += std::fabs(bias[c]);
      double want = activate(activation, s);
      // K products and sums of eps/2 each way; every activation's slope is below 1.2, and it errs by less than 4 eps
      // |s|
      double bound = 1.2 * kEps * double(K + 1) * magnitude + 4 * kEps * (std::fabs(s) + std::fabs(want));
      if (e.residual) want += residual[i * ldy + c], bound += kEps * std::fabs(want);
      report(within(y[i * ldy + c], want, bound), "linear rows=%ld K=%ld cols=%d act=%d form=%d: %g, want %g",
             long(rows), long(K), cols, int(activation), form, y[i * ldy + c], want);
    }
    Epilogue own = e;
    if (own.residual) own.residual += i * ldy;
    kernels().linear_panel(x + i * ldx, ldx, 1, panel, K, alone, ldy, cols, &own);
    report(same_bits(alone, y + i * ldy, cols), "linear row %ld of %ld alone, K=%ld cols=%d", long(i), long(rows),
           long(K), cols);
    if (i + 1 < rows)
      for (int64_t c = cols; c < ldy; ++c) report(y[i * ldy + c] == -77.0f, "linear wrote beside its columns");
  }
}

}  // namespace

void test_linear() {
  const Activation activations[] = {Activation::none, Activation::tanh, Activation::relu, Activation::gelu,
                                    Activation::silu};
  int variant = 0;
  for (int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 31})
    for (int64_t K : {0, 1, 3, 16, 33, 100})
      for (int cols : {1, 7, 8, 17, 32}) {
        check_panel(rows, K, cols, activations[variant % 5], variant % 4);
        ++variant;
      }
  // no epilogue at all
  alignas(64) static float panel[kPanel];
  const float x = 2.0f;
  float y[kPanel];
  for (int c = 0; c < kPanel; ++c) panel[c] = static_cast<float>(c);
  kernels().linear_panel(&x, 1, 1, panel, 1, y, kPanel, kPanel, nullptr);
  for (int c = 0; c < kPanel; ++c) report(y[c] == 2.0f * static_cast<float>(c), "linear without epilogue");
}

}  // namespace fastattn::selftest
