// Elementary functions, written once over the vector contract. Errors are in units in the last place (ULP) of the exact
// result and are asserted by csrc/selftest over the whole float range. Coefficients: simd/fit_coefficients.py.

// (e^r - 1 - r) / r^2 on [-ln2/2, ln2/2], worst error 4.4e-9 of e^r
constexpr float kExp[] = {0.49999994f, 0.166665196f, 0.0416683927f, 0.00836878084f, 0.00138144649f};
// (2^r - 1) / r on [-1/2, 1/2], worst error 1.6e-8 of 2^r
constexpr float kExp2[] = {0.693147182f, 0.240226477f, 0.0555033199f, 0.00961843878f, 0.00133990031f, 0.000153532645f};
// erf(x) / x - 1 in x^2 for |x| <= 1, worst error 4.0e-9 of erf(x) / x
constexpr float kErf[] = {0.128379166f,   -0.37612626f,     0.112835854f,   -0.026853811f,
                          0.00518832682f, -0.000801018788f, 7.85384327e-05f};
// -log(1 - erf(x)) on [1, 4], worst error 4.5e-9 of erf(x)
constexpr float kErfTail[] = {-0.000188034974f, 1.12957835f,    0.633219957f,    0.108418532f,
                              -0.0252082292f,   0.00420455215f, -0.00044133456f, 2.16867029e-05f};

template <int N>
INLINE Vf polynomial(const float (&c)[N], Vf x) {
  Vf y = set1(c[N - 1]);
  for (int i = N - 2; i >= 0; --i) y = fma(y, x, set1(c[i]));
  return y;
}

// e^x = 2^n e^r with n = round(x / ln 2) and r = x - n ln 2 in [-ln2/2, ln2/2]. ln 2 is split in two, the first with so
// few bits that its product with n is exact; adding and subtracting 1.5 * 2^23 rounds to an integer.
constexpr float kLog2E = 1.44269502f, kLn2High = 0.693359375f, kLn2Low = -0.000212194442f;

struct Reduced {
  Vf n, r;
};

INLINE Reduced reduce(Vf x) {
  const Vf magic = set1(12582912.0f);
  const Vf n = fma(x, set1(kLog2E), magic) - magic;
  const Vf r = fma(n, set1(-kLn2High), x);
  return {n, fma(n, set1(-kLn2Low), r)};
}

// e^x for x <= 88, or NaN: at most 1.5 ULP; results below 2^-126 are flushed to zero.
INLINE Vf exp_below_overflow(Vf x) {
  const Reduced e = reduce(x);
  const Vf one = set1(1.0f), y = fma(fma(polynomial(kExp, e.r), e.r, one), e.r, one);
  return select(less(x, set1(-87.3365402f)), set1(0.0f), scale_by_power(y, e.n));
}

// 2^x = 2^n 2^r for x <= 127, or NaN: at most 1.5 ULP; results below 2^-126.5 are flushed to zero. Adding
// 1.5 * 2^23 + 127 rounds x to the integer n, and leaves n + 127, the exponent of 2^n, in the low bits: 0 for n = -127.
// N vectors go side by side, so that less of the processor's room is taken by what waits for its operands.
template <int N>
INLINE void exp2_below_overflow(Vf (&x)[N]) {
  const Vf magic = set1(12583039.0f);
  Vf n[N], r[N], y[N];
  for (int i = 0; i < N; ++i) x[i] = max(set1(-127.0f), x[i]);
  for (int i = 0; i < N; ++i) n[i] = x[i] + magic;
  for (int i = 0; i < N; ++i) r[i] = x[i] - (n[i] - magic);
  for (int i = 0; i < N; ++i) y[i] = set1(kExp2[5]);
  for (int k = 4; k >= 0; --k)
    for (int i = 0; i < N; ++i) y[i] = fma(y[i], r[i], set1(kExp2[k]));
  for (int i = 0; i < N; ++i) y[i] = fma(y[i], r[i], set1(1.0f));
  for (int i = 0; i < N; ++i) x[i] = y[i] * as_float(shift_left<23>(as_int(n[i])));
}
INLINE Vf exp2_below_overflow(Vf x) {
  Vf one[1] = {x};
  exp2_below_overflow(one);
  return one[0];
}

// e^x: at most 1.5 ULP; results below 2^-126 are flushed to zero; e^inf = inf, e^-inf = 0, e^NaN = NaN.
INLINE Vf exp(Vf x) {
  const Vf largest = set1(88.7228317f);  // its e^x is the last finite one
  return select(less(largest, x), set1(kInfinity), exp_below_overflow(min(largest, x)));
}

INLINE float exp(float x) { return first(exp(set1(x))); }

// tanh(a) = E / (E + 2) with E = e^2a - 1 = 2^n (e^r - 1) + (2^n - 1) for a = |x|: no cancellation near 0, one path for
// all x, at most 3 ULP. From 10 on the result rounds to 1.
INLINE Vf tanh(Vf x) {
  const Vf a = min(set1(10.0f), abs(x));
  const Reduced e = reduce(a + a);
  const Vf expm1_r = fma(e.r * e.r, polynomial(kExp, e.r), e.r);
  const Vf power = scale_by_power(set1(1.0f), e.n);
  const Vf expm1 = fma(power, expm1_r, power - set1(1.0f));
  return copysign(expm1 / (expm1 + set1(2.0f)), x);
}

// 1 / (1 + e^-x): at most 3 ULP where the result is normal.
INLINE Vf sigmoid(Vf x) { return set1(1.0f) / (set1(1.0f) + exp(-x)); }

// erf(x) = x + x p(x^2) for |x| <= 1, 1 - e^-q(|x|) up to 4, from where it rounds to 1: at most 2 ULP.
INLINE Vf erf(Vf x) {
  const Vf a = min(set1(4.0f), abs(x));
  const Vf tail = set1(1.0f) - exp_below_overflow(-polynomial(kErfTail, a));
  const Vf near = fma(x, polynomial(kErf, a * a), x);
  return select(less(set1(1.0f), a), copysign(tail, x), near);
}

// x Phi(x) = x/2 (1 + erf(x / sqrt 2)): the error is at most 2^-22 |x|.
INLINE Vf gelu(Vf x) { return set1(0.5f) * x * (set1(1.0f) + erf(x * set1(0.707106781f))); }

// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): the error is at most 2^-21 |x|.
INLINE Vf gelu_tanh(Vf x) {
  const Vf inner = x * fma(x * x, set1(0.0356774081f), set1(0.797884561f));
  return set1(0.5f) * x * (set1(1.0f) + tanh(inner));
}

INLINE Vf silu(Vf x) { return x * sigmoid(x); }

INLINE Vf relu(Vf x) { return max(set1(0.0f), x); }  // the order lets NaN through

INLINE Vf activate(Activation activation, Vf x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::tanh: return tanh(x);
    case Activation::sigmoid: return sigmoid(x);
    case Activation::relu: return relu(x);
    case Activation::gelu: return gelu(x);
    case Activation::gelu_tanh: return gelu_tanh(x);
    case Activation::silu: return silu(x);
    case Activation::exp: return exp(x);
    case Activation::erf: return erf(x);
  }
  return x;
}
