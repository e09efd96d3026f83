#include "ops/linear.h"

#include <algorithm>

#include "dispatch/dispatch.h"

namespace fastattn {
namespace {

constexpr int64_t kRowBlockFloats = 128 * 1024;  // x rows that stay in the L2 cache while panels stream past

// Up to so many elements of x every thread quantises all rows for itself: a barrier would cost more.
constexpr int64_t kQuantizedAlone = 8 * 1024;

bool any_quantized(const LinearPart* parts, int count) {
  return std::any_of(parts, parts + count, [](const LinearPart& p) { return is_quantized(p.weight->type); });
}

int64_t alone_rows(int64_t K) { return kQuantizedAlone / std::max<int64_t>(K, 1); }

// Parts that one thread computes together: a part and those after it that multiply by the one before.
int linked_end(const LinearArgs& a, int first) {
  int end = first + 1;
  while (end < a.count && a.parts[end].multiply && a.parts[end].multiply == a.parts[end - 1].y) ++end;
  return end;
}

// Bytes of panel p of the parts [first, end).
int64_t unit_bytes(const LinearArgs& a, int first, int end) {
  int64_t bytes = 0;
  for (int i = first; i < end; ++i) bytes += panel_bytes(a.parts[i].weight->type, a.parts[i].weight->cols);
  return std::max<int64_t>(bytes, 1);
}

// The rows as the kernels take them: x itself, and quantised.
struct Inputs {
  const float* x;
  int64_t ldx;
  const uint8_t* quantized;
  int64_t ld_quantized;
};

Inputs quantize(const LinearArgs& a, Team& team, const KernelTable& k) {
  const int64_t K = a.parts[0].weight->cols, size = quantized_bytes(K);
  const bool alone = a.rows <= alone_rows(K);
  uint8_t* rows = reinterpret_cast<uint8_t*>(alone ? a.scratch : a.shared);
  const Range mine = alone ? Range{0, a.rows} : team.split(a.rows);
  for (int64_t r = mine.begin; r < mine.end; ++r) k.quantize_row(a.x + r * a.ldx, K, rows + r * size);
  if (!alone) team.barrier();
  return {a.x, a.ldx, rows, size};
}

void multiply_panel(const KernelTable& k, const Inputs& in, const LinearPart& part, int64_t p, Range rows) {
  const Weight& w = *part.weight;
  const int64_t c = p * kPanel;
  const bool quantized = is_quantized(w.type);
  PanelArgs args{};
  args.x = quantized ? static_cast<const void*>(in.quantized + rows.begin * in.ld_quantized)
                     : static_cast<const void*>(in.x + rows.begin * in.ldx);
  args.ldx = quantized ? in.ld_quantized : in.ldx * static_cast<int64_t>(sizeof(float));
  args.rows = rows.end - rows.begin, args.K = w.cols;
  args.panel = w.panel(p);
  args.y = part.y + rows.begin * part.ldy + c, args.ldy = part.ldy;
  args.cols = static_cast<int>(std::min<int64_t>(kPanel, w.rows - c));
  args.epilogue = {part.bias ? part.bias + c : nullptr,
                   part.activation,
                   part.residual ? part.residual + rows.begin * part.ld_residual + c : nullptr,
                   part.ld_residual,
                   part.multiply ? part.multiply + rows.begin * part.ld_multiply + c : nullptr,
                   part.ld_multiply};
  panel_kernel(k, w.type)(&args);
}

// Calls body(first part, end part, range of panels) for the thread's share of the panels of all parts in a row, by
// bytes.
template <typename Body>
void each_share(const LinearArgs& a, const Team& team, bool all, Body body) {
  int64_t total = 0;
  for (int i = 0, end; i < a.count; i = end) {
    end = linked_end(a, i);
    total += unit_bytes(a, i, end) * a.parts[i].weight->panel_count();
  }
  const Range mine = all ? Range{0, total} : team.split(total);
  int64_t base = 0;
  for (int i = 0, end; i < a.count; i = end) {
    end = linked_end(a, i);
    const int64_t size = unit_bytes(a, i, end), panels = a.parts[i].weight->panel_count();
    const int64_t run = size * a.grain;
    const auto panel_at = [&](int64_t byte) {
      return std::clamp<int64_t>((byte - base + run - 1) / run * a.grain, 0, panels);
    };
    body(i, end, Range{panel_at(mine.begin), panel_at(mine.end)});
    base += size * panels;
  }
}

}  // namespace

PanelKernel panel_kernel(const KernelTable& k, DType type) {
  switch (type) {
    case DType::bfloat16: return k.linear_bfloat16;
    case DType::int8: return k.linear_int8;
    case DType::int4: return k.linear_int4;
    default: return k.linear_float32;
  }
}

LinearScratch linear_scratch(const LinearPart* parts, int count, int64_t rows) {
  if (!any_quantized(parts, count)) return {};
  const int64_t K = parts[0].weight->cols, floats = quantized_bytes(K) / static_cast<int64_t>(sizeof(float));
  return {rows > alone_rows(K) ? rows * floats : 0, std::min(rows, alone_rows(K)) * floats};
}

LinearScratch linear_scratch(const Weight& weight, int64_t rows) {
  LinearPart part{};
  part.weight = &weight;
  return linear_scratch(&part, 1, rows);
}

void linear(const LinearArgs& a, Team& team) {
  if (a.rows == 0 || a.count == 0) return;
  const KernelTable& k = kernels();
  const Inputs in = any_quantized(a.parts, a.count) ? quantize(a, team, k) : Inputs{a.x, a.ldx, nullptr, 0};
  // Few rows: every thread streams its own panels once. Many rows over few panels: threads take rows instead.
  int64_t panels = 0;
  for (int i = 0; i < a.count; ++i) panels += a.parts[i].weight->panel_count();
  const bool by_rows = panels < 2 * team.nth && a.rows >= 2 * team.nth;
  const Range rows = by_rows ? team.split(a.rows) : Range{0, a.rows};
  const int64_t step = std::max<int64_t>(48, kRowBlockFloats / std::max<int64_t>(a.parts[0].weight->cols, 1) / 12 * 12);
  for (int64_t r = rows.begin; r < rows.end; r += step)
    each_share(a, team, by_rows, [&](int first, int end, Range mine) {
      const Range block{r, std::min(rows.end, r + step)};
      for (int64_t p = mine.begin; p < mine.end; ++p) {
        for (int i = first; i < end; ++i) multiply_panel(k, in, a.parts[i], p, block);
        if (a.finished && ((p + 1) % a.grain == 0 || p + 1 == mine.end))
          a.finished(a.context, {p / a.grain * a.grain, p + 1}, block);
      }
    });
}

}  // namespace fastattn
