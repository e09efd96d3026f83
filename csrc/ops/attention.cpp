// Self- and cross-attention of a graph. A work item is a key/value head of a sequence (or of beams that share a memory)
// and a chunk of its query rows; the query rows of a group of heads walk the same keys together.
#include <algorithm>
#include <cstring>

#include "base/cpu.h"
#include "dispatch/dispatch.h"
#include "ops/chunks.h"
#include "ops/graph_ops.h"

namespace fastattn {
namespace {

constexpr int64_t kChunk = kRowsAtOnce;     // query rows of a work item, at most
constexpr int64_t kFewerRows = kChunk / 2;  // where there would not be enough items to keep all threads busy
constexpr int64_t kLaterPages = 8;          // that a kernel fetches for the next item, at most
constexpr int64_t kFloatsPerPointer = static_cast<int64_t>(sizeof(void*)) / 4;

int64_t page_count(int64_t tokens) { return (tokens + kPage - 1) / kPage; }

// H query heads of D floats, G key/value heads, `group` query heads to each; Dv floats of a head's result.
struct HeadSizes {
  int64_t H, G, group, D, Dv;

  HeadSizes(const Node& n, const Frame& f)
      : H(n.attrs.heads), G(n.attrs.kv_heads), group(H / G), D(f.cols(n.inputs[0]) / H), Dv(f.cols(n.outputs[0]) / H) {}
};

// The same in a step, q: (rows, H, D), out: (rows, H, Dv); while a step is planned, values have no place yet.
struct Heads : HeadSizes {
  const float* q;
  float* out;
  Record* record;  // null: weights are not wanted
  const DistanceBias* bias = nullptr;

  Heads(const Node& n, Frame& f)
      : HeadSizes(n, f),
        q(f.data(n.inputs[0])),
        out(f.data(n.outputs[0])),
        record(f.records ? &f.records[static_cast<size_t>(n.record)] : nullptr) {}
};

// Pages of one key/value head, `total` keys long; ldv floats between two values.
struct Pages {
  const void** keys;
  const void** values;
  float* room;  // the kernel's scratch
  int64_t ldv, total;
  DType type = DType::float32;
  const KernelTable& kernel;
  const void* const* later = nullptr;  // what this thread reads after them, as far as that is known
  int64_t later_pages = 0;

  // Both pointer arrays live in a thread's scratch, behind one another.
  Pages(Frame& f, const Team& team, int64_t total_keys, int64_t value_stride)
      : ldv(value_stride), total(total_keys), kernel(*f.kernel) {
    keys = reinterpret_cast<const void**>(f.scratch[static_cast<size_t>(team.ith)]);
    values = keys + page_count(total);
    room = f.scratch[static_cast<size_t>(team.ith)] + pointer_floats(total);
  }
  static int64_t pointer_floats(int64_t keys) { return whole_lines(2 * page_count(keys) * kFloatsPerPointer); }
  static int64_t scratch_floats(int64_t longest, int64_t D) {
    return pointer_floats(longest) + attention_scratch(kChunk, D);
  }
};

int64_t chunk_rows(const Frame& f, const HeadSizes& a, const Team& team) {
  return chunk_of_rows(f.tokens * a.H, team.nth, kFewerRows, kChunk);
}

// What the optional parameters of `attention` say.
BiasSource bias_source(const Node& n) {
  return {n.weights[0].get(),   n.weights[1].get(),         n.attrs.heads,
          n.attrs.max_distance, n.attrs.bidirectional != 0, n.attrs.causal != 0};
}
bool has_bias(const Node& n) { return n.weights[0] || n.weights[1]; }

// Keys that the token at `position` sees, of `total`.
Range seen(const Node& n, int64_t position, int64_t total) {
  Range keys{n.attrs.window_left < 0 ? 0 : std::max<int64_t>(0, position - n.attrs.window_left),
             n.attrs.causal ? std::min(total, position + 1) : total};
  if (n.attrs.window_right >= 0) keys.end = std::min(keys.end, position + n.attrs.window_right + 1);
  return keys;
}

// Query rows of one call of a kernel.
class Rows {
 public:
  Rows(const Node& n, const Heads& a) : n_(n), a_(a) {}
  int count() const { return count_; }

