// Two ways through the same kernels, with the same bits:
//
//  * many query rows: the keys of a key/value head are packed once into pages, then chunks of up to kRowsAtOnce query
//    rows walk them.
//  * few query rows (decoding): reading keys and values is all the work. They are used where they stand, the keys as
//    rows; the blocks of one head are shared out among the threads and merged in order.
//
// The query heads of one key/value head share its walk: row r of a head stands for token r / group, query head r %
// group.
#include "ops/dense_attention.h"

#include <atomic>
#include <memory>
#include <vector>

#include "base/cpu.h"
#include "dispatch/dispatch.h"
#include "ops/chunks.h"

namespace fastattn::dense {
namespace {

constexpr int64_t kFewRows = 24;          // up to here the second way: two register tiles that turn the keys themselves
constexpr int64_t kSlotFloats = 1 << 22;  // packed keys and values of all heads at work: 16 MB, or one head
constexpr int64_t kLeastRows = 12;        // rows of a chunk
constexpr int64_t kMaskedRows = 24;       // rows of a chunk whose mask must be copied
constexpr int kFirstRows = 12;            // that a kernel begins with; the others it fetches itself
constexpr int kPagesPerBlock = kBlock / kPage;

struct Geometry {
  int64_t B, H, G, T, S, D, Dv, group, rows, pages;
  int64_t chunk_rows = 0, chunks = 0;
  bool copy_q, copy_k, copy_v, copy_mask;

  explicit Geometry(const Attention& op)
      : B(op.q.shape[0]),
        H(op.q.shape[1]),
        G(op.k.shape[1]),
        T(op.q.shape[2]),
        S(op.k.shape[2]),
        D(op.q.shape[3]),
        Dv(op.v.shape[3]),
        group(G ? H / G : 0),
        rows(group * T),
        pages((S + kPage - 1) / kPage),
        copy_q(!rows_contiguous(op.q)),
        copy_k(!rows_contiguous(op.k)),
        copy_v(!rows_contiguous(op.v)),
        copy_mask(op.mask.kind == Mask::Kind::boolean ||
                  (op.mask.kind == Mask::Kind::added && op.mask.stride[3] != 1 && S > 1)) {}

  void divide(int threads) {
    const int64_t most = copy_mask ? kMaskedRows : kRowsAtOnce;
    chunk_rows = rows <= kFewRows ? std::max<int64_t>(rows, 1) : chunk_of_rows(rows * B * G, threads, kLeastRows, most);
    chunks = (rows + chunk_rows - 1) / chunk_rows;
  }
};

struct Span {
  int64_t lo, hi;
  bool empty() const { return lo >= hi; }
};

// Keys that query t of batch row b sees, but for the mask.
Span seen(const Attention& op, int64_t b, int64_t t) {
  const int64_t position = op.q_start[b] + t;
  Span span{0, op.kv_lengths[b]};
  if (op.window.left >= 0) span.lo = std::max(span.lo, position - op.window.left);
  if (op.window.right >= 0) span.hi = std::min(span.hi, position + op.window.right + 1);
  return span;
}

// Both ends grow with t, so the first and the last query bound what a head sees.
Span seen_by_head(const Attention& op, const Geometry& g, int64_t b) {
  return {seen(op, b, 0).lo, seen(op, b, g.T - 1).hi};
}

void copy_mask_row(const Mask& mask, int64_t offset, Span span, float* to) {
  const int64_t step = mask.stride[3];
  if (mask.kind == Mask::Kind::boolean) {
    const auto* from = static_cast<const uint8_t*>(mask.data) + offset;
    if (step == 1) {  // which the compiler makes vectors of
      for (int64_t j = span.lo; j < span.hi; ++j) to[j] = from[j] ? 0.0f : -__builtin_inff();
      return;
    }
    for (int64_t j = span.lo; j < span.hi; ++j) to[j] = from[j * step] ? 0.0f : -__builtin_inff();
  } else {
    const auto* from = static_cast<const float*>(mask.data) + offset;
    for (int64_t j = span.lo; j < span.hi; ++j) to[j] = from[j * step];
  }
}

// Up to kRowsAtOnce query rows of one key/value head, laid out for the kernels.
struct Chunk {
  int rows = 0;
  Span all{0, 0};  // hull of what the rows see
  const float* q[kRowsAtOnce];
  const float* bias[kRowsAtOnce];
  float* out[kRowsAtOnce];
  float* weights[kRowsAtOnce];
  int64_t lo[kRowsAtOnce], hi[kRowsAtOnce];

