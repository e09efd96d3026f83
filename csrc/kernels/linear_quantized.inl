// y = act(x W^T + bias) * multiply + residual for one panel, weights int8 or int4, rows of x quantised to int8.
//
// A row is x[k] = sx * q[k], a weight w[c][k] = sw * (u[c][k] - z) with unsigned codes u, so
//   sum_k x[k] w[c][k] = sx * sw * (sum_k u[c][k] q[k] - z sum_k q[k]),
// where the bracket is an exact integer, whatever the order: it is the same on every instruction set. int8 has one sw
// for a column; int4 has one for each group of kGroup k, and the groups are added up in order, one fma each, before sx.
// Codes lie in quads: four k of a column side by side, a line of 64 bytes holds 16 columns.

INLINE Vi four_codes(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  return set1_int(word);
}

// R quantised rows, `stride` bytes apart.
template <int R>
struct QuantizedRows {
  const uint8_t* first;
  int64_t stride, codes_at;

  QuantizedRows(const void* x, int64_t ldx, int64_t K)
      : first(static_cast<const uint8_t*>(x)), stride(ldx), codes_at(quantized_codes(K)) {}
  const int8_t* codes(int r) const { return reinterpret_cast<const int8_t*>(first + r * stride + codes_at); }
  float scale(int r) const { return *reinterpret_cast<const float*>(first + r * stride); }
  int32_t sum(int r) const { return *reinterpret_cast<const int32_t*>(first + r * stride + 4); }
  int32_t group_sum(int r, int64_t g) const {  // times -kInt4Zero
    return reinterpret_cast<const int32_t*>(first + r * stride + kRowSums)[g];
  }
};

// U quads of R rows, each into accumulators of its own.
template <int U, int R, int V>
INLINE void int8_steps(Vi (&acc)[U][R][V], const int8_t* const (&q)[R], const uint8_t* codes, int64_t quad) {
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    Vi w[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) w[v] = load_int(codes + (quad + u) * 4 * kPanel + v * 4 * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vi s = four_codes(q[r] + (quad + u) * 4);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[u][r][v] = dot_bytes(acc[u][r][v], w[v], s);
    }
  }
}

// sums = R rows times the panel, but for sx.   sums: (R, kPanel)
template <int R>
__attribute__((noinline)) void int8_tile(const QuantizedRows<R>& x, const uint8_t* panel, int64_t K, float* sums) {
  constexpr int V = widest(R, kPanel), U = R == 1 && 2 * V <= kAccumulators ? 2 : 1;
  const int64_t n = quads(K);
  const float* scales = reinterpret_cast<const float*>(panel + n * 4 * kPanel);
  const int8_t* q[R];
  for (int r = 0; r < R; ++r) q[r] = x.codes(r);
  for (int c = 0; c < kPanel; c += V * kLanes) {
    const uint8_t* codes = panel + c * 4;
    Vi acc[U][R][V];
    for (int u = 0; u < U; ++u)
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) acc[u][r][v] = set1_int(u ? 0 : -kInt8Zero * x.sum(r));
    int64_t quad = 0;
    for (; quad + U <= n; quad += U) {
      if (R == 1)
        for (int line = 0; line < U * 2; ++line) __builtin_prefetch(codes + quad * 4 * kPanel + 4096 + line * 64);
      int8_steps(acc, q, codes, quad);
    }
    if constexpr (U > 1)
      if (quad < n) int8_steps<1>(reinterpret_cast<Vi(&)[1][R][V]>(acc[0]), q, codes, quad);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        Vi total = acc[0][r][v];
        if constexpr (U > 1) total = add_int(total, acc[1][r][v]);
        const int at = c + v * kLanes;
        store(sums + r * kPanel + at, to_float(total) * (set1(x.scale(r)) * load(scales + at)));
      }
  }
}

