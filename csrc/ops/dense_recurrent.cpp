// The products of all inputs come first, as one matrix product. Then the sequences go on token by token, together:
// sorted by length, those that are still running are the first rows of the state.
#include "ops/dense_recurrent.h"

#include <numeric>
#include <vector>

#include "dispatch/dispatch.h"
#include "ops/dense_linear.h"
#include "ops/linear.h"

namespace fastattn::dense {
namespace {

// A step is short and ends at a barrier: a team pays only if there is this much work between two of them.
constexpr double kWorkPerStep = 2e5;

// A weight as panels: where it has none, made in scratch that is kept from call to call, as fresh memory takes longer
// to get than to fill.
class Panels {
 public:
  static int64_t room(const Matrix& m) { return m.packed ? 0 : Scratch::padded(floats(m)); }

  Panels(const Matrix& m, Scratch& scratch) : weight_(m.packed) {
    if (weight_) return;
    const In<2>& w = m.rows;
    auto* panels = reinterpret_cast<uint8_t*>(scratch.take(floats(m)));
    pack_panels(source_of(w), DType::float32, threads_to_pack(w), panels);
    made_.rows = w.shape[0], made_.cols = w.shape[1];
    made_.panels = {panels, [](const uint8_t*) {}};
    weight_ = &made_;
  }
  Panels(const Panels&) = delete;
  Panels& operator=(const Panels&) = delete;

  const Weight& weight() const { return *weight_; }

 private:
  // A line more: without columns there would be no address.
  static int64_t floats(const Matrix& m) {
    return (m.rows.shape[0] + kPanel - 1) / kPanel * kPanel * m.rows.shape[1] + 16;
  }
  Weight made_;
  const Weight* weight_;
};

void cell_row(const KernelTable& kernel, Cell cell, const float* from_x, const float* from_h, int64_t H, float* h,
              float* c) {
  if (cell == Cell::lstm) {
    kernel.lstm_cell_row(from_x, from_h, c, H, h, c);
  } else {
    kernel.gru_cell_row(from_x, from_h, h, H, h);
  }
}

struct Run {
  const KernelTable& kernel;
  const Recurrent& op;
  const Weight &weight_ih, &weight_hh;
  int64_t B, T, H, O;
  std::vector<int64_t> order;  // sequences, longest first
  std::vector<int64_t> first;  // row of each sequence's first token in x and gx
  const float* x = nullptr;    // (rows, I), rows ldx apart
  int64_t ldx = 0;
  Buffer<float> gathered, gx, gh, h, c;  // gx: (rows, O); gh: (B, O), h, c: (B, H) in `order`
  LinearScratch scratch;                 // of both products
  Buffer<float> room;                    // the shared scratch, then that of each thread

