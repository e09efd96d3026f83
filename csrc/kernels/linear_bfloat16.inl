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

// The chains of a chunk in multiply-adds.
template <int R, int P, class Lines>
INLINE void add_steps(HalfSums<R, P>& sums, const Halves<R>& x, const uint8_t* const (&panels)[P], int64_t n, int c,
                      Lines& lines) {
  constexpr int64_t step = HalfSums<R, P>::kBytes;
  int64_t i = 0;
  for (; i + 2 <= n; i += 2) {
    lines.template fetch<R>();
    sums.template add<BFloat16Step>(&x.first[0][i / 2], panels, i * step, c);
    sums.template add<BFloat16Step>(&x.second[0][i / 2], panels, (i + 1) * step, c);
  }
  if (i < n) sums.template add<BFloat16Step>(&x.first[0][i / 2], panels, i * step, c);
}

// The same in dot products of two steps.
template <int R, int P, class Lines>
INLINE void add_pairs(HalfSums<R, P>& sums, const uint32_t* x, const uint8_t* const (&panels)[P], int64_t n, int c,
                      Lines& lines) {
  constexpr int V = HalfSums<R, P>::V;
  constexpr int64_t bytes = HalfSums<R, P>::kBytes;
  alignas(64) static const uint8_t nothing[bytes] = {};  // the step behind an odd last one
  for (int64_t i = 0; i < n; i += 2) {
    lines.template fetch<R>();
#pragma GCC unroll 16
    for (int j = 0; j < P * V; ++j) {
      const int64_t at = (c + j % V * kLanes) * 4;
      const uint8_t* step = panels[j / V] + i * bytes + at;
      const Vi a = load_int(step), b = load_int(i + 1 < n ? step + bytes : nothing + at);
      __builtin_prefetch(step + kStreamAhead);
      __builtin_prefetch(step + kStreamAhead + bytes);
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

// sums += R rows times n steps of P panels; R or P is 1.   sums: (R, kPanel) or (P, kPanel)
template <int R, int P, class Lines>
INLINE void bfloat16_chain(const uint32_t* x, const uint8_t* const (&panels)[P], int64_t n, float* sums, Lines lines) {
  Halves<kDotHalves ? 1 : R> halves;
  if (!kDotHalves) halves.take(x, (n + 1) / 2);
  for (int c = 0; c < kHalf; c += HalfSums<R, P>::V * kLanes) {
    HalfSums<R, P> chunk;
    set_zero(chunk.low), set_zero(chunk.high);
    if constexpr (kDotHalves) {
      add_pairs(chunk, x, panels, n, c, lines);
    } else {
      add_steps(chunk, halves, panels, n, c, lines);
    }
    chunk.add_to(sums, c);
  }
}

struct Bfloat16Panel {
  static constexpr DType type = DType::bfloat16;
  static constexpr int64_t kSteps = 2 * kWords;
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
  static INLINE void chain(const char* x, const uint8_t* panels, int64_t size, int64_t k, int64_t n, float* sums,
                           Lines lines) {
    const uint8_t* from[P];
    for (int p = 0; p < P; ++p) from[p] = panels + p * size + k * kPanel * 2;
    bfloat16_chain<R, P>(reinterpret_cast<const uint32_t*>(x), from, n, sums, lines);
  }
};

void linear_bfloat16(const PanelArgs* args) { linear_rows<Bfloat16Panel>(*args); }
