// y = act(x W^T + bias) + residual for one panel of kPanel columns of W^T.   x: (rows, K), panel: (K, kPanel)
//
// Each output is one chain of fma over k = 0..K-1, whatever the number of rows: the matrix-vector and the matrix-matrix
// product give the same bits. R rows share each load of the panel; a single row takes the whole width of the panel at
// once, so that the weights are read as one stream.

// R rows of x times the panel, without epilogue.   sums: (R, kPanel)
template <int R>
void linear_tile(const float* x, int64_t ldx, const float* panel, int64_t K, float* sums) {
  constexpr int V = widest(R, kPanel);
  const float* rows[R];
  for (int r = 0; r < R; ++r) rows[r] = x + r * ldx;
  for (int c = 0; c < kPanel; c += V * kLanes) {
    const float* columns[V];
    for (int v = 0; v < V; ++v) columns[v] = panel + c + v * kLanes;
    Vf acc[R][V];
    set_zero(acc);
    accumulate(acc, rows, columns, kPanel, K);
    store_tile(acc, sums + c, kPanel);
  }
}

// Chooses the tile of `rows` rows, 1 <= rows <= R.
template <int R>
INLINE void linear_tile_of(int rows, const float* x, int64_t ldx, const float* panel, int64_t K, float* sums) {
  if constexpr (R > 1) {
    if (rows < R) return linear_tile_of<R - 1>(rows, x, ldx, panel, K, sums);
  }
  linear_tile<R>(x, ldx, panel, K, sums);
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

void linear_panel(const float* x, int64_t ldx, int64_t rows, const float* panel, int64_t K, float* y, int64_t ldy,
                  int cols, const Epilogue* e) {
  static const Epilogue plain = {nullptr, Activation::none, nullptr, 0};
  if (!e) e = &plain;
  alignas(64) float sums[kTileRows * kPanel];
  // Equal tiles: 13 rows are 7 + 6, for a tile of one row would cost as much as one of six.
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = rows * t / tiles, end = rows * (t + 1) / tiles;
    linear_tile_of<kTileRows>(static_cast<int>(end - begin), x + begin * ldx, ldx, panel, K, sums);
    for (int64_t i = begin; i < end; ++i)
      finish_linear_row(sums + (i - begin) * kPanel, *e, e->residual ? e->residual + i * e->ld_residual : nullptr,
                        y + i * ldy, cols);
  }
}
