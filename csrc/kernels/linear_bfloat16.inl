// y = act(x W^T + bias) * multiply + residual for panels of bfloat16 and rows of bfloat16 (round_row).
//
// The product of two bfloat16 is exact in float32. So each output is the sum, in order, of one chain of fma over each
// chunk of k, and the same on every instruction set, whether its fma rounds once or not. An instruction for dot
// products goes on in that chain by two k: the one in the high half of a word comes first (Intel, Software Developer's
// Manual, VDPBF16PS; subnormal numbers count as zero).

constexpr int64_t kWords = kLinearChunk / 4;  // of a chunk of a row: one chain

// Words of two k of R rows for products of floats: one k and the other on their own.
template <int R>
struct Halves {
  alignas(64) float first[R][kWords], second[R][kWords];
  INLINE void take(const uint32_t* x, int64_t words) {
    for (int r = 0; r < R; ++r)
      for (int64_t i = 0; i < words; i += kLanes) {  // a row has room for whole vectors
        const Vi word = load_int(x + r * kWords + i);
        store(&first[r][i], high_columns(word));
        store(&second[r][i], low_columns(word));
      }
  }
};

// The chains of a chunk in multiply-adds. Two steps are two lines.
template <int R>
INLINE void add_steps(HalfSums<R>& sums, const Halves<R>& x, const uint8_t* steps, int64_t n, int c, Ahead ahead,
                      ResultLines& results) {
  constexpr int64_t bytes = HalfSums<R>::kBytes;
  int64_t i = 0;
  for (; i + 2 <= n; i += 2) {
    fetch_lines<R, 2, 2>(ahead, i);
    results.template fetch<R>();
    sums.template add<BFloat16Step>(&x.first[0][i / 2], steps + i * bytes, c);
    sums.template add<BFloat16Step>(&x.second[0][i / 2], steps + (i + 1) * bytes, c);
  }
  if (i < n) sums.template add<BFloat16Step>(&x.first[0][i / 2], steps + i * bytes, c);
}

// The same in dot products of two steps.
template <int R>
INLINE void add_pairs(HalfSums<R>& sums, const uint32_t* x, const uint8_t* steps, int64_t n, int c, Ahead ahead,
                      ResultLines& results) {
  constexpr int V = HalfSums<R>::V;
  constexpr int64_t bytes = HalfSums<R>::kBytes;
  alignas(64) static const uint8_t nothing[bytes] = {};  // the step behind an odd last one
  for (int64_t i = 0; i < n; i += 2) {
    fetch_lines<R, 2, 2>(ahead, i);
    results.template fetch<R>();
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) {
      const int64_t at = (c + j * kLanes) * 4;
      const uint8_t* step = steps + i * bytes + at;
      const Vi a = load_int(step), b = load_int(i + 1 < n ? step + bytes : nothing + at);
      const Vi low_pairs = or_int(shift_left<16>(a), and_int(b, set1_int(0xffff)));
      const Vi high_pairs = or_int(and_int(a, set1_int(static_cast<int32_t>(0xffff0000u))), shift_right<16>(b));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vi s = set1_int(static_cast<int32_t>(x[r * kWords + i / 2]));
        sums.low[r][j] = dot_halves(sums.low[r][j], low_pairs, s);
        sums.high[r][j] = dot_halves(sums.high[r][j], high_pairs, s);
      }
    }
  }
}

struct Bfloat16Panel {
  static constexpr DType type = DType::bfloat16;
  static constexpr int64_t kSteps = 2 * kWords;
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
  static INLINE void chain(const char* x, const uint8_t* steps, int64_t n, float* sums, const Meanwhile& meanwhile) {
    constexpr int columns = HalfSums<R>::V * kLanes;
    ResultLines results = meanwhile.results;
    const uint32_t* words = reinterpret_cast<const uint32_t*>(x);
    Halves<kDotHalves ? 1 : R> halves;
    if (!kDotHalves) halves.take(words, (n + 1) / 2);
    for (int c = 0; c < kHalf; c += columns) {
      const Ahead ahead = meanwhile.panel(steps, n, kBytes, c / columns, kHalf / columns);
      HalfSums<R> chunk;
      set_zero(chunk.low), set_zero(chunk.high);
      if constexpr (kDotHalves) {
        add_pairs(chunk, words, steps, n, c, ahead, results);
      } else {
        add_steps(chunk, halves, steps, n, c, ahead, results);
      }
      chunk.add_to(sums, c);
    }
  }
};

void linear_bfloat16(const PanelArgs* args) { linear_rows<Bfloat16Panel>(*args); }
