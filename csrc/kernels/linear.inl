// y = act(x W^T + bias) * multiply + residual for panels of kPanel columns of W^T, float32 or bfloat16.
//
// k goes in chunks of kLinearFloats. Each output is the sum, in order, of one chain of fma over each chunk, whatever
// the number of rows: the matrix-vector and the matrix-matrix product give the same bits, and a long sum errs less than
// one chain would. A single row takes several panels at once, each read as a stream, so that there are chains enough to
// keep the multipliers busy. R rows of a tile share each load of the panel, bfloat16 widened in registers. A chunk of
// the panel stays in the first-level cache while all tiles pass over it, and the sums wait in memory between chunks.

constexpr int kGroupTiles = 8;                       // row tiles that pass over a chunk of the panel in turn
constexpr int64_t kLinearFloats = kLinearChunk / 4;  // k of a chunk: 16 KB of a float32 panel
constexpr int kMostRows = kGroupTiles * kTileRows;

void finish_linear_row(const float* sums, const PanelArgs& a, int64_t i, int64_t column) {
  const Epilogue& e = a.epilogue;
  const int64_t cols = minimum(kPanel, a.cols - column);
  const float* bias = e.bias ? e.bias + column : nullptr;
  const float* multiply = e.multiply ? e.multiply + i * e.ld_multiply + column : nullptr;
  const float* residual = e.residual ? e.residual + i * e.ld_residual + column : nullptr;
  float* y = a.y + i * a.ldy + column;
  for (int c = 0; c < cols; c += kLanes) {
    Vf s = load(sums + c);
    if (bias) s = s + load_up_to(bias + c, cols - c);
    s = activate(e.activation, s);
    if (multiply) s = s * load_up_to(multiply + c, cols - c);
    if (residual) s = s + load_up_to(residual + c, cols - c);
    store_up_to(y + c, s, cols - c);
  }
}

// The results of some rows and a panel are about to be written: fetches their lines, for stores that miss would wait.
INLINE void fetch_results(const PanelArgs& a, int64_t begin, int64_t end, int64_t column) {
  const int64_t cols = minimum(kPanel, a.cols - column);
  for (int64_t i = begin; i < end; ++i) {
    const float* y = a.y + i * a.ldy + column;
    __builtin_prefetch(y, 1);
    __builtin_prefetch(y + cols / 2, 1);
    __builtin_prefetch(y + cols - 1, 1);
  }
}

#if !defined(FASTATTN_DOT_ONLY)

// Several panels that one row passes over at once, fetched a few kilobytes ahead.
template <int P>
struct Streams {
  const char* from[P];
  int64_t step;  // bytes
};

template <int U, int V, int P>
INLINE void fetch(const Streams<P>& ahead, int64_t k) {
#  pragma GCC unroll 4
  for (int p = 0; p < P; ++p)
#  pragma GCC unroll 4
    for (int64_t i = 0; i < U * ahead.step; i += 64) __builtin_prefetch(ahead.from[p] + k * ahead.step + i);
}

constexpr int64_t kStreamAhead = 4096;

// Panels a row takes at once: as many as there are registers for, at most four.
constexpr int kRowPanels = 4 * kPanel <= kAccumulators * kLanes ? 4 : 2 * kPanel <= kAccumulators * kLanes ? 2 : 1;

// bfloat16: step k of a panel is 16 words of two columns each, c in the low half and 16 + c in the high half.
constexpr int kHalf = kPanel / 2;

INLINE Vf low_columns(Vi words) { return as_float(shift_left<16>(words)); }
INLINE Vf high_columns(Vi words) { return as_float(and_int(words, set1_int(static_cast<int32_t>(0xffff0000u)))); }

// How a type walks its panels.
struct Float32Panel {
  static constexpr DType type = DType::float32;
  // sums += R rows of x, a chunk apart, times steps [k, k + n) of the panel. Each of the `tiles` tiles of a chunk
  // fetches its share of the next one.   sums: (R, kPanel)
  template <int R>
  static __attribute__((noinline)) void tile(const float* x, const uint8_t* panel, int64_t k, int64_t n, float* sums,
                                             int tile, int tiles) {
    constexpr int V = widest(R, kPanel);
    const float* from = reinterpret_cast<const float*>(panel) + k * kPanel;
    const float* next = from + kLinearFloats * kPanel + n * kPanel / tiles * tile;
    const float* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = x + r * kLinearFloats;
    for (int c = 0; c < kPanel; c += V * kLanes) {
      const float* columns[V];
#  pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = from + c + v * kLanes;
      Vf acc[R][V];
      set_zero(acc);
      accumulate(acc, rows, columns, kPanel, n, Ahead{next + c, (kPanel + tiles - 1) / tiles});
      add_tile(acc, sums + c, kPanel);
    }
  }
  // sums += one row times steps [k, k + n) of P panels of K steps.   sums: (P, kPanel)
  template <int P>
  static void row(const float* x, const uint8_t* panels, int64_t K, int64_t k, int64_t n, float* sums) {
    constexpr int V = kPanel / kLanes;
    const float *rows[1] = {x + k}, *columns[P * V];
    Streams<P> ahead;
    ahead.step = kPanel * 4;
#  pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const float* panel = reinterpret_cast<const float*>(panels + p * panel_bytes(type, K)) + k * kPanel;
#  pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[p * V + v] = panel + v * kLanes;
      ahead.from[p] = reinterpret_cast<const char*>(panel) + kStreamAhead;
    }
    Vf acc[1][P * V];
    set_zero(acc);
    accumulate(acc, rows, columns, kPanel, n, ahead);
    add_tile(acc, sums, kPanel);
  }
};

