// y = act(x W^T + bias) + residual for one panel of kPanel columns of W^T.   x: (rows, K), panel: (K, kPanel)
//
// Each output is one chain of fma over k = 0..K-1, whatever the number of rows: the matrix-vector and the matrix-matrix
// product give the same bits. R rows share each load of the panel; a single row takes the whole width of the panel at
// once, so that the weights are read as one stream. With more rows than one tile, k goes in chunks: a chunk of the
// panel stays in the first-level cache while all tiles pass over it, and the sums wait in memory between chunks.

constexpr int kGroupTiles = 8;         // row tiles that pass over a chunk of the panel in turn
constexpr int64_t kLinearChunk = 128;  // k of a chunk: 16 KB of the panel

// sums += R rows of x times `K` rows of the panel.   sums: (R, kPanel)
template <int R>
__attribute__((noinline)) void linear_tile(const float* x, int64_t ldx, const float* panel, int64_t K, float* sums,
                                           Ahead ahead) {
  constexpr int V = widest(R, kPanel);
  const float* rows[R];
  for (int r = 0; r < R; ++r) rows[r] = x + r * ldx;
  for (int c = 0; c < kPanel; c += V * kLanes) {
    const float* columns[V];
    for (int v = 0; v < V; ++v) columns[v] = panel + c + v * kLanes;
    Vf acc[R][V];
    load_tile(acc, sums + c, kPanel);
    accumulate(acc, rows, columns, kPanel, K, Ahead{ahead.from + c, ahead.step});
    store_tile(acc, sums + c, kPanel);
  }
}

// Chooses the tile of `rows` rows, 1 <= rows <= R.
template <int R>
INLINE void linear_tile_of(int rows, const float* x, int64_t ldx, const float* panel, int64_t K, float* sums,
                           Ahead ahead) {
  if constexpr (R > 1) {
    if (rows < R) return linear_tile_of<R - 1>(rows, x, ldx, panel, K, sums, ahead);
  }
  linear_tile<R>(x, ldx, panel, K, sums, ahead);
}

void finish_linear_row(const float* sums, const Epilogue& e, const float* residual, float* y, int cols) {
  for (int c = 0; c < cols; c += kLanes) {
    Vf s = load(sums + c);
    if (e.bias) s = s + load_up_to(e.bias + c, cols - c);
    s = activate(e.activation, s);
    if (residual) s = s + load_up_to(residual + c, cols - c);
    store_up_to(y + c, s, cols - c);
  }
}

// The sums of up to kGroupTiles * kTileRows rows, in equal tiles: 13 rows are 7 + 6, for a tile of one row would cost
// as much as one of six.
void linear_group(const float* x, int64_t ldx, int rows, const float* panel, int64_t K, float* sums) {
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t chunk = tiles == 1 ? K : kLinearChunk;
  for (int i = 0; i < rows * kPanel; i += kLanes) store(sums + i, set1(0.0f));
  for (int64_t k = 0; k < K; k += chunk)
    for (int t = 0; t < tiles; ++t) {
      const int begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const float* part = panel + k * kPanel;
      const int64_t steps = minimum(chunk, K - k);
      const Ahead ahead = {part + kLinearChunk * kPanel + steps * kPanel / tiles * t, (kPanel + tiles - 1) / tiles};
      linear_tile_of<kTileRows>(end - begin, x + begin * ldx + k, ldx, part, steps, sums + begin * kPanel, ahead);
    }
}

void linear_panel(const float* x, int64_t ldx, int64_t rows, const float* panel, int64_t K, float* y, int64_t ldy,
                  int cols, const Epilogue* e) {
  static const Epilogue plain = {nullptr, Activation::none, nullptr, 0};
  if (!e) e = &plain;
  constexpr int kGroup = kGroupTiles * kTileRows;
  alignas(64) float sums[kGroup * kPanel];
  const int64_t groups = (rows + kGroup - 1) / kGroup;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = rows * g / groups, end = rows * (g + 1) / groups;
    linear_group(x + begin * ldx, ldx, static_cast<int>(end - begin), panel, K, sums);
    for (int64_t i = begin; i < end; ++i)
      finish_linear_row(sums + (i - begin) * kPanel, *e, e->residual ? e->residual + i * e->ld_residual : nullptr,
                        y + i * ldy, cols);
  }
}
