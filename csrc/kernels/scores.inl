// Attention of the recurrent models: some queries over row-major keys.   keys: (S, D), values: (S, D)

constexpr int kQueriesAtOnce = kLanes / 4;  // that share the loads of four keys
constexpr int kSumsAtOnce = 4;              // weighted sums that share the loads of their values

// out[i, j] = sum_d q[i, d] keys[j, d] for Q queries and R keys: each lane sums its d in order, then the lanes are
// summed, those of kLanes sums together.
template <int Q, int R>
INLINE void dot_keys(const float* q, int64_t ldq, const float* keys, int64_t ldk, int64_t D, float* out, int64_t ldo) {
  Vf acc[Q * R];
#pragma GCC unroll 16
  for (int i = 0; i < Q * R; ++i) acc[i] = set1(0.0f);
  const auto add = [&](auto at) {
    Vf key[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) key[r] = at(keys + r * ldk);
#pragma GCC unroll 16
    for (int i = 0; i < Q; ++i) {
      const Vf x = at(q + i * ldq);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) acc[i * R + r] = fma(x, key[r], acc[i * R + r]);
    }
  };
  int64_t d = 0;
  for (; d + kLanes <= D; d += kLanes) add([&](const float* row) { return load(row + d); });
  if (d < D) add([&](const float* row) { return load_n(row + d, static_cast<int>(D - d)); });
  if constexpr (Q * R == kLanes) {
    float sums[kLanes];
    fold_lanes<Sum>(acc, sums);
    for (int i = 0; i < Q; ++i) __builtin_memcpy(out + i * ldo, sums + i * R, R * sizeof(float));
  } else {
    for (int i = 0; i < Q; ++i)
      for (int r = 0; r < R; ++r) out[i * ldo + r] = sum(acc[i * R + r]);
  }
}

// All keys for Q queries.
template <int Q>
void dot_rows(const float* q, int64_t ldq, const float* keys, int64_t ldk, int64_t S, int64_t D, float* out,
              int64_t ldo) {
  constexpr int R = kLanes / Q;
  int64_t j = 0;
  for (; j + R <= S; j += R) dot_keys<Q, R>(q, ldq, keys + j * ldk, ldk, D, out + j, ldo);
  for (; R > 4 && j + 4 <= S; j += 4) dot_keys<Q, 4>(q, ldq, keys + j * ldk, ldk, D, out + j, ldo);
  for (; j < S; ++j) dot_keys<Q, 1>(q, ldq, keys + j * ldk, ldk, D, out + j, ldo);
}

void dot_scores(const float* q, int64_t ldq, int64_t rows, const float* keys, int64_t ldk, int64_t S, int64_t D,
                float* out, int64_t ldo) {
  constexpr int Q = kQueriesAtOnce;
  int64_t i = 0;
  for (; i + Q <= rows; i += Q) dot_rows<Q>(q + i * ldq, ldq, keys, ldk, S, D, out + i * ldo, ldo);
  for (; i < rows; ++i) dot_rows<1>(q + i * ldq, ldq, keys, ldk, S, D, out + i * ldo, ldo);
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

// out[i, d] = sum_j w[i, j] values[j, d] for V vectors of columns of R rows: as in a product with panels, one chain
// over each chunk of j, and their sum in order. at(j, v): vector v of those columns.
template <int R, int V, class At>
INLINE void weighted_columns(const float* w, int64_t ldw, int64_t S, At at, Vf (&total)[R][V]) {
  set_zero(total);
  for (int64_t first = 0; first < S; first += kLinearFloats) {
    Vf acc[R][V];
    set_zero(acc);
    for (int64_t j = first; j < minimum(first + kLinearFloats, S); ++j) {
      Vf row[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) row[v] = at(j, v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vf s = set1(w[r * ldw + j]);
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) acc[r][v] = fma(s, row[v], acc[r][v]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) total[r][v] = total[r][v] + acc[r][v];
  }
}

// Columns from d on, V vectors at once while all of them remain, then fewer.
template <int R, int V>
void weighted_rows(const float* w, int64_t ldw, const float* values, int64_t ldv, int64_t S, int64_t d, int64_t D,
                   float* out, int64_t ldo) {
  Vf total[R][V];
  for (; d + V * kLanes <= D; d += V * kLanes) {
    weighted_columns(w, ldw, S, [&](int64_t j, int v) { return load(values + j * ldv + d + v * kLanes); }, total);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) store(out + r * ldo + d + v * kLanes, total[r][v]);
  }
  if (d == D) return;
  if constexpr (V > 1) {
    weighted_rows<R, V / 2>(w, ldw, values, ldv, S, d, D, out, ldo);
  } else {
    weighted_columns(w, ldw, S, [&](int64_t j, int) { return load_up_to(values + j * ldv + d, D - d); }, total);
    for (int r = 0; r < R; ++r) store_up_to(out + r * ldo + d, total[r][0], D - d);
  }
}

// R rows, with sums of as many columns as there are registers for: long stretches of a row of values are read at once.
template <int R>
void weighted_rows(const float* w, int64_t ldw, const float* values, int64_t ldv, int64_t S, int64_t D, float* out,
                   int64_t ldo) {
  weighted_rows<R, kRegisters / 2 / R>(w, ldw, values, ldv, S, 0, D, out, ldo);
}

void weighted_sum(const float* w, int64_t ldw, int64_t rows, const float* values, int64_t ldv, int64_t S, int64_t D,
                  float* out, int64_t ldo) {
  constexpr int R = kSumsAtOnce;
  int64_t i = 0;
  for (; i + R <= rows; i += R) weighted_rows<R>(w + i * ldw, ldw, values, ldv, S, D, out + i * ldo, ldo);
  for (; i + 2 <= rows; i += 2) weighted_rows<2>(w + i * ldw, ldw, values, ldv, S, D, out + i * ldo, ldo);
  for (; i < rows; ++i) weighted_rows<1>(w + i * ldw, ldw, values, ldv, S, D, out + i * ldo, ldo);
}
