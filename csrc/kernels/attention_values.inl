// The second half of a block: the products of the powers with the values.

// What is read after V vectors of columns of the values from key j on, until the end of their page.
template <class T, int R, int V>
INLINE After<V> values_after(const AttentionArgs& args, const RowGroup& group, int64_t j, int64_t column) {
  const int64_t ahead = pages_ahead<T>(args, args.Dv);
  const PageOfRows page = after_values(args, group, j / kPage, ahead);
  const int64_t from = j % kPage / kTerms<T> * args.ldv + column;
  const char* next = reinterpret_cast<const char*>(page.rows) + from * int64_t(sizeof(T));
  After<V> after = {{}, args.near, skip_bits<T, R>(args.v_pages[j / kPage], page.rows, args.Dv, ahead)};
  for (int v = 0; v < V; ++v) after.page[v] = next + v * kLanes * int64_t(sizeof(T));
  return after;
}

// Of keys from j on, n of which stand in j's page: how many of `most` have values that follow each other in memory as
// if they were one page. A long walk begins with less waiting than many short ones.
template <class T>
INLINE int unbroken(const AttentionArgs& args, const T* values, int64_t j, int64_t n, int64_t most) {
  while (n < most && args.v_pages[(j + n) / kPage] == values + n / kTerms<T> * args.ldv) n = minimum(n + kPage, most);
  return static_cast<int>(n);
}

// acc[r] += sum of p[r][j] v[j] over keys from <= j < to, in order, for V vectors of columns from `column` on. Of
// rounded ones both ends are even.
template <class T, int R, int V>
INLINE void add_values(Vf (&acc)[R][V], const AttentionArgs& args, const RowGroup& group, const BlockTile& tile, int r0,
                       int from, int to, int64_t column) {
  alignas(64) float copy[V == 1 ? kPage * kLanes : 1];  // of columns that end at the end of the page's memory
  for (int n; from < to; from += n) {
    const int64_t j = tile.begin + from;
    n = static_cast<int>(minimum(kPage - j % kPage, to - from));
    const T* values = static_cast<const T*>(args.v_pages[j / kPage]) + j % kPage / kTerms<T> * args.ldv;
    if (!group.pages && column + V * kLanes <= args.ldv) n = unbroken(args, values, j, n, to - from);
    values += column;
    const float* p = &tile.p[r0][from / kTerms<T>];
    if constexpr (!is_rounded<T>) {                // those have whole vectors
      if (V == 1 && column + kLanes > args.ldv) {  // reading a whole one would leave the page
        for (int i = 0; i < n; ++i)
          store(copy + i * kLanes, load_first(values + i * args.ldv, static_cast<int>(args.ldv - column)));
        const float* const copies[V] = {copy};
        multiply<kBlock, 1>(acc, p, copies, kLanes, n);
        continue;
      }
    }
    const T* columns[V];
    for (int v = 0; v < V; ++v) columns[v] = values + v * kLanes;
    if (!group.pages || (R == 1 && args.near && !args.ldk)) {
      multiply<kBlock, 1>(acc, p, columns, args.ldv, n / kTerms<T>);
    } else {
      const After<V> after = values_after<T, R, V>(args, group, j, column);
      multiply<kBlock, 1>(acc, p, columns, args.ldv, n / kTerms<T>, after);
    }
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
    for (; c + kLanes <= args.Dv; c += kLanes) a = fma(load(v + c), zero, a);
    if (c < args.Dv) b = fma(load_first(v + c, static_cast<int>(args.Dv - c)), zero, b);
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
  if constexpr (is_rounded<T>) {  // p is zero where nothing is seen, as far as a vector reaches
    add_values<T>(acc, args, group, tile, 0, tile.first, tile.last + tile.last % 2, column);
  } else {
    add_values<T>(acc, args, group, tile, 0, tile.seen_from, tile.seen_to, column);
  }
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
    const PageOfRows after = after_values(args, group, j / kPage, pages_ahead<float>(args, args.Dv));
    ValueRows page = {from, n, values, Touch(after, 0, args.near, kEveryLine)};
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
    if constexpr (!is_rounded<T>) {  // of those all values take part
      if (!tile.shared) {
        own_columns<T, V>(args, group, tile, column, to);
        continue;
      }
    }
    shared_columns<T, R, V>(args, group, tile, column, to);
  }
  if constexpr (V > 1) {
    if (column < args.Dv) value_columns<T, R, V / 2>(args, group, tile, column, to);
  }
}

// Calls of the tiles of exactly group.rows rows.
template <class T, int R>
INLINE void value_block_of(const AttentionArgs& args, const RowGroup& group, BlockTile& tile, const Destination& to) {
  if constexpr (R > 1) {
    if (group.rows < R) return value_block_of<T, R - 1>(args, group, tile, to);
  }
  if constexpr (!is_rounded<T>) tile.shared = rows_share_values<T>(args, tile, R);
  constexpr int V = widest(R, 2 * kTileColumns);
  if constexpr (is_float<T>) {
    // All columns at once where they do not make up one tile, and where lines are touched.
    const bool one_tile = args.Dv <= V * kLanes && (args.Dv & (args.Dv - 1)) == 0;
    const bool in_order = !one_tile || (args.ldk && R > 2);
    if (in_order && group.pages && tile.shared && args.Dv % kLanes == 0 && args.Dv <= kMostPagedColumns)
      return value_pages<R>(args, group, tile, to);
  }
  value_columns<T, R, V>(args, group, tile, 0, to);
}

void value_block(const AttentionArgs& args, const RowGroup& group, BlockTile& tile, const Destination& to) {
#if !defined(FASTATTN_HALVES_ONLY)
  switch (args.type) {
    case DType::bfloat16: return value_block_of<BFloat16, kTileRows>(args, group, tile, to);
    case DType::int8: return value_block_of<int8_t, kTileRows>(args, group, tile, to);
    case DType::float32: return value_block_of<float, kTileRows>(args, group, tile, to);
    default: break;
  }
#endif
  value_block_of<Rounded, kTileRows>(args, group, tile, to);
}
