// y = act(x W^T + bias) * multiply + residual for some panels, weights int8 or int4, rows of x quantised to int8.
//
// A row is x[k] = sx * q[k], a weight w[c][k] = sw * (u[c][k] - z) with unsigned codes u, so
//   sum_k x[k] w[c][k] = sx * sw * (sum_k u[c][k] q[k] - z sum_k q[k]),
// where the bracket is an exact integer, whatever the order: it is the same on every instruction set. int8 has one sw
// for a column; int4 has one for each group of kGroup k, and the groups are added up in order, one fma each, before sx.
// Codes lie in quads: four k of a column side by side, a line of 64 bytes holds 16 columns. Rows and chunks of k are
// walked as linear_walk.inl says.

constexpr int64_t kChunkQuads = kLinearChunk / 4, kChunkGroups = kLinearChunk / kGroup;

INLINE Vi four_codes(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, sizeof word);
  return set1_int(word);
}

// What belongs to the codes of rows: their heads, and the rests of their chunks.
struct Heads {
  const uint8_t* first;
  int64_t stride;
  const Rests* first_rests;
  int64_t rows;  // in a chunk

  float scale(int64_t r) const { return *reinterpret_cast<const float*>(first + r * stride); }
  int32_t sum(int64_t r) const { return *reinterpret_cast<const int32_t*>(first + r * stride + 4); }
  const int32_t* group_sums(int64_t r) const {  // times -kInt4Zero
    return reinterpret_cast<const int32_t*>(first + r * stride + kRowSums);
  }
  const Rests* rests(int64_t k, int64_t r) const { return first_rests + k / kLinearChunk * rows + r; }
};

// The sums of a tile; rows are kPanel apart.
template <int R, int V>
INLINE void load_sums(Vi (&acc)[R][V], const int32_t* sums) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v] = load_int(sums + r * kPanel + v * kLanes);
}

template <int R, int V>
INLINE void store_sums(const Vi (&acc)[R][V], int32_t* sums) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store_int(sums + r * kPanel + v * kLanes, acc[r][v]);
}

// One quad of R rows of codes, kLinearChunk apart.
template <auto dot, int R, int V>
INLINE void int8_step(Vi (&acc)[R][V], const int8_t* q, const uint8_t* codes) {
  Vi w[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) w[v] = load_int(codes + v * 4 * kLanes);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Vi s = four_codes(q + r * kLinearChunk);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v] = dot(acc[r][v], w[v], s);
  }
}

// sums += R rows times n quads of the panel.   sums: (R, kPanel)
template <int R, auto dot>
__attribute__((noinline)) void int8_tile(const int8_t* q, const uint8_t* codes, int64_t n, int32_t* sums,
                                         const Meanwhile& meanwhile) {
  constexpr int V = widest(R, kPanel);
  ResultLines results = meanwhile.results;
  for (int c = 0; c < kPanel; c += V * kLanes) {
    const Ahead ahead = meanwhile.panel(codes, n, 4 * kPanel, c / (V * kLanes), kPanel / (V * kLanes));
    Vi acc[R][V];
    load_sums(acc, sums + c);
    for (int64_t quad = 0; quad < n; ++quad) {
      fetch_lines<R, 1, (V * kLanes * 4 + 63) / 64>(ahead, quad);
      results.template fetch<R>();
      int8_step<dot>(acc, q + quad * 4, codes + (quad * kPanel + c) * 4);
    }
    store_sums(acc, sums + c);
  }
}

