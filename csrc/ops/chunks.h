// How the query rows of attention are divided into work items.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastattn {

// Rows of an item, of `rows` in all: four items for each thread, in whole register tiles (of 6 or 12 rows), between
// `least` and `most`.
inline int64_t chunk_of_rows(int64_t rows, int threads, int64_t least, int64_t most) {
  constexpr int64_t kItems = 4, kTiles = 12;
  return std::clamp(rows / (kItems * threads) / kTiles * kTiles, least, most);
}

}  // namespace fastattn