  // Token row `row` of query head h, which stands at `position` among `total` keys.
  void add(int64_t row, int64_t h, int64_t position, int64_t total) {
    const int i = count_++;
    q_[i] = a_.q + (row * a_.H + h) * a_.D;
    out_[i] = a_.out + (row * a_.H + h) * a_.Dv;
    weights_[i] = a_.record ? a_.record->weights.data() + (row * a_.H + h) * a_.record->span : nullptr;
    bias_[i] = a_.bias ? a_.bias->row(h, position) : nullptr;
    const Range keys = seen(n_, position, total);
    lo_[i] = keys.begin, hi_[i] = keys.end;
  }

  // For rows [begin, end).
  AttentionArgs args(const Pages& pages, int begin, int end) const {
    return {end - begin,
            a_.D,
            a_.Dv,
            q_ + begin,
            pages.keys,
            pages.values,
            pages.ldv,
            lo_ + begin,
            hi_ + begin,
            a_.bias ? bias_ + begin : nullptr,
            static_cast<float>(n_.attrs.scale),
            static_cast<float>(n_.attrs.softcap),
            out_ + begin,
            a_.record ? weights_ + begin : nullptr,
            pages.room,
            pages.type,
            0,
            prefetches_lead(),
            pages.later,
            pages.later_pages};
  }

