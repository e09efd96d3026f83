// The first half of a block: scores, and the softmax's powers.

// Sets what each row sees of the block; false if no row sees anything.
bool open_block(const AttentionArgs& args, int64_t begin, const RowGroup& group, BlockTile& tile) {
  tile.begin = begin;
  const auto inside = [begin](int64_t key) { return static_cast<int>(minimum(maximum(key - begin, 0), kBlock)); };
  tile.seen_from = inside(group.first);
  tile.seen_to = tile.last = inside(group.last);
  tile.first = tile.seen_from / kPage * kPage;
  if (tile.first >= tile.last) return false;
  tile.even = inside(group.all_from) == tile.seen_from && inside(group.all_to) == tile.seen_to;
  bool any = tile.even;
  for (int r = 0; r < group.rows; ++r) {
    tile.from[r] = tile.even ? tile.seen_from : inside(args.lo[group.row + r]);
    tile.to[r] = tile.even ? tile.seen_to : inside(args.hi[group.row + r]);
    tile.mask[r] = nullptr;
    if (tile.from[r] >= tile.to[r]) tile.from[r] = tile.to[r] = 0;
    any |= tile.from[r] < tile.to[r];
  }
  return any;
}

INLINE int64_t pages_of(int64_t keys) { return (keys + kPage - 1) / kPage; }

// Pages are read in this order: the keys of a run, its values, the keys of the next run; after the last one, what the
// caller says. What is read `ahead` pages after a page of keys, or of values:
INLINE PageOfRows after_values(const AttentionArgs& args, const RowGroup& group, int64_t page, int64_t ahead) {
  const int64_t end = group.run_end, next = page + ahead;
  if (next < end) return {static_cast<const float*>(args.v_pages[next]), args.Dv, args.ldv};
  if (next < group.pages) return {static_cast<const float*>(args.k_pages[next]), args.D, args.ldk};
  const int64_t later = next - group.pages;
  if (later < args.later_pages) return {static_cast<const float*>(args.later[later]), args.D, args.ldk};
  return {static_cast<const float*>(args.v_pages[end - 1]), 0, args.ldv};  // nothing comes after it
}
INLINE PageOfRows after_keys(const AttentionArgs& args, const RowGroup& group, int64_t page, int64_t ahead) {
  const int64_t end = group.run_end, next = page + ahead;
  if (next < end) return {static_cast<const float*>(args.k_pages[next]), args.D, args.ldk};
  return after_values(args, group, group.run_begin + page - end, ahead);
}

// So many pages of rows of `width` that they and those at hand stay in the first-level cache.
template <class T>
INLINE int64_t pages_ahead(const AttentionArgs& args, int64_t width) {
  const int64_t bytes = args.ldk && !args.near ? kBytesTouched : kBytesAhead;
  return maximum(1, bytes * kTerms<T> / (kPage * maximum(width, 1) * int64_t(sizeof(T))));
}

// Which lines of `next`, read `ahead` pages of rows of `width` after `page`, are prefetched for R rows: few between
// neighbours in float32, as the processor's own prefetching goes on there, but for many rows; in smaller types more is
// left to arithmetic, and few lose.
template <class T, int R>
INLINE uintptr_t skip_bits(const void* page, const void* next, int64_t width, int64_t ahead) {
  const bool goes_on = is_float<T> && !kFetches<R> && next == static_cast<const float*>(page) + ahead * kPage * width;
  return goes_on ? kOneInFour : kEveryLine;
}

// What is read after that which was fetched during the keys: memory is not to rest while powers are computed.
template <class T>
INLINE void fetch_meanwhile(const AttentionArgs& args, const RowGroup& group, const BlockTile& tile) {
  const int64_t page = (tile.begin + tile.last - 1) / kPage;
  const PageOfRows next = after_keys(args, group, page, pages_ahead<T>(args, args.D) + 1);
  const char* at = reinterpret_cast<const char*>(next.rows);
  for (int byte = 0; byte < kBytesBetween; byte += 64) __builtin_prefetch(at + byte, 0, 3);
}