// The same where dot_bytes is made of products of int16: the rows are widened once, not for every vector of weights.
template <int R>
__attribute__((noinline)) void int8_tile_widened(const int8_t* q, const uint8_t* codes, int64_t n, int32_t* sums,
                                                 const Meanwhile& meanwhile) {
  constexpr int V = widest(R, kPanel);
  alignas(64) int32_t even[R][kChunkQuads], odd[R][kChunkQuads];
  for (int r = 0; r < R; ++r)
    for (int64_t i = 0; i < n; i += kLanes) {  // a chunk has room for whole vectors
      const Vi s = load_int(q + r * kLinearChunk + i * 4);
      store_int(&even[r][i], even_signed(s));
      store_int(&odd[r][i], odd_signed(s));
    }
  ResultLines results = meanwhile.results;
  for (int c = 0; c < kPanel; c += V * kLanes) {
    const Ahead ahead = meanwhile.panel(codes, n, 4 * kPanel, c / (V * kLanes), kPanel / (V * kLanes));
    Vi acc[R][V];
    load_sums(acc, sums + c);
    for (int64_t quad = 0; quad < n; ++quad) {
      Vi w[V], x[V];
      fetch_lines<R, 1, (V * kLanes * 4 + 63) / 64>(ahead, quad);
      results.template fetch<R>();
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const Vi line = load_int(codes + (quad * kPanel + c + v * kLanes) * 4);
        w[v] = even_unsigned(line), x[v] = odd_unsigned(line);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vi s = set1_int(even[r][quad]), t = set1_int(odd[r][quad]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[r][v] = dot_pairs(dot_pairs(acc[r][v], w[v], s), x[v], t);
      }
    }
    store_sums(acc, sums + c);
  }
}

// Products of two neighbours, added in int16, overflow where both codes are large: such quads of a row are halved, and
// what is missing is added afterwards. Rows of normal numbers have 2 to 4 of them in a hundred.
//
// The rests of a chunk of n quads; the quads themselves become halves, rounded down. Where there are too many, all
// stay.
void split_chunk(int8_t* codes, int64_t n, Rests& rests) {
  const int most = static_cast<int>(minimum(kMostRests, n / 4));
  __builtin_memset(&rests, 0, sizeof rests);
  for (int64_t i = 0; i < n; i += kLanes)
    for (unsigned large = beyond_bounds(load_int(codes + i * 4)); large; large &= large - 1) {
      if (rests.count == most) {
        __builtin_memset(&rests, 0, sizeof rests);
        rests.whole = 1;
        return;
      }
      rests.of[rests.count++].quad = static_cast<int32_t>(i + __builtin_ctz(large));
    }
  for (int i = 0; i < rests.count; ++i) {
    int8_t rest[4], *quad = codes + rests.of[i].quad * 4;
    for (int j = 0; j < 4; ++j) {
      const int half = quad[j] >> 1;
      rest[j] = static_cast<int8_t>(quad[j] - half), quad[j] = static_cast<int8_t>(half);
    }
    __builtin_memcpy(&rests.of[i].codes, rest, sizeof rest);
  }
}

void split_codes(int8_t* codes, int64_t rows, int64_t K, Rests* rests) {
  if constexpr (kDotBounded)
    for (int64_t k = 0; k < K; k += kLinearChunk)
      for (int64_t r = 0; r < rows; ++r, codes += kLinearChunk, ++rests)
        split_chunk(codes, minimum(kChunkQuads, quads(K - k)), *rests);
}

// sums += the rests of R rows, up to `most` of each.
template <int R>
__attribute__((noinline)) void int8_rests(const Rests* rests, int most, const uint8_t* codes, int32_t* sums) {
  constexpr int V = widest(R, kPanel);
  for (int c = 0; c < kPanel; c += V * kLanes) {
    Vi acc[R][V];
    load_sums(acc, sums + c);
    for (int i = 0; i < most; ++i)
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const uint8_t* quad = codes + (rests[r].of[i].quad * kPanel + c) * 4;
        const Vi s = set1_int(rests[r].of[i].codes);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[r][v] = dot_bounded(acc[r][v], load_int(quad + v * 4 * kLanes), s);
      }
    store_sums(acc, sums + c);
  }
}

// The same as int8_tile of codes that have been split.
template <int R>
void int8_tile_split(const int8_t* q, const Rests* rests, const uint8_t* codes, int64_t n, int32_t* sums,
                     const Meanwhile& meanwhile) {
  int most = 0, whole = 0;
  for (int r = 0; r < R; ++r) most = rests[r].count > most ? rests[r].count : most, whole |= rests[r].whole;
  if (whole) {
    int8_tile_widened<R>(q, codes, n, sums, meanwhile);
  } else {
    int8_tile<R, dot_bounded>(q, codes, n, sums, meanwhile);
  }
  if (most) int8_rests<R>(rests, most, codes, sums);
}

