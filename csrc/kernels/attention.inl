// Scaled dot-product attention with an online softmax.
//
// Keys are taken in blocks of kBlock, counted from key 0. A block b gives each row
//   m_b = max_j s_j,   p_j = exp(s_j - m_b),   l_b = sum_j p_j,   o_b = sum_j p_j v_j     with s_j = scale q.k_j +
//   bias_j
// and the blocks are merged in order into running values
//   M' = max(M, m_b),   L' = L e^(M - M') + l_b e^(m_b - M'),   O' likewise;   at the end   out = O / L.
// Both products are the register tile of tile.inl: over D with 16 keys of a page side by side, over keys with the
// columns of v side by side. Every sum runs over j or d in order, or over fixed lanes, and a row never reads another
// row's data, so its bits depend on itself alone. attention() and attention_partial() + attention_merge() are made of
// the same pieces.

constexpr int kTileColumns = 64;  // columns of v, or keys, that one register tile covers at most

constexpr int kRowSlots = 16;  // kMaxRows, rounded up to whole vectors

// One block of keys for the R <= kMaxRows rows from `row` on. Keys are counted from the block's first key, `begin`.
struct BlockTile {
  int64_t begin;
  int row, rows;
  int first, last;                   // the keys that any row sees: [first, last)
  int from[kMaxRows], to[kMaxRows];  // the keys that each row sees; emptied if all of them are masked
  const float* mask[kMaxRows];       // the row's bias (from `begin` on) if it masks keys in this block, else null
  float m[kRowSlots], l[kRowSlots];
  alignas(64) float p[kMaxRows][kBlock];  // scores, then their exponentials
};

// Where the R rows of o_b go: out = o_b, or, if keep is given, out = keep * out + add * o_b.
struct Destination {
  float* out[kMaxRows];
  const float* keep;
  const float* add;
};

struct Running {
  float M[kRowSlots], L[kRowSlots];
};

// Sets what each row sees of the block; false if no row sees anything.
bool open_block(const AttentionArgs& args, int64_t begin, int row, int rows, BlockTile& tile) {
  tile.begin = begin;
  tile.row = row;
  tile.rows = rows;
  tile.first = kBlock;
  tile.last = 0;
  for (int r = 0; r < kRowSlots; ++r) {
    tile.m[r] = -kInfinity;
    tile.l[r] = 0.0f;
  }
  for (int r = 0; r < rows; ++r) {
    tile.from[r] = static_cast<int>(minimum(maximum(args.lo[row + r] - begin, 0), kBlock));
    tile.to[r] = static_cast<int>(minimum(maximum(args.hi[row + r] - begin, 0), kBlock));
    tile.mask[r] = nullptr;
    if (tile.from[r] >= tile.to[r]) {
      tile.from[r] = tile.to[r] = 0;
      continue;
    }
    if (tile.from[r] < tile.first) tile.first = tile.from[r];
    if (tile.to[r] > tile.last) tile.last = tile.to[r];
  }
  tile.first -= tile.first % kPage;
  return tile.first < tile.last;
}

// p[r][key..] = q . k for V vectors of keys; while all of `width` keys remain, then with narrower tiles.
template <int R, int V>
void score_keys(const AttentionArgs& args, BlockTile& tile, int key) {
  const int stop = (tile.last + kPage - 1) / kPage * kPage;
  const float* q[R];
  for (int r = 0; r < R; ++r) q[r] = args.q[tile.row + r];
  for (; key + V * kLanes <= stop; key += V * kLanes) {
    const float* k[V];
    for (int v = 0; v < V; ++v) {
      const int64_t j = tile.begin + key + v * kLanes;
      k[v] = args.k_pages[j / kPage] + j % kPage;
    }
    Vf acc[R][V];
    set_zero(acc);
    accumulate(acc, q, k, kPage, args.D);
    store_tile(acc, &tile.p[0][key], kBlock);
  }
  if constexpr (V > 1) {
    if (key < stop) score_keys<R, V / 2>(args, tile, key);
  }
}

