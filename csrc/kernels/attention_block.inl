// Attention over one block of keys, for the rows of one register tile: scores, the softmax's powers, and the products
// with the values. attention.inl has the mathematics, and walks the blocks.

constexpr int kTileColumns = 64;  // keys that one register tile covers at most; of the columns of v, twice as many
constexpr int kRowSlots = 16;     // kTileRows, rounded up to whole vectors
constexpr int kBlockPages = kBlock / kPage;
constexpr int kMostPagedColumns = 256;   // of values that are summed a page at a time
constexpr int kTouchedBytes = 4 * 1024;  // how far ahead of their use rows are read
constexpr int kLine = 16;                // floats of a line of the cache
constexpr int kRun = 16;                 // d that stand side by side in a row's query
constexpr int kGroups = 16;              // groups of rows that share the walk over the blocks
static_assert(kTileRows <= kRowSlots && kGroups * kTileRows >= kRowsAtOnce, "rows of a call share one walk");

// Up to kTileRows rows; those of one tile.
struct RowGroup {
  int row, rows;
  bool blank;                             // nothing has been written to `out`
  int64_t first, last;                    // keys that any row sees
  int64_t all_from, all_to;               // keys that all rows see
  float* q;                               // [D / kRun][rows][kRun]: scale * log2 e * q
  const char *later_keys, *later_values;  // pages to be fetched during the products
  int64_t pages;                          // of keys that are read, counted from key 0; 0: other groups read them too
  float M[kRowSlots], L[kRowSlots];
};

// One block of keys for the rows of a group. Keys are counted from the block's first key, `begin`.
struct BlockTile {
  int64_t begin;
  int seen_from, seen_to;              // the keys that any row sees
  int first, last;                     // the same, from the start of a page on
  int from[kTileRows], to[kTileRows];  // the keys that each row sees; emptied if all of them are masked
  bool even;                           // all rows see the same keys, and none is masked
  bool shared;                         // rows may share the walk over the values
  const float* mask[kTileRows];        // the row's bias (from `begin` on) if it masks keys in this block, else null
  float m[kRowSlots], l[kRowSlots];
  alignas(64) float p[kTileRows][kBlock];  // scores, then their powers of 2
};

// Where the rows of o_b go: out = o_b, or, if keep is given, out = keep * out + add * o_b.
struct Destination {
  float* out[kTileRows];
  const float* keep;
  const float* add;
};

// ---- tiles ---------------------------------------------------------------------------------------------------------

// U steps of the product below.
template <int U, int LR, int LK, int R, int V, class T>
INLINE void multiply_steps(Vf (&acc)[R][V], const float* a, const T* const (&b)[V], int64_t offset, int64_t step) {
#pragma GCC unroll 16
  for (int u = 0; u < U; ++u) {
    Vf row[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) row[v] = load(b[v] + offset + u * step);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vf s = set1(a[r * LR + u * LK]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) acc[r][v] = fma(s, row[v], acc[r][v]);
    }
  }
}

// kPage rows of `width` floats, ld apart.
struct PageOfRows {
  const float* rows;
  int64_t width, ld;
};

// Reads a page of rows line by line, in the order of memory, while an earlier page is worked on: processors whose own
// prefetching follows loads in order, but not prefetches (Zen), read keys, whose lines are crossed, at a third of the
// speed without. What comes later still is prefetched into the second-level cache.
class Touch {
 public:
  // Whole lines of the rows from `row` on.
  INLINE Touch(const PageOfRows& page, int64_t row)
      : at_(page.rows + row * page.ld),
        in_row_(page.width / kLine),
        skip_(page.ld - in_row_ * kLine),
        left_(in_row_),
        rows_left_(kPage - row) {}
  // The next N lines, as far as there are any.
  template <int N>
  INLINE void lines() {
    if (N > 1 && left_ < N) {
      lines<N / 2>();
      return lines<N - N / 2>();
    }
    if (left_ == 0) return;
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) line(at_ + i * kLine);
    at_ += N * kLine;
    left_ -= N;
    if (left_ == 0 && --rows_left_ > 0) {
      at_ += skip_;
      left_ = in_row_;
    }
  }

 private:
  static constexpr int kLater = 2048;
  static INLINE void line(const float* at) {
    for (int i = 0; i < kLine; i += kLanes) touch(at + i);
    __builtin_prefetch(at + kLater, 0, 2);
  }
  const float* at_;
  const int64_t in_row_, skip_;
  int64_t left_, rows_left_;
};