// The same pointer, of which the compiler knows nothing.
template <class T>
INLINE T* opaque(T* p) {
  asm("" : "+r"(p));
  return p;
}

// p[r][key..] = q . k for pages whose keys are rows: kLanes of them are turned into columns in registers.
template <int R>
void score_key_rows(const AttentionArgs& args, const RowGroup& group, BlockTile& tile) {
  constexpr int square = kLanes * kLanes / kLine, lines = square < 4 ? square : 4;  // touched at once
  const int64_t ld = args.ldk;
  // Measured: more rows, shorter vectors and other widths lose by it (docs/decisions/read-in-order.md).
  const bool sparse = kLanes == kLine && R <= 2 && args.D >= 4 * kLine && args.D <= 8 * kLine;
  const uintptr_t skip = sparse ? kOneInFour : kEveryLine;
  for (int key = tile.first; key < tile.last; key += kLanes) {
    const int64_t j = tile.begin + key;
    const float* k = static_cast<const float*>(args.k_pages[j / kPage]) + j % kPage * ld;
    Touch next(after_keys(args, group, j / kPage, pages_ahead<float>(args, args.D)), j % kPage, args.near, skip);
    Vf acc[R];
    for (int r = 0; r < R; ++r) acc[r] = set1(0.0f);
    int64_t d = 0;
    const auto query = [&] { return group.q + d / kRun * kRun * R + d % kRun; };
    for (; d + kLanes <= args.D; d += kLanes) {
      Vf x[kLanes];
      const float* rows = k + d;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        x[i] = load(rows + i % 4 * ld);
        if (i % 4 == 3) rows = opaque(rows + 4 * ld);  // else each row gets a pointer, more than there are registers
        if (i % (lines * kLine / kLanes) == 0) next.lines<lines>();
      }
      transpose(x);
      const float* q = query();
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) acc[r] = fma(set1(q[r * kRun + i]), x[i], acc[r]);
    }
    if (d < args.D) {
      const int left = static_cast<int>(args.D - d);
      const float* q = query();
      Vf x[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        x[i] = load_n(k + i * ld + d, left);
        if (i % (lines * kLine / kLanes) == 0) next.lines<lines>();
      }
      transpose(x);
      for (int i = 0; i < left; ++i)
        for (int r = 0; r < R; ++r) acc[r] = fma(set1(q[r * kRun + i]), x[i], acc[r]);
    }
    float* p = &opaque(&tile)->p[0][key];  // else it takes a register throughout
    for (int r = 0; r < R; ++r) store(p + r * kBlock, acc[r]);
  }
}

// acc[r][v] += q . k for V vectors of keys, columns of their pages.
template <int R, int V, class T, class Ahead>
INLINE void multiply_keys(Vf (&acc)[R][V], const float* q, const T* const (&k)[V], int64_t D, Ahead ahead) {
  const int64_t rows = (D + kTerms<T> - 1) / kTerms<T>;  // of a page
  for (int64_t i = 0; i < rows; i += kRun)
    multiply<kRun, 1>(acc, q + i * R, k, kPage, minimum(kRun, rows - i), ahead, i * kPage);
}