// One row, two quads at a time into accumulators of their own.
void int8_row(const int8_t* q, const uint8_t* codes, int64_t n, int32_t* sums) {
  constexpr int V = widest(2, kPanel);
  for (int c = 0; c < kPanel; c += V * kLanes) {
    Vi even[1][V], odd[1][V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) even[0][v] = load_int(sums + c + v * kLanes), odd[0][v] = set1_int(0);
    int64_t quad = 0;
    for (; quad + 2 <= n; quad += 2) {
      const uint8_t* line = codes + (quad * kPanel + c) * 4;
      int8_step<dot_bytes>(even, q + quad * 4, line);
      int8_step<dot_bytes>(odd, q + quad * 4 + 4, line + 4 * kPanel);
    }
    if (quad < n) int8_step<dot_bytes>(even, q + quad * 4, codes + (quad * kPanel + c) * 4);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store_int(sums + c + v * kLanes, add_int(even[0][v], odd[0][v]));
  }
}

// One quad of a group.   low: of the columns c.., high: of 16 + c.., V vectors of each
template <int R, int V>
INLINE void int4_step(Vi (&low)[R][V], Vi (&high)[R][V], const int8_t* q, const uint8_t* codes) {
  const Vi nibble = set1_int(0x0f0f0f0f);
  Vi a[V], b[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const Vi line = load_int(codes + v * kLanes * 4);
    a[v] = and_int(line, nibble);
    b[v] = and_int(shift_right<4>(line), nibble);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Vi s = four_codes(q + r * kLinearChunk);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      low[r][v] = dot_nibbles(low[r][v], a[v], s);
      high[r][v] = dot_nibbles(high[r][v], b[v], s);
    }
  }
}

// A step multiplies both halves of a line, as long as twice the rows take.
constexpr int kInt4Halves = 2;

// Registers that a row's sums take for a vector of either half: those of the codes, and the floats, which stay in them
// from group to group. Vectors of four lanes gain more from twice the rows; their floats wait in memory.
constexpr int kInt4Sums = kLanes > 4 ? 4 : 2;
constexpr int kInt4Rows = kAccumulators / kInt4Sums < kTileRows ? kAccumulators / kInt4Sums : kTileRows;

// The columns c.. and 16 + c.. of n groups: sums += scale * dot.   group_sums: of R rows, `ld` apart
template <int R, int V>
INLINE void int4_columns(const int8_t* q, const uint8_t* group, int64_t n, const int32_t* group_sums, int64_t ld, int c,
                         float* sums, Ahead ahead, ResultLines& results) {
  Vf total_low[R][V], total_high[R][V];
  load_tile(total_low, sums + c, kPanel);
  load_tile(total_high, sums + kPanel / 2 + c, kPanel);
  for (int64_t g = 0; g < n; ++g, group += kGroupBytes, q += kGroup) {
    if (kFetches<kInt4Halves * R>) {
      for (int64_t byte = 0; byte < ahead.step; byte += 64) fetch_line(ahead.from + byte);
      ahead.from += ahead.step;
    }
    const uint8_t* codes = group + 2 * kPanel + c * 4;
    Vi low[R][V], high[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) low[r][v] = high[r][v] = set1_int(0);
    if (R == 1) {
#pragma GCC unroll 8  // the end of a short loop would be guessed wrong
      for (int i = 0; i < kGroup / 4; ++i) int4_step(low, high, q + i * 4, codes + i * 64);
    } else {
#pragma GCC unroll 1  // else the codes of all quads would be unpacked first, into memory
      for (int i = 0; i < kGroup / 4; ++i) {
        results.template fetch<kInt4Halves * R>();
        int4_step(low, high, q + i * 4, codes + i * 64);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const Vi words = load_int(group + (c + v * kLanes) * 4);
      const Vf scale_low = low_columns(words), scale_high = high_columns(words);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vi offset = set1_int(group_sums[r * ld + g]);
        total_low[r][v] = fma(to_float(add_int(finish_nibbles(low[r][v]), offset)), scale_low, total_low[r][v]);
        total_high[r][v] = fma(to_float(add_int(finish_nibbles(high[r][v]), offset)), scale_high, total_high[r][v]);
      }
    }
  }
  store_tile(total_low, sums + c, kPanel);
  store_tile(total_high, sums + kPanel / 2 + c, kPanel);
}