struct Bfloat16Panel {
  static constexpr DType type = DType::bfloat16;
  template <int R>
  static __attribute__((noinline)) void tile(const float* x, const uint8_t* panel, int64_t k, int64_t n, float* sums,
                                             int, int) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(panel) + k * kHalf;
    for (int c = 0; c < kHalf; c += kLanes) {
      Vf low[R], high[R];
#  pragma GCC unroll 16
      for (int r = 0; r < R; ++r) low[r] = high[r] = set1(0.0f);
      for (int64_t i = 0; i < n; ++i) {
        const uint32_t* step = from + i * kHalf + c;
        const Vi words = load_int(step);
        __builtin_prefetch(step + kStreamAhead / 4);
        const Vf a = low_columns(words), b = high_columns(words);
#  pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Vf s = set1(x[r * kLinearFloats + i]);
          low[r] = fma(s, a, low[r]);
          high[r] = fma(s, b, high[r]);
        }
      }
#  pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        float* s = sums + r * kPanel + c;
        store(s, load(s) + low[r]);
        store(s + kHalf, load(s + kHalf) + high[r]);
      }
    }
  }
  template <int P>
  static void row(const float* x, const uint8_t* panels, int64_t K, int64_t k, int64_t n, float* sums) {
    constexpr int V = kHalf / kLanes;
    const uint32_t* from[P];
    Vf low[P][V], high[P][V];
#  pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      from[p] = reinterpret_cast<const uint32_t*>(panels + p * panel_bytes(type, K)) + k * kHalf;
#  pragma GCC unroll 4
      for (int v = 0; v < V; ++v) low[p][v] = high[p][v] = set1(0.0f);
    }
    for (int64_t i = 0; i < n; ++i) {
      const Vf s = set1(x[k + i]);
#  pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        __builtin_prefetch(from[p] + i * kHalf + kStreamAhead / 4);
#  pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const Vi words = load_int(from[p] + i * kHalf + v * kLanes);
          low[p][v] = fma(s, low_columns(words), low[p][v]);
          high[p][v] = fma(s, high_columns(words), high[p][v]);
        }
      }
    }
#  pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
#  pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        float* s = sums + p * kPanel + v * kLanes;
        store(s, load(s) + low[p][v]);
        store(s + kHalf, load(s + kHalf) + high[p][v]);
      }
  }
};

// Runs Panel::tile for exactly `rows` rows, 1 <= rows <= R.
template <class Panel, int R>
INLINE void linear_tile_of(int rows, const float* x, const uint8_t* panel, int64_t k, int64_t n, float* sums, int tile,
                           int tiles) {
  if constexpr (R > 1) {
    if (rows < R) return linear_tile_of<Panel, R - 1>(rows, x, panel, k, n, sums, tile, tiles);
  }
  Panel::template tile<R>(x, panel, k, n, sums, tile, tiles);
}

// The sums of up to kMostRows rows, in equal tiles: 13 rows are 7 + 6, for a tile of one row would cost as much as one
// of six.
template <class Panel>
void linear_group(const PanelArgs& a, int64_t first, int rows, int64_t column, const uint8_t* panel, float* sums) {
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  for (int i = 0; i < rows * kPanel; i += kLanes) store(sums + i, set1(0.0f));
  for (int64_t k = 0; k < a.K; k += kLinearFloats) {
    const int64_t steps = minimum(kLinearFloats, a.K - k);
    const float* x = reinterpret_cast<const float*>(static_cast<const char*>(a.x) + k / kLinearFloats * a.ld_chunk);
    for (int t = 0; t < tiles; ++t) {
      const int begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      if (k + kLinearFloats >= a.K) fetch_results(a, first + begin, first + end, column);
      linear_tile_of<Panel, kTileRows>(end - begin, x + (first + begin) * kLinearFloats, panel, k, steps,
                                       sums + begin * kPanel, t, tiles);
    }
  }
}

template <class Panel, int P>
int64_t row_panels(const PanelArgs& a, int64_t column) {
  alignas(64) float sums[P * kPanel];
  const int64_t size = panel_bytes(Panel::type, a.K);
  for (; column + (P - 1) * kPanel < a.cols; column += P * kPanel) {
    for (int i = 0; i < P * kPanel; i += kLanes) store(sums + i, set1(0.0f));
    for (int64_t k = 0; k < a.K; k += kLinearFloats)
      Panel::template row<P>(static_cast<const float*>(a.x),
                             static_cast<const uint8_t*>(a.panels) + column / kPanel * size, a.K, k,
                             minimum(kLinearFloats, a.K - k), sums);
    for (int p = 0; p < P; ++p) finish_linear_row(sums + p * kPanel, a, 0, column + p * kPanel);
  }
  return column;
}

template <class Panel>
void linear_rows(const PanelArgs& a) {
  if (a.rows == 1) {
    row_panels<Panel, 1>(a, row_panels<Panel, kRowPanels>(a, 0));
    return;
  }
  alignas(64) float sums[kMostRows * kPanel];
  const int64_t size = panel_bytes(Panel::type, a.K), count = (a.rows + kMostRows - 1) / kMostRows;
  for (int64_t column = 0; column < a.cols; column += kPanel)
    for (int64_t g = 0; g < count; ++g) {
      const int64_t begin = a.rows * g / count, end = a.rows * (g + 1) / count;
      linear_group<Panel>(a, begin, static_cast<int>(end - begin), column,
                          static_cast<const uint8_t*>(a.panels) + column / kPanel * size, sums);
      for (int64_t i = begin; i < end; ++i) finish_linear_row(sums + (i - begin) * kPanel, a, i, column);
    }
}

void linear_float32(const PanelArgs* args) { linear_rows<Float32Panel>(*args); }
void linear_bfloat16(const PanelArgs* args) { linear_rows<Bfloat16Panel>(*args); }

#endif
