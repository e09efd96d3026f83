// What attention over one block of keys is made of: the rows of one register tile, what they see of the block, and the
// tile itself. attention_scores.inl and attention_values.inl are the two halves of the work; attention.inl has the
// mathematics, and walks the blocks.

constexpr int kTileColumns = 64;  // keys that one register tile covers at most; of the columns of v, twice as many
constexpr int kRowSlots = 16;     // kTileRows, rounded up to whole vectors
constexpr int kBlockPages = kBlock / kPage;
constexpr int kRunBlocks = 8;            // of a run, at most
constexpr int kRunPowers = 2 * 1024;     // of all its rows: they stay in the first-level cache, beside what is read
constexpr int kMostPagedColumns = 256;   // of values that are summed a page at a time
constexpr int kBytesAhead = 8 * 1024;    // how far ahead of their use pages are fetched
constexpr int kBytesTouched = 4 * 1024;  // the same for rows that are touched
constexpr int kBytesBetween = 2 * 1024;  // fetched between a block's scores and its values
constexpr int kLine = 16;                // floats of a line of the cache
constexpr int kRun = 16;                 // d that stand side by side in a row's query
constexpr int kGroups = kRowsAtOnce / kTileRows;  // groups of rows that share the walk over the blocks
static_assert(kTileRows * kBlock <= kTilePowers && kRunPowers <= kTilePowers, "powers have room");
static_assert(kTileRows <= kRowSlots && kGroups * kTileRows == kRowsAtOnce, "rows of a call share one walk");

// Up to kTileRows rows; those of one tile.
struct RowGroup {
  int row, rows;
  bool blank;                             // nothing has been written to `out`
  int64_t first, last;                    // keys that any row sees
  int64_t all_from, all_to;               // keys that all rows see
  float* q;                               // [D / kRun][rows][kRun]: scale * log2 e * q
  float (*p)[kBlock];                     // of a run: [block][rows]
  const char *later_keys, *later_values;  // pages to be fetched during the products
  int64_t pages;                          // of keys that are read, counted from key 0; 0: other groups read them too
  int64_t run_begin, run_end;             // pages of the run: their keys are read, then their values
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
  float (*p)[kBlock];  // of each row: scores, then their powers of 2
};

// Where the rows of o_b go: out = o_b, or, if keep is given, out = keep * out + add * o_b.
struct Destination {
  float* out[kTileRows];
  const float* keep;
  const float* add;
};

// What pages of numbers rounded to bfloat16 are made of: words of two, the first in the high half, where there is an
// instruction for their products, else floats.
struct Pair {
  uint32_t bits;
};
struct Nearest {
  float value;
};
INLINE Vf load(const Nearest* p) { return load(&p->value); }

template <class T>
constexpr bool is_pair = false;
template <>
constexpr bool is_pair<Pair> = true;
template <class T>
constexpr bool is_rounded = is_pair<T>;
template <>
constexpr bool is_rounded<Nearest> = true;
template <bool kPairs>
struct RoundedTo {
  using type = Nearest;
};
template <>
struct RoundedTo<true> {
  using type = Pair;
};
using Rounded = RoundedTo<kDotHalves>::type;

// Terms of a sum that one step of a product with pages of T adds.
template <class T>
constexpr int kTerms = is_pair<T> ? 2 : 1;

// Bytes of a page.
INLINE int64_t page_size(DType type, int64_t width) {
  constexpr int terms = kTerms<Rounded>;
  return type == DType::rounded ? kPage * round_up(width, terms) / terms * 4 : page_bytes(type, width);
}

// N vectors of numbers from number j on, as the product with pages of T takes them. Pairs need half the room.
template <class T, int N>
INLINE void store_factors(float* p, int j, const Vf (&x)[N]) {
  if constexpr (is_pair<T>) {
    for (int i = 0; i < N; i += 2)
      store_int(p + j / 2 + i / 2 * kLanes, round_pairs(x[i], i + 1 < N ? x[i + 1] : set1(0.0f)));
  } else if constexpr (is_rounded<T>) {
    for (int i = 0; i < N; ++i) store_int(p + j + i * kLanes, nearest_bfloat16(x[i]));
  } else {
    for (int i = 0; i < N; ++i) store(p + j + i * kLanes, x[i]);
  }
}

// U steps of the product below.
template <int U, int LR, int LK, int R, int V, class T>
INLINE void multiply_steps(Vf (&acc)[R][V], const float* a, const T* const (&b)[V], int64_t offset, int64_t step) {
#pragma GCC unroll 16
  for (int u = 0; u < U; ++u) {
    if constexpr (is_pair<T>) {
      Vi row[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) row[v] = load_int(b[v] + offset + u * step);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vi s = as_int(set1(a[r * LR + u * LK]));
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) acc[r][v] = dot_halves(acc[r][v], row[v], s);
      }
    } else {
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
}