  // q_scratch: chunk_rows * D floats, mask_scratch: chunk_rows * S floats; used where the arrays cannot be read in
  // place. Of a mask that must be copied, only the keys inside `wanted` are.
  void fill(const Attention& op, const Geometry& g, int64_t b, int64_t head, int64_t index, float* q_scratch,
            float* mask_scratch, Span wanted) {
    const int64_t first = index * g.chunk_rows;
    rows = static_cast<int>(std::min<int64_t>(g.chunk_rows, g.rows - first));
    all = {g.S, 0};
    for (int i = 0; i < rows; ++i) {
      const int64_t t = (first + i) / g.group, h = head * g.group + (first + i) % g.group;
      fill_row(op, g, i, b, h, t, q_scratch + i * g.D);
      const Span span = seen(op, b, t);
      lo[i] = span.lo, hi[i] = span.hi;
      if (!span.empty()) all = {std::min(all.lo, span.lo), std::max(all.hi, span.hi)};
      if (op.mask.kind != Mask::Kind::none)
        bias[i] = mask_row(op, g, b, h, t, {std::max(span.lo, wanted.lo), std::min(span.hi, wanted.hi)},
                           mask_scratch + i * g.S);
    }
    for (int i = 0; i < rows; ++i)
      if (lo[i] >= hi[i]) lo[i] = hi[i] = all.lo;  // an empty row must not widen the hull
  }

  // ldk: of keys that are rows; 0 where they are packed.
  AttentionArgs args(const Attention& op, const Geometry& g, const void* const* k_pages, const void* const* v_pages,
                     int64_t ldk, int64_t ldv, float* scratch) const {
    return {rows,     g.D,
            g.Dv,     q,
            k_pages,  v_pages,
            ldv,      lo,
            hi,       op.mask.kind == Mask::Kind::none ? nullptr : bias,
            op.scale, op.softcap,
            out,      op.weights ? weights : nullptr,
            scratch,  DType::float32,
            ldk,      prefetches_lead()};
  }

  void zero_result(const Attention& op, const Geometry& g) const {
    for (int i = 0; i < rows; ++i) {
      std::fill_n(out[i], g.Dv, 0.0f);
      if (op.weights) std::fill_n(weights[i], g.S, 0.0f);
    }
  }

  // The kernel writes the weights of keys below the hull's end; beyond it there is nothing to see.
  void zero_unseen_weights(const Attention& op, const Geometry& g) const {
    if (!op.weights) return;
    for (int i = 0; i < rows; ++i) std::fill_n(weights[i] + all.hi, g.S - all.hi, 0.0f);
  }

 private:
  void fill_row(const Attention& op, const Geometry& g, int i, int64_t b, int64_t h, int64_t t, float* q_scratch) {
    q[i] = op.q.data + b * op.q.stride[0] + h * op.q.stride[1] + t * op.q.stride[2];
    if (g.copy_q) {
      gather(q[i], op.q.stride[3], g.D, q_scratch);
      q[i] = q_scratch;
    }
    for (int64_t d = 0; i < kFirstRows && d < g.D; d += 16) __builtin_prefetch(q[i] + d);
    out[i] = op.out.data + b * op.out.stride[0] + h * op.out.stride[1] + t * op.out.stride[2];
    if (op.weights) weights[i] = op.weights + ((b * g.H + h) * g.T + t) * g.S;
  }

  static const float* mask_row(const Attention& op, const Geometry& g, int64_t b, int64_t h, int64_t t, Span span,
                               float* scratch) {
    const int64_t offset = b * op.mask.stride[0] + h * op.mask.stride[1] + t * op.mask.stride[2];
    if (!g.copy_mask) return static_cast<const float*>(op.mask.data) + offset;
    copy_mask_row(op.mask, offset, span, scratch);
    return scratch;
  }
};

// Keys and values of one key/value head, and how their pages are made.
struct Head {
  const float *k, *v;
  int64_t b, index;

  Head(const Attention& op, const Geometry& g, int64_t i)
      : k(op.k.data + i / g.G * op.k.stride[0] + i % g.G * op.k.stride[1]),
        v(op.v.data + i / g.G * op.v.stride[0] + i % g.G * op.v.stride[1]),
        b(i / g.G),
        index(i % g.G) {}

