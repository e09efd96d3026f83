#include "ops/dense_linear.h"

#include <atomic>

#include "dispatch/dispatch.h"

namespace fastattn::dense {
namespace {

constexpr int64_t kRowStep =
    48;  // rows of a work item when panels alone are too few for the team; a multiple of kMaxRows

// Sixteen weight rows, kPackStep columns at a time: the transpose stays in L1, then lines of it go to the panel.
void pack_sixteen(const KernelTable& kernel, const float* w, int64_t ldw, int count, int64_t K, float* panel,
                  float* page) {
  for (int64_t k0 = 0; k0 < K; k0 += kPackStep) {
    const int64_t step = std::min(kPackStep, K - k0);
    kernel.pack_keys(w + k0, ldw, count, step, page, 0);
    for (int64_t k = 0; k < step; ++k)
      std::memcpy(panel + (k0 + k) * kPanel, page + k * kPage, static_cast<size_t>(count) * sizeof(float));
  }
}

void multiply(const KernelTable& kernel, const Linear& op, const float* panel, int64_t p, int64_t row, int64_t rows) {
  const int64_t c = p * kPanel;
  const float* residual = op.residual.data ? op.residual.data + row * op.residual.stride[0] + c : nullptr;
  const Epilogue epilogue{op.bias ? op.bias + c : nullptr, op.activation, residual, op.residual.stride[0]};
  const int cols = static_cast<int>(std::min<int64_t>(kPanel, op.weight.shape[0] - c));
  kernel.linear_panel(op.x.data + row * op.x.stride[0], op.x.stride[0], rows, panel, op.weight.shape[1],
                      op.y.data + row * op.y.stride[0] + c, op.y.stride[0], cols, &epilogue);
}

// Many panels: each thread packs one into its own scratch, uses it for all rows, and takes the next.
void walk_panels(const KernelTable& kernel, const Linear& op, int threads, Scratch& scratch) {
  const int64_t panels = panel_count(op.weight.shape[0]), size = Scratch::padded(panel_floats(op.weight.shape[1]));
  float* room = scratch.take(threads * (size + kPackStep * kPage));
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Team& team) {
    float* page = room + team.ith * (size + kPackStep * kPage);
    float* panel = page + kPackStep * kPage;
    for (int64_t p; (p = next.fetch_add(1, std::memory_order_relaxed)) < panels;) {
      pack_panel(kernel, op.weight, p, panel, page);
      multiply(kernel, op, panel, p, 0, op.x.shape[0]);
    }
  });
}

// Few panels and many rows: all panels are packed first, then the rows are shared out.
void walk_rows(const KernelTable& kernel, const Linear& op, int threads, Scratch& scratch) {
  const int64_t panels = panel_count(op.weight.shape[0]), size = Scratch::padded(panel_floats(op.weight.shape[1]));
  float* pages = scratch.take(threads * kPackStep * kPage);
  float* packed = scratch.take(panels * size);
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Team& team) {
    for (int64_t p = team.ith; p < panels; p += team.nth)
      pack_panel(kernel, op.weight, p, packed + p * size, pages + team.ith * kPackStep * kPage);
    team.barrier();
    for (int64_t row; (row = next.fetch_add(kRowStep, std::memory_order_relaxed)) < op.x.shape[0];)
      for (int64_t p = 0; p < panels; ++p)
        multiply(kernel, op, packed + p * size, p, row, std::min(kRowStep, op.x.shape[0] - row));
  });
}

}  // namespace

void pack_panel(const KernelTable& kernel, const In<2>& weight, int64_t p, float* panel, float* page) {
  const int64_t K = weight.shape[1], first = p * kPanel;
  const int cols = static_cast<int>(std::min<int64_t>(kPanel, weight.shape[0] - first));
  const float* w = weight.data + first * weight.stride[0];
  if (cols < kPanel) std::memset(panel, 0, static_cast<size_t>(panel_floats(K)) * sizeof(float));
  if (rows_contiguous(weight)) {
    for (int c = 0; c < cols; c += kPage)
      pack_sixteen(kernel, w + c * weight.stride[0], weight.stride[0], std::min(kPage, cols - c), K, panel + c, page);
    return;
  }
  for (int64_t k = 0; k < K; ++k) gather(w + k * weight.stride[1], weight.stride[0], cols, panel + k * kPanel);
}

void linear(const Linear& given) {
  const KernelTable& kernel = kernels();
  Linear op = given;
  const int64_t rows = op.x.shape[0], O = op.weight.shape[0], K = op.weight.shape[1];
  if (rows == 0 || O == 0) return;
  const int64_t panels = panel_count(O);
  const int threads =
      threads_for(2.0 * static_cast<double>(rows + 2) * static_cast<double>(O) * static_cast<double>(K));
  const bool by_rows = threads > 1 && panels < 2 * threads && rows > kRowStep;
  const bool copy = !rows_contiguous(op.x);
  const int64_t held = by_rows ? panels : threads;
  Scratch scratch(held * Scratch::padded(panel_floats(K)) + threads * kPackStep * kPage +
                  (copy ? Scratch::padded(rows * K) : 0));
  if (copy) {
    float* x = scratch.take(rows * K);
    for (int64_t i = 0; i < rows; ++i) gather(op.x.data + i * op.x.stride[0], op.x.stride[1], K, x + i * K);
    op.x = {x, {rows, K}, {K, 1}};
  }
  if (by_rows) {
    walk_rows(kernel, op, threads, scratch);
  } else {
    walk_panels(kernel, op, threads, scratch);
  }
}

}  // namespace fastattn::dense