// Memory that a product fetches towards the second-level cache while it computes, some of it in each of its steps: all
// at once would hold up the loads of the product itself.
struct Later {
  const char* next;
  int64_t step;
  INLINE void fetch() {
    __builtin_prefetch(next, 0, 2);
    next += step;
  }
};
struct Nothing {};

// Pages that are read after the ones at hand, laid out like them: each step fetches what it would read there.
template <int V>
struct After {
  const char* page[V];
};

template <int U, int V, class T>
INLINE void fetch(Nothing, int64_t, int64_t, const T* const (&)[V]) {}
template <int U, int V, class T>
INLINE void fetch(Later& later, int64_t, int64_t, const T* const (&)[V]) {
  later.fetch();
}
template <int U, int V, class T>
INLINE void fetch(const After<V>& after, int64_t offset, int64_t step, const T* const (&)[V]) {
#pragma GCC unroll 16
  for (int u = 0; u < U; ++u)
#pragma GCC unroll 8
    for (int v = 0; v < V; v += kPage / kLanes)  // a line holds the vectors of a page's row, at least
      __builtin_prefetch(after.page[v] + (offset + u * step) * int64_t(sizeof(T)), 0, 2);
}

template <int U, int V, class T>
INLINE void fetch(Touch& next, int64_t, int64_t, const T* const (&)[V]) {
  next.lines<(U * V * kLanes + kLine - 1) / kLine>();
}

// acc[r][v] += sum over 0 <= k < n of a[r * LR + k * LK] * B[k][v] in the order of k, each output one chain of fma.
// B[k][v] is the vector at b[v] + offset + k * step.
template <int LR, int LK, int R, int V, class T, class Ahead = Nothing>
INLINE void multiply(Vf (&acc)[R][V], const float* a, const T* const (&b)[V], int64_t step, int64_t n,
                     Ahead&& ahead = {}, int64_t offset = 0) {
  constexpr int U = R * V <= kAccumulators / 2 ? 1 : 2;  // small tiles wait for memory: one pointer for each stream
  for (; n >= U; n -= U, a += U * LK, offset += U * step) {
    fetch<U>(ahead, offset, step, b);
    multiply_steps<U, LR, LK>(acc, a, b, offset, step);
  }
  for (; n > 0; --n, a += LK, offset += step) multiply_steps<1, LR, LK>(acc, a, b, offset, step);
}

INLINE float as_number(float x) { return x; }
INLINE float as_number(int8_t x) { return static_cast<float>(x); }
INLINE float as_number(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  __builtin_memcpy(&y, &bits, sizeof y);
  return y;
}

// The first n < kLanes of a row, then zeros; touches no other memory.
INLINE Vf load_first(const float* p, int n) { return load_n(p, n); }
template <class T>
INLINE Vf load_first(const T* p, int n) {
  float x[kLanes];
  for (int i = 0; i < kLanes; ++i) x[i] = i < n ? as_number(p[i]) : 0.0f;
  return load(x);
}

template <class T>
constexpr bool is_int8 = false;
template <>
constexpr bool is_int8<int8_t> = true;
template <class T>
constexpr bool is_float = false;
template <>
constexpr bool is_float<float> = true;

// int8: the scales of the keys from j on, which stand in one page.
INLINE const float* scales_of(const void* const* pages, int64_t j, int64_t width) {
  const auto* page = static_cast<const uint8_t*>(pages[j / kPage]);
  return reinterpret_cast<const float*>(page + page_scales(width)) + j % kPage;
}

