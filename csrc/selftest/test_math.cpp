// Elementary functions: worst error in ULP over the float range, and the special values.
#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

struct Function {
  const char* name;
  Activation activation;
  double (*exact)(double);
  double bound;  // ULP of the exact result, or, if `relative_to_x`, units of |x|
  bool relative_to_x;
};

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double gelu(double x) { return 0.5 * x * (1.0 + std::erf(x * std::sqrt(0.5))); }
double gelu_tanh(double x) { return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x))); }
double silu(double x) { return x * sigmoid(x); }
double relu(double x) { return x > 0.0 ? x : std::isnan(x) ? x : 0.0; }
double none(double x) { return x; }

const Function kFunctions[] = {
    {"exp", Activation::exp, [](double x) { return std::exp(x); }, 1.5, false},
    {"tanh", Activation::tanh, [](double x) { return std::tanh(x); }, 3.0, false},
    {"erf", Activation::erf, [](double x) { return std::erf(x); }, 2.0, false},
    {"sigmoid", Activation::sigmoid, sigmoid, 3.0, false},
    {"silu", Activation::silu, silu, 4.0, false},
    {"gelu", Activation::gelu, gelu, 0x1p-22, true},
    {"gelu_tanh", Activation::gelu_tanh, gelu_tanh, 0x1p-21, true},
    {"relu", Activation::relu, relu, 0.0, false},
    {"none", Activation::none, none, 0.0, false},
};

// The spacing of floats at |y|; that of the smallest normal ones below them.
double ulp(double y) {
  int exponent;
  std::frexp(y, &exponent);
  return std::ldexp(1.0, std::max(exponent - 24, -149));
}

// Error in the function's units. Results that underflow may be flushed to zero, those that overflow are infinite.
double error_of(const Function& f, float x, float got) {
  const double want = f.exact(x);
  if (std::isnan(want)) return std::isnan(got) ? 0.0 : INFINITY;
  if (std::fabs(want) > 3.4028234664e38) return std::isinf(got) || std::fabs(got) > 3.402823e38 ? 0.0 : INFINITY;
  const double error = std::fabs(got - want);
  // silu is x times a sigmoid that may be flushed
  const double tiny = f.activation == Activation::silu ? 0x1p-125 * std::fmax(1.0, std::fabs(x)) : 0x1p-125;
  if (std::fabs(want) < tiny) return error < tiny ? 0.0 : INFINITY;
  return error / (f.relative_to_x ? std::fabs(x) : ulp(want));
}

// x = +-inf times a zero factor is NaN in float and in the formula alike: such products are checked nowhere.
bool defined_at(const Function& f, float x) {
  const bool product = f.activation == Activation::silu || f.relative_to_x;
  return !(product && (std::isinf(x) || std::fabs(x) > 1e12f));
}

// tanh and erf are odd to the bit, and 1 from where it is the nearest float.
void check_odd() {
  std::vector<float> x = {0.0f, 1e-45f, 1e-30f, 10.0f, INFINITY}, negated, y, z;
  for (int i = 0; i < 1000; ++i) x.push_back(0.01f * float(i) + 1e-4f);
  for (float v : x) negated.push_back(-v);
  y.resize(x.size()), z.resize(x.size());
  for (Activation f : {Activation::tanh, Activation::erf}) {
    kernels().activation_row(f, x.data(), int64_t(x.size()), y.data());
    kernels().activation_row(f, negated.data(), int64_t(x.size()), z.data());
    for (float& v : z) v = -v;
    report(same_bits(y.data(), z.data(), int64_t(x.size())), "activation %d is odd", int(f));
    report(y[3] == 1.0f && y[4] == 1.0f, "activation %d reaches 1", int(f));
  }
}

}  // namespace

void test_math(unsigned stride) {
  check_odd();
  constexpr int kChunk = 4099;
  for (const Function& f : kFunctions) {
    double worst = 0.0;
    float worst_x = 0.0f;
    std::vector<float> x, y(kChunk);
    const auto flush = [&] {
      y.resize(x.size());
      kernels().activation_row(f.activation, x.data(), static_cast<int64_t>(x.size()), y.data());
      for (size_t i = 0; i < x.size(); ++i) {
        const double error = defined_at(f, x[i]) ? error_of(f, x[i], y[i]) : 0.0;
        if (error > worst) worst = error, worst_x = x[i];
      }
      x.clear();
    };
    for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += stride) {
      const uint32_t word = static_cast<uint32_t>(bits);
      float value;
      std::memcpy(&value, &word, sizeof value);
      x.push_back(value);
      if (x.size() == kChunk) flush();
    }
    for (float special : {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 88.7228317f, 88.7228394f, 88.73f, -87.336f, -87.337f,
                          -104.0f, 1e-45f, -1e-45f, 1.0f, -1.0f, 4.0f, 3.9999998f, 10.0f, 9.0109f})
      x.push_back(special);
    flush();
    report(worst <= f.bound, "%s: error %.3g at x = %.9g, allowed %.3g", f.name, worst, worst_x, f.bound);
    std::printf("  %-10s worst error %.3g %s\n", f.name, f.relative_to_x ? worst * 0x1p23 : worst,
                f.relative_to_x ? "* 2^-23 |x|" : "ULP");
  }
}

}  // namespace fastattn::selftest