  // row_scratch: kPage * D floats, used when the keys' last axis is not contiguous.
  void pack_keys(const KernelTable& kernel, const Attention& op, const Geometry& g, int64_t page, float* to,
                 float* row_scratch) const {
    const int count = static_cast<int>(std::min<int64_t>(kPage, g.S - page * kPage));
    const float* from = keys(op, page);
    int64_t ld = op.k.stride[2];
    if (g.copy_k && ld == 1) {  // columns already
      for (int64_t d = 0; d < g.D; ++d, to += kPage) {
        std::copy_n(from + d * op.k.stride[3], count, to);
        std::fill(to + count, to + kPage, 0.0f);
      }
      return;
    }
    if (g.copy_k) {
      gather_rows(from, ld, op.k.stride[3], count, g.D, row_scratch, g.D);
      from = row_scratch, ld = g.D;
    }
    kernel.pack_keys(from, ld, count, g.D, to, 0);
  }

  const float* keys(const Attention& op, int64_t page) const { return k + page * kPage * op.k.stride[2]; }
  const float* values(const Attention& op, int64_t page) const { return v + page * kPage * op.v.stride[2]; }
};

// Rows of keys or values in pages. A page is used where it stands if it is whole and its rows are contiguous, else it
// is copied; a copied page has the leading dimension of the others. Where that is too narrow for a row (overlapping or
// reversed rows), or so wide that copies would be mostly empty, or where no page is used as it stands, all are copied.
struct RowPages {
  static constexpr int64_t kFarApart = 1 << 16;  // floats between rows
  const In<4>& x;
  int64_t width;
  bool copy;
  int64_t ld, page_floats;

  RowPages(const In<4>& array, bool copy_all)
      : x(array),
        width(array.shape[3]),
        copy(copy_all || array.stride[2] < width || array.stride[2] == 0 || array.stride[2] > kFarApart ||
             array.shape[2] <= kPage),
        ld(copy ? width : array.stride[2]),
        page_floats(Scratch::padded(kPage * ld)) {}

  // Kernels may read a page's rows up to ld: of the last page only if that is nobody else's memory, or if no vector
  // reaches beyond the width.
  bool in_place(int64_t page) const {
    const int64_t S = x.shape[2], pages = (S + kPage - 1) / kPage;
    if (copy || (page + 1) * kPage > S) return false;
    return page + 1 < pages || ld == width || width % 16 == 0;
  }

  // from: the page's first row.
  void copy_page(const float* from, int64_t page, float* to) const {
    const int64_t count = std::min<int64_t>(kPage, x.shape[2] - page * kPage);
    gather_rows(from, x.stride[2], x.stride[3], count, width, to, ld);
  }
};

// ---- many rows -----------------------------------------------------------------------------------------------------

// A thread takes a head, packs it into memory of its own, and lets chunk after chunk walk over it: pages stay in that
// core's cache. Threads that find no more heads help the others, with packing as with chunks. Where heads are so large
// that memory for one per thread would be too much, some threads only help.
class ManyRows {
 public:
  ManyRows(const KernelTable& kernel, const Attention& op, Geometry& g, int threads)
      : kernel_(kernel),
        op_(op),
        g_(g),
        values_(op.v, g.copy_v || (op.v.stride[2] > g.Dv && g.rows >= kRowsForCopy)),
        key_page_(Scratch::padded(kPage * g.D)),
        copied_values_(values_.copy ? g.pages : 1),
        heads_(g.B * g.G),
        packings_((g.pages + kPagesPerBlock - 1) / kPagesPerBlock),
        slots_(std::clamp<int64_t>(kSlotFloats / std::max<int64_t>(1, head_floats()), 1, threads)),
        progress_(static_cast<size_t>(heads_)),
        pointers_(static_cast<size_t>(2 * slots_ * g.pages)),
        scratch_(slots_ * head_floats() + threads * thread_floats()),
        pages_(scratch_.take(slots_ * head_floats())),
        rooms_(scratch_.take(threads * thread_floats())) {}

  void run(Team& team) {
    float* room = rooms_ + team.ith * thread_floats();
    if (team.ith < slots_) own_heads(team.ith, room);
    for (int64_t head = 0; head < heads_; ++head) {
      Team::until([&] { return progress(head).next.load(std::memory_order_acquire) != kNotBegun; });
      work_on(head, room);
    }
  }

 private:
  static constexpr int64_t kNotBegun = -1;
  struct alignas(64) Progress {
    std::atomic<int64_t> next{kNotBegun}, packed{0}, walked{0};  // the next item: packings, then chunks
    int64_t slot = 0;
  };
  Progress& progress(int64_t head) { return progress_[static_cast<size_t>(head)]; }

