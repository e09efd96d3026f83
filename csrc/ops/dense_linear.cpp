#include "ops/dense_linear.h"

#include <atomic>

#include "dispatch/dispatch.h"
#include "ops/dense_transpose.h"

namespace fastattn::dense {
namespace {

// Rows of a work item when panels alone are too few for the team; a multiple of kMaxRows.
constexpr int64_t kRowStep = 48;

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
  float* room = scratch.take(threads * size);
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Team& team) {
    float* panel = room + team.ith * size;
    for (int64_t p; (p = next.fetch_add(1, std::memory_order_relaxed)) < panels;) {
      pack_panel(op.weight, p, panel);
      multiply(kernel, op, panel, p, 0, op.x.shape[0]);
    }
  });
}

// Few panels and many rows: all panels are packed first, then the rows are shared out.
void walk_rows(const KernelTable& kernel, const Linear& op, int threads, Scratch& scratch) {
  const int64_t panels = panel_count(op.weight.shape[0]), size = Scratch::padded(panel_floats(op.weight.shape[1]));
  float* packed = scratch.take(panels * size);
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Team& team) {
    for (int64_t p = team.ith; p < panels; p += team.nth) pack_panel(op.weight, p, packed + p * size);
    team.barrier();
    for (int64_t row; (row = next.fetch_add(kRowStep, std::memory_order_relaxed)) < op.x.shape[0];)
      for (int64_t p = 0; p < panels; ++p)
        multiply(kernel, op, packed + p * size, p, row, std::min(kRowStep, op.x.shape[0] - row));
  });
}

}  // namespace

void pack_panel(const In<2>& weight, int64_t p, float* panel) {
  constexpr int64_t kStep = 64;  // columns at a time: what they fill of the panel stays in L1
  const int64_t K = weight.shape[1], first = p * kPanel;
  const int cols = static_cast<int>(std::min<int64_t>(kPanel, weight.shape[0] - first));
  const float* w = weight.data + first * weight.stride[0];
  if (cols < kPanel) std::memset(panel, 0, static_cast<size_t>(panel_floats(K)) * sizeof(float));
  if (rows_contiguous(weight)) {
    for (int64_t k = 0; k < K; k += kStep)
      transpose(w + k, weight.stride[0], cols, std::min(kStep, K - k), panel + k * kPanel, kPanel);
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
  Scratch scratch(held * Scratch::padded(panel_floats(K)) + (copy ? Scratch::padded(rows * K) : 0));
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
