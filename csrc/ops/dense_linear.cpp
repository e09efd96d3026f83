#include "ops/dense_linear.h"

#include <atomic>
#include <vector>

#include "base/cpu.h"
#include "dispatch/dispatch.h"
#include "ops/linear.h"

namespace fastattn::dense {
namespace {

int64_t panel_floats(int64_t K) { return K * kPanel; }
int64_t panel_count(int64_t O) { return (O + kPanel - 1) / kPanel; }

constexpr int64_t kColumns = 256;     // of the transpose of a matrix, that are read together
constexpr int64_t kReadTogether = 4;  // rows that it is read for at a time

// Up to so many rows packing costs more than reading a weight as it lies. To be read twice, the transpose of a matrix
// has to stay in the second-level cache.
int64_t few_rows(const In<2>& w) {
  static const int64_t room = cache_bytes(2);
  if (w.stride[0] == 1)
    return kColumns * w.shape[1] * int64_t(sizeof(float)) <= room ? 2 * kReadTogether : kReadTogether;
  return w.stride[1] == 1 ? kMostUnpackedRows : 0;
}

constexpr int64_t kRowStep = 48;          // rows of a share, at least
constexpr int64_t kGroupBytes = 4 << 20;  // of panels that stay in the last-level cache while shares pass over them

// Whether rows are shared out: panels are too few for the team, or rows so many that walking over all of them for each
// panel would read them from memory. (From the last-level cache they come fast enough.)
bool shares_rows(const Linear& op, int threads) {
  static const int64_t room = 4 * cache_bytes(2);
  const int64_t rows = op.x.shape[0];
  return rows > kRowStep && ((threads > 1 && panel_count(op.weight.shape[0]) < 2 * threads) ||
                             rows * op.x.shape[1] * int64_t(sizeof(float)) > room);
}

// x as the kernels take it: a single row as it stands, several in chunks.
struct Rows {
  const float* x;
  int64_t ld_chunk;  // bytes

  // The room that several rows need, in floats.
  static int64_t room(int64_t rows, int64_t K) { return rows > 1 ? rows * chunks(K * 4) * (kLinearChunk / 4) : 0; }
  Rows(const float* from, int64_t ld, int64_t rows, int64_t K, float* room) : x(from), ld_chunk(rows * kLinearChunk) {
    if (rows < 2) return;
    arrange_rows(from, ld, rows, K, room);
    x = room;
  }
};

// The rows [row, row + rows) times the columns of panel p.
PanelArgs panel_args(const Linear& op, const Rows& x, int64_t p, int64_t row, int64_t rows) {
  const int64_t c = p * kPanel;
  PanelArgs args{};
  args.x = x.x + row * (kLinearChunk / 4), args.ld_chunk = x.ld_chunk;
  args.rows = rows, args.K = op.weight.shape[1];
  args.y = op.y.data + row * op.y.stride[0] + c, args.ldy = op.y.stride[0];
  args.cols = std::min<int64_t>(kPanel, op.weight.shape[0] - c);
  args.epilogue.bias = op.bias ? op.bias + c : nullptr;
  args.epilogue.activation = op.activation;
  args.epilogue.residual = op.residual.data ? op.residual.data + row * op.residual.stride[0] + c : nullptr;
  args.epilogue.ld_residual = op.residual.stride[0];
  return args;
}

void multiply(const KernelTable& kernel, const Linear& op, const Rows& x, const float* panel, int64_t p, int64_t row,
              int64_t rows) {
  PanelArgs args = panel_args(op, x, p, row, rows);
  args.panels = panel;
  kernel.linear_float32(&args);
}

// A few rows times weights as they lie, which are read once.
void walk_weights(const KernelTable& kernel, const Linear& op, const Rows& x, int threads) {
  const int64_t panels = panel_count(op.weight.shape[0]);
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Team&) {
    for (int64_t p; (p = next.fetch_add(1, std::memory_order_relaxed)) < panels;) {
      PanelArgs args = panel_args(op, x, p, 0, op.x.shape[0]);
      args.panels = op.weight.data + p * kPanel * op.weight.stride[0];
      args.ld_weights = op.weight.stride[0];
      kernel.linear_rows_float32(&args);
    }
  });
}