// Products to scores: scale, softcap, bias, and -inf where the row does not see the key. Sets m and mask.
void finish_scores(const AttentionArgs& args, BlockTile& tile, int r) {
  const float* bias = args.bias ? args.bias[tile.row + r] : nullptr;
  const int from = tile.from[r], to = tile.to[r];
  if (bias) bias += tile.begin;
  const Vf lowest = set1(-kInfinity);
  Vf highest = lowest;
  unsigned holes = 0;
  for (int j = tile.first; j < tile.last; j += kLanes) {
    Vf s = load(&tile.p[r][j]) * set1(args.scale);
    if (args.softcap > 0.0f) s = set1(args.softcap) * tanh(s / set1(args.softcap));
    const bool inside = from <= j && j + kLanes <= to;
    if (bias) {
      const Vf b = inside ? load(bias + j) : load_lanes(bias + j, from - j, to - j);
      const Vm hole = equal(b, lowest);
      holes |= bits(hole);
      s = select(hole, lowest, s + b);  // s may be NaN there
    }
    if (!inside) s = select(lanes_between(from - j, to - j), s, lowest);
    highest = max(s, highest);  // NaN is passed over
    store(&tile.p[r][j], s);
  }
  tile.m[r] = maximum(highest);
  tile.mask[r] = holes ? bias : nullptr;
}

// All scores are -inf or NaN: with a NaN the row becomes NaN, otherwise the block is skipped for this row.
void settle_unseen_block(BlockTile& tile, int r) {
  for (int j = tile.from[r]; j < tile.to[r]; ++j)
    if (tile.p[r][j] != tile.p[r][j]) tile.m[r] = tile.p[r][j];
  if (tile.m[r] == -kInfinity) tile.from[r] = tile.to[r] = 0;
}

// p and l of all rows that see something.
void exponentiate(BlockTile& tile) {
  for (int r = 0; r < tile.rows; ++r) {
    if (tile.from[r] >= tile.to[r]) continue;
    const Vf m = set1(tile.m[r]);
    Vf total = set1(0.0f);
    for (int j = tile.first; j < tile.last; j += kLanes) {
      const Vf e = exp_below_overflow(load(&tile.p[r][j]) - m);
      store(&tile.p[r][j], e);
      total = total + e;
    }
    tile.l[r] = sum(total);
  }
}

// Scores, m, l and p of all rows of the tile; also writes the scores to args.weights.
template <int R>
void score_block(const AttentionArgs& args, BlockTile& tile) {
  score_keys<R, widest(R, kTileColumns)>(args, tile, tile.first);
  for (int r = 0; r < R; ++r) {
    if (tile.from[r] >= tile.to[r]) continue;
    finish_scores(args, tile, r);
    float* weights = args.weights ? args.weights[tile.row + r] : nullptr;
    if (weights)
      __builtin_memcpy(weights + tile.begin + tile.from[r], &tile.p[r][tile.from[r]],
                       sizeof(float) * static_cast<size_t>(tile.to[r] - tile.from[r]));
    if (tile.m[r] == -kInfinity) settle_unseen_block(tile, r);
  }
  exponentiate(tile);
}

// acc[r] += sum of p[r][j] v[j] over keys from <= j < to, in order, for V vectors of columns from `column` on.
template <int R, int V>
INLINE void add_values(Vf (&acc)[R][V], const AttentionArgs& args, const BlockTile& tile, int r0, int from, int to,
                       int64_t column) {
  alignas(64) float copy[kPage * kLanes];  // of a column group that ends at the end of the page's memory
  while (from < to) {
    const int64_t j = tile.begin + from;
    const int n = static_cast<int>(minimum(kPage - j % kPage, to - from));
    const float* values = args.v_pages[j / kPage] + j % kPage * args.ldv + column;
    const float *p[R], *columns[V];
    for (int r = 0; r < R; ++r) p[r] = &tile.p[r0 + r][from];
    if (V == 1 && column + kLanes > args.ldv) {  // reading a whole vector would leave the page
      for (int i = 0; i < n; ++i)
        store(copy + i * kLanes, load_n(values + i * args.ldv, static_cast<int>(args.ldv - column)));
      columns[0] = copy;
      accumulate(acc, p, columns, kLanes, n);
    } else {
      for (int v = 0; v < V; ++v) columns[v] = values + v * kLanes;
      accumulate(acc, p, columns, args.ldv, n);
    }
    from += n;
  }
}

