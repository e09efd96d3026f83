#include "ops/linear.h"

#include <algorithm>

#include "dispatch/dispatch.h"

namespace fastattn {
namespace {

constexpr int64_t kRowBlockFloats = 128 * 1024;  // x rows that stay in the L2 cache while panels stream past

void block(const LinearArgs& a, Range panels, Range rows) {
  const KernelTable& k = kernels();
  const int64_t O = a.weight->rows, I = a.weight->cols;
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    const int64_t c = p * kPanel;
    const Epilogue epilogue{a.bias ? a.bias + c : nullptr, a.activation,
                            a.residual ? a.residual + rows.begin * a.ld_residual + c : nullptr, a.ld_residual};
    k.linear_panel(a.x + rows.begin * a.ldx, a.ldx, rows.end - rows.begin, a.weight->panel(p), I,
                   a.y + rows.begin * a.ldy + c, a.ldy, static_cast<int>(std::min<int64_t>(kPanel, O - c)), &epilogue);
  }
}

}  // namespace

void linear(const LinearArgs& a, const Team& team) {
  // Few rows: every thread streams its own panels once. Many rows over few panels: threads take rows instead.
  const int64_t panels = a.weight->panel_count();
  const bool by_rows = panels < 2 * team.nth && a.rows >= 2 * team.nth;
  const Range mine_panels = by_rows ? Range{0, panels} : team.split(panels);
  const Range mine_rows = by_rows ? team.split(a.rows) : Range{0, a.rows};
  const int64_t step = std::max<int64_t>(48, kRowBlockFloats / std::max<int64_t>(a.weight->cols, 1) / 12 * 12);
  for (int64_t r = mine_rows.begin; r < mine_rows.end; r += step)
    block(a, mine_panels, {r, std::min(mine_rows.end, r + step)});
}

}  // namespace fastattn