// Each thread takes a panel, packs it into its own scratch and uses it for all rows.
void walk_panels(const KernelTable& kernel, const Linear& op, const Rows& x, int threads, Scratch& scratch) {
  const int64_t panels = panel_count(op.weight.shape[0]), size = Scratch::padded(panel_floats(op.weight.shape[1]));
  float* room = scratch.take(threads * size);
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Team& team) {
    for (int64_t p; (p = next.fetch_add(1, std::memory_order_relaxed)) < panels;) {
      read_panel(source_of(op.weight), p, room + team.ith * size);
      multiply(kernel, op, x, room + team.ith * size, p, 0, op.x.shape[0]);
    }
  });
}

// Panels that walk_rows packs at a time.
int64_t group_panels(const Linear& op, int threads) {
  const int64_t bytes = panel_floats(op.weight.shape[1]) * int64_t(sizeof(float));
  return std::min(panel_count(op.weight.shape[0]),
                  std::max<int64_t>(threads, kGroupBytes / std::max<int64_t>(bytes, 1)));
}

// Many rows, which stay in the second-level cache a share at a time: a group of panels is packed, then passes over each
// share. A share has two rows or more: one row alone would have to be as it stands.
void walk_rows(const KernelTable& kernel, const Linear& op, const Rows& x, int threads, Scratch& scratch) {
  const int64_t panels = panel_count(op.weight.shape[0]), size = panel_floats(op.weight.shape[1]);
  const int64_t rows = op.x.shape[0], most = group_panels(op, threads);
  const int64_t shares = rows / kRowStep < threads ? rows / kRowStep : rows / kRowStep / threads * threads;
  float* room = scratch.take(most * size);
  parallel(threads, [&](Team& team) {
    for (int64_t first = 0; first < panels; first += most) {
      const int64_t count = std::min(most, panels - first);
      if (first > 0) team.barrier();  // others may still read the group before
      team.each(count, [&](int64_t p) { read_panel(source_of(op.weight), first + p, room + p * size); });
      team.barrier();
      team.each(shares, [&](int64_t i) {
        const int64_t begin = rows * i / shares, end = rows * (i + 1) / shares;
        for (int64_t p = 0; p < count; ++p) multiply(kernel, op, x, room + p * size, first + p, begin, end - begin);
      });
    }
  });
}

// A weight that is packed already.
void multiply_packed(const Linear& op, int threads, const LinearScratch& needs, Scratch& scratch) {
  const Weight weight = part_of(*op.packed, op.first_panel, op.weight.shape[0]);
  LinearPart part{};
  part.weight = &weight, part.bias = op.bias, part.activation = op.activation;
  part.y = op.y.data, part.ldy = op.y.stride[0];
  part.residual = op.residual.data, part.ld_residual = op.residual.stride[0];
  float *shared = scratch.take(needs.shared), *own = scratch.take(threads * needs.per_thread);
  const KernelTable& kernel = kernels();
  parallel(threads, [&](Team& team) {
    fastattn::linear(
        {kernel, op.x.data, op.x.shape[0], op.x.stride[0], &part, 1, shared, own + team.ith * needs.per_thread}, team);
  });
}

