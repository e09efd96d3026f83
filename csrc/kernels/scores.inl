// Attention of the recurrent models: one query over row-major keys.   keys: (S, D), values: (S, D)

// out[j] = sum_d q[d] keys[j, d]: each lane sums its d in order, then the lanes are summed. Four keys share a load of
// q.
template <int R>
INLINE void dot_keys(const float* q, const float* keys, int64_t ldk, int64_t D, float* out) {
  Vf acc[R];
  for (int r = 0; r < R; ++r) acc[r] = set1(0.0f);
  int64_t d = 0;
  for (; d + kLanes <= D; d += kLanes) {
    const Vf x = load(q + d);
    for (int r = 0; r < R; ++r) acc[r] = fma(x, load(keys + r * ldk + d), acc[r]);
  }
  if (d < D) {
    const int n = static_cast<int>(D - d);
    const Vf x = load_n(q + d, n);
    for (int r = 0; r < R; ++r) acc[r] = fma(x, load_n(keys + r * ldk + d, n), acc[r]);
  }
  for (int r = 0; r < R; ++r) out[r] = sum(acc[r]);
}

void dot_scores(const float* q, const float* keys, int64_t ldk, int64_t S, int64_t D, float* out) {
  int64_t j = 0;
  for (; j + 4 <= S; j += 4) dot_keys<4>(q, keys + j * ldk, ldk, D, out + j);
  for (; j < S; ++j) dot_keys<1>(q, keys + j * ldk, ldk, D, out + j);
}

// out[j] = sum_a v[a] tanh(q[a] + keys[j, a]): Bahdanau's score. Lanes as above; beyond A, v counts as 0.
void additive_scores(const float* q, const float* keys, int64_t ldk, int64_t S, int64_t A, const float* v, float* out) {
  for (int64_t j = 0; j < S; ++j) {
    const float* key = keys + j * ldk;
    Vf acc = set1(0.0f);
    int64_t a = 0;
    for (; a + kLanes <= A; a += kLanes) acc = fma(load(v + a), tanh(load(q + a) + load(key + a)), acc);
    if (a < A) {
      const int n = static_cast<int>(A - a);
      acc = fma(load_n(v + a, n), tanh(load_n(q + a, n) + load_n(key + a, n)), acc);
    }
    out[j] = sum(acc);
  }
}

// out[d] = sum_j w[j] values[j, d]: as in a product with panels, one chain over each chunk of j, and their sum in
// order.
template <int V>
INLINE void weighted_columns(const float* w, const float* values, int64_t ldv, int64_t S, float* out) {
  Vf total[1][V];
  set_zero(total);
  for (int64_t j = 0; j < S; j += kLinearFloats) {
    Vf acc[1][V];
    set_zero(acc);
    const float* columns[V];
    for (int v = 0; v < V; ++v) columns[v] = values + j * ldv + v * kLanes;
    accumulate<0>(acc, w + j, columns, ldv, minimum(kLinearFloats, S - j));
    for (int v = 0; v < V; ++v) total[0][v] = total[0][v] + acc[0][v];
  }
  store_tile(total, out, 0);
}

void weighted_sum(const float* w, const float* values, int64_t ldv, int64_t S, int64_t D, float* out) {
  constexpr int V = 4;
  int64_t d = 0;
  for (; d + V * kLanes <= D; d += V * kLanes) weighted_columns<V>(w, values + d, ldv, S, out + d);
  for (; d + kLanes <= D; d += kLanes) weighted_columns<1>(w, values + d, ldv, S, out + d);
  if (d == D) return;
  Vf total = set1(0.0f);
  for (int64_t first = 0; first < S; first += kLinearFloats) {
    Vf acc = set1(0.0f);
    for (int64_t j = first; j < minimum(first + kLinearFloats, S); ++j)
      acc = fma(set1(w[j]), load_up_to(values + j * ldv + d, D - d), acc);
    total = total + acc;
  }
  store_up_to(out + d, total, D - d);
}