// ---- scores --------------------------------------------------------------------------------------------------------

// Sets what each row sees of the block; false if no row sees anything.
bool open_block(const AttentionArgs& args, int64_t begin, const RowGroup& group, BlockTile& tile) {
  tile.begin = begin;
  const auto inside = [begin](int64_t key) { return static_cast<int>(minimum(maximum(key - begin, 0), kBlock)); };
  tile.seen_from = inside(group.first);
  tile.seen_to = tile.last = inside(group.last);
  tile.first = tile.seen_from / kPage * kPage;
  if (tile.first >= tile.last) return false;
  tile.even = inside(group.all_from) == tile.seen_from && inside(group.all_to) == tile.seen_to;
  for (int r = 0; r < kRowSlots; ++r) {
    tile.m[r] = -kInfinity;
    tile.l[r] = 0.0f;
  }
  bool any = false;
  for (int r = 0; r < group.rows; ++r) {
    tile.from[r] = inside(args.lo[group.row + r]);
    tile.to[r] = inside(args.hi[group.row + r]);
    tile.mask[r] = nullptr;
    if (tile.from[r] >= tile.to[r]) tile.from[r] = tile.to[r] = 0;
    any |= tile.from[r] < tile.to[r];
  }
  return any;
}

// The page of keys or values that is `distance` pages after that of `key`; the last ones have none, and give
// themselves.
template <class T>
INLINE const T* page_after(const void* const* pages, const RowGroup& group, int64_t key, int64_t distance) {
  const int64_t page = key / kPage;
  return static_cast<const T*>(pages[page + distance < group.pages ? page + distance : page]);
}

INLINE int64_t pages_of(int64_t keys) { return (keys + kPage - 1) / kPage; }

// So many pages ahead that they and those at hand stay in the first-level cache.
template <class T>
INLINE int64_t pages_ahead(int64_t width, int64_t bytes) {
  return maximum(1, bytes / (kPage * maximum(width, 1) * int64_t(sizeof(T))));
}

// Rows are read in this order: the keys of a block, its values, the keys of the next block. What is read while a page
// of keys, or of values, is worked on:
INLINE PageOfRows after_keys(const AttentionArgs& args, const BlockTile& tile, int64_t page) {
  const int64_t end = pages_of(tile.begin + tile.last), next = page + pages_ahead<float>(args.D, kTouchedBytes);
  if (next < end) return {static_cast<const float*>(args.k_pages[next]), args.D, args.ldk};
  const int64_t first = (tile.begin + tile.first) / kPage;
  return {static_cast<const float*>(args.v_pages[minimum(first + next - end, end - 1)]), args.Dv, args.ldv};
}
INLINE PageOfRows after_values(const AttentionArgs& args, const RowGroup& group, const BlockTile& tile, int64_t page) {
  const int64_t end = pages_of(tile.begin + tile.last), next = page + pages_ahead<float>(args.Dv, kTouchedBytes);
  if (next < end) return {static_cast<const float*>(args.v_pages[next]), args.Dv, args.ldv};
  if (next < group.pages) return {static_cast<const float*>(args.k_pages[next]), args.D, args.ldk};
  return {nullptr, 0, 0};
}

// The same pointer, of which the compiler knows nothing.
INLINE const float* opaque(const float* p) {
  asm("" : "+r"(p));
  return p;
}