// A few rows times the transpose of a matrix: y = x M, a weighted sum of the rows of M, which needs no packing. Like
// the panels, it adds up each output as one chain over each chunk of k, and what follows is the same arithmetic, so the
// bits are the same.
void add_up_rows(const KernelTable& kernel, const Linear& op, int threads) {
  constexpr int64_t kLeast = 64;
  const int64_t rows = op.x.shape[0], O = op.weight.shape[0], K = op.weight.shape[1],
                columns = O < kColumns * threads ? kLeast : kColumns, pieces = (O + columns - 1) / columns;
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Team&) {
    for (int64_t piece; (piece = next.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
      const int64_t c = piece * columns, n = std::min(columns, O - c);
      kernel.weighted_sum(op.x.data, op.x.stride[0], rows, op.weight.data + c, op.weight.stride[1], K, n, op.y.data + c,
                          op.y.stride[0]);
      for (int64_t i = 0; i < rows; ++i) {
        float* y = op.y.data + i * op.y.stride[0] + c;
        if (op.bias) kernel.add_row(y, op.bias + c, n, y);
        if (op.activation != Activation::none) kernel.activation_row(op.activation, y, n, y);
        if (op.residual.data) kernel.add_row(y, op.residual.data + i * op.residual.stride[0] + c, n, y);
      }
    }
  });
}

// Few outputs would leave most of a panel empty. The rows of x take the part of the weights as they lie, those of the
// weight that of x: the same products are added up in the same order.
class Turned {
 public:
  static bool fits(const Linear& op) {
    return op.weight.shape[0] <= kMostOutputs && op.x.shape[0] >= kLeastRows &&
           (!op.packed || op.packed->type == DType::float32);
  }
  static int64_t room(const Linear& op, int threads) {
    const int64_t O = op.weight.shape[0];
    return Scratch::padded(O * op.weight.shape[1]) + Scratch::padded(Rows::room(O, op.weight.shape[1])) +
           Scratch::padded(threads * O * kPiece);
  }

  Turned(const Linear& op, int threads, Scratch& scratch)
      : op_(op),
        O_(op.weight.shape[0]),
        K_(op.weight.shape[1]),
        rows_(scratch.take(O_ * K_)),
        sums_(scratch.take(threads * O_ * kPiece)) {
    gather_weight();
    float* room = scratch.take(Rows::room(O_, K_));
    for (int64_t o = 0; o < O_; o += kMostUnpackedRows) {
      groups_.emplace_back(rows_ + o * K_, K_, count(o), K_, room);
      room += Rows::room(count(o), K_);
    }
  }

  void run(const KernelTable& kernel, int threads) {
    const int64_t rows = op_.x.shape[0], share = rows / (2 * threads) / kPanel * kPanel,
                  piece = std::clamp<int64_t>(share, kPanel, kPiece);
    std::atomic<int64_t> next{0};
    parallel(threads, [&](Team& team) {
      float* sums = sums_ + team.ith * O_ * kPiece;
      for (int64_t r; (r = next.fetch_add(piece, std::memory_order_relaxed)) < rows;) {
        const int64_t n = std::min(piece, rows - r);
        for (size_t g = 0; g < groups_.size(); ++g) multiply_piece(kernel, r, n, g, sums);
        finish_piece(kernel, r, n, sums);
      }
    });
  }

 private:
  static constexpr int64_t kMostOutputs = 16, kLeastRows = 16, kPiece = 256;

  int64_t count(int64_t o) const { return std::min<int64_t>(kMostUnpackedRows, O_ - o); }

  void gather_weight() {
    if (!op_.packed) return gather_rows(op_.weight.data, op_.weight.stride[0], op_.weight.stride[1], O_, K_, rows_, K_);
    for (int64_t o = 0; o < O_; ++o) {
      const int64_t row = op_.first_panel * kPanel + o;
      const auto* panel = reinterpret_cast<const float*>(op_.packed->panel(row / kPanel));
      gather(panel + row % kPanel, kPanel, K_, rows_ + o * K_);
    }
  }

  // sums[o][r]: the outputs of a group of the weight's rows, of the rows [r, r + n).
  void multiply_piece(const KernelTable& kernel, int64_t r, int64_t n, size_t group, float* sums) const {
    const int64_t o = static_cast<int64_t>(group) * kMostUnpackedRows;
    PanelArgs args{};
    args.x = groups_[group].x, args.ld_chunk = groups_[group].ld_chunk;
    args.rows = count(o), args.K = K_;
    args.panels = op_.x.data + r * op_.x.stride[0], args.ld_weights = op_.x.stride[0];
    args.y = sums + o * kPiece, args.ldy = kPiece, args.cols = n;
    kernel.linear_rows_float32(&args);
  }