// The same for one row r, passing over the keys that its bias masks: their v may be garbage.
template <int V>
INLINE void add_own_values(Vf (&acc)[1][V], const AttentionArgs& args, const BlockTile& tile, int r, int from, int to,
                           int64_t column) {
  const float* mask = tile.mask[r];
  if (!mask) return add_values(acc, args, tile, r, from, to, column);
  while (from < to) {
    while (from < to && mask[from] == -kInfinity) ++from;
    int end = from;
    while (end < to && mask[end] != -kInfinity) ++end;
    add_values(acc, args, tile, r, from, end, column);
    from = end;
  }
}

template <int V>
INLINE void add_own_values(float* o, const AttentionArgs& args, const BlockTile& tile, int r, int from, int to,
                           int64_t column) {
  if (from >= to) return;
  Vf acc[1][V];
  for (int v = 0; v < V; ++v) acc[0][v] = load(o + v * kLanes);
  add_own_values(acc, args, tile, r, from, to, column);
  store_tile(acc, o, kTileColumns);
}

// Writes `width` columns of o to a row of the destination.
INLINE void deliver(const float* o, const Destination& to, int r, int64_t column, int64_t width) {
  float* out = to.out[r] + column;
  for (int64_t c = 0; c < width; c += kLanes) {
    Vf x = load_up_to(o + c, width - c);
    if (to.keep) x = fma(load_up_to(out + c, width - c), set1(to.keep[r]), x * set1(to.add[r]));
    store_up_to(out + c, x, width - c);
  }
}

// o_b of R rows from r0 on, columns in groups of V vectors, then of fewer. The rows share the keys that all of them
// see; what a row sees before and after those, it adds alone, in the same order of keys.
template <int R, int V>
void value_columns(const AttentionArgs& args, const BlockTile& tile, int r0, int64_t column, const Destination& to) {
  int from = 0, end = kBlock;  // common to the R rows
  for (int r = r0; r < r0 + R; ++r) {
    if (tile.from[r] > from) from = tile.from[r];
    if (tile.to[r] < end) end = tile.to[r];
  }
  alignas(64) float o[R * kTileColumns];
  for (; column + (V > 1 ? V * kLanes : 1) <= args.Dv; column += V * kLanes) {
    Vf acc[R][V];
    set_zero(acc);
    if constexpr (R == 1) {
      add_own_values(acc, args, tile, r0, from, end, column);
      store_tile(acc, o, kTileColumns);
    } else {
      store_tile(acc, o, kTileColumns);
      bool alone = false;
      for (int r = 0; r < R; ++r) {
        add_own_values<V>(o + r * kTileColumns, args, tile, r0 + r, tile.from[r0 + r], from, column);
        alone |= tile.from[r0 + r] < from;
      }
      if (alone)
        for (int r = 0; r < R; ++r)
          for (int v = 0; v < V; ++v) acc[r][v] = load(o + r * kTileColumns + v * kLanes);
      add_values(acc, args, tile, r0, from, end, column);
      store_tile(acc, o, kTileColumns);
      for (int r = 0; r < R; ++r)
        add_own_values<V>(o + r * kTileColumns, args, tile, r0 + r, end, tile.to[r0 + r], column);
    }
    for (int r = 0; r < R; ++r)
      deliver(o + r * kTileColumns, to, r0 + r, column, minimum(V * kLanes, args.Dv - column));
  }
  if constexpr (V > 1) {
    if (column < args.Dv) value_columns<R, V / 2>(args, tile, r0, column, to);
  }
}

// Whether the R rows can share a walk over the values: all see some keys in common, and no row masks any.
template <int R>
bool rows_share_keys(const BlockTile& tile) {
  int from = 0, to = kBlock;
  for (int r = 0; r < R; ++r) {
    if (tile.mask[r]) return false;
    if (tile.from[r] > from) from = tile.from[r];
    if (tile.to[r] < to) to = tile.to[r];
  }
  return from < to;
}

