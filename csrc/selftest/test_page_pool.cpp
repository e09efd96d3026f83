// Where pages stand: every strip alone on its cache lines, those of a head side by side, and the lowest free page
// first.
#include <algorithm>
#include <numeric>

#include "ops/cache.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

const std::vector<PagedLayer> kLayers = {{3, 20, 36}, {1, 64, 64}, {2, 1, 129}};

struct Strip {
  uint8_t* begin;
  int64_t bytes;
};

// Of a page, in the order of its layers and heads, keys before values.
std::vector<Strip> strips_of(const PagePool& pool, int32_t page) {
  std::vector<Strip> strips;
  for (size_t i = 0; i < pool.layer_count(); ++i) {
    const PagedLayer& layer = pool.layer(static_cast<int64_t>(i));
    for (int64_t g = 0; g < layer.heads; ++g) strips.push_back({pool.keys(page, layer, g), layer.key_bytes()});
    for (int64_t g = 0; g < layer.heads; ++g) strips.push_back({pool.values(page, layer, g), layer.value_bytes()});
  }
  return strips;
}

void check_places(const PagePool& pool, int32_t pages) {
  std::vector<Strip> all;
  for (int32_t page = 0; page < pages; ++page) {
    const std::vector<Strip> strips = strips_of(pool, page);
    report(static_cast<int64_t>(strips.size()) == pool.strip_count(), "strips of a page");
    all.insert(all.end(), strips.begin(), strips.end());
    if (page % 16 == 15) continue;  // another chunk may begin
    const std::vector<Strip> next = strips_of(pool, page + 1);
    for (size_t s = 0; s < strips.size(); ++s)
      report(strips[s].begin + strips[s].bytes == next[s].begin, "strip %zu of pages %d and %d apart", s, page,
             page + 1);
  }
  std::sort(all.begin(), all.end(), [](const Strip& a, const Strip& b) { return a.begin < b.begin; });
  for (size_t s = 0; s < all.size(); ++s) {
    report(reinterpret_cast<uintptr_t>(all[s].begin) % 64 == 0, "a strip does not start on a cache line");
    if (s) report(all[s - 1].begin + all[s - 1].bytes <= all[s].begin, "strips overlap");
  }
}

void check_copy(const PagePool& pool, int32_t from, int32_t to) {
  for (const int32_t page : {from, to})
    for (const Strip& strip : strips_of(pool, page)) std::memset(strip.begin, page, static_cast<size_t>(strip.bytes));
  const int64_t begin = 2, end = 7;
  pool.copy(from, to, begin, end);
  int64_t s = 0;
  for (const Strip& strip : strips_of(pool, to)) {
    const int expected = s >= begin && s < end ? from : to;
    report(std::all_of(strip.begin, strip.begin + strip.bytes, [&](uint8_t x) { return x == expected; }),
           "strip %ld of a page after a copy of strips %ld to %ld", long(s), long(begin), long(end));
    ++s;
  }
}

void check_order(PagePool& pool, int32_t pages) {
  std::vector<int32_t> given(static_cast<size_t>(pages));
  std::iota(given.begin(), given.end(), 0);
  std::shuffle(given.begin(), given.end(), generator());
  given.resize(given.size() / 2);
  for (const int32_t page : given) pool.release(page);
  report(pool.pages_in_use() == pages - static_cast<int32_t>(given.size()), "pages in use");
  std::sort(given.begin(), given.end());
  for (const int32_t page : given) report(pool.take() == page, "the lowest free page is not the first");
}

}  // namespace

void test_page_pool() {
  const int32_t pages = 150;
  for (const DType type : {DType::float32, DType::bfloat16, DType::int8}) {
    PagePool pool;
    pool.set_layers(kLayers, type);
    for (int32_t page = 0; page < pages; ++page) report(pool.take() == page, "pages of a new pool in order");
    check_places(pool, pages);
    check_copy(pool, 3, 140);
    check_order(pool, pages);
    pool.retain(5);
    pool.release(5);
    report(pool.references(5) == 1 && pool.pages_in_use() == pages, "a page with two holders");
    pool.release_all();
    report(pool.pages_in_use() == 0 && pool.take() == 0, "a pool after release_all");
  }
}

}  // namespace fastattn::selftest