  void finish_piece(const KernelTable& kernel, int64_t r, int64_t n, float* sums) const {
    for (int64_t o = 0; o < O_; ++o) {
      float* column = sums + o * kPiece;
      if (op_.bias)
        for (int64_t i = 0; i < n; ++i) column[i] += op_.bias[o];
      if (op_.activation != Activation::none) kernel.activation_row(op_.activation, column, n, column);
    }
    for (int64_t i = 0; i < n; ++i) {
      float* y = op_.y.data + (r + i) * op_.y.stride[0];
      for (int64_t o = 0; o < O_; ++o) y[o] = sums[o * kPiece + i];
      if (!op_.residual.data) continue;
      const float* residual = op_.residual.data + (r + i) * op_.residual.stride[0];
      for (int64_t o = 0; o < O_; ++o) y[o] += residual[o];
    }
  }

  const Linear& op_;
  const int64_t O_, K_;
  float *rows_, *sums_;       // the weight's rows, and each thread's sums
  std::vector<Rows> groups_;  // of the weight's rows
};

// Floats of scratch for panels, and for what multiply_packed needs.
int64_t room_for(const Linear& op, bool few, bool by_rows, int threads, const LinearScratch& needs) {
  if (Turned::fits(op)) return Turned::room(op, threads);
  if (op.packed) return Scratch::padded(needs.shared) + Scratch::padded(threads * needs.per_thread);
  const int64_t rows = Scratch::padded(Rows::room(op.x.shape[0], op.x.shape[1]));
  if (few) return rows;
  const int64_t held = by_rows ? group_panels(op, threads) : threads;
  return rows + held * Scratch::padded(panel_floats(op.weight.shape[1]));
}

}  // namespace

std::shared_ptr<Weight> pack(const In<2>& view, DType type) {
  return packed_weight(source_of(view), type, threads_to_pack(view));
}

void linear(const Linear& given) {
  Linear op = given;
  const int64_t rows = op.x.shape[0], O = op.weight.shape[0], K = op.weight.shape[1];
  if (rows == 0 || O == 0) return;
  const double passes = static_cast<double>(rows + (op.packed ? 1 : 3));
  const int threads = threads_for(2.0 * passes * static_cast<double>(O) * static_cast<double>(K));
  const bool by_rows = shares_rows(op, threads);
  const bool few = !op.packed && rows <= few_rows(op.weight);
  const bool copy = !rows_contiguous(op.x);
  const LinearScratch needs = op.packed ? linear_scratch(*op.packed, rows) : LinearScratch{};
  Scratch scratch(room_for(op, few, by_rows, threads, needs) + (copy ? Scratch::padded(rows * K) : 0));
  if (copy) {
    float* x = scratch.take(rows * K);
    for (int64_t i = 0; i < rows; ++i) gather(op.x.data + i * op.x.stride[0], op.x.stride[1], K, x + i * K);
    op.x = {x, {rows, K}, {K, 1}};
  }
  if (Turned::fits(op)) {
    Turned(op, threads, scratch).run(kernels(), threads);
  } else if (op.packed) {
    multiply_packed(op, threads, needs, scratch);
  } else if (few && op.weight.stride[0] == 1) {
    add_up_rows(kernels(), op, threads);
  } else if (const Rows x(op.x.data, op.x.stride[0], rows, K, scratch.take(Rows::room(rows, K))); few) {
    walk_weights(kernels(), op, x, threads);
  } else {
    (by_rows ? walk_rows : walk_panels)(kernels(), op, x, threads, scratch);
  }
}

}  // namespace fastattn::dense