template <int R>
void value_block(const AttentionArgs& args, const BlockTile& tile, const Destination& to) {
  if (rows_share_keys<R>(tile)) return value_columns<R, widest(R, kTileColumns)>(args, tile, 0, 0, to);
  for (int r = 0; r < R; ++r)
    if (tile.from[r] < tile.to[r]) value_columns<1, widest(1, kTileColumns)>(args, tile, r, 0, to);
}

// Calls of the tile of exactly tile.rows rows.
template <int R>
INLINE void score_block_of(const AttentionArgs& args, BlockTile& tile) {
  if constexpr (R > 1) {
    if (tile.rows < R) return score_block_of<R - 1>(args, tile);
  }
  score_block<R>(args, tile);
}
template <int R>
INLINE void value_block_of(const AttentionArgs& args, const BlockTile& tile, const Destination& to) {
  if constexpr (R > 1) {
    if (tile.rows < R) return value_block_of<R - 1>(args, tile, to);
  }
  value_block<R>(args, tile, to);
}

// Merges a block's m and l into the rows' running values, and gives the factors of O and of o_b. A block that a row
// does not see (m = -inf) changes nothing. NaN goes through. All arrays have kRowSlots elements.
void merge_block(const float* m, const float* l, int rows, Running& running, float* keep, float* add) {
  for (int r = 0; r < rows; r += kLanes) {
    const Vf m_b = load(m + r), M = load(running.M + r), L = load(running.L + r), lowest = set1(-kInfinity);
    const Vf larger = select(either(less(M, m_b), is_nan(m_b)), m_b, M);
    const Vm unseen = equal(m_b, lowest);
    const Vf a = select(unseen, set1(1.0f), exp_below_overflow(M - larger));
    const Vf b = select(unseen, set1(0.0f), exp_below_overflow(m_b - larger));
    store(running.M + r, larger);
    store(running.L + r, L * a + load(l + r) * b);
    store(keep + r, a);
    store(add + r, b);
  }
}

void start_rows(const AttentionArgs& args, int row, int rows, Running& running) {
  for (int r = 0; r < kRowSlots; ++r) {
    running.M[r] = -kInfinity;
    running.L[r] = 0.0f;
  }
  for (int r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < args.Dv; ++c) args.out[row + r][c] = 0.0f;
  }
}

// Scores to weights: e^(s - M) / L within [lo, hi), zero elsewhere below `end`.
void finish_weights(float* weights, int64_t lo, int64_t hi, int64_t end, float M, float L) {
  if (M == -kInfinity || lo >= hi) lo = hi = 0;
  for (int64_t j = 0; j < lo; ++j) weights[j] = 0.0f;
  for (int64_t j = lo; j < hi; j += kLanes)
    store_up_to(weights + j, exp_below_overflow(load_up_to(weights + j, hi - j) - set1(M)) / set1(L), hi - j);
  for (int64_t j = hi; j < end; ++j) weights[j] = 0.0f;
}

// out = O / L; a row that saw nothing keeps its zeros.
void finish_rows(const AttentionArgs& args, int row, int rows, const Running& running) {
  int64_t end = 0;
  for (int r = 0; r < args.rows && args.weights; ++r) end = maximum(end, args.hi[r]);
  for (int r = 0; r < rows; ++r) {
    float* out = args.out[row + r];
    if (args.weights && args.weights[row + r])
      finish_weights(args.weights[row + r], args.lo[row + r], args.hi[row + r], end, running.M[r], running.L[r]);
    if (running.M[r] == -kInfinity) continue;
    for (int64_t c = 0; c < args.Dv; c += kLanes)
      store_up_to(out + c, load_up_to(out + c, args.Dv - c) / set1(running.L[r]), args.Dv - c);
  }
}

