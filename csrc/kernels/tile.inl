// The register tile that every matrix product of the library is made of.

// acc[r][v] += sum over 0 <= k < n of a[r][k] * B[k][v], in the order of k, each output one chain of fma.
// B[k][v] is the vector at b[v] + k * step. All V + R operands and R * V accumulators stay in registers.
template <int R, int V>
INLINE void accumulate(Vf (&acc)[R][V], const float* const (&a)[R], const float* const (&b)[V], int64_t step,
                       int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    Vf row[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) row[v] = load(b[v] + k * step);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vf s = set1(a[r][k]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) acc[r][v] = fma(s, row[v], acc[r][v]);
    }
  }
}

template <int R, int V>
INLINE void set_zero(Vf (&acc)[R][V]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[r][v] = set1(0.0f);
}

// Writes the tile to rows of `ld` floats.
template <int R, int V>
INLINE void store_tile(const Vf (&acc)[R][V], float* out, int ld) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(out + r * ld + v * kLanes, acc[r][v]);
}