// p[r][key..] = q . k for pages whose keys are rows: kLanes of them are turned into columns in registers.
template <int R>
void score_key_rows(const AttentionArgs& args, const RowGroup& group, BlockTile& tile) {
  constexpr int square = kLanes * kLanes / kLine, lines = square < 4 ? square : 4;  // touched at once
  const int64_t ld = args.ldk;
  for (int key = tile.first; key < tile.last; key += kLanes) {
    const int64_t j = tile.begin + key;
    const float* k = static_cast<const float*>(args.k_pages[j / kPage]) + j % kPage * ld;
    Touch next(after_keys(args, tile, j / kPage), j % kPage);
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
      for (int i = 0; i < kLanes; ++i) x[i] = load_n(k + i * ld + d, left);
      transpose(x);
      for (int i = 0; i < left; ++i)
        for (int r = 0; r < R; ++r) acc[r] = fma(set1(q[r * kRun + i]), x[i], acc[r]);
    }
    for (int r = 0; r < R; ++r) store(&tile.p[r][key], acc[r]);
  }
}

// acc[r][v] += q . k for V vectors of keys, columns of their pages.
template <int R, int V, class T, class Ahead>
INLINE void multiply_keys(Vf (&acc)[R][V], const float* q, const T* const (&k)[V], int64_t D, Ahead ahead) {
  for (int64_t d = 0; d < D; d += kRun)
    multiply<kRun, 1>(acc, q + d * R, k, kPage, minimum(kRun, D - d), ahead, d * kPage);
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
      // Half a page of a step of two d in each tile: keys in the first half of the block, values in the second.
      const char* page = key < kBlock / 2 ? group.later_keys : group.later_values;
      multiply_keys(acc, group.q, k, args.D,
                    Later{page + key % (kBlock / 2) * args.D * int64_t(sizeof(T)) / 4, 16 * sizeof(T)});
    } else {
      After<V> after;
      for (int v = 0; v < V; ++v)
        after.page[v] = reinterpret_cast<const char*>(
            page_after<T>(args.k_pages, group, tile.begin + key + v * kLanes, V * kLanes / kPage));
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

constexpr float kLn2 = 0.693147182f;

// Products to scores: softcap, bias, and -inf where the row does not see the key. Sets m and mask.
void finish_scores(const AttentionArgs& args, const float* bias, BlockTile& tile, int r) {
  const int from = tile.from[r], to = tile.to[r];
  if (bias) bias += tile.begin;
  const float cap = args.softcap * kLog2E;
  const bool plain = !bias && !(args.softcap > 0.0f);
  const Vf lowest = set1(-kInfinity);
  Vf highest = lowest;
  unsigned holes = 0;
  for (int j = tile.first; j < tile.last; j += kLanes) {
    Vf s = load(&tile.p[r][j]);
    const bool inside = from <= j && j + kLanes <= to;
    if (inside && plain) {
      highest = max(s, highest);
      continue;
    }
    if (args.softcap > 0.0f) s = set1(cap) * tanh(s / set1(cap));
    if (bias) {
      const Vf b = inside ? load(bias + j) : load_lanes(bias + j, from - j, to - j);
      const Vm hole = equal(b, lowest);
      holes |= bits(hole);
      s = select(hole, lowest, fma(b, set1(kLog2E), s));  // s may be NaN there
    }
    if (!inside) s = select(lanes_between(from - j, to - j), s, lowest);
    highest = max(s, highest);  // NaN is passed over
    store(&tile.p[r][j], s);
  }
  tile.m[r] = maximum(highest);
  tile.mask[r] = holes ? bias : nullptr;
  tile.even &= !holes;
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

// p and l of a row that sees something.
void exponentiate(BlockTile& tile, int r) {
  const Vf m = set1(tile.m[r]);
  Vf total = set1(0.0f);
  for (int j = tile.first; j < tile.last; j += kLanes) {
    const Vf e = exp2_below_overflow(load(&tile.p[r][j]) - m);
    store(&tile.p[r][j], e);
    total = total + e;
  }
  tile.l[r] = sum(total);
}

void exponentiate_rows(BlockTile& tile, int rows) {
  for (int r = 0; r < rows; ++r) {
    if (tile.from[r] < tile.to[r]) {
      exponentiate(tile, r);
    } else {
      for (int j = tile.first; j < tile.last; j += kLanes) store(&tile.p[r][j], set1(0.0f));
    }
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
  } else {
    score_keys<T, R, widest(R, kTileColumns)>(args, group, tile, tile.first);
  }
  for (int r = 0; r < R; ++r) {
    if (tile.from[r] >= tile.to[r]) continue;
    finish_scores(args, args.bias ? args.bias[group.row + r] : nullptr, tile, r);
    float* weights = args.weights ? args.weights[group.row + r] : nullptr;
    if (weights)
      __builtin_memcpy(weights + tile.begin + tile.from[r], &tile.p[r][tile.from[r]],
                       sizeof(float) * static_cast<size_t>(tile.to[r] - tile.from[r]));
    if (tile.m[r] == -kInfinity) settle_unseen_block(tile, r);
  }
  exponentiate_rows(tile, R);  // apart from the loop above, so that the processor works on several rows at once
  if constexpr (is_int8<T>) scale_by_values(args, tile, R);
}

// ---- values --------------------------------------------------------------------------------------------------------

// acc[r] += sum of p[r][j] v[j] over keys from <= j < to, in order, for V vectors of columns from `column` on.
template <class T, int R, int V>
INLINE void add_values(Vf (&acc)[R][V], const AttentionArgs& args, const RowGroup& group, const BlockTile& tile, int r0,
                       int from, int to, int64_t column) {
  alignas(64) float copy[V == 1 ? kPage * kLanes : 1];  // of a column group that ends at the end of the page's memory
  while (from < to) {
    const int64_t j = tile.begin + from;
    const int n = static_cast<int>(minimum(kPage - j % kPage, to - from));
    const T* values = static_cast<const T*>(args.v_pages[j / kPage]) + j % kPage * args.ldv + column;
    const float* p = &tile.p[r0][from];
    if (V == 1 && column + kLanes > args.ldv) {  // reading a whole vector would leave the page
      for (int i = 0; i < n; ++i)
        store(copy + i * kLanes, load_first(values + i * args.ldv, static_cast<int>(args.ldv - column)));
      const float* const copies[V] = {copy};
      multiply<kBlock, 1>(acc, p, copies, kLanes, n);
    } else {
      const T* columns[V];
      for (int v = 0; v < V; ++v) columns[v] = values + v * kLanes;
      if (!group.pages) {
        multiply<kBlock, 1>(acc, p, columns, args.ldv, n);
      } else {
        const int64_t distance = pages_ahead<T>(args.Dv, 8 * 1024);
        const T* next = page_after<T>(args.v_pages, group, j, distance) + j % kPage * args.ldv + column;
        After<V> after;
        for (int v = 0; v < V; ++v) after.page[v] = reinterpret_cast<const char*>(next + v * kLanes);
        multiply<kBlock, 1>(acc, p, columns, args.ldv, n, after);
      }
    }
    from += n;
  }
}

// The same for one row, passing over the keys that its bias masks.
template <class T, int V>
void add_own_values(Vf (&acc)[1][V], const AttentionArgs& args, const RowGroup& group, const BlockTile& tile, int r,
                    int64_t column) {
  const float* mask = tile.mask[r];
  if (!mask) return add_values<T>(acc, args, group, tile, r, tile.from[r], tile.to[r], column);
  for (int from = tile.from[r]; from < tile.to[r];) {
    while (from < tile.to[r] && mask[from] == -kInfinity) ++from;
    int end = from;
    while (end < tile.to[r] && mask[end] != -kInfinity) ++end;
    add_values<T>(acc, args, group, tile, r, from, end, column);
    from = end;
  }
}

template <class T>
bool finite_values(const AttentionArgs& args, const BlockTile& tile, int from, int to) {
  if (is_int8<T>) return true;  // codes are
  const Vf zero = set1(0.0f);
  Vf a = zero, b = zero;  // sums of products with zero: NaN if anything is not finite
  for (int64_t j = tile.begin + from; j < tile.begin + to; ++j) {
    const T* v = static_cast<const T*>(args.v_pages[j / kPage]) + j % kPage * args.ldv;
    int64_t c = 0;
    for (; c + 2 * kLanes <= args.Dv; c += 2 * kLanes) {
      a = fma(load(v + c), zero, a);
      b = fma(load(v + c + kLanes), zero, b);
    }
    for (; c < args.Dv; ++c) a = fma(set1(as_number(v[c])), zero, a);
  }
  return !bits(is_nan(a + b));
}

// Whether the rows may share the walk over the values: they do if they see the same keys, and also if what some of them
// do not see is finite, for fma(0, v, o) = o.
template <class T>
bool rows_share_values(const AttentionArgs& args, const BlockTile& tile, int rows) {
  if (tile.even) return true;
  int from = tile.seen_from, to = tile.seen_to;  // all rows see the keys between
  for (int r = 0; r < rows; ++r) {
    if (tile.mask[r] || tile.from[r] >= tile.to[r]) return finite_values<T>(args, tile, tile.seen_from, tile.seen_to);
    from = tile.from[r] > from ? tile.from[r] : from;
    to = tile.to[r] < to ? tile.to[r] : to;
  }
  return finite_values<T>(args, tile, tile.seen_from, from) && finite_values<T>(args, tile, to, tile.seen_to);
}

// One vector of o_b to its place. o + 0: rows that share a walk turn -0 into +0, so all do.
INLINE void deliver(Vf o, const Destination& to, int r, int64_t column, int64_t width) {
  float* out = to.out[r] + column;
  o = o + set1(0.0f);
  if (to.keep) o = fma(load_up_to(out, width), set1(to.keep[r]), o * set1(to.add[r]));
  store_up_to(out, o, width);
}

template <int R, int V>
INLINE void deliver_tile(const Vf (&acc)[R][V], const Destination& to, int64_t column, int64_t width) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) deliver(acc[r][v], to, r, column + v * kLanes, width - column - v * kLanes);
}

