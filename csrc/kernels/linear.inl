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

struct Float32Panel {
  static constexpr DType type = DType::float32;
  static constexpr int64_t kSteps = kLinearFloats;
  // Each of the `tiles` tiles of a chunk fetches its share of the next one.
  template <int R>
  static __attribute__((noinline)) void tile(const char* x, const uint8_t* panel, int64_t k, int64_t n, float* sums,
                                             int tile, int tiles) {
    constexpr int V = widest(R, kPanel);
    const float* from = reinterpret_cast<const float*>(panel) + k * kPanel;
    const float* next = from + kLinearFloats * kPanel + n * kPanel / tiles * tile;
    const float* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = reinterpret_cast<const float*>(x) + r * kLinearFloats;
    for (int c = 0; c < kPanel; c += V * kLanes) {
      const float* columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = from + c + v * kLanes;
      Vf acc[R][V];
      set_zero(acc);
      accumulate(acc, rows, columns, kPanel, n, Ahead{next + c, (kPanel + tiles - 1) / tiles});
      add_tile(acc, sums + c, kPanel);
    }
  }
  template <int P>
  static void row(const char* x, const uint8_t* panels, int64_t K, int64_t k, int64_t n, float* sums) {
    constexpr int V = kPanel / kLanes;
    const float *rows[1] = {reinterpret_cast<const float*>(x)}, *columns[P * V];
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
    accumulate(acc, rows, columns, kPanel, n, ahead);
    add_tile(acc, sums, kPanel);
  }
};

// A step of 16 bits, widened in registers: columns c.. and 16 + c.. of it. (float16 costs the multipliers some of their
// time; to widen a chunk once for several tiles costs more.)
struct NarrowStep {  // bfloat16
  static constexpr DType type = DType::narrow;
  static INLINE void widen(const uint8_t* step, int c, Vf& low, Vf& high) {
    const Vi words = load_int(step + c * 4);
    low = low_columns(words), high = high_columns(words);
  }
};
struct Float16Step {
  static constexpr DType type = DType::float16;
  static INLINE void widen(const uint8_t* step, int c, Vf& low, Vf& high) {
    const Float16* halves = reinterpret_cast<const Float16*>(step);
    low = load(halves + c), high = load(halves + kHalf + c);
  }
};

template <class Step>
struct HalfPanel {
  static constexpr DType type = Step::type;
  static constexpr int64_t kSteps = kLinearFloats, kBytes = kPanel * 2;
  template <int R>
  static __attribute__((noinline)) void tile(const char* rows, const uint8_t* panel, int64_t k, int64_t n, float* sums,
                                             int, int) {
    const float* x = reinterpret_cast<const float*>(rows);
    for (int c = 0; c < kHalf; c += kLanes) {
      Vf low[R], high[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) low[r] = high[r] = set1(0.0f);
      for (int64_t i = 0; i < n; ++i) {
        const uint8_t* step = panel + (k + i) * kBytes;
        Vf a, b;
        Step::widen(step, c, a, b);
        __builtin_prefetch(step + kStreamAhead);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Vf s = set1(x[r * kLinearFloats + i]);
          low[r] = fma(s, a, low[r]);
          high[r] = fma(s, b, high[r]);
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        float* s = sums + r * kPanel + c;
        store(s, load(s) + low[r]);
        store(s + kHalf, load(s + kHalf) + high[r]);
      }
    }
  }
  template <int P>
  static void row(const char* row, const uint8_t* panels, int64_t K, int64_t k, int64_t n, float* sums) {
    constexpr int V = kHalf / kLanes;
    const float* x = reinterpret_cast<const float*>(row);
    const uint8_t* from[P];
    Vf low[P][V], high[P][V];
    set_zero(low), set_zero(high);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) from[p] = panels + p * panel_bytes(type, K) + k * kBytes;
    for (int64_t i = 0; i < n; ++i) {
      const Vf s = set1(x[i]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        __builtin_prefetch(from[p] + i * kBytes + kStreamAhead);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          Vf a, b;
          Step::widen(from[p] + i * kBytes, v * kLanes, a, b);
          low[p][v] = fma(s, a, low[p][v]);
          high[p][v] = fma(s, b, high[p][v]);
        }
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        float* s = sums + p * kPanel + v * kLanes;
        store(s, load(s) + low[p][v]);
        store(s + kHalf, load(s + kHalf) + high[p][v]);
      }
  }
};

void linear_float32(const PanelArgs* args) { linear_rows<Float32Panel>(*args); }
void linear_narrow(const PanelArgs* args) { linear_rows<HalfPanel<NarrowStep>>(*args); }
void linear_float16(const PanelArgs* args) { linear_rows<HalfPanel<Float16Step>>(*args); }