 private:
  const Node& n_;
  const Heads& a_;
  int count_ = 0;
  const float* q_[kChunk];
  float* out_[kChunk];
  float* weights_[kChunk];
  const float* bias_[kChunk];
  int64_t lo_[kChunk], hi_[kChunk];
};

// Token rows that share their keys: rows first .. first + tokens; the first stands at `position` among the keys.
struct Queries {
  int64_t first, tokens, position;
};

// Rows [begin, end) of the tokens x group rows of head g; row i is token i / group, query head g * group + i % group.
void attend(const Node& n, const Heads& a, const Queries& queries, const Pages& pages, int64_t g, int64_t begin,
            int64_t end) {
  Rows rows(n, a);
  for (int64_t i = begin; i < end; ++i)
    rows.add(queries.first + i / a.group, g * a.group + i % a.group, queries.position + i / a.group, pages.total);
  const AttentionArgs args = rows.args(pages, 0, rows.count());
  (pages.type == DType::rounded ? pages.kernel.attention_rounded : pages.kernel.attention)(&args);
}

// Deals work items out to the threads, one after the other, the same at every step: what a thread has written or read
// is in its cache.
struct Dealer {
  static constexpr bool kFixed = true;  // see Queue
  const Team& team;
  int64_t next = 0;
  bool mine() { return next++ % team.nth == team.ith; }
};

// Writes `count` tokens into columns from `column` of a page, rounded to the layer's type.
void append_rounded(const KernelTable& kernel, const PagedLayer& layer, uint8_t* keys, uint8_t* values, int64_t column,
                    const float* k, int64_t ldk, const float* v, int64_t ldv, int64_t count) {
  const int64_t element = layer.type == DType::int8 ? 1 : 2;
  auto* key_scales = reinterpret_cast<float*>(keys + page_scales(layer.key_size));
  auto* value_scales = reinterpret_cast<float*>(values + page_scales(layer.value_size));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = column + i;
    kernel.cache_row(layer.type, k + i * ldk, layer.key_size, keys + at * element, kPage, key_scales + at);
    kernel.cache_row(layer.type, v + i * ldv, layer.value_size, values + at * layer.value_size * element, 1,
                     value_scales + at);
  }
}

// Writes the tokens of sequence s into columns `position`.. of its pages, for head g of the layer.
void append(const Node& n, Frame& f, const PagedLayer& layer, PagePool& pool, const std::vector<int32_t>& pages,
            int64_t s, int64_t g, int64_t position, int key_input, int value_input) {
  const int64_t ldk = f.cols(n.inputs[static_cast<size_t>(key_input)]),
                ldv = f.cols(n.inputs[static_cast<size_t>(value_input)]);
  const int64_t first = f.offsets[static_cast<size_t>(s)], tokens = f.length(s);
  const float* k = f.data(n.inputs[static_cast<size_t>(key_input)]) + first * ldk + g * layer.key_size;
  const float* v = f.data(n.inputs[static_cast<size_t>(value_input)]) + first * ldv + g * layer.value_size;
  for (int64_t t = 0; t < tokens;) {
    const int64_t at = position + t, column = at % kPage, count = std::min(tokens - t, kPage - column);
    const int32_t page = pages[static_cast<size_t>(at / kPage)];
    uint8_t *keys = pool.keys(page, layer, g), *values = pool.values(page, layer, g);
    if (layer.type != DType::float32) {
      append_rounded(*f.kernel, layer, keys, values, column, k + t * ldk, ldk, v + t * ldv, ldv, count);
      t += count;
      continue;
    }
    f.kernel->pack_keys(k + t * ldk, ldk, static_cast<int>(count), layer.key_size, reinterpret_cast<float*>(keys),
                        static_cast<int>(column));
    const size_t bytes = static_cast<size_t>(layer.value_size) * sizeof(float);
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(values + static_cast<size_t>(column + i) * bytes, v + (t + i) * ldv, bytes);
    t += count;
  }
}

// The pages that hold the first `total` keys; pointers below `from` are not needed.
Pages pages_of(Frame& f, const Team& team, const PagePool& pool, const PagedLayer& layer,
               const std::vector<int32_t>& ids, int64_t g, int64_t total, int64_t from = 0) {
  Pages pages(f, team, total, layer.value_size);
  pages.type = layer.type;
  for (int64_t p = from; p < page_count(total); ++p) {
    const int32_t page = ids[static_cast<size_t>(p)];
    pages.keys[p] = pool.keys(page, layer, g);
    pages.values[p] = pool.values(page, layer, g);
  }
  return pages;
}

// Neighbouring sequences [first, last) that start with the same pages (beams, shared prompts): `blocks` blocks of them.
struct Family {
  int64_t first, last, blocks;
};

// The family that begins with sequence s: as many as share at least one block and have room in one call, but no more
// than `most`.
Family family_of(const Frame& f, int64_t s, int64_t group, int64_t most) {
  const auto pages = [&](int64_t i) -> const std::vector<int32_t>& {
    return f.state->sequences[static_cast<size_t>(i)].pages;
  };
  Family family{s, s + 1, 0};
  int64_t rows = f.length(s) * group, shared = static_cast<int64_t>(pages(s).size());
  for (; family.last < f.batch && family.last - s < most; ++family.last) {
    const std::vector<int32_t>&a = pages(s), &b = pages(family.last);
    const auto end = a.begin() + std::min(shared, static_cast<int64_t>(b.size()));
    const int64_t same = std::mismatch(a.begin(), end, b.begin()).first - a.begin();
    rows += f.length(family.last) * group;
    if (same < kBlock / kPage || rows > kChunk) break;
    shared = same;
    family.blocks = same / (kBlock / kPage);
  }
  return family;
}

// All sequences of a family at once over the blocks they share, then each over its own: read once, and the bits of
// each alone.
void attend_family(const Node& n, const Heads& a, Frame& f, const Team& team, const PagedLayer& layer,
                   const Family& family, int64_t g) {
  const auto at = [](int64_t s) { return static_cast<size_t>(s); };
  const auto total = [&](int64_t s) { return f.positions[at(s)] + f.length(s); };
  const auto pages = [&](int64_t s, int64_t keys, int64_t from) {
    return pages_of(f, team, f.state->cache, layer, f.state->sequences[at(s)].pages, g, keys, from);
  };
  Rows rows(n, a);
  float state[2 * kChunk];
  for (int64_t s = family.first; s < family.last; ++s)
    for (int64_t t = 0; t < f.length(s); ++t)
      for (int64_t h = 0; h < a.group; ++h)
        rows.add(f.offsets[at(s)] + t, g * a.group + h, f.positions[at(s)] + t, total(s));
  const AttentionArgs together = rows.args(pages(family.first, family.blocks * kBlock, 0), 0, rows.count());
  const AttentionPart common{0, family.blocks, state, true, false};
  f.kernel->attention_part(&together, &common);
  for (int64_t s = family.first, row = 0; s < family.last; ++s) {
    const int64_t end = row + f.length(s) * a.group;
    const Pages own = pages(s, total(s), family.blocks * (kBlock / kPage));
    const AttentionArgs alone = rows.args(own, static_cast<int>(row), static_cast<int>(end));
    const AttentionPart rest{family.blocks, INT64_MAX, state + 2 * row, false, true};
    f.kernel->attention_part(&alone, &rest);
    row = end;
  }
}

// Query rows [begin, end) of head g over `total` keys in the pages `ids`.
struct Item {
  Queries queries;
  const std::vector<int32_t>* ids;
  int64_t total, g, begin, end;
};

// The items of a thread. Each is run when the next one is known, whose first pages are fetched meanwhile: with few keys
// to an item, memory would else rest at the start of each.
class Items {
 public:
  Items(const Node& n, const Heads& a, Frame& f, const Team& team, const PagePool& pool, const PagedLayer& layer)
      : n_(n), a_(a), f_(f), team_(team), pool_(pool), layer_(layer) {}
  void add(const Item& item) {
    if (held_.ids) run(&item);
    held_ = item;
  }
  void finish() {
    if (held_.ids) run(nullptr);
    held_.ids = nullptr;
  }