  Run(const KernelTable& k, const Recurrent& r, const Weight& ih, const Weight& hh)
      : kernel(k),
        op(r),
        weight_ih(ih),
        weight_hh(hh),
        B(r.x.shape[0]),
        T(r.x.shape[1]),
        H(hh.cols),
        O(hh.rows),
        order(static_cast<size_t>(B)),
        first(static_cast<size_t>(B + 1)),
        gx(static_cast<size_t>(B * T * O)),
        gh(static_cast<size_t>(B * O)),
        h(static_cast<size_t>(B * H)),
        c(static_cast<size_t>(B * H)) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&r](int64_t a, int64_t b) { return r.lengths[a] > r.lengths[b]; });
    line_up_inputs();
  }

  int64_t sequence(int64_t i) const { return order[static_cast<size_t>(i)]; }
  size_t state_bytes() const { return static_cast<size_t>(H) * sizeof(float); }

  void make_room(int threads) {
    const LinearScratch a = linear_scratch(weight_ih, total()), b = linear_scratch(weight_hh, B);
    scratch = {std::max(a.shared, b.shared), std::max(a.per_thread, b.per_thread)};
    room.resize(static_cast<size_t>(scratch.shared + threads * scratch.per_thread));
  }

  // The rows of all sequences one after the other, as they stand, or gathered: those beyond a length are not touched.
  void line_up_inputs() {
    const int64_t I = weight_ih.cols;
    for (int64_t b = 0; b < B; ++b) first[static_cast<size_t>(b + 1)] = first[static_cast<size_t>(b)] + op.lengths[b];
    x = op.x.data, ldx = T == 1 ? op.x.stride[0] : op.x.stride[1];
    if (total() == B * T && (B == 1 || T == 1 || op.x.stride[0] == T * op.x.stride[1])) return;
    gathered.resize(static_cast<size_t>(total() * I));
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = 0; t < op.lengths[b]; ++t)
        std::copy_n(op.x.data + b * op.x.stride[0] + t * op.x.stride[1], I, gathered.data() + row(b, t) * I);
    x = gathered.data(), ldx = I;
  }

  int64_t row(int64_t b, int64_t t) const { return first[static_cast<size_t>(b)] + t; }
  int64_t total() const { return first.back(); }

  void product(const Weight& weight, const float* bias, const float* from, int64_t ld, int64_t rows, float* y,
               Team& team) {
    LinearPart part{};
    part.weight = &weight, part.bias = bias, part.y = y, part.ldy = O;
    fastattn::linear(
        {kernel, from, rows, ld, &part, 1, room.data(), room.data() + scratch.shared + team.ith * scratch.per_thread},
        team);
  }

  void cell(int64_t i, int64_t step) {
    const int64_t b = sequence(i), t = op.direction == Recurrent::Direction::reverse ? op.lengths[b] - 1 - step : step;
    const float* from_x = gx.data() + row(b, t) * O;
    const float* from_h = gh.data() + i * O;
    float* state = h.data() + i * H;
    cell_row(kernel, op.cell, from_x, from_h, H, state, c.data() + i * H);
    std::memcpy(op.out.data + b * op.out.stride[0] + t * op.out.stride[1], state, state_bytes());
  }

  void steps(Team& team) {
    int64_t running = B;
    for (int64_t step = 0;; ++step) {
      while (running > 0 && op.lengths[sequence(running - 1)] <= step) --running;
      if (running == 0) return;
      product(weight_hh, op.bias_hh, h.data(), H, running, gh.data(), team);
      team.barrier();
      const Range mine = team.split(running);
      for (int64_t i = mine.begin; i < mine.end; ++i) cell(i, step);
      team.barrier();
    }
  }

  void load_states() {
    for (int64_t i = 0; i < B; ++i) {
      std::memcpy(h.data() + i * H, op.h + sequence(i) * H, state_bytes());
      if (op.c) std::memcpy(c.data() + i * H, op.c + sequence(i) * H, state_bytes());
    }
  }

  void store_states() {
    for (int64_t i = 0; i < B; ++i) {
      std::memcpy(op.h + sequence(i) * H, h.data() + i * H, state_bytes());
      if (op.c) std::memcpy(op.c + sequence(i) * H, c.data() + i * H, state_bytes());
    }
  }

  void zero_padding() {
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = op.lengths[b]; t < T; ++t)
        std::fill_n(op.out.data + b * op.out.stride[0] + t * op.out.stride[1], H, 0.0f);
  }
};

}  // namespace

void cell(Cell cell, const float* from_x, const float* from_h, int64_t B, int64_t H, float* h, float* c) {
  constexpr double kCost = 100;  // of an element: three powers, or five
  const KernelTable& kernel = kernels();
  const int64_t O = (cell == Cell::lstm ? 4 : 3) * H;
  const int threads = threads_for(kCost * static_cast<double>(B) * static_cast<double>(H));
  parallel(threads, [&](Team& team) {
    team.each(B, [&](int64_t i) {
      cell_row(kernel, cell, from_x + i * O, from_h + i * O, H, h + i * H, c ? c + i * H : nullptr);
    });
  });
}

void recurrent(const Recurrent& op) {
  const int64_t B = op.x.shape[0], H = op.out.shape[2], O = (op.cell == Cell::lstm ? 4 : 3) * H;
  if (B == 0 || H == 0) return;
  const double per_step = 2.0 * static_cast<double>(B * O) * static_cast<double>(H);
  const int threads = per_step < kWorkPerStep ? 1 : threads_for(per_step * static_cast<double>(2 * op.x.shape[1]));
  Scratch scratch(Panels::room(op.weight_ih) + Panels::room(op.weight_hh));
  const Panels ih(op.weight_ih, scratch), hh(op.weight_hh, scratch);
  Run run(kernels(), op, ih.weight(), hh.weight());
  run.make_room(threads);
  run.load_states();
  parallel(threads, [&](Team& team) {
    run.product(ih.weight(), op.bias_ih, run.x, run.ldx, run.total(), run.gx.data(), team);
    team.barrier();
    run.steps(team);
  });
  run.store_states();
  run.zero_padding();
}

}  // namespace fastattn::dense