// sums += R rows times n groups of the panel, at most kInt4Rows at once; leaves the lines of results that are left.
template <int R>
__attribute__((noinline)) void int4_tile(const int8_t* q, const uint8_t* group, int64_t n, const int32_t* group_sums,
                                         int64_t ld, float* sums, Meanwhile& meanwhile) {
  if constexpr (R > kInt4Rows) {
    constexpr int half = R / 2;
    Meanwhile part = {meanwhile.tile * 2, meanwhile.tiles * 2, meanwhile.results};
    int4_tile<half>(q, group, n, group_sums, ld, sums, part);
    ++part.tile;
    int4_tile<R - half>(q + half * kLinearChunk, group, n, group_sums + half * ld, ld, sums + half * kPanel, part);
    meanwhile.results = part.results;
  } else {
    constexpr int V = widest(kInt4Sums * R, kPanel / 2);
    ResultLines left = meanwhile.results;  // in registers
    for (int c = 0; c < kPanel / 2; c += V * kLanes) {
      const Ahead ahead = meanwhile.panel(group, n, kGroupBytes, c / (V * kLanes), kPanel / 2 / (V * kLanes));
      int4_columns<R, V>(q, group, n, group_sums, ld, c, sums, ahead, left);
    }
    meanwhile.results = left;
  }
}

// How a type walks its panels; Sum is what it adds up in.
struct Int8Panel {
  static constexpr DType type = DType::int8;
  using Sum = int32_t;

  static void begin(const Heads& heads, int64_t first, int rows, int32_t* sums) {
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < kPanel; c += kLanes)
        store_int(sums + r * kPanel + c, set1_int(-kInt8Zero * heads.sum(first + r)));
  }
  static void row(const int8_t* q, const uint8_t* panel, int64_t K, const Heads&, int32_t* sums) {
    int8_row(q, panel, quads(K), sums);
  }
  template <int R>
  static void tile(const int8_t* q, const uint8_t* panel, int64_t K, int64_t k, const Heads& heads, int64_t first,
                   int32_t* sums, const Meanwhile& meanwhile) {
    const uint8_t* codes = panel + k * kPanel;
    const int64_t n = minimum(kChunkQuads, quads(K - k));
    if constexpr (kDotBytes) {
      int8_tile<R, dot_bytes>(q, codes, n, sums, meanwhile);
    } else if constexpr (kDotBounded) {
      int8_tile_split<R>(q, heads.rests(k, first), codes, n, sums, meanwhile);
    } else {
      int8_tile_widened<R>(q, codes, n, sums, meanwhile);
    }
  }
  static void end(const Heads& heads, int64_t first, int rows, const uint8_t* panel, int64_t K, const int32_t* sums,
                  float* out) {
    const float* scales = reinterpret_cast<const float*>(panel + quads(K) * 4 * kPanel);
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < kPanel; c += kLanes)
        store(out + r * kPanel + c,
              to_float(load_int(sums + r * kPanel + c)) * (set1(heads.scale(first + r)) * load(scales + c)));
  }
};

struct Int4Panel {
  static constexpr DType type = DType::int4;
  using Sum = float;

