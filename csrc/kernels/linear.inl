// y = act(x W^T + bias) * multiply + residual for one panel of kPanel columns of W^T, float32 or bfloat16.
//
// Each output is one chain of fma over k = 0..K-1, whatever the number of rows: the matrix-vector and the matrix-matrix
// product give the same bits. R rows share each load of the panel; a single row takes the whole width of the panel at
// once, so that the weights are read as one stream. With more rows than one tile, k goes in chunks: a chunk of the
// panel, expanded to float32 where it is not, stays in the first-level cache while all tiles pass over it, and the sums
// wait in memory between chunks.

constexpr int kGroupTiles = 8;         // row tiles that pass over a chunk of the panel in turn
constexpr int64_t kLinearChunk = 128;  // k of a chunk: 16 KB of the panel

void finish_linear_row(const float* sums, const Epilogue& e, int64_t i, float* y, int cols) {
  const float* multiply = e.multiply ? e.multiply + i * e.ld_multiply : nullptr;
  const float* residual = e.residual ? e.residual + i * e.ld_residual : nullptr;
  for (int c = 0; c < cols; c += kLanes) {
    Vf s = load(sums + c);
    if (e.bias) s = s + load_up_to(e.bias + c, cols - c);
    s = activate(e.activation, s);
    if (multiply) s = s * load_up_to(multiply + c, cols - c);
    if (residual) s = s + load_up_to(residual + c, cols - c);
    store_up_to(y + c, s, cols - c);
  }
}

#if !defined(FASTATTN_DOT_ONLY)

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

// bfloat16: step k of a panel is 16 words of two columns each, c in the low half and 16 + c in the high half.
constexpr int kHalf = kPanel / 2;

INLINE Vf low_columns(Vi words) { return as_float(shift_left<16>(words)); }
INLINE Vf high_columns(Vi words) { return as_float(and_int(words, set1_int(static_cast<int32_t>(0xffff0000u)))); }

void expand_bfloat16(const uint32_t* panel, int64_t K, float* out) {
  for (int64_t k = 0; k < K; ++k)
    for (int c = 0; c < kHalf; c += kLanes) {
      const Vi words = load_int(panel + k * kHalf + c);
      store(out + k * kPanel + c, low_columns(words));
      store(out + k * kPanel + kHalf + c, high_columns(words));
    }
}

// One row straight from the packed panel.
void bfloat16_row(const float* x, const uint32_t* panel, int64_t K, float* sums) {
  constexpr int V = kHalf / kLanes;
  Vf low[V], high[V];
  for (int v = 0; v < V; ++v) low[v] = high[v] = set1(0.0f);
  for (int64_t k = 0; k < K; ++k) {
    __builtin_prefetch(panel + (k + 64) * kHalf);
    const Vf s = set1(x[k]);
#  pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vi words = load_int(panel + k * kHalf + v * kLanes);
      low[v] = fma(s, low_columns(words), low[v]);
      high[v] = fma(s, high_columns(words), high[v]);
    }
  }
  for (int v = 0; v < V; ++v) {
    store(sums + v * kLanes, low[v]);
    store(sums + kHalf + v * kLanes, high[v]);
  }
}

// The panel as float32, from step k on.
struct Float32Panel {
  const float* data;
  const float* steps(int64_t k, int64_t, float*) const { return data + k * kPanel; }
  bool one_row(const float*, int64_t, float*) const { return false; }
  static constexpr bool expands = false;
};
struct Bfloat16Panel {
  const uint32_t* data;
  const float* steps(int64_t k, int64_t n, float* room) const {
    expand_bfloat16(data + k * kHalf, n, room);
    return room;
  }
  bool one_row(const float* x, int64_t K, float* sums) const { return bfloat16_row(x, data, K, sums), true; }
  static constexpr bool expands = true;
};

// The sums of up to kGroupTiles * kTileRows rows, in equal tiles: 13 rows are 7 + 6, for a tile of one row would cost
// as much as one of six.
template <class Panel>
void linear_group(const float* x, int64_t ldx, int rows, const Panel& panel, int64_t K, float* sums) {
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t chunk = tiles == 1 && !Panel::expands ? K : kLinearChunk;
  alignas(64) float room[Panel::expands ? kLinearChunk * kPanel : kPanel];
  if (rows == 1 && panel.one_row(x, K, sums)) return;
  for (int i = 0; i < rows * kPanel; i += kLanes) store(sums + i, set1(0.0f));
  for (int64_t k = 0; k < K; k += chunk) {
    const int64_t steps = minimum(chunk, K - k);
    const float* part = panel.steps(k, steps, room);
    for (int t = 0; t < tiles; ++t) {
      const int begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const Ahead ahead = {part + kLinearChunk * kPanel + steps * kPanel / tiles * t, (kPanel + tiles - 1) / tiles};
      linear_tile_of<kTileRows>(end - begin, x + begin * ldx + k, ldx, part, steps, sums + begin * kPanel, ahead);
    }
  }
}

template <class Panel>
void linear_rows(const PanelArgs& a, const Panel& panel) {
  constexpr int kMost = kGroupTiles * kTileRows;
  alignas(64) float sums[kMost * kPanel];
  const float* x = static_cast<const float*>(a.x);
  const int64_t ldx = a.ldx / 4, groups = (a.rows + kMost - 1) / kMost;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = a.rows * g / groups, end = a.rows * (g + 1) / groups;
    linear_group(x + begin * ldx, ldx, static_cast<int>(end - begin), panel, a.K, sums);
    for (int64_t i = begin; i < end; ++i)
      finish_linear_row(sums + (i - begin) * kPanel, a.epilogue, i, a.y + i * a.ldy, a.cols);
  }
}

void linear_float32(const PanelArgs* args) { linear_rows(*args, Float32Panel{static_cast<const float*>(args->panel)}); }

void linear_bfloat16(const PanelArgs* args) {
  linear_rows(*args, Bfloat16Panel{static_cast<const uint32_t*>(args->panel)});
}

#endif
