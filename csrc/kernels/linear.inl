// y = act(x W^T + bias) * multiply + residual for panels of float32, or of float32 kept in 16 bits.
//
// Each output is the sum, in order, of one chain of fma over each chunk of k, whatever the number of rows: the
// matrix-vector and the matrix-matrix product give the same bits, and a long sum errs less than one chain would.

// The panel's next chunk, and the lines of results.
template <int R>
struct AheadAndResults {
  Ahead ahead;
  ResultLines& results;
};

template <int U, int V, int R>
INLINE void fetch(AheadAndResults<R> lines, int64_t k) {
  fetch_lines<R, U, (U * V * kLanes * 4 + 63) / 64>(lines.ahead, k);
  lines.results.template fetch<R>();
}

struct Float32Panel {
  static constexpr DType type = DType::float32;
  static constexpr int64_t kSteps = kLinearFloats;
  template <int R>
  static __attribute__((noinline)) void tile(const char* x, const uint8_t* panel, int64_t k, int64_t n, float* sums,
                                             const Meanwhile& meanwhile) {
    constexpr int V = widest(R, kPanel);
    ResultLines results = meanwhile.results;
    const float* from = reinterpret_cast<const float*>(panel) + k * kPanel;
    for (int c = 0; c < kPanel; c += V * kLanes) {
      const float* columns[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) columns[v] = from + c + v * kLanes;
      Vf acc[R][V];
      set_zero(acc);
      const Ahead ahead = meanwhile.panel(panel + k * kBytes, n, kBytes, c / (V * kLanes), kPanel / (V * kLanes));
      accumulate<kLinearFloats>(acc, reinterpret_cast<const float*>(x), columns, kPanel, n,
                                AheadAndResults<R>{ahead, results});
      add_tile(acc, sums + c, kPanel);
    }
  }
  static void row(const char* x, const uint8_t* panel, int64_t k, int64_t n, float* sums) {
    tile<1>(x, panel, k, n, sums, Meanwhile{});
  }

 private:
  static constexpr int64_t kBytes = kPanel * 4;  // of a step
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
    chain<R>(x, panel + k * kBytes, n, sums, meanwhile);
  }
  static void row(const char* x, const uint8_t* panel, int64_t k, int64_t n, float* sums) {
    chain<1>(x, panel + k * kBytes, n, sums, Meanwhile{});
  }

 private:
  static constexpr int64_t kBytes = HalfSums<1>::kBytes;
  template <int R>
  static INLINE void chain(const char* rows, const uint8_t* steps, int64_t n, float* sums, const Meanwhile& meanwhile) {
    constexpr int columns = HalfSums<R>::V * kLanes;
    const float* x = reinterpret_cast<const float*>(rows);
    ResultLines results = meanwhile.results;
    for (int c = 0; c < kHalf; c += columns) {
      const Ahead ahead = meanwhile.panel(steps, n, kBytes, c / columns, kHalf / columns);
      HalfSums<R> chunk;
      set_zero(chunk.low), set_zero(chunk.high);
      for (int64_t i = 0; i < n; ++i) {
        fetch_lines<R, 1, 1>(ahead, i);
        results.template fetch<R>();
        chunk.template add<Step>(x + i, steps + i * kBytes, c);
      }
      chunk.add_to(sums, c);
    }
  }
};

void linear_float32(const PanelArgs* args) { linear_rows<Float32Panel>(*args); }
void linear_narrow(const PanelArgs* args) { linear_rows<HalfPanel<BFloat16Step, DType::narrow>>(*args); }
void linear_float16(const PanelArgs* args) { linear_rows<HalfPanel<Float16Step, DType::float16>>(*args); }