  static void begin(const Heads&, int64_t, int rows, float* sums) {
    for (int i = 0; i < rows * kPanel; i += kLanes) store(sums + i, set1(0.0f));
  }
  static void row(const int8_t* q, const uint8_t* panel, int64_t K, const Heads& heads, float* sums) {
    Meanwhile nothing;
    int4_tile<1>(q, panel, groups(K), heads.group_sums(0), 0, sums, nothing);
  }
  template <int R>
  static void tile(const int8_t* q, const uint8_t* panel, int64_t K, int64_t k, const Heads& heads, int64_t first,
                   float* sums, const Meanwhile& meanwhile) {
    Meanwhile own = meanwhile;
    int4_tile<R>(q, panel + k / kGroup * kGroupBytes, minimum(kChunkGroups, groups(K - k)),
                 heads.group_sums(first) + k / kGroup, heads.stride / 4, sums, own);
  }
  static void end(const Heads& heads, int64_t first, int rows, const uint8_t*, int64_t, const float* sums, float* out) {
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < kPanel; c += kLanes)
        store(out + r * kPanel + c, load(sums + r * kPanel + c) * set1(heads.scale(first + r)));
  }
};

template <class Panel, int R>
INLINE void quantized_tile_of(int rows, const int8_t* q, const uint8_t* panel, int64_t K, int64_t k, const Heads& heads,
                              int64_t first, typename Panel::Sum* sums, const Meanwhile& meanwhile) {
  if constexpr (R > 1) {
    if (rows < R) return quantized_tile_of<Panel, R - 1>(rows, q, panel, K, k, heads, first, sums, meanwhile);
  }
  Panel::template tile<R>(q, panel, K, k, heads, first, sums, meanwhile);
}

// Sums to results, of rows that are at most a tile.
template <class Panel>
void finish_quantized(const PanelArgs& a, const Heads& heads, int64_t first, int rows, int64_t column,
                      const uint8_t* panel, const typename Panel::Sum* sums) {
  alignas(64) float out[kTileRows * kPanel];
  Panel::end(heads, first, rows, panel, a.K, sums, out);
  for (int i = 0; i < rows; ++i) finish_linear_row(out + i * kPanel, a, first + i, column);
}

// Results of up to kMostRows rows and a panel.
template <class Panel>
void quantized_group(const PanelArgs& a, int64_t first, int rows, int64_t column, const uint8_t* panel) {
  alignas(64) typename Panel::Sum sums[kMostRows * kPanel];
  const Heads heads = {a.heads, a.ld_heads, a.rests, a.rows};
  const int8_t* x = static_cast<const int8_t*>(a.x);
  Panel::begin(heads, first, rows, sums);
  if (a.rows == 1) {
    Panel::row(x, panel, a.K, heads, sums);
    return finish_quantized<Panel>(a, heads, first, 1, column, panel, sums);
  }
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t k = 0; k == 0 || k < a.K; k += kLinearChunk)  // once also where K is 0, which has no chunk
    for (int t = 0; t < tiles; ++t) {
      const int begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const bool ends = k + kLinearChunk >= a.K;
      const Meanwhile meanwhile = {t, tiles, ResultLines(a, first + begin, first + (ends ? end : begin), column)};
      if (a.K > 0)
        quantized_tile_of<Panel, kTileRows>(end - begin,
                                            x + k / kLinearChunk * a.ld_chunk + (first + begin) * kLinearChunk, panel,
                                            a.K, k, heads, first + begin, sums + begin * kPanel, meanwhile);
      if (ends) finish_quantized<Panel>(a, heads, first + begin, end - begin, column, panel, sums + begin * kPanel);
    }
}

template <class Panel>
void quantized_rows(const PanelArgs& a) {
  const int64_t size = panel_bytes(Panel::type, a.K), count = (a.rows + kMostRows - 1) / kMostRows;
  for (int64_t column = 0; column < a.cols; column += kPanel)
    for (int64_t g = 0; g < count; ++g) {
      const int64_t begin = a.rows * g / count, end = a.rows * (g + 1) / count;
      quantized_group<Panel>(a, begin, static_cast<int>(end - begin), column,
                             static_cast<const uint8_t*>(a.panels) + column / kPanel * size);
    }
}

void linear_int8(const PanelArgs* args) { quantized_rows<Int8Panel>(*args); }
void linear_int4(const PanelArgs* args) { quantized_rows<Int4Panel>(*args); }
