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

// One step: x[r * kWords] times its words, V vectors of either half of the columns of each panel.
template <int R, int V, int P>
INLINE void add_step(Vf (&low)[R][P * V], Vf (&high)[R][P * V], const float* x, const uint32_t* const (&panels)[P],
                     int64_t at) {
#pragma GCC unroll 16
  for (int j = 0; j < P * V; ++j) {
    const uint32_t* step = panels[j / V] + at + j % V * kLanes;
    __builtin_prefetch(step + kStreamAhead / 4);
    const Vi words = load_int(step);
    const Vf a = low_columns(words), b = high_columns(words);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vf s = set1(x[r * kWords]);
      low[r][j] = fma(s, a, low[r][j]);
      high[r][j] = fma(s, b, high[r][j]);
    }
  }
}

// The chains of a chunk in multiply-adds.
template <int R, int V, int P>
INLINE void add_steps(Vf (&low)[R][P * V], Vf (&high)[R][P * V], const Halves<R>& x, const uint32_t* const (&panels)[P],
                      int64_t n, int c) {
  int64_t i = 0;
  for (; i + 2 <= n; i += 2) {
    add_step<R, V>(low, high, &x.first[0][i / 2], panels, i * kHalf + c);
    add_step<R, V>(low, high, &x.second[0][i / 2], panels, (i + 1) * kHalf + c);
  }
  if (i < n) add_step<R, V>(low, high, &x.first[0][i / 2], panels, i * kHalf + c);
}

// The same in dot products of two steps.
template <int R, int V, int P>
INLINE void add_pairs(Vf (&low)[R][P * V], Vf (&high)[R][P * V], const uint32_t* x, const uint32_t* const (&panels)[P],
                      int64_t n, int c) {
  alignas(64) static const uint32_t nothing[kHalf] = {};  // of the step behind an odd last one
  for (int64_t i = 0; i < n; i += 2)
#pragma GCC unroll 16
    for (int j = 0; j < P * V; ++j) {
      const uint32_t* step = panels[j / V] + i * kHalf + c + j % V * kLanes;
      const Vi a = load_int(step), b = load_int(i + 1 < n ? step + kHalf : nothing + c + j % V * kLanes);
      __builtin_prefetch(step + kStreamAhead / 4);
      __builtin_prefetch(step + kStreamAhead / 4 + kHalf);
      const Vi low_pairs = or_int(shift_left<16>(a), and_int(b, set1_int(0xffff)));
      const Vi high_pairs = or_int(and_int(a, set1_int(static_cast<int32_t>(0xffff0000u))), shift_right<16>(b));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vi s = set1_int(static_cast<int32_t>(x[r * kWords + i / 2]));
        low[r][j] = dot_halves(low[r][j], low_pairs, s);
        high[r][j] = dot_halves(high[r][j], high_pairs, s);
      }
    }
}

// sums += R rows times n steps of P panels; R or P is 1.   sums: (R, kPanel) or (P, kPanel)
template <int R, int P>
INLINE void bfloat16_chain(const uint32_t* x, const uint32_t* const (&panels)[P], int64_t n, float* sums) {
  constexpr int V = R == 1 ? kHalf / kLanes : 1, C = P * V;
  Halves<kDotHalves ? 1 : R> halves;
  if (!kDotHalves) halves.take(x, (n + 1) / 2);
  for (int c = 0; c < kHalf; c += V * kLanes) {
    Vf low[R][C], high[R][C];
    set_zero(low), set_zero(high);
    if constexpr (kDotHalves) {
      add_pairs<R, V>(low, high, x, panels, n, c);
    } else {
      add_steps<R, V>(low, high, halves, panels, n, c);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) {
        float* s = sums + (r + j / V) * kPanel + c + j % V * kLanes;
        store(s, load(s) + low[r][j]);
        store(s + kHalf, load(s + kHalf) + high[r][j]);
      }
  }
}

struct Bfloat16Panel {
  static constexpr DType type = DType::bfloat16;
  static constexpr int64_t kSteps = 2 * kWords;
  template <int R>
  static __attribute__((noinline)) void tile(const char* x, const uint8_t* panel, int64_t k, int64_t n, float* sums,
                                             int, int) {
    chain<R, 1>(x, panel, 0, k, n, sums);
  }
  template <int P>
  static void row(const char* x, const uint8_t* panels, int64_t K, int64_t k, int64_t n, float* sums) {
    chain<1, P>(x, panels, panel_bytes(type, K), k, n, sums);
  }

 private:
  template <int R, int P>
  static INLINE void chain(const char* x, const uint8_t* panels, int64_t size, int64_t k, int64_t n, float* sums) {
    const uint32_t* from[P];
    for (int p = 0; p < P; ++p) from[p] = reinterpret_cast<const uint32_t*>(panels + p * size) + k * kHalf;
    bfloat16_chain<R, P>(reinterpret_cast<const uint32_t*>(x), from, n, sums);
  }
};

void linear_bfloat16(const PanelArgs* args) { linear_rows<Bfloat16Panel>(*args); }
