// Weights as they lie, in rows of float32: squares of kLanes rows are turned in registers.

constexpr int64_t kRowAhead = 256;  // floats of a weight's row that are fetched ahead

// Up to kLanes rows of weights, ld apart.
struct WeightRows {
  const float* first;
  int64_t ld;
  int count;
};

// Where the first square of the rows begins, so that no load takes parts of two lines of the cache (of rows that lie
// alike): where rows are a multiple of pages apart, few of their lines fit into the first-level cache together.
INLINE int64_t first_square(const WeightRows& w) {
  return -static_cast<int64_t>(reinterpret_cast<uintptr_t>(w.first) / sizeof(float) % kLanes);
}

// Columns k .. k + kLanes of the rows, turned; what is not in [0, K), and rows that are missing, are zeros.
INLINE void load_square(const WeightRows& w, int64_t k, int64_t K, Vf (&square)[kLanes]) {
  if (k >= 0 && k + kLanes <= K && w.count == kLanes) {
    const int64_t ahead = k + kRowAhead < K ? kRowAhead : kRowAhead - K + kLanes * w.ld;  // then of the next rows
    const float* from = w.first + k;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i, from += w.ld) {
      square[i] = load(from);
      __builtin_prefetch(from + ahead, 0, 2);
    }
  } else {
    const int from = static_cast<int>(maximum(-k, 0)), to = static_cast<int>(minimum(K - k, kLanes));
    for (int i = 0; i < kLanes; ++i)
      square[i] = i < w.count ? load_lanes(w.first + i * w.ld + k, from, to) : set1(0.0f);
  }
  transpose(square);
}

// The columns of up to kPanel rows, as pack_panel takes them.   columns: [K][kPanel]
void turn_rows(const float* rows, int64_t ld, int count, int64_t K, float* columns) {
  for (int c = 0; c < kPanel; c += kLanes) {
    const WeightRows w = {rows + c * ld, ld, static_cast<int>(minimum(kLanes, maximum(count - c, 0)))};
    for (int64_t k = first_square(w); k < K; k += kLanes) {
      Vf square[kLanes];
      load_square(w, k, K, square);
      float* to = columns + k * kPanel + c;
      if (k >= 0 && k + kLanes <= K) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + i * kPanel, square[i]);
      } else {
        for (int i = static_cast<int>(maximum(-k, 0)); i < minimum(K - k, kLanes); ++i)
          store(to + i * kPanel, square[i]);
      }
    }
  }
}

// y = act(x W^T + bias) * multiply + residual for a few rows: weights that are used once are not worth packing. The
// sums are those of linear.inl, to the bit.

// Sums of R rows and kLanes columns: chains over the chunk at hand, and what the chunks before it gave.
template <int R>
struct ChunkSums {
  Vf chain[R], total[R];
  ChunkSums() {
    for (int r = 0; r < R; ++r) chain[r] = total[r] = set1(0.0f);
  }
  INLINE void end_chunk() {
    for (int r = 0; r < R; ++r) total[r] = total[r] + chain[r], chain[r] = set1(0.0f);
  }
  // x: of the square's first term, rows kLinearChunk bytes apart
  INLINE void add(const Vf (&square)[kLanes], const float* x) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) chain[r] = fma(set1(x[r * kLinearFloats + i]), square[i], chain[r]);
  }
  // Some terms only; in memory, for else all squares would go there.
  INLINE void add(const float* square, const float* x, int from, int to) {
    for (int i = from; i < to; ++i)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) chain[r] = fma(set1(x[r * kLinearFloats + i]), load(square + i * kLanes), chain[r]);
  }
};

// Adds the terms of columns k .. k + kLanes of the weights.
template <int R>
INLINE void add_columns(const PanelArgs& a, const WeightRows& w, int64_t k, ChunkSums<R>& sums) {
  Vf square[kLanes];
  load_square(w, k, a.K, square);
  const int64_t begin = maximum(k, 0), chunk = begin / kLinearFloats, chunk_end = (chunk + 1) * kLinearFloats;
  const int from = static_cast<int>(begin - k), to = static_cast<int>(minimum(kLanes, a.K - k));
  const int cut = static_cast<int>(minimum(chunk_end - k, to));  // from here on, terms are of the next chunk
  const float* x =
      reinterpret_cast<const float*>(static_cast<const char*>(a.x) + chunk * a.ld_chunk) + (k - chunk * kLinearFloats);
  if (from == 0 && cut == kLanes) {
    sums.add(square, x);
  } else {
    alignas(64) float part[kLanes * kLanes];
    for (int i = 0; i < kLanes; ++i) store(part + i * kLanes, square[i]);
    sums.add(part, x, from, cut);
    if (cut < to) {
      sums.end_chunk();
      sums.add(part, x + a.ld_chunk / int64_t(sizeof(float)) - kLinearFloats, cut, to);
    }
  }
  if (chunk_end == k + kLanes) sums.end_chunk();
}

// Exactly a.rows rows, 1 <= a.rows <= R.
template <int R>
void linear_few_rows(const PanelArgs& a) {
  if constexpr (R > 1) {
    if (a.rows < R) return linear_few_rows<R - 1>(a);
  }
  alignas(64) float sums[R * kPanel];
  const float* weights = static_cast<const float*>(a.panels);
  for (int64_t column = 0; column < a.cols; column += kPanel) {
    for (int64_t c = column; c < minimum(column + kPanel, a.cols); c += kLanes) {
      const WeightRows w = {weights + c * a.ld_weights, a.ld_weights, static_cast<int>(minimum(kLanes, a.cols - c))};
      ChunkSums<R> of;
      for (int64_t k = first_square(w); k < a.K; k += kLanes) add_columns(a, w, k, of);
      of.end_chunk();
      for (int r = 0; r < R; ++r) store(sums + r * kPanel + c - column, of.total[r]);
    }
    for (int r = 0; r < R; ++r) finish_linear_row(sums + r * kPanel, a, r, column);
  }
}

void linear_rows_float32(const PanelArgs* args) { linear_few_rows<kMostUnpackedRows>(*args); }