// V vectors of columns of o_b for R rows; a key that a row does not see has p = 0.
template <class T, int R, int V>
__attribute__((noinline)) void shared_columns(const AttentionArgs& args, const RowGroup& group, const BlockTile& tile,
                                              int64_t column, const Destination& to) {
  Vf acc[R][V];
  set_zero(acc);
  add_values<T>(acc, args, group, tile, 0, tile.seen_from, tile.seen_to, column);
  deliver_tile(acc, to, column, args.Dv);
}

// Keys from .. from + n, whose values stand in one page, the first of them at `values`, and what is read meanwhile.
struct ValueRows {
  int from, n;
  const float* values;
  Touch next;
};

// Adds their products to `partial`, R x V vectors of each group of columns; at the block's end delivers the sums.
template <int R, int V>
INLINE void page_columns(const AttentionArgs& args, const BlockTile& tile, ValueRows& page, int64_t column,
                         float* partial, const Destination& to) {
  const bool begins = page.from == tile.seen_from, ends = page.from + page.n == tile.seen_to;
  for (; column + V * kLanes <= args.Dv; column += V * kLanes, partial += R * V * kLanes) {
    Vf acc[R][V];
    if (begins) {
      set_zero(acc);
    } else {
      load_tile(acc, partial, V * kLanes);
    }
    const float* columns[V];
    for (int v = 0; v < V; ++v) columns[v] = page.values + column + v * kLanes;
    multiply<kBlock, 1>(acc, &tile.p[0][page.from], columns, args.ldv, page.n, page.next);
    if (ends) {
      deliver_tile(acc, to, column, args.Dv);
    } else {
      store_tile(acc, partial, V * kLanes);
    }
  }
  if constexpr (V > 1) {
    if (column < args.Dv) page_columns<R, V / 2>(args, tile, page, column, partial, to);
  }
}