  void own_heads(int64_t slot, float* room) {
    for (int64_t head, before = -1; (head = next_.fetch_add(1, std::memory_order_relaxed)) < heads_; before = head) {
      if (before >= 0) await(progress(before).walked, g_.chunks);  // a helper may still be at it
      progress(head).slot = slot;
      progress(head).next.store(0, std::memory_order_release);
      work_on(head, room);
    }
  }

  // Takes items until none is left. Late queries see the most keys when attention is causal: they go first, so that no
  // thread is left with a long one.
  void work_on(int64_t head, float* room) {
    Progress& p = progress(head);
    const int64_t items = packings_ + g_.chunks;
    for (int64_t i; p.next.load(std::memory_order_relaxed) < items && (i = p.next.fetch_add(1)) < items;) {
      if (i < packings_) {
        pack(p.slot, Head(op_, g_, head), i, room);
        p.packed.fetch_add(1, std::memory_order_release);
      } else {
        await(p.packed, packings_);
        walk_chunk(p.slot, Head(op_, g_, head), items - 1 - i, room);
        p.walked.fetch_add(1, std::memory_order_release);
      }
    }
  }

  static void await(const std::atomic<int64_t>& count, int64_t all) {
    Team::until([&] { return count.load(std::memory_order_acquire) == all; });
  }

  int64_t head_floats() const { return g_.pages * key_page_ + copied_values_ * values_.page_floats; }
  int64_t q_floats() const { return g_.copy_q ? Scratch::padded(g_.chunk_rows * g_.D) : 0; }
  int64_t kernel_floats() const { return Scratch::padded(attention_scratch(g_.chunk_rows, g_.D)); }
  int64_t thread_floats() const {
    return q_floats() + kernel_floats() + Scratch::padded(kPage * g_.D) +
           (g_.copy_mask ? Scratch::padded(g_.chunk_rows * g_.S) : 0);
  }
  const void** key_pointers(int64_t slot) { return pointers_.data() + 2 * slot * g_.pages; }
  const void** value_pointers(int64_t slot) { return key_pointers(slot) + g_.pages; }

  void pack(int64_t slot, const Head& head, int64_t packing, float* room) {
    const int64_t first = packing * kPagesPerBlock;
    for (int64_t p = first; p < std::min(first + kPagesPerBlock, g_.pages); ++p)
      pack_page(slot, head, p, room + q_floats() + kernel_floats());
  }

  void pack_page(int64_t slot, const Head& head, int64_t page, float* row_scratch) {
    const Span span = seen_by_head(op_, g_, head.b);
    if ((page + 1) * kPage <= span.lo || page * kPage >= span.hi) return;
    float* base = pages_ + slot * head_floats();
    float* keys = base + page * key_page_;
    head.pack_keys(kernel_, op_, g_, page, keys, row_scratch);
    key_pointers(slot)[page] = keys;
    if (values_.in_place(page)) {
      value_pointers(slot)[page] = head.values(op_, page);
      return;
    }
    float* values = base + g_.pages * key_page_ + (values_.copy ? page : 0) * values_.page_floats;
    values_.copy_page(head.values(op_, page), page, values);
    value_pointers(slot)[page] = values;
  }

  void walk_chunk(int64_t slot, const Head& head, int64_t index, float* room) {
    Chunk chunk;
    chunk.fill(op_, g_, head.b, head.index, index, room,
               room + q_floats() + kernel_floats() + Scratch::padded(kPage * g_.D), {0, g_.S});
    if (chunk.all.empty()) return chunk.zero_result(op_, g_);
    const AttentionArgs args =
        chunk.args(op_, g_, key_pointers(slot), value_pointers(slot), 0, values_.ld, room + q_floats());
    kernel_.attention(&args);
    chunk.zero_unseen_weights(op_, g_);
  }

