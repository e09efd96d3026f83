#include "ops/weight.h"

#include <algorithm>
#include <cstring>

#include "base/threads.h"

namespace fastattn {
namespace {

// panel: [K][kPanel] from up to kPanel rows of source: (rows, K)
void pack_panel(const float* source, int64_t rows, int64_t K, int64_t ld, float* panel) {
  constexpr int64_t kStrip = 16;  // columns at a time, so that a source row is read by cache lines
  if (rows < kPanel) std::memset(panel, 0, static_cast<size_t>(K * kPanel) * sizeof(float));
  for (int64_t k0 = 0; k0 < K; k0 += kStrip) {
    const int64_t k1 = std::min(K, k0 + kStrip);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = k0; k < k1; ++k) panel[k * kPanel + r] = source[r * ld + k];
  }
}

}  // namespace

std::shared_ptr<Weight> plain_weight(const float* source, int64_t rows, int64_t cols, int64_t ld) {
  auto weight = std::make_shared<Weight>();
  weight->rows = rows, weight->cols = cols;
  weight->plain.resize(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows && cols; ++r)
    std::memcpy(weight->plain.data() + r * cols, source + r * ld, static_cast<size_t>(cols) * sizeof(float));
  return weight;
}

std::shared_ptr<Weight> packed_weight(const float* source, int64_t rows, int64_t cols, int64_t ld, int num_threads) {
  auto weight = std::make_shared<Weight>();
  weight->rows = rows, weight->cols = cols;
  const int64_t panels = weight->panel_count();
  weight->panels.resize(static_cast<size_t>(panels * cols * kPanel));
  parallel(rows * cols < (1 << 18) ? 1 : num_threads, [&](Team& team) {
    const Range mine = team.split(panels);
    for (int64_t p = mine.begin; p < mine.end; ++p)
      pack_panel(source + p * kPanel * ld, std::min<int64_t>(kPanel, rows - p * kPanel), cols, ld,
                 weight->panels.data() + p * cols * kPanel);
  });
  return weight;
}

}  // namespace fastattn