// The columns c.. and 16 + c.. of a group, V vectors of each: sums += scale * dot.
template <int R, int V>
INLINE void int4_columns(const QuantizedRows<R>& x, const int8_t* const (&q)[R], const uint8_t* group, int64_t g, int c,
                         float* sums) {
  const Vi nibble = set1_int(0x0f0f0f0f);
  Vi low[R][V], high[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) low[r][v] = high[r][v] = set1_int(0);
#pragma GCC unroll 8
  for (int i = 0; i < kGroup / 4; ++i) {
    Vi a[V], b[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const Vi line = load_int(group + 2 * kPanel + i * 64 + (c + v * kLanes) * 4);
      a[v] = and_int(line, nibble);
      b[v] = and_int(shift_right<4>(line), nibble);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vi s = four_codes(q[r] + g * kGroup + i * 4);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        low[r][v] = dot_nibbles(low[r][v], a[v], s);
        high[r][v] = dot_nibbles(high[r][v], b[v], s);
      }
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const Vi words = load_int(group + (c + v * kLanes) * 4);
    const Vf scale_low = as_float(shift_left<16>(words));
    const Vf scale_high = as_float(and_int(words, set1_int(static_cast<int32_t>(0xffff0000u))));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      float* s = sums + r * kPanel + c + v * kLanes;
      const Vi offset = set1_int(x.group_sum(r, g));
      store(s, fma(to_float(add_int(finish_nibbles(low[r][v]), offset)), scale_low, load(s)));
      s += kPanel / 2;
      store(s, fma(to_float(add_int(finish_nibbles(high[r][v]), offset)), scale_high, load(s)));
    }
  }
}

template <int R>
__attribute__((noinline)) void int4_tile(const QuantizedRows<R>& x, const uint8_t* panel, int64_t K, float* sums) {
  constexpr int V = widest(2 * R, kPanel / 2);
  const int8_t* q[R];
  for (int r = 0; r < R; ++r) q[r] = x.codes(r);
  for (int i = 0; i < R * kPanel; i += kLanes) store(sums + i, set1(0.0f));
  for (int64_t g = 0; g < groups(K); ++g) {
    const uint8_t* group = panel + g * kGroupBytes;
    if (R == 1)
      for (int line = 0; line < kGroupBytes; line += 64) __builtin_prefetch(group + 4 * kGroupBytes + line);
    for (int c = 0; c < kPanel / 2; c += V * kLanes) int4_columns<R, V>(x, q, group, g, c, sums);
  }
  for (int r = 0; r < R; ++r) {
    const Vf scale = set1(x.scale(r));
    for (int c = 0; c < kPanel; c += kLanes) store(sums + r * kPanel + c, load(sums + r * kPanel + c) * scale);
  }
}

template <DType type, int R>
INLINE void quantized_tile_of(int rows, const uint8_t* x, int64_t ldx, const uint8_t* panel, int64_t K, float* sums) {
  if constexpr (R > 1) {
    if (rows < R) return quantized_tile_of<type, R - 1>(rows, x, ldx, panel, K, sums);
  }
  if constexpr (type == DType::int8) {
    int8_tile<R>({x, ldx, K}, panel, K, sums);
  } else {
    int4_tile<R>({x, ldx, K}, panel, K, sums);
  }
}

template <DType type>
void quantized_rows(const PanelArgs& a) {
  alignas(64) float sums[kTileRows * kPanel];
  const int64_t tiles = (a.rows + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = a.rows * t / tiles, end = a.rows * (t + 1) / tiles;
    quantized_tile_of<type, kTileRows>(static_cast<int>(end - begin), static_cast<const uint8_t*>(a.x) + begin * a.ldx,
                                       a.ldx, static_cast<const uint8_t*>(a.panel), a.K, sums);
    for (int64_t i = begin; i < end; ++i)
      finish_linear_row(sums + (i - begin) * kPanel, a.epilogue, i, a.y + i * a.ldy, a.cols);
  }
}

void linear_int8(const PanelArgs* args) { quantized_rows<DType::int8>(*args); }
void linear_int4(const PanelArgs* args) { quantized_rows<DType::int4>(*args); }
