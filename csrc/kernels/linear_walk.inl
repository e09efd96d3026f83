// y = act(x W^T + bias) * multiply + residual for panels of kPanel columns of W^T: how rows and panels are walked, and
// what follows the sums. linear.inl, linear_bfloat16.inl and linear_quantized.inl are the products themselves.
//
// k goes in chunks of kLinearChunk bytes of x. A chunk of the panel stays in the first-level cache while all tiles of
// rows pass over it, and the sums wait in memory between chunks. R rows of a tile share each load of the panel. All is
// read in the order of memory, a single stream.
//
// A Panel says how a type does it:
//   type, kSteps    how it is packed, and k of a chunk
//   tile<R>         sums (R, kPanel) += R rows of x, kLinearChunk bytes apart, times steps [k, k + n) of the panel; in
//                   each step something is fetched of what `meanwhile` holds
//   row             sums (kPanel) += one row times steps [k, k + n) of the panel

constexpr int kGroupTiles = 8;                       // row tiles that pass over a chunk of the panel in turn
constexpr int64_t kLinearFloats = kLinearChunk / 4;  // k of a chunk: 16 KB of a float32 panel
constexpr int kMostRows = kGroupTiles * kTileRows;

// The sums of row i and a panel, and all that follows them.
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

// The lines that results of some rows and a panel are written to, and those of what is added to them: stores and loads
// that miss would wait. They come one by one during the product, as all at once would hold up its own loads; what it
// has no steps for is left. Few rows find them in the second-level cache, and save the trouble.
class ResultLines {
 public:
  ResultLines() = default;
  ResultLines(const PanelArgs& a, int64_t begin, int64_t end, int64_t column) : rows_(end - begin) {
    const Epilogue& e = a.epilogue;
    const int64_t cols = minimum(kPanel, a.cols - column);
    if (begin == end || a.rows * a.ldy < kFewResults) return;
    if (e.residual && e.residual != a.y)
      later_ = Array(e.residual + begin * e.ld_residual + column, e.ld_residual, cols);
    now_ = Array(a.y + begin * a.ldy + column, a.ldy, cols);
    at_ = now_.line, left_ = rows_;
  }
  // The next line, in a step of a tile of R rows; steps of few rows are over too soon.
  template <int R>
  INLINE void fetch() {
    if (R <= 4 || left_ == 0) return;
    __builtin_prefetch(at_);
    at_ += now_.step;
    if (--left_ == 0) next_line();
  }

 private:
  static constexpr int64_t kFewResults = 32 * 1024;
  // Some lines of each row, `step` bytes apart; the first of them in the first row.
  struct Array {
    Array() = default;
    Array(const float* row, int64_t ld, int64_t cols) : line(reinterpret_cast<const char*>(row)), step(ld * 4) {
      const int64_t shift = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % 64);
      line -= shift, lines = (shift + cols * 4 + 63) / 64;
    }
    const char* line;
    int64_t step, lines = 0;
  };
  INLINE void next_line() {
    now_.line += 64;
    if (--now_.lines == 0) now_ = later_, later_.lines = 0;
    if (now_.lines) at_ = now_.line, left_ = rows_;
  }

  Array now_, later_;
  const char* at_;
  int64_t rows_ = 0, left_ = 0;
};

// What a tile of many rows reads next of a panel is fetched into the second-level cache, where it waits for a while.
constexpr int64_t kBytesFetchedAhead = 8192;
INLINE void fetch_line(const uint8_t* at) { __builtin_prefetch(at, 0, 2); }

// Memory of a panel to fetch while a product is computed: from + k * step in step k. step: bytes
struct Ahead {
  const uint8_t* from;
  int64_t step;
};

// What belongs to so many steps from step k on, of which as many lines are read, by a tile of R rows.
template <int R, int kSteps, int kLines>
INLINE void fetch_lines(Ahead ahead, int64_t k) {
  if (!kFetches<R>) return;
#pragma GCC unroll 16
  for (int i = 0; i < kLines; ++i) fetch_line(ahead.from + k * ahead.step + i * kSteps * ahead.step / kLines);
}

// What a tile fetches while it computes: its share, `tile` of `tiles`, of the panel's next chunk, and the lines of its
// results where the product ends with this chunk. As it begins: of a chunk that is passed over once, and no results.
struct Meanwhile {
  int tile = 0, tiles = 1;
  ResultLines results = {};

  // For one of several passes of the tile over a chunk, n steps of so many bytes. What is passed over only once comes
  // from memory, and is fetched right before.
  INLINE Ahead panel(const uint8_t* chunk, int64_t n, int64_t bytes, int pass, int passes) const {
    const int share = tile * passes + pass, shares = tiles * passes;
    if (shares == 1) return {chunk + kBytesFetchedAhead, bytes};
    return {chunk + n * bytes + n * bytes / shares * share, (bytes + shares - 1) / shares};
  }
};