// Prefetches take the place of loads: where the processor's own prefetching follows them, one line in four does. These
// bits are set in the addresses of the others.
constexpr uintptr_t kEveryLine = 0, kOneInFour = 3 * 64;
INLINE bool skipped(const void* at, uintptr_t bits) { return reinterpret_cast<uintptr_t>(at) & bits; }

// kPage rows of `width` floats, ld apart.
struct PageOfRows {
  const float* rows;
  int64_t width, ld;
};

// Reads a page of rows line by line, in the order of memory, while an earlier page is worked on. Lines are touched, and
// what comes later still is prefetched into the second-level cache; or they are prefetched (AttentionArgs::near).
class Touch {
 public:
  static constexpr int kSteps = 1;
  // Whole lines of the rows from `row` on; rows that stand side by side are one. skip_bits: of lines that are touched,
  // but not prefetched before.
  INLINE Touch(const PageOfRows& page, int64_t row, bool near, uintptr_t skip_bits)
      : near_(near),
        skip_bits_(skip_bits),
        at_(page.rows + row * page.ld),
        in_row_((page.ld == page.width ? (kPage - row) * page.width : page.width) / kLine),
        skip_(page.ld - in_row_ * kLine),
        left_(in_row_),
        rows_left_(page.ld == page.width ? 1 : kPage - row) {}
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
  INLINE void line(const float* at) const {
    if (near_) return __builtin_prefetch(at, 0, 3);
    for (int i = 0; i < kLine; i += kLanes) touch(at + i);
    if (!skipped(at, skip_bits_)) __builtin_prefetch(at + kLater, 0, 2);
  }
  const bool near_;
  const uintptr_t skip_bits_;
  const float* at_;
  const int64_t in_row_, skip_;
  int64_t left_, rows_left_;
};

// Memory that a product fetches towards the second-level cache while it computes, some of it in each of its steps: all
// at once would hold up the loads of the product itself.
struct Later {
  static constexpr int kSteps = 2;
  const char* next;
  int64_t step;
  INLINE void fetch() {
    __builtin_prefetch(next, 0, 2);
    next += step;
  }
};
struct Nothing {
  static constexpr int kSteps = 2;
};

// Pages that are read after the ones at hand, laid out like them: each step fetches what it would read there, or, if
// the processor goes on from there by itself, one line in four.
template <int V>
struct After {
  static constexpr int kSteps = 1;
  const char* page[V];
  bool near;
  uintptr_t skip_bits;
};

template <int U, int V, class T>
INLINE void fetch(Nothing, int64_t, int64_t, const T* const (&)[V]) {}
template <int U, int V, class T>
INLINE void fetch(Later& later, int64_t, int64_t, const T* const (&)[V]) {
  later.fetch();
}
template <int kLevel, int V, class T>
INLINE void fetch_row(const After<V>& after, int64_t offset, const T*) {
#pragma GCC unroll 8
  for (int v = 0; v < V; v += kPage / kLanes) {  // a line holds the vectors of a page's row, at least
    const char* at = after.page[v] + offset * int64_t(sizeof(T));
    if (kLevel == 1 || !skipped(at, after.skip_bits)) __builtin_prefetch(at, 0, 4 - kLevel);
  }
}
template <int U, int V, class T>
INLINE void fetch(const After<V>& after, int64_t offset, int64_t step, const T* const (&)[V]) {
  const T* type = nullptr;
#pragma GCC unroll 16
  for (int u = 0; u < U; ++u)
    after.near ? fetch_row<1>(after, offset + u * step, type) : fetch_row<2>(after, offset + u * step, type);
}

template <int U, int V, class T>
INLINE void fetch(Touch& next, int64_t, int64_t, const T* const (&)[V]) {
  next.lines<(U * V * kLanes + kLine - 1) / kLine>();
}

// acc[r][v] += sum over 0 <= k < n of a[r * LR + k * LK] * B[k][v] in the order of k, each output one chain of fma.
// B[k][v] is the vector at b[v] + offset + k * step. Large tiles take Ahead::kSteps at once: those that wait for memory
// do so best in single steps, with one pointer for each stream.
template <int LR, int LK, int R, int V, class T, class Ahead>
INLINE void multiply(Vf (&acc)[R][V], const float* a, const T* const (&b)[V], int64_t step, int64_t n, Ahead& ahead,
                     int64_t offset = 0) {
  constexpr int U = R * V <= kAccumulators / 2 ? 1 : Ahead::kSteps;
  for (; n >= U; n -= U, a += U * LK, offset += U * step) {
    fetch<U>(ahead, offset, step, b);
    multiply_steps<U, LR, LK>(acc, a, b, offset, step);
  }
  for (; n > 0; --n, a += LK, offset += step) multiply_steps<1, LR, LK>(acc, a, b, offset, step);
}
template <int LR, int LK, int R, int V, class T>
INLINE void multiply(Vf (&acc)[R][V], const float* a, const T* const (&b)[V], int64_t step, int64_t n) {
  Nothing nothing;
  multiply<LR, LK>(acc, a, b, step, n, nothing);
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