// o_b of R rows, a page at a time with all its columns: values are read in the order of memory, also where R rows leave
// room for the sums of some columns only.
template <int R>
__attribute__((noinline)) void value_pages(const AttentionArgs& args, const RowGroup& group, const BlockTile& tile,
                                           const Destination& to) {
  alignas(64) float partial[R * kMostPagedColumns];
  for (int from = tile.seen_from, n; from < tile.seen_to; from += n) {
    const int64_t j = tile.begin + from;
    n = static_cast<int>(minimum(kPage - j % kPage, tile.seen_to - from));
    const float* values = static_cast<const float*>(args.v_pages[j / kPage]) + j % kPage * args.ldv;
    ValueRows page = {from, n, values, Touch(after_values(args, group, tile, j / kPage), 0)};
    page_columns<R, widest(R, 2 * kTileColumns)>(args, tile, page, 0, partial, to);
  }
}

// The same for one row at a time: values that a row does not see may be garbage.
template <class T, int V>
void own_columns(const AttentionArgs& args, const RowGroup& group, const BlockTile& tile, int64_t column,
                 const Destination& to) {
  for (int r = 0; r < group.rows; ++r) {
    Vf acc[1][V];
    set_zero(acc);
    add_own_values<T>(acc, args, group, tile, r, column);
    for (int v = 0; v < V; ++v) deliver(acc[0][v], to, r, column + v * kLanes, args.Dv - column - v * kLanes);
  }
}