  const KernelTable& kernel_;
  const Attention& op_;
  const Geometry& g_;
  const RowPages values_;
  const int64_t key_page_, copied_values_, heads_, packings_, slots_;  // slots: heads at work
  std::vector<Progress> progress_;
  std::vector<const void*> pointers_;
  Scratch scratch_;
  float *pages_, *rooms_;
  alignas(64) std::atomic<int64_t> next_{0};  // head
};

// ---- few rows ------------------------------------------------------------------------------------------------------

class FewRows {
 public:
  FewRows(const KernelTable& kernel, const Attention& op, Geometry& g, int threads)
      : kernel_(kernel),
        op_(op),
        g_(g),
        keys_(op.k, g.copy_k),
        values_(op.v, g.copy_v),
        blocks_((g.S + kBlock - 1) / kBlock),
        heads_(g.B * g.G),
        parts_(parts(heads_, threads, blocks_)),
        partial_slots_(parts_ > 1 ? heads_ : threads),
        pointers_(static_cast<size_t>(2 * threads * g.pages)),
        merge_begin_(static_cast<size_t>(threads * (parts_ + 1))),
        merge_from_(static_cast<size_t>(threads * parts_)),
        scratch_(threads * room_floats() + partial_slots_ * partial_floats_of_head()),
        rooms_(scratch_.take(threads * room_floats())),
        partials_(scratch_.take(partial_slots_ * partial_floats_of_head())) {}

  void run(Team& team) {
    for (int64_t item; (item = next_part_.fetch_add(1, std::memory_order_relaxed)) < heads_ * parts_;) {
      const Head head(op_, g_, item / parts_);
      if (blocks_ == 1) {
        walk_block(team.ith, head);
        continue;
      }
      float* partials = partials_ + (parts_ > 1 ? item / parts_ : team.ith) * partial_floats_of_head();
      score_part(team.ith, head, item % parts_, partials);
      if (parts_ == 1) merge(team.ith, head, partials);
    }
    if (parts_ == 1) return;
    team.barrier();
    for (int64_t i; (i = next_merge_.fetch_add(1, std::memory_order_relaxed)) < heads_;)
      merge(team.ith, Head(op_, g_, i), partials_ + i * partial_floats_of_head());
  }

 private:
  // Parts into which the blocks of a head are cut: one if there are heads enough to keep all threads busy.
  static int64_t parts(int64_t heads, int threads, int64_t blocks) {
    return threads > 1 && heads < 4 * threads ? std::min<int64_t>(threads, std::max<int64_t>(blocks, 1)) : 1;
  }

  int64_t q_floats() const { return Scratch::padded(g_.rows * g_.D); }
  int64_t kernel_floats() const { return Scratch::padded(attention_scratch(g_.rows, g_.D)); }
  int64_t mask_floats() const { return g_.copy_mask ? Scratch::padded(g_.rows * g_.S) : 0; }
  static int64_t copied_pages(const RowPages& rows) { return rows.copy ? kPagesPerBlock : 1; }
  int64_t keys_floats() const { return copied_pages(keys_) * keys_.page_floats; }
  int64_t values_floats() const { return copied_pages(values_) * values_.page_floats; }
  int64_t room_floats() const { return keys_floats() + values_floats() + q_floats() + kernel_floats() + mask_floats(); }
  int64_t partial_floats_of_head() const { return Scratch::padded(partial_floats(blocks_, g_.rows, g_.Dv)); }
  float* keys_of(int thread) const { return rooms_ + thread * room_floats(); }
  const void** key_pointers(int thread) { return pointers_.data() + 2 * thread * g_.pages; }
  const void** value_pointers(int thread) { return key_pointers(thread) + g_.pages; }

  // Partials of one head: [block][row].
  float* partials_of(float* head, int64_t block) const { return head + partial_floats(block, g_.rows, g_.Dv); }

  // Blocks of the head's range that belong to a part.
  Span blocks_of(const Head& head, int64_t part) const {
    const Span span = seen_by_head(op_, g_, head.b);
    if (span.empty()) return {0, 0};
    const int64_t first = span.lo / kBlock, count = (span.hi + kBlock - 1) / kBlock - first;
    return {first + count * part / parts_, first + count * (part + 1) / parts_};
  }

  float* q_of(int thread) const { return keys_of(thread) + keys_floats() + values_floats(); }

  AttentionArgs args(int thread, const Chunk& chunk) {
    return chunk.args(op_, g_, key_pointers(thread), value_pointers(thread), keys_.ld, values_.ld,
                      q_of(thread) + q_floats());
  }

  void fill(int thread, const Head& head, Span wanted, Chunk& chunk) const {
    float* q = q_of(thread);
    chunk.fill(op_, g_, head.b, head.index, 0, q, q + q_floats() + kernel_floats(), wanted);
  }

  void score_part(int thread, const Head& head, int64_t part, float* partials) {
    const Span blocks = blocks_of(head, part);
    if (blocks.empty()) return;
    Chunk chunk;
    fill(thread, head, {blocks.lo * kBlock, blocks.hi * kBlock}, chunk);
    point_to_pages(thread, head, blocks);
    const AttentionArgs call = args(thread, chunk);
    // Copied pages have room for a block.
    const int64_t step = keys_.copy || values_.copy ? 1 : blocks.hi - blocks.lo;
    for (int64_t block = blocks.lo; block < blocks.hi; block += step) {
      copy_pages(thread, head, {block, block + step});
      kernel_.attention_partial(&call, block, block + step, partials_of(partials, block));
    }
  }