 private:
  void run(const Item* next) {
    Pages pages = pages_of(f_, team_, pool_, layer_, *held_.ids, held_.g, held_.total);
    const void* later[kLaterPages];
    pages.later = later;
    pages.later_pages = next ? first_pages(*next, later) : 0;
    attend(n_, a_, held_.queries, pages, held_.g, held_.begin, held_.end);
  }

  // The pages of an item's keys, then of its values, in the order in which they are read; how many.
  int64_t first_pages(const Item& item, const void** to) const {
    const Range keys = seen(n_, item.queries.position + item.begin / a_.group, item.total);
    const int64_t first = keys.begin / kPage, count = page_count(item.total) - first;
    const int64_t found = std::clamp<int64_t>(2 * count, 0, kLaterPages);
    for (int64_t p = 0; p < found; ++p) {
      const int32_t page = (*item.ids)[static_cast<size_t>(first + p % count)];
      to[p] = p < count ? pool_.keys(page, layer_, item.g) : pool_.values(page, layer_, item.g);
    }
    return found;
  }

  const Node& n_;
  const Heads& a_;
  Frame& f_;
  const Team& team_;
  const PagePool& pool_;
  const PagedLayer& layer_;
  Item held_{{0, 0, 0}, nullptr, 0, 0, 0, 0};
};

// One long sequence whose heads do not go evenly into the threads: each thread takes a range of the blocks of every
// head, and the partial results are merged in the order of blocks. Room for them: see attention_needs.
bool can_split(const Node& n, const Frame& f, int64_t G, int64_t group) {
  constexpr int64_t kSplitHeads = 8, kSplitRows = 16, kSplitBlocks = 2;  // with more heads, dealing them is even enough
  return n.attrs.cache >= 0 && f.batch == 1 && G < kSplitHeads && f.tokens * group <= kSplitRows &&
         f.positions[0] + f.tokens >= kSplitBlocks * kBlock;
}

int64_t block_count(int64_t keys) { return (keys + kBlock - 1) / kBlock; }

void run_split(const Node& n, const Heads& a, Frame& f, Team& team, const PagedLayer& layer) {
  const int64_t total = f.positions[0] + f.tokens, blocks = block_count(total);
  const auto rows_of = [&](int64_t g) {
    Rows rows(n, a);
    for (int64_t t = 0; t < f.tokens; ++t)
      for (int64_t h = 0; h < a.group; ++h) rows.add(t, g * a.group + h, f.positions[0] + t, total);
    return rows;
  };
  const auto partials = [&](int64_t g, int64_t block) {
    const int64_t rows = f.tokens * a.group;
    return f.shared + partial_floats(g * blocks + block, rows, a.Dv);
  };
  const Range mine = team.split(blocks);
  for (int64_t g = 0; g < a.G; ++g) {
    const Rows rows = rows_of(g);
    const Pages pages = pages_of(f, team, f.state->cache, layer, f.state->sequences[0].pages, g, total);
    const AttentionArgs args = rows.args(pages, 0, rows.count());
    f.kernel->attention_partial(&args, mine.begin, mine.end, partials(g, mine.begin));
  }
  team.barrier();
  Dealer merging{team};
  for (int64_t g = 0; g < a.G; ++g) {
    if (!merging.mine()) continue;
    const Rows rows = rows_of(g);
    const AttentionArgs args = rows.args(Pages(f, team, total, layer.value_size), 0, rows.count());
    const int64_t ends[] = {0, blocks};
    const float* all = partials(g, 0);
    f.kernel->attention_merge(&args, 1, ends, &all);
  }
}

// All work items of a step. Late chunks of a causal sequence see the most keys: they go first, so that no thread is
// left with a long one.
template <class Deal>
void read_cache(const Node& n, const Heads& a, Frame& f, Team& team, const PagedLayer& layer, int64_t most, Deal deal) {
  const int64_t chunk = chunk_rows(f, a, team);
  Items items(n, a, f, team, f.state->cache, layer);
  for (Family family{0, 0, 0}; family.last < f.batch;) {
    family = family_of(f, family.last, a.group, most);
    const auto s = static_cast<size_t>(family.first);
    const Queries queries{f.offsets[s], f.length(family.first), f.positions[s]};
    const int64_t rows = queries.tokens * a.group, total = queries.position + queries.tokens;
    for (int64_t g = 0; g < a.G; ++g) {
      if (family.blocks > 0) {
        if (deal.mine()) attend_family(n, a, f, team, layer, family, g);
        continue;
      }
      for (int64_t r = (rows + chunk - 1) / chunk * chunk - chunk; r >= 0; r -= chunk)
        if (deal.mine()) {
          items.add({queries, &f.state->sequences[s].pages, total, g, r, std::min(rows, r + chunk)});
          if (!Deal::kFixed) items.finish();  // none is held while other threads look for work
        }
    }
  }
  items.finish();
}

void run_cached(const Node& n, Frame& f, Team& team) {
  Heads a(n, f);
  a.bias = f.state->biases.find(bias_source(n));
  PagePool& pool = f.state->cache;
  const PagedLayer& layer = pool.layer(n.attrs.cache);
  const bool split = team.nth > 1 && a.G % team.nth != 0 && can_split(n, f, a.G, a.group);
  // Families must not leave threads without work.
  const int64_t parts = (team.nth + a.G - 1) / a.G, most = (f.batch + parts - 1) / parts;
  Dealer writers{team};
  for (Family family{0, 0, 0}; family.last < f.batch;) {
    family = family_of(f, family.last, a.group, most);
    for (int64_t g = 0; g < a.G; ++g)
      if (writers.mine())
        for (int64_t s = family.first; s < family.last; ++s)
          append(n, f, layer, pool, f.state->sequences[static_cast<size_t>(s)].pages, s, g,
                 f.positions[static_cast<size_t>(s)], 1, 2);
  }
  // One token a sequence and at most a chunk of rows: items are dealt as above, so a thread reads only what it wrote
  // itself.
  if (f.tokens != f.batch || a.group > kFewerRows || split) team.barrier();
  if (split) return run_split(n, a, f, team, layer);
  if (f.tokens == f.batch) return read_cache(n, a, f, team, layer, most, Dealer{team});
  read_cache(n, a, f, team, layer, most, Queue(team));
}

// Attention without a cache: keys are turned into pages in the shared scratch. Values are read where they are; those of
// long sequences, which stand a whole row of heads apart, are copied, and so are rounded ones.
struct Uncached {
  const Frame& f;
  const HeadSizes& a;
  const KernelTable& kernel;
  const bool rounded;
  int64_t pages = 0;  // of one head, all sequences
  int64_t ldv;        // of values that are copied
  bool copied;

