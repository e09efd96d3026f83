// Softmax of a row, its logarithm, and the k largest of a row.

constexpr int64_t kChunk = 1024;  // a sum over a row is taken in float over chunks, and in double over their sums

// The largest element, passing over NaN; -inf if there is none.
float row_maximum(const float* x, int64_t n) {
  Vf a = set1(-kInfinity), b = a;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    a = max(load(x + i), a);
    b = max(load(x + i + kLanes), b);
  }
  float m = maximum(max(a, b));
  for (; i < n; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

bool has_nan(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (x[i] != x[i]) return true;
  return false;
}

void fill(float* y, int64_t n, float value) {
  for (int64_t i = 0; i < n; ++i) y[i] = value;
}

// sum of e^(x - m), and the terms themselves into y unless that is null.
double sum_of_exponentials(const float* x, int64_t n, float m, float* y) {
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = minimum(n, begin + kChunk);
    Vf acc = set1(0.0f);
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const Vf e = exp_below_overflow(load(x + i) - set1(m));
      if (y) store(y + i, e);
      acc = acc + e;
    }
    if (i < end) {
      const int rest = static_cast<int>(end - i);
      const Vf e = select(lanes_between(0, rest), exp_below_overflow(load_n(x + i, rest) - set1(m)), set1(0.0f));
      if (y) store_n(y + i, e, rest);
      acc = acc + e;
    }
    total += static_cast<double>(sum(acc));
  }
  return total;
}

// y = e^(x - m) / sum e^(x - m), m = max x. A row of -inf gives zeros; one with NaN or +inf gives NaN.
void softmax_row(const float* x, int64_t n, float* y) {
  const float m = row_maximum(x, n);
  if (m == -kInfinity) return fill(y, n, has_nan(x, n) ? __builtin_nanf("") : 0.0f);
  const Vf total = set1(static_cast<float>(sum_of_exponentials(x, n, m, y)));
  for (int64_t i = 0; i < n; i += kLanes) store_up_to(y + i, load_up_to(y + i, n - i) / total, n - i);
}

// log sum e^x = m + log sum e^(x - m); this is the second term, 0 where m alone is the answer: the row's m is -inf or
// inf.
float log_of_sum(const float* x, int64_t n, float m) {
  if (m == kInfinity || m == -kInfinity) return has_nan(x, n) ? __builtin_nanf("") : 0.0f;
  return static_cast<float>(__builtin_log(sum_of_exponentials(x, n, m, nullptr)));
}

// -inf for a row of -inf (or an empty one), +inf if that is the largest, NaN with NaN.
float log_sum_exp(const float* x, int64_t n) {
  const float m = row_maximum(x, n);
  return m + log_of_sum(x, n, m);
}

// The two parts of log_sum_exp, of a piece of a row.
double exp_sum(const float* x, int64_t n, float* largest) {
  const float m = *largest = row_maximum(x, n);
  if (m == kInfinity || m == -kInfinity) return has_nan(x, n) ? __builtin_nan("") : m > 0 ? 1.0 : 0.0;
  return sum_of_exponentials(x, n, m, nullptr);
}

// Passing over NaN.
float maximum_of(const float* x, int64_t n) { return row_maximum(x, n); }

// y = (x - a) - b
void subtract_row(const float* x, float a, float b, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kLanes) store_up_to(y + i, load_up_to(x + i, n - i) - set1(a) - set1(b), n - i);
}

// y = (x - m) - log sum e^(x - m); a row of -inf stays -inf.
void log_softmax_row(const float* x, int64_t n, float* y) {
  const float m = row_maximum(x, n), log_sum = log_of_sum(x, n, m);
  if (m == -kInfinity) return fill(y, n, m + log_sum);
  for (int64_t i = 0; i < n; i += kLanes) store_up_to(y + i, load_up_to(x + i, n - i) - set1(m) - set1(log_sum), n - i);
}

// The order of top_k: larger first, equal ones by index, NaN last.
INLINE bool ranks_before(float a, int32_t i, float b, int32_t j) {
  if (a > b) return true;
  if (a < b) return false;
  if (a == b) return i < j;
  const bool a_nan = a != a, b_nan = b != b;
  return a_nan == b_nan ? i < j : b_nan;
}

// A heap with the last-ranked element at the root, in two arrays. Moves the element at `i` down to its place.
void sift_down(float* values, int32_t* indices, int n, int i) {
  const float value = values[i];
  const int32_t index = indices[i];
  for (int child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && ranks_before(values[child], indices[child], values[child + 1], indices[child + 1])) ++child;
    if (!ranks_before(value, index, values[child], indices[child])) break;
    values[i] = values[child];
    indices[i] = indices[child];
  }
  values[i] = value;
  indices[i] = index;
}

// Puts x[i] into the heap of the k best if it belongs there. Elements come in the order of their index, so that an
// element equal to the worst of the heap never does.
INLINE void offer(float x, int32_t i, int k, float* values, int32_t* indices) {
  if (!(x > values[0]) && !(values[0] != values[0] && x == x)) return;
  values[0] = x;
  indices[0] = i;
  sift_down(values, indices, k, 0);
}

// Lanes that may beat the worst of the heap: not x <= worst, which also holds if either is NaN.
INLINE unsigned candidates(const float* x, Vf worst) {
  constexpr unsigned all = (1u << kLanes) - 1;
  const Vf v = load(x);
  return all & ~bits(either(less(v, worst), equal(v, worst)));
}

void top_k(const float* x, int64_t n, int k, float* values, int32_t* indices) {
  if (k <= 0) return;
  for (int i = 0; i < k; ++i) {
    values[i] = x[i];
    indices[i] = i;
  }
  for (int i = k / 2; i-- > 0;) sift_down(values, indices, k, i);
  int64_t i = k;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    const Vf worst = set1(values[0]);
    // Only the comparison that the common case needs: nothing here beats the worst of the heap.
    const Vm beats = either(either(less(worst, load(x + i)), less(worst, load(x + i + kLanes))),
                            either(less(worst, load(x + i + 2 * kLanes)), less(worst, load(x + i + 3 * kLanes))));
    if (!bits(beats) && values[0] == values[0]) continue;
    for (int64_t j = i; j < i + 4 * kLanes; j += kLanes)
      for (unsigned set = candidates(x + j, set1(values[0])); set; set &= set - 1) {
        const int64_t at = j + __builtin_ctz(set);
        offer(x[at], static_cast<int32_t>(at), k, values, indices);
      }
  }
  for (; i < n; ++i) offer(x[i], static_cast<int32_t>(i), k, values, indices);
  for (int last = k - 1; last > 0; --last) {  // heap sort: the last-ranked goes to the end
    const float value = values[0];
    const int32_t index = indices[0];
    values[0] = values[last];
    indices[0] = indices[last];
    values[last] = value;
    indices[last] = index;
    sift_down(values, indices, last, 0);
  }
}