// o_b of R rows, columns in groups of V vectors, then of fewer.
template <class T, int R, int V>
void value_columns(const AttentionArgs& args, const RowGroup& group, const BlockTile& tile, int64_t column,
                   const Destination& to) {
  for (; column + (V > 1 ? V * kLanes : 1) <= args.Dv; column += V * kLanes) {
    if (tile.shared) {
      shared_columns<T, R, V>(args, group, tile, column, to);
    } else {
      own_columns<T, V>(args, group, tile, column, to);
    }
  }
  if constexpr (V > 1) {
    if (column < args.Dv) value_columns<T, R, V / 2>(args, group, tile, column, to);
  }
}

// Calls of the tiles of exactly group.rows rows.
template <class T, int R>
INLINE void score_block_of(const AttentionArgs& args, const RowGroup& group, BlockTile& tile) {
  if constexpr (R > 1) {
    if (group.rows < R) return score_block_of<T, R - 1>(args, group, tile);
  }
  score_block<T, R>(args, group, tile);
}
template <class T, int R>
INLINE void value_block_of(const AttentionArgs& args, const RowGroup& group, BlockTile& tile, const Destination& to) {
  if constexpr (R > 1) {
    if (group.rows < R) return value_block_of<T, R - 1>(args, group, tile, to);
  }
  tile.shared = rows_share_values<T>(args, tile, R);
  if constexpr (is_float<T> && R > 2)  // two rows have room for the sums of 128 columns, and read in order anyway
    if (args.ldk && group.pages && tile.shared && args.Dv % kLanes == 0 && args.Dv <= kMostPagedColumns)
      return value_pages<R>(args, group, tile, to);
  value_columns<T, R, widest(R, 2 * kTileColumns)>(args, group, tile, 0, to);
}

void score_block(const AttentionArgs& args, const RowGroup& group, BlockTile& tile) {
  switch (args.type) {
    case DType::bfloat16: return score_block_of<BFloat16, kTileRows>(args, group, tile);
    case DType::int8: return score_block_of<int8_t, kTileRows>(args, group, tile);
    default: return score_block_of<float, kTileRows>(args, group, tile);
  }
}

void value_block(const AttentionArgs& args, const RowGroup& group, BlockTile& tile, const Destination& to) {
  switch (args.type) {
    case DType::bfloat16: return value_block_of<BFloat16, kTileRows>(args, group, tile, to);
    case DType::int8: return value_block_of<int8_t, kTileRows>(args, group, tile, to);
    default: return value_block_of<float, kTileRows>(args, group, tile, to);
  }
}