  Uncached(const Node& n, const Frame& frame, const HeadSizes& sizes)
      : f(frame),
        a(sizes),
        kernel(*frame.kernel),
        rounded(n.attrs.rounded != 0),
        ldv(rounded ? round_up(a.Dv, kPage) : a.Dv),
        copied(rounded) {
    for (int64_t s = 0; s < f.batch; ++s) {
      pages += page_count(f.length(s));
      copied |= a.G > 1 && f.length(s) * a.group >= kRowsForCopy;
    }
  }
  int64_t page_floats(int64_t width) const {
    return (rounded ? kernel.rounded_page_bytes(width) : page_bytes(DType::float32, width)) / 4;
  }
  int64_t key_floats() const { return page_floats(a.D); }
  int64_t value_floats() const { return page_floats(ldv); }
  int64_t floats() const { return pages * a.G * (key_floats() + (copied ? value_floats() : 0)); }

  // Page p of head g of a sequence with `count` pages, of which the first is number `first` of all.
  float* keys(int64_t first, int64_t count, int64_t g, int64_t p) const {
    return f.shared + (first * a.G + g * count + p) * key_floats();
  }
  float* values(int64_t first, int64_t count, int64_t g, int64_t p) const {
    return f.shared + pages * a.G * key_floats() + (first * a.G + g * count + p) * value_floats();
  }

