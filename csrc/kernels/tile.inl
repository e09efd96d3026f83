// The register tile that every matrix product of the library is made of.

// Whether a tile of R rows fetches every line that it reads next from memory. Few rows are done with a line before the
// next one is there: the processor's own prefetching along a single stream is best left alone.
template <int R>
constexpr bool kFetches = R > kTileRows / 2;

// Nothing is fetched while a product is computed.
struct NoAhead {};
template <int U, int V>
INLINE void fetch(NoAhead, int64_t) {}

// U steps of the product below.
template <int LR, int U, int R, int V>
INLINE void accumulate_steps(Vf (&acc)[R][V], const float* a, const float* const (&b)[V], int64_t step, int64_t k) {
  Vf row[U][V];
#pragma GCC unroll 16
  for (int u = 0; u < U; ++u)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) row[u][v] = load(b[v] + (k + u) * step);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int u = 0; u < U; ++u) {
      const Vf s = set1(a[r * LR + k + u]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) acc[r][v] = fma(s, row[u][v], acc[r][v]);
    }
}

// acc[r][v] += sum over 0 <= k < n of a[r * LR + k] * B[k][v], in the order of k, each output one chain of fma.
// B[k][v] is the vector at b[v] + k * step. The accumulators and operands stay in registers; two steps at a time where
// these suffice.
template <int LR, int R, int V, class Fetch = NoAhead>
INLINE void accumulate(Vf (&acc)[R][V], const float* a, const float* const (&b)[V], int64_t step, int64_t n,
                       Fetch ahead = {}) {
  constexpr int U = R * V + 2 * V + 1 < kRegisters ? 2 : 1;
  int64_t k = 0;
  for (; k + U <= n; k += U) {
    fetch<U, V>(ahead, k);
    accumulate_steps<LR, U>(acc, a, b, step, k);
  }
  if (U > 1 && k < n) accumulate_steps<LR, 1>(acc, a, b, step, k);
}

template <int R, int V>
INLINE void set_zero(Vf (&acc)[R][V]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[r][v] = set1(0.0f);
}

// Writes the tile to, or adds it to, rows of `ld` floats.
template <int R, int V>
INLINE void add_tile(const Vf (&acc)[R][V], float* sums, int ld) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      float* s = sums + r * ld + v * kLanes;
      store(s, load(s) + acc[r][v]);
    }
}

template <int R, int V>
INLINE void load_tile(Vf (&acc)[R][V], const float* from, int ld) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[r][v] = load(from + r * ld + v * kLanes);
}

template <int R, int V>
INLINE void store_tile(const Vf (&acc)[R][V], float* out, int ld) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(out + r * ld + v * kLanes, acc[r][v]);
}