  // All keys are one block: there is nothing to merge.
  void walk_block(int thread, const Head& head) {
    Chunk chunk;
    fill(thread, head, {0, g_.S}, chunk);
    if (chunk.all.empty()) return chunk.zero_result(op_, g_);
    point_to_pages(thread, head, {0, 1});
    copy_pages(thread, head, {0, 1});
    const AttentionArgs call = args(thread, chunk);
    kernel_.attention(&call);
    chunk.zero_unseen_weights(op_, g_);
  }

  float* copied_keys(int thread, int64_t page) const {
    return keys_of(thread) + page % copied_pages(keys_) * keys_.page_floats;
  }
  float* copied_values(int thread, int64_t page) const {
    return keys_of(thread) + keys_floats() + page % copied_pages(values_) * values_.page_floats;
  }
  Span pages_in(Span blocks) const {
    return {blocks.lo * kPagesPerBlock, std::min(blocks.hi * kPagesPerBlock, g_.pages)};
  }

  // All pages of a part at once: kernels fetch ahead.
  void point_to_pages(int thread, const Head& head, Span blocks) {
    const Span pages = pages_in(blocks);
    for (int64_t p = pages.lo; p < pages.hi; ++p) {
      key_pointers(thread)[p] = keys_.in_place(p) ? head.keys(op_, p) : copied_keys(thread, p);
      value_pointers(thread)[p] = values_.in_place(p) ? head.values(op_, p) : copied_values(thread, p);
    }
  }

  void copy_pages(int thread, const Head& head, Span blocks) {
    const Span pages = pages_in(blocks);
    const bool all = keys_.copy || values_.copy;
    for (int64_t p = all ? pages.lo : std::max(pages.lo, pages.hi - 1); p < pages.hi; ++p) {
      if (!keys_.in_place(p)) keys_.copy_page(head.keys(op_, p), p, copied_keys(thread, p));
      if (!values_.in_place(p)) values_.copy_page(head.values(op_, p), p, copied_values(thread, p));
    }
  }

  void merge(int thread, const Head& head, float* partials) {
    int64_t* begin = merge_begin_.data() + thread * (parts_ + 1);
    const float** from = merge_from_.data() + thread * parts_;
    Chunk chunk;
    fill(thread, head, {0, 0}, chunk);
    if (chunk.all.empty()) return chunk.zero_result(op_, g_);
    for (int64_t part = 0; part < parts_; ++part) {
      const Span blocks = blocks_of(head, part);
      begin[part] = blocks.lo, begin[part + 1] = blocks.hi;
      from[part] = partials_of(partials, blocks.lo);
    }
    const AttentionArgs call = args(thread, chunk);
    kernel_.attention_merge(&call, static_cast<int>(parts_), begin, from);
    chunk.zero_unseen_weights(op_, g_);
  }

  const KernelTable& kernel_;
  const Attention& op_;
  const Geometry& g_;
  const RowPages keys_, values_;
  const int64_t blocks_, heads_, parts_, partial_slots_;
  std::vector<const void*> pointers_;
  std::vector<int64_t> merge_begin_;
  std::vector<const float*> merge_from_;
  Scratch scratch_;
  float *rooms_, *partials_;
  std::atomic<int64_t> next_part_{0}, next_merge_{0};
};

// Two products of every query row with every key, and one pass over keys and values.
double work_of(const Geometry& g) {
  return static_cast<double>(g.B * g.G) * static_cast<double>(g.S) * static_cast<double>(g.D + g.Dv) *
         static_cast<double>(2 * g.rows + 4);
}

}  // namespace

void attention(const Attention& op) {
  Geometry g(op);
  if (g.B == 0 || g.H == 0 || g.T == 0) return;
  const KernelTable& kernel = kernels();
  const int threads = threads_for(work_of(g));
  g.divide(threads);
  if (g.rows <= kFewRows) {
    FewRows few(kernel, op, g, threads);
    parallel(threads, [&few](Team& team) { few.run(team); });
  } else {
    ManyRows many(kernel, op, g, threads);
    parallel(threads, [&many](Team& team) { many.run(team); });
  }
}

}  // namespace fastattn::dense