  // `rows` tokens to a page of each.
  void pack(const float* k, int64_t ldk, const float* v, int64_t ld, int64_t rows, float* key_page,
            float* value_page) const {
    const int count = static_cast<int>(rows);
    if (rounded) {
      kernel.round_keys(k, ldk, count, a.D, key_page);
      kernel.round_values(v, ld, count, a.Dv, value_page, ldv);
      return;
    }
    kernel.pack_keys(k, ldk, count, a.D, key_page, 0);
    for (int64_t i = 0; copied && i < rows; ++i)
      std::memcpy(value_page + i * ldv, v + i * ld, sizeof(float) * static_cast<size_t>(a.Dv));
  }
};

void run_uncached(const Node& n, Frame& f, Team& team) {
  Heads a(n, f);
  a.bias = f.state->biases.find(bias_source(n));
  const Uncached room(n, f, a);
  const int64_t ldk = f.cols(n.inputs[1]), ldv = f.cols(n.inputs[2]);
  const auto values_at = [&](int64_t s, int64_t g, int64_t p) {
    return f.data(n.inputs[2]) + (f.offsets[static_cast<size_t>(s)] + p * kPage) * ldv + g * a.Dv;
  };
  Dealer writers{team};
  for (int64_t s = 0, first = 0; s < f.batch; ++s) {
    const int64_t T = f.length(s), count = page_count(T);
    const float* k = f.data(n.inputs[1]) + f.offsets[static_cast<size_t>(s)] * ldk;
    for (int64_t g = 0; g < a.G; ++g)
      for (int64_t p = 0; p < count; ++p) {
        if (!writers.mine()) continue;
        const int64_t rows = std::min<int64_t>(kPage, T - p * kPage);
        room.pack(k + p * kPage * ldk + g * a.D, ldk, values_at(s, g, p), ldv, rows, room.keys(first, count, g, p),
                  room.copied ? room.values(first, count, g, p) : nullptr);
      }
    first += count;
  }
  team.barrier();
  Queue readers(team);
  const int64_t chunk = chunk_rows(f, a, team);
  for (int64_t s = 0, first = 0; s < f.batch; ++s) {
    const Queries queries{f.offsets[static_cast<size_t>(s)], f.length(s), 0};
    const int64_t rows = queries.tokens * a.group, count = page_count(queries.tokens);
    for (int64_t g = 0; g < a.G; ++g)
      for (int64_t r = 0; r < rows; r += chunk) {
        if (!readers.mine()) continue;
        Pages pages(f, team, queries.tokens, room.copied ? room.ldv : ldv);
        if (room.rounded) pages.type = DType::rounded;
        for (int64_t p = 0; p < count; ++p) {
          pages.keys[p] = room.keys(first, count, g, p);
          pages.values[p] = room.copied ? room.values(first, count, g, p) : values_at(s, g, p);
        }
        attend(n, a, queries, pages, g, r, std::min(rows, r + chunk));
      }
    first += count;
  }
}

// Room in advance, so that a growing sequence does not ask for memory every few steps.
int64_t roomy(int64_t keys) {
  int64_t room = 1024;
  while (room < keys) room *= 2;
  return room;
}

// pairs: of a query's token and a key's.
double flops_of(const HeadSizes& a, int64_t pairs) {
  return 2.0 * static_cast<double>(pairs * a.H) * static_cast<double>(a.D + a.Dv);
}

// Of the last `rows` of `total` tokens.
int64_t seen_pairs(const Node& n, int64_t rows, int64_t total) {
  int64_t pairs = 0;
  for (int64_t position = total - rows; position < total; ++position) {
    const Range keys = seen(n, position, total);
    pairs += std::max<int64_t>(0, keys.end - keys.begin);
  }
  return pairs;
}

double bytes_of(const PagedLayer& layer, int64_t keys) {
  return static_cast<double>(keys * layer.bytes()) / static_cast<double>(kPage);
}

}  // namespace