// p[r][key..] = q . k for pages of columns, V vectors of keys at once while all of them remain, then with narrower
// tiles.
template <class T, int R, int V>
void score_keys(const AttentionArgs& args, const RowGroup& group, BlockTile& tile, int key) {
  const int stop = (tile.last + kPage - 1) / kPage * kPage;
  for (; key + V * kLanes <= stop; key += V * kLanes) {
    const T* k[V];
    for (int v = 0; v < V; ++v) {
      const int64_t j = tile.begin + key + v * kLanes;
      k[v] = static_cast<const T*>(args.k_pages[j / kPage]) + j % kPage;
    }
    Vf acc[R][V];
    set_zero(acc);
    if (!group.pages) {
      // A page of keys in the first half of the block, one of values in the second, evenly over their steps of two d.
      constexpr int half = kBlock / 2, shares = half / (V * kLanes);
      const char* page = key < half ? group.later_keys : group.later_values;
      const int64_t share = key % half / (V * kLanes) * page_size(args.type, args.D) / shares;
      multiply_keys(acc, group.q, k, args.D, Later{page + share, 2 * kPage * int64_t(sizeof(T)) / shares});
    } else {
      const int64_t ahead = pages_ahead<T>(args, args.D);
      const int64_t page = (tile.begin + key) / kPage;
      After<V> after = {{}, args.near, kEveryLine};
      for (int v = 0; v < V; ++v)
        after.page[v] = reinterpret_cast<const char*>(after_keys(args, group, page + v * kLanes / kPage, ahead).rows);
      after.skip_bits = skip_bits<T, R>(args.k_pages[page], after.page[0], args.D, ahead);
      multiply_keys(acc, group.q, k, args.D, after);
    }
    if constexpr (is_int8<T>) {
      for (int v = 0; v < V; ++v) {
        const Vf scale = load(scales_of(args.k_pages, tile.begin + key + v * kLanes, args.D));
        for (int r = 0; r < R; ++r) acc[r][v] = acc[r][v] * scale;
      }
    }
    store_tile(acc, &tile.p[0][key], kBlock);
  }
  if constexpr (V > 1) {
    if (key < stop) score_keys<T, R, V / 2>(args, group, tile, key);
  }
}

// Whether a bias, whose lowest in each lane is given, masks keys by being -inf; if so the tile knows.
INLINE bool masks_keys(BlockTile& tile, int r, const float* bias, Vf lowest) {
  if (!bits(equal(lowest, set1(-kInfinity)))) return false;
  tile.mask[r] = bias;
  tile.even = false;
  return true;
}

// -inf where the bias is, also if the score is NaN or infinite.
INLINE Vf masked_by(Vf bias, Vf s) { return select(equal(bias, set1(-kInfinity)), bias, s); }

// Products to scores for a row that sees the whole block; the highest of each lane. bias: of the block's keys.
template <bool Biased>
INLINE Vf finish_whole(BlockTile& tile, int r, const float* bias) {
  Vf highest[2] = {set1(-kInfinity), set1(-kInfinity)}, lowest[2] = {set1(0.0f), set1(0.0f)};  // NaN is passed over
#pragma GCC unroll 8
  for (int j = 0; j < kBlock; j += 2 * kLanes)
    for (int i = 0; i < 2; ++i) {
      float* p = &tile.p[r][j + i * kLanes];
      Vf s = load(p);
      if (Biased) {
        const float* from = bias + j + i * kLanes;
        const Vf b = load(from);
        lowest[i] = min(b, lowest[i]);
        s = fma(b, set1(kLog2E), s);
        store(p, s);
        __builtin_prefetch(from + kBlock, 0, 2);  // other rows come before the next block
      }
      highest[i] = max(s, highest[i]);
    }
  if (Biased && masks_keys(tile, r, bias, min(lowest[0], lowest[1])))
    for (int j = 0; j < kBlock; j += kLanes) store(&tile.p[r][j], masked_by(load(bias + j), load(&tile.p[r][j])));
  return max(highest[0], highest[1]);
}