// The blocks that rows [row, row + rows) see: [first, last).
void blocks_of_rows(const AttentionArgs& args, int row, int rows, int64_t& first, int64_t& last) {
  first = INT64_MAX;
  last = 0;
  for (int r = row; r < row + rows; ++r) {
    if (args.lo[r] >= args.hi[r]) continue;
    first = minimum(first, args.lo[r] / kBlock);
    last = maximum(last, (args.hi[r] + kBlock - 1) / kBlock);
  }
}

void attention_rows(const AttentionArgs& args, int row, int rows) {
  BlockTile tile;
  Running running;
  float keep[kRowSlots], add[kRowSlots];
  Destination to = {{}, keep, add};
  for (int r = 0; r < rows; ++r) to.out[r] = args.out[row + r];
  start_rows(args, row, rows, running);
  int64_t block, last;
  for (blocks_of_rows(args, row, rows, block, last); block < last; ++block) {
    if (!open_block(args, block * kBlock, row, rows, tile)) continue;
    score_block_of<kMaxRows>(args, tile);
    merge_block(tile.m, tile.l, rows, running, keep, add);
    value_block_of<kMaxRows>(args, tile, to);
  }
  finish_rows(args, row, rows, running);
}

// Rows in equal groups of at most kMaxRows.
INLINE int row_groups(const AttentionArgs& args) { return (args.rows + kMaxRows - 1) / kMaxRows; }
INLINE int group_begin(const AttentionArgs& args, int group) {
  return static_cast<int>(static_cast<int64_t>(args.rows) * group / row_groups(args));
}

void attention(const AttentionArgs* args) {
  for (int g = 0; g < row_groups(*args); ++g)
    attention_rows(*args, group_begin(*args, g), group_begin(*args, g + 1) - group_begin(*args, g));
}

void partial_of_rows(const AttentionArgs& args, int64_t block, int row, int rows, float* partials) {
  BlockTile tile;
  Destination to = {{}, nullptr, nullptr};
  for (int r = 0; r < rows; ++r) {
    to.out[r] = partials + (row + r) * (args.Dv + 2) + 2;
    for (int64_t c = 0; c < args.Dv; ++c) to.out[r][c] = 0.0f;
  }
  if (open_block(args, block * kBlock, row, rows, tile)) {
    score_block_of<kMaxRows>(args, tile);
    value_block_of<kMaxRows>(args, tile, to);
  }
  for (int r = 0; r < rows; ++r) {
    to.out[r][-2] = tile.m[r];
    to.out[r][-1] = tile.l[r];
  }
}

void attention_partial(const AttentionArgs* args, int64_t block_begin, int64_t block_end, float* partials) {
  for (int64_t block = block_begin; block < block_end; ++block, partials += args->rows * (args->Dv + 2))
    for (int g = 0; g < row_groups(*args); ++g)
      partial_of_rows(*args, block, group_begin(*args, g), group_begin(*args, g + 1) - group_begin(*args, g), partials);
}

void attention_merge(const AttentionArgs* args, int ranges, const int64_t* range_begin, const float* const* partials) {
  const int64_t ld = args->Dv + 2;
  for (int row = 0; row < args->rows; ++row) {
    Running running;
    start_rows(*args, row, 1, running);
    for (int i = 0; i < ranges; ++i)
      for (int64_t block = 0; block < range_begin[i + 1] - range_begin[i]; ++block) {
        const float* partial = partials[i] + (block * args->rows + row) * ld;
        float m[kRowSlots] = {partial[0]}, l[kRowSlots] = {partial[1]}, keep[kRowSlots], add[kRowSlots];
        merge_block(m, l, 1, running, keep, add);
        const Destination to = {{args->out[row]}, keep, add};
        if (partial[0] != -kInfinity) deliver(partial + 2, to, 0, 0, args->Dv);
      }
    finish_rows(*args, row, 1, running);
  }
}

// Writes `count` tokens into columns offset.. of a page.   k: (count, D), page: (D, kPage)
void pack_keys(const float* k, int64_t ldk, int count, int64_t D, float* page, int offset) {
  for (int64_t d = 0; d < D; ++d)
    for (int t = 0; t < count; ++t) page[d * kPage + offset + t] = k[t * ldk + d];
}
