// y = act(x W^T + bias) * multiply + residual for panels of float32, or of float32 kept in 16 bits.
//
// Each output is the sum, in order, of one chain of fma over each chunk of k, whatever the number of rows: the
// matrix-vector and the matrix-matrix product give the same bits, and a long sum errs less than one chain would.

// Several panels that one row passes over at once, fetched a few kilobytes ahead.
template <int P>
struct Streams {
  const char* from[P];
  int64_t step;  // bytes
};

template <int U, int V, int P>
INLINE void fetch(const Streams<P>& ahead, int64_t k) {
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int64_t i = 0; i < U * ahead.step; i += 64) __builtin_prefetch(ahead.from[p] + k * ahead.step + i);
}

// The panel's next chunk, and the lines of results.
template <int R>
struct AheadAndResults {
  Ahead ahead;
  ResultLines& results;
};

template <int U, int V, int R>
INLINE void fetch(AheadAndResults<R> lines, int64_t k) {
  fetch<U, V>(lines.ahead, k);
  lines.results.template fetch<R>();
}

struct Float32Panel {
  static constexpr DType type = DType::float32;
  static constexpr int64_t kSteps = kLinearFloats;
  template <int R>
  static __attribute__((noinline)) void tile(const char* x, const uint8_t* panel, int64_t k, int64_t n, float* sums,
                                             const Meanwhile& meanwhile) {
    constexpr int V = widest(R, kPanel);
    const int tiles = meanwhile.tiles;
    ResultLines results = meanwhile.results;
    const float* from = reinterpret_cast<const float*>(panel) + k * kPanel;
    const float* next = from + kLinearFloats * kPanel + n * kPanel / tiles * meanwhile.tile;
    for (int c = 0; c < kPanel; c += V * kLanes) {
      const float* columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = from + c + v * kLanes;
      Vf acc[R][V];
      set_zero(acc);
      const Ahead ahead = {next + c, (kPanel + tiles - 1) / tiles};
      accumulate<kLinearFloats>(acc, reinterpret_cast<const float*>(x), columns, kPanel, n,
                                AheadAndResults<R>{ahead, results});
      add_tile(acc, sums + c, kPanel);
    }
  }
  template <int P>
  static void row(const char* x, const uint8_t* panels, int64_t K, int64_t k, int64_t n, float* sums) {
    constexpr int V = kPanel / kLanes;
    const float* columns[P * V];
    Streams<P> ahead;
    ahead.step = kPanel * 4;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const float* panel = reinterpret_cast<const float*>(panels + p * panel_bytes(type, K)) + k * kPanel;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[p * V + v] = panel + v * kLanes;
      ahead.from[p] = reinterpret_cast<const char*>(panel) + kStreamAhead;
    }
    Vf acc[1][P * V];
    set_zero(acc);
    accumulate<0>(acc, reinterpret_cast<const float*>(x), columns, kPanel, n, ahead);
    add_tile(acc, sums, kPanel);
  }
};

// A step of float16, like that of bfloat16. (It costs the multipliers some of their time; to widen a chunk once for
// several tiles costs more.)
struct Float16Step {
  static INLINE void widen(const uint8_t* step, int c, Vf& low, Vf& high) {
    const Float16* halves = reinterpret_cast<const Float16*>(step);
    low = load(halves + c), high = load(halves + kHalf + c);
  }
};

template <class Step, DType kType>
struct HalfPanel {
  static constexpr DType type = kType;
  static constexpr int64_t kSteps = kLinearFloats;
  template <int R>
  static __attribute__((noinline)) void tile(const char* x, const uint8_t* panel, int64_t k, int64_t n, float* sums,
                                             const Meanwhile& meanwhile) {
    chain<R, 1>(x, panel, 0, k, n, sums, meanwhile.results);
  }
  template <int P>
  static void row(const char* x, const uint8_t* panels, int64_t K, int64_t k, int64_t n, float* sums) {
    chain<1, P>(x, panels, panel_bytes(type, K), k, n, sums, NoLines{});
  }

 private:
  template <int R, int P, class Lines>
  static INLINE void chain(const char* rows, const uint8_t* panels, int64_t size, int64_t k, int64_t n, float* sums,
                           Lines lines) {
    constexpr int64_t step = HalfSums<R, P>::kBytes;
    const float* x = reinterpret_cast<const float*>(rows);
    const uint8_t* from[P];
    for (int p = 0; p < P; ++p) from[p] = panels + p * size + k * step;
    for (int c = 0; c < kHalf; c += HalfSums<R, P>::V * kLanes) {
      HalfSums<R, P> chunk;
      set_zero(chunk.low), set_zero(chunk.high);
      for (int64_t i = 0; i < n; ++i) {
        lines.template fetch<R>();
        chunk.template add<Step>(x + i, from, i * step, c);
      }
      chunk.add_to(sums, c);
    }
  }
};

void linear_float32(const PanelArgs* args) { linear_rows<Float32Panel>(*args); }
void linear_narrow(const PanelArgs* args) { linear_rows<HalfPanel<BFloat16Step, DType::narrow>>(*args); }
void linear_float16(const PanelArgs* args) { linear_rows<HalfPanel<Float16Step, DType::float16>>(*args); }