// 16 bits: step k of a panel is 16 words of two columns each, c in the low half and 16 + c in the high half.
constexpr int kHalf = kPanel / 2;

INLINE Vf low_columns(Vi words) { return as_float(shift_left<16>(words)); }
INLINE Vf high_columns(Vi words) { return as_float(and_int(words, set1_int(static_cast<int32_t>(0xffff0000u)))); }

// A step of bfloat16, widened in registers: columns c.. and 16 + c.. of it.
struct BFloat16Step {
  static INLINE void widen(const uint8_t* step, int c, Vf& low, Vf& high) {
    const Vi words = load_int(step + c * 4);
    low = low_columns(words), high = high_columns(words);
  }
};

// Sums of R rows and the columns c.. and 16 + c.. of a panel, V vectors of each.
template <int R>
struct HalfSums {
  static constexpr int V = R == 1 ? kHalf / kLanes : 1;
  static constexpr int64_t kBytes = kPanel * 2;  // of a step
  Vf low[R][V], high[R][V];

  // x[r * kLinearFloats] times the columns of one step.
  template <class Step>
  INLINE void add(const float* x, const uint8_t* step, int c) {
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) {
      Vf a, b;
      Step::widen(step, c + j * kLanes, a, b);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vf s = set1(x[r * kLinearFloats]);
        low[r][j] = fma(s, a, low[r][j]);
        high[r][j] = fma(s, b, high[r][j]);
      }
    }
  }

  // sums: (R, kPanel)
  INLINE void add_to(float* sums, int c) const {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int j = 0; j < V; ++j) {
        float* s = sums + r * kPanel + c + j * kLanes;
        store(s, load(s) + low[r][j]);
        store(s + kHalf, load(s + kHalf) + high[r][j]);
      }
  }
};

// Runs Panel::tile for exactly `rows` rows, 1 <= rows <= R.
template <class Panel, int R>
INLINE void linear_tile_of(int rows, const char* x, const uint8_t* panel, int64_t k, int64_t n, float* sums,
                           const Meanwhile& meanwhile) {
  if constexpr (R > 1) {
    if (rows < R) return linear_tile_of<Panel, R - 1>(rows, x, panel, k, n, sums, meanwhile);
  }
  Panel::template tile<R>(x, panel, k, n, sums, meanwhile);
}

// Results of up to kMostRows rows and a panel, in equal tiles: 13 rows are 7 + 6, for a tile of one row would cost as
// much as one of six.
template <class Panel>
void linear_group(const PanelArgs& a, int64_t first, int rows, int64_t column, const uint8_t* panel) {
  alignas(64) float sums[kMostRows * kPanel];
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  for (int i = 0; i < rows * kPanel; i += kLanes) store(sums + i, set1(0.0f));
  for (int64_t k = 0; k == 0 || k < a.K; k += Panel::kSteps) {  // once also where K is 0
    const int64_t steps = minimum(Panel::kSteps, a.K - k);
    const char* x = static_cast<const char*>(a.x) + k / Panel::kSteps * a.ld_chunk;
    const bool ends = k + steps == a.K;
    for (int t = 0; t < tiles; ++t) {
      const int begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const Meanwhile meanwhile = {t, tiles, ResultLines(a, first + begin, first + (ends ? end : begin), column)};
      linear_tile_of<Panel, kTileRows>(end - begin, x + (first + begin) * kLinearChunk, panel, k, steps,
                                       sums + begin * kPanel, meanwhile);
      for (int i = begin; ends && i < end; ++i) finish_linear_row(sums + i * kPanel, a, first + i, column);
    }
  }
}

// The result of a single row and a panel.
template <class Panel>
void linear_row(const PanelArgs& a, int64_t column, const uint8_t* panel) {
  alignas(64) float sums[kPanel];
  for (int i = 0; i < kPanel; i += kLanes) store(sums + i, set1(0.0f));
  for (int64_t k = 0; k < a.K; k += Panel::kSteps)
    Panel::row(static_cast<const char*>(a.x) + k / Panel::kSteps * kLinearChunk, panel, k,
               minimum(Panel::kSteps, a.K - k), sums);
  finish_linear_row(sums, a, 0, column);
}

template <class Panel>
void linear_rows(const PanelArgs& a) {
  const int64_t size = panel_bytes(Panel::type, a.K), count = (a.rows + kMostRows - 1) / kMostRows;
  for (int64_t column = 0; column < a.cols; column += kPanel) {
    const uint8_t* panel = static_cast<const uint8_t*>(a.panels) + column / kPanel * size;
    if (a.rows == 1) {
      linear_row<Panel>(a, column, panel);
      continue;
    }
    for (int64_t g = 0; g < count; ++g) {
      const int64_t begin = a.rows * g / count, end = a.rows * (g + 1) / count;
      linear_group<Panel>(a, begin, static_cast<int>(end - begin), column, panel);
    }
  }
}
