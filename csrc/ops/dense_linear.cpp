#include "ops/dense_linear.h"

#include <atomic>

#include "dispatch/dispatch.h"
#include "ops/dense_transpose.h"

namespace fastattn::dense {
namespace {

int64_t panel_floats(int64_t K) { return K * kPanel; }
int64_t panel_count(int64_t O) { return (O + kPanel - 1) / kPanel; }

constexpr int64_t kFewRows = 4;  // up to here packing costs more than reading a matrix once for each row

// Rows of a work item when panels alone are too few for the team; a multiple of kMaxRows.
constexpr int64_t kRowStep = 48;

// Panel p of the weight as [K][kPanel], zero padded.
void pack_panel(const In<2>& weight, int64_t p, float* panel) {
  constexpr int64_t kStep = 64;  // columns at a time: what they fill of the panel stays in L1
  const int64_t K = weight.shape[1], first = p * kPanel;
  const int cols = static_cast<int>(std::min<int64_t>(kPanel, weight.shape[0] - first));
  const float* w = weight.data + first * weight.stride[0];
  if (cols < kPanel) std::memset(panel, 0, static_cast<size_t>(panel_floats(K)) * sizeof(float));
  if (rows_contiguous(weight)) {
    for (int64_t k = 0; k < K; k += kStep)
      transpose(w + k, weight.stride[0], cols, std::min(kStep, K - k), panel + k * kPanel, kPanel);
  } else if (weight.stride[0] == 1) {  // the transpose of a matrix: its rows are lines of the panel
    for (int64_t k = 0; k < K; ++k)
      std::memcpy(panel + k * kPanel, w + k * weight.stride[1], static_cast<size_t>(cols) * sizeof(float));
  } else {
    for (int64_t k = 0; k < K; ++k) gather(w + k * weight.stride[1], weight.stride[0], cols, panel + k * kPanel);
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

// Each thread takes a panel, packs it into its own scratch if it has to, and uses it for all rows.
void walk_panels(const KernelTable& kernel, const Linear& op, int threads, Scratch& scratch) {
  const int64_t panels = panel_count(op.weight.shape[0]), size = Scratch::padded(panel_floats(op.weight.shape[1]));
  float* room = op.packed ? nullptr : scratch.take(threads * size);
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Team& team) {
    for (int64_t p; (p = next.fetch_add(1, std::memory_order_relaxed)) < panels;) {
      if (op.packed) {
        multiply(kernel, op, op.packed->panel(op.first_panel + p), p, 0, op.x.shape[0]);
      } else {
        pack_panel(op.weight, p, room + team.ith * size);
        multiply(kernel, op, room + team.ith * size, p, 0, op.x.shape[0]);
      }
    }
  });
}

// Few panels and many rows: all panels are packed first, then the rows are shared out.
void walk_rows(const KernelTable& kernel, const Linear& op, int threads, Scratch& scratch) {
  const int64_t panels = panel_count(op.weight.shape[0]), size = panel_floats(op.weight.shape[1]);
  float* room = op.packed ? nullptr : scratch.take(panels * size);
  const float* packed = op.packed ? op.packed->panel(op.first_panel) : room;
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Team& team) {
    for (int64_t p = team.ith; room && p < panels; p += team.nth) pack_panel(op.weight, p, room + p * size);
    team.barrier();
    for (int64_t row; (row = next.fetch_add(kRowStep, std::memory_order_relaxed)) < op.x.shape[0];)
      for (int64_t p = 0; p < panels; ++p)
        multiply(kernel, op, packed + p * size, p, row, std::min(kRowStep, op.x.shape[0] - row));
  });
}

// A few rows times the transpose of a matrix: y = x M, a weighted sum of the rows of M, which needs no packing. Like
// the panels, it adds up each output as one chain over k, and what follows is the same arithmetic, so the bits are the
// same.
void add_up_rows(const KernelTable& kernel, const Linear& op, int threads) {
  constexpr int64_t kColumns = 256;
  const int64_t rows = op.x.shape[0], O = op.weight.shape[0], K = op.weight.shape[1],
                pieces = (O + kColumns - 1) / kColumns;
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Team&) {
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < rows * pieces;) {
      const int64_t i = item / pieces, c = item % pieces * kColumns, n = std::min(kColumns, O - c);
      float* y = op.y.data + i * op.y.stride[0] + c;
      kernel.weighted_sum(op.x.data + i * op.x.stride[0], op.weight.data + c, op.weight.stride[1], K, n, y);
      if (op.bias) kernel.add_row(y, op.bias + c, n, y);
      if (op.activation != Activation::none) kernel.activation_row(op.activation, y, n, y);
      if (op.residual.data) kernel.add_row(y, op.residual.data + i * op.residual.stride[0] + c, n, y);
    }
  });
}

// Floats of scratch for packed panels.
int64_t room_for_panels(const Linear& op, bool by_rows, int threads) {
  if (op.packed) return 0;
  const int64_t held = by_rows ? panel_count(op.weight.shape[0]) : threads;
  return held * Scratch::padded(panel_floats(op.weight.shape[1]));
}

}  // namespace

std::shared_ptr<Weight> pack(const In<2>& view) {
  auto weight = std::make_shared<Weight>();
  weight->rows = view.shape[0], weight->cols = view.shape[1];
  const int64_t panels = weight->panel_count(), size = panel_floats(weight->cols);
  weight->panels.resize(static_cast<size_t>(panels * size));
  parallel(threads_for(8.0 * static_cast<double>(panels * size)), [&](Team& team) {
    const Range mine = team.split(panels);
    for (int64_t p = mine.begin; p < mine.end; ++p) pack_panel(view, p, weight->panels.data() + p * size);
  });
  return weight;
}

void linear(const Linear& given) {
  Linear op = given;
  const int64_t rows = op.x.shape[0], O = op.weight.shape[0], K = op.weight.shape[1];
  if (rows == 0 || O == 0) return;
  const double passes = static_cast<double>(rows + (op.packed ? 1 : 3));
  const int threads = threads_for(2.0 * passes * static_cast<double>(O) * static_cast<double>(K));
  const bool by_rows = threads > 1 && panel_count(O) < 2 * threads && rows > kRowStep;
  const bool copy = !rows_contiguous(op.x);
  Scratch scratch(room_for_panels(op, by_rows, threads) + (copy ? Scratch::padded(rows * K) : 0));
  if (copy) {
    float* x = scratch.take(rows * K);
    for (int64_t i = 0; i < rows; ++i) gather(op.x.data + i * op.x.stride[0], op.x.stride[1], K, x + i * K);
    op.x = {x, {rows, K}, {K, 1}};
  }
  if (!op.packed && op.weight.stride[0] == 1 && rows <= kFewRows) {
    add_up_rows(kernels(), op, threads);
  } else if (by_rows) {
    walk_rows(kernels(), op, threads, scratch);
  } else {
    walk_panels(kernels(), op, threads, scratch);
  }
}

}  // namespace fastattn::dense