// The same for any row: softcap, bias, and -inf where it does not see the key.
Vf finish_scores(const AttentionArgs& args, BlockTile& tile, int r, const float* bias) {
  const Vf cap = set1(args.softcap * kLog2E), unseen = set1(-kInfinity);
  const bool products = args.softcap <= 0.0f && !bias;  // are scores, where they are seen
  Vf highest = unseen, lowest = set1(0.0f);
  for (int j = tile.first; j < tile.last; j += kLanes) {
    const int from = tile.from[r] - j, to = tile.to[r] - j;
    float* p = &tile.p[r][j];
    Vf s = load(p);
    if (products && from <= 0 && to >= kLanes) {
      highest = max(s, highest);
      continue;
    }
    if (args.softcap > 0.0f) s = cap * tanh(s / cap);
    if (bias) {
      const Vf b = load_lanes(bias + j, from, to);
      lowest = min(b, lowest);
      s = masked_by(b, fma(b, set1(kLog2E), s));
    }
    s = select(lanes_between(from, to), s, unseen);
    highest = max(s, highest);
    store(p, s);
  }
  if (bias) masks_keys(tile, r, bias, lowest);
  return highest;
}

// What a row's scores need; the highest of each lane.
INLINE Vf finish_row(const AttentionArgs& args, const RowGroup& group, BlockTile& tile, int r) {
  const float* bias = args.bias ? args.bias[group.row + r] : nullptr;
  if (bias) bias += tile.begin;
  if (tile.from[r] > 0 || tile.to[r] < kBlock || args.softcap > 0.0f) return finish_scores(args, tile, r, bias);
  return bias ? finish_whole<true>(tile, r, bias) : finish_whole<false>(tile, r, bias);
}

// All scores are -inf or NaN: with a NaN the row becomes NaN, otherwise the block is skipped for this row.
void settle_unseen_block(BlockTile& tile, int r) {
  for (int j = tile.from[r]; j < tile.to[r]; ++j)
    if (tile.p[r][j] != tile.p[r][j]) tile.m[r] = tile.p[r][j];
  if (tile.m[r] == -kInfinity) {
    tile.from[r] = tile.to[r] = 0;
    tile.even = false;
  }
}

// N vectors of p, added to the lanes of `total`.
template <class T, int N>
INLINE void exponentiate_vectors(float* p, int j, Vf m, Vf& total) {
  Vf x[N];
  for (int i = 0; i < N; ++i) x[i] = load(p + j + i * kLanes) - m;
  exp2_below_overflow(x);
  store_factors<T>(p, j, x);
  for (int i = 0; i < N; ++i) total = total + x[i];
}

// p of the rows in the vectors of keys first .. last, and its sums in each lane.
template <class T, int R>
INLINE void exponentiate_rows(BlockTile& tile, Vf (&totals)[R], int first, int last) {
  constexpr int N = 4;
  for (int r = 0; r < R; ++r) {
    float* p = tile.p[r];
    totals[r] = set1(0.0f);
    if (tile.from[r] >= tile.to[r]) {
      const Vf none[1] = {set1(0.0f)};
      for (int j = first; j < last; j += kLanes) store_factors<T>(p, j, none);
      continue;
    }
    const Vf m = set1(tile.m[r]);
    Vf total = set1(0.0f);
    int j = first;
#pragma GCC unroll 8
    for (; j + N * kLanes <= last; j += N * kLanes) exponentiate_vectors<T, N>(p, j, m, total);
    for (; j < last; j += kLanes) exponentiate_vectors<T, 1>(p, j, m, total);
    totals[r] = total;
  }
}

struct Sum {
  static INLINE Vf of(Vf a, Vf b) { return a + b; }
  static INLINE float lanes(Vf x) { return sum(x); }
};
struct Maximum {
  static INLINE Vf of(Vf a, Vf b) { return max(a, b); }
  static INLINE float lanes(Vf x) { return maximum(x); }
};

// to[r] = Fold::lanes(x[r]), and 0 in the slots behind, up to a whole vector. Many rows at once: as sum() and maximum()
// do, the lanes are folded in halves.
template <class Fold, int R>
INLINE void fold_lanes(const Vf (&x)[R], float* to) {
#pragma GCC unroll 4
  for (int first = 0; first < R; first += kLanes) {
    const int rows = R - first < kLanes ? R - first : kLanes;
    if (rows < kLanes / 2) {
      store(to + first, set1(0.0f));
      for (int r = 0; r < rows; ++r) to[first + r] = Fold::lanes(x[first + r]);
      continue;
    }
    Vf y[kLanes];
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) y[r] = first + r < R ? x[first + r] : set1(0.0f);
    transpose(y);
#pragma GCC unroll 4
    for (int half = kLanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
      for (int i = 0; i < half; ++i) y[i] = Fold::of(y[i], y[i + half]);
    store(to + first, y[0]);
  }
}

