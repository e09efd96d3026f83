// Normalisation of a row, in two passes: the mean first, then the mean square of what differs from it.

// sum of (x - centre)^2, or of x itself. Four chains of vectors over chunks, the chunks' sums in double.
struct Plain {
  INLINE Vf operator()(Vf x, Vf acc) const { return x + acc; }
};
struct SquaredDistance {
  Vf centre;
  INLINE Vf operator()(Vf x, Vf acc) const { return fma(x - centre, x - centre, acc); }
};

template <class Term>
INLINE double row_sum(const float* x, int64_t n, Term add) {
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = minimum(n, begin + kChunk);
    Vf acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes)
      for (int v = 0; v < 4; ++v) acc[v] = add(load(x + i + v * kLanes), acc[v]);
    for (; i + kLanes <= end; i += kLanes) acc[0] = add(load(x + i), acc[0]);
    if (i < end) {
      const int rest = static_cast<int>(end - i);
      acc[1] = select(lanes_between(0, rest), add(load_n(x + i, rest), acc[1]), acc[1]);
    }
    total += static_cast<double>(sum((acc[0] + acc[1]) + (acc[2] + acc[3])));
  }
  return total;
}

// y = (x - centre) * factor * weight + bias; weight and bias may be null.
INLINE void normalise(const float* x, int64_t n, float centre, float factor, const float* weight, const float* bias,
                      float* y) {
  for (int64_t i = 0; i < n; i += kLanes) {
    Vf v = (load_up_to(x + i, n - i) - set1(centre)) * set1(factor);
    if (weight && bias) {
      v = fma(v, load_up_to(weight + i, n - i), load_up_to(bias + i, n - i));
    } else if (weight) {
      v = v * load_up_to(weight + i, n - i);
    } else if (bias) {
      v = v + load_up_to(bias + i, n - i);
    }
    store_up_to(y + i, v, n - i);
  }
}

// y = (x - mean) / sqrt(variance + eps) * weight + bias, variance = mean of (x - mean)^2
void layer_norm_row(const float* x, int64_t n, const float* weight, const float* bias, float eps, float* y) {
  const float mean = static_cast<float>(row_sum(x, n, Plain{}) / static_cast<double>(n));
  const double variance = row_sum(x, n, SquaredDistance{set1(mean)}) / static_cast<double>(n);
  normalise(x, n, mean, static_cast<float>(1.0 / __builtin_sqrt(variance + eps)), weight, bias, y);
}

// y = x / sqrt(mean of x^2 + eps) * weight
void rms_norm_row(const float* x, int64_t n, const float* weight, float eps, float* y) {
  const double square = row_sum(x, n, SquaredDistance{set1(0.0f)}) / static_cast<double>(n);
  normalise(x, n, 0.0f, static_cast<float>(1.0 / __builtin_sqrt(square + eps)), weight, nullptr, y);
}