Needs attention_needs(const Node& n, const Frame& f) {
  const HeadSizes a(n, f);
  Needs needs;
  int64_t longest = 0;
  const bool cached = n.attrs.cache >= 0;
  Family family{0, 0, 0};
  for (int64_t s = 0; s < f.batch; ++s) {
    if (cached && s == family.last) family = family_of(f, s, a.group, f.batch);
    const int64_t total = f.length(s) + (n.attrs.cache >= 0 ? f.positions[static_cast<size_t>(s)] : 0);
    longest = std::max(longest, total);
    needs.flops += flops_of(a, seen_pairs(n, f.length(s), total));
    const int64_t again = s == family.first ? 0 : family.blocks * kBlock;  // read with the first of the family
    if (cached) needs.kept_bytes += bytes_of(f.state->cache.layer(n.attrs.cache), total - again);
  }
  const int64_t room = roomy(longest);
  needs.shared = cached ? 0 : Uncached(n, f, a).floats();
  if (can_split(n, f, a.G, a.group)) needs.shared = partial_floats(a.G * block_count(room), f.tokens * a.group, a.Dv);
  needs.per_thread = Pages::scratch_floats(room, a.D);
  if (has_bias(n)) f.state->biases.of(bias_source(n)).reserve(longest);
  return needs;
}

void run_attention(const Node& n, Frame& f, Team& team) {
  if (n.attrs.cache >= 0) {
    run_cached(n, f, team);
  } else {
    run_uncached(n, f, team);
  }
}

Needs memory_write_needs(const Node& n, const Frame& f) {
  return {0, 0, 8.0 * static_cast<double>(f.tokens * (f.cols(n.inputs[0]) + f.cols(n.inputs[1])))};
}

void run_memory_write(const Node& n, Frame& f, Team& team) {
  PagePool& pool = f.state->memory_pages;
  const PagedLayer& layer = pool.layer(n.attrs.layer);
  Dealer writers{team};
  for (int64_t s = 0; s < f.batch; ++s)
    for (int64_t g = 0; g < layer.heads; ++g)
      if (writers.mine()) append(n, f, layer, pool, f.memory(s).pages, s, g, 0, 0, 1);
}

Needs cross_attention_needs(const Node& n, const Frame& f) {
  const HeadSizes a(n, f);
  const PagedLayer& layer = f.state->memory_pages.layer(n.attrs.layer);
  Needs needs;
  int64_t longest = 0;
  for (int64_t s = 0; s < f.batch; ++s) {
    longest = std::max(longest, f.memory(s).length);
    needs.flops += flops_of(a, f.length(s) * f.memory(s).length);
    if (s == 0 || &f.memory(s) != &f.memory(s - 1)) needs.kept_bytes += bytes_of(layer, f.memory(s).length);
  }
  needs.per_thread = Pages::scratch_floats(roomy(longest), a.D);
  return needs;
}

// Neighbouring sequences with the same memory (beams of one input) read its keys together.
void run_cross_attention(const Node& n, Frame& f, Team& team) {
  const Heads a(n, f);
  const PagePool& pool = f.state->memory_pages;
  const PagedLayer& layer = pool.layer(n.attrs.layer);
  const auto memory_of = [&](int64_t s) { return f.state->sequences[static_cast<size_t>(s)].memory; };
  const int64_t chunk = chunk_rows(f, a, team);
  Dealer readers{team};
  Items items(n, a, f, team, pool, layer);
  for (int64_t s = 0, next; s < f.batch; s = next) {
    for (next = s + 1; next < f.batch && memory_of(next) == memory_of(s);) ++next;
    const Queries queries{f.offsets[static_cast<size_t>(s)],
                          f.offsets[static_cast<size_t>(next)] - f.offsets[static_cast<size_t>(s)], 0};
    const int64_t rows = queries.tokens * a.group;
    for (int64_t g = 0; g < a.G; ++g)
      for (int64_t r = 0; r < rows; r += chunk)
        if (readers.mine())
          items.add({queries, &f.memory(s).pages, f.memory(s).length, g, r, std::min(rows, r + chunk)});
  }
  items.finish();
}

}  // namespace fastattn