// int8: p takes the scales of the values. A key that is not seen keeps its zero, whatever its scale.
void scale_by_values(const AttentionArgs& args, BlockTile& tile, int rows) {
  for (int j = tile.first; j < tile.last; j += kLanes) {
    const Vf scale = load(scales_of(args.v_pages, tile.begin + j, args.Dv));
    for (int r = 0; r < rows; ++r) {
      const Vf p = load(&tile.p[r][j]);
      store(&tile.p[r][j], select(equal(p, set1(0.0f)), p, p * scale));
    }
  }
}

// Scores, m, l and p of all rows of the group; also writes the scores to args.weights.
template <class T, int R>
void score_block(const AttentionArgs& args, const RowGroup& group, BlockTile& tile) {
  if (is_float<T> && args.ldk) {
    score_key_rows<R>(args, group, tile);
  } else if (group.pages) {
    // One page after the other is a single stream; but a chain that takes 16 bytes at a time is slower than the memory.
    constexpr int keys = is_int8<T> && R == 1 ? 4 * kPage : kPage;
    score_keys<T, R, widest(R, keys)>(args, group, tile, tile.first);
  } else {
    score_keys<T, R, widest(R, kTileColumns)>(args, group, tile, tile.first);
  }
  if (args.near && group.pages && !args.ldk) fetch_meanwhile<T>(args, group, tile);
  Vf rows[R];
  for (int r = 0; r < R; ++r) {
    rows[r] = set1(-kInfinity);
    if (tile.from[r] < tile.to[r]) rows[r] = finish_row(args, group, tile, r);
  }
  fold_lanes<Maximum>(rows, tile.m);
  for (int r = 0; r < R; ++r) {
    if (tile.from[r] >= tile.to[r]) continue;
    float* weights = args.weights ? args.weights[group.row + r] : nullptr;
    if (weights)
      __builtin_memcpy(weights + tile.begin + tile.from[r], &tile.p[r][tile.from[r]],
                       sizeof(float) * static_cast<size_t>(tile.to[r] - tile.from[r]));
    if (tile.m[r] == -kInfinity) settle_unseen_block(tile, r);
  }
  // Apart from the loops above, so that the processor works on several rows at once.
  if (tile.first == 0 && tile.last == kBlock) {
    exponentiate_rows<T>(tile, rows, 0, kBlock);  // unrolled
  } else {
    exponentiate_rows<T>(tile, rows, tile.first, tile.last);
  }
  fold_lanes<Sum>(rows, tile.l);
  if constexpr (is_int8<T>) scale_by_values(args, tile, R);
}

// Calls of the tiles of exactly group.rows rows.
template <class T, int R>
INLINE void score_block_of(const AttentionArgs& args, const RowGroup& group, BlockTile& tile) {
  if constexpr (R > 1) {
    if (group.rows < R) return score_block_of<T, R - 1>(args, group, tile);
  }
  score_block<T, R>(args, group, tile);
}
void score_block(const AttentionArgs& args, const RowGroup& group, BlockTile& tile) {
#if !defined(FASTATTN_HALVES_ONLY)
  switch (args.type) {
    case DType::bfloat16: return score_block_of<BFloat16, kTileRows>(args, group, tile);
    case DType::int8: return score_block_of<int8_t, kTileRows>(args, group, tile);
    case DType::float32: return score_block_of<float, kTileRows>(args, group, tile);
    default: break;
  }
#endif
  score_block_of<Rounded, kTileRows>(args, group, tile);
}
