#include "ops/linear.h"

#include <algorithm>
#include <cstring>

#include "base/cpu.h"

namespace fastattn {
namespace {

// Up to so many elements of x every thread quantises all rows for itself: a barrier would cost more.
constexpr int64_t kQuantizedAlone = 8 * 1024;

// Work that threads take at a time: bytes of panels of a single row, operations of many rows.
constexpr int64_t kStepBytes = 32 * 1024;
constexpr double kStepFlops = 2e6;

int64_t alone_rows(int64_t K) { return kQuantizedAlone / std::max<int64_t>(K, 1); }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What the parts want of x.
struct Wanted {
  bool floats = false, rounded = false, int8 = false, int4 = false;
  Wanted(const LinearPart* parts, int count) {
    for (int i = 0; i < count; ++i) {
      const DType type = parts[i].weight->type;
      (type == DType::int8 ? int8 : type == DType::int4 ? int4 : type == DType::bfloat16 ? rounded : floats) = true;
    }
  }
  bool codes() const { return int8 || int4; }
  int64_t bytes() const { return floats ? 4 : rounded ? 2 : 1; }  // of an element of x
};

// Rows of x that stay in the second-level cache while panels stream past.
int64_t block_rows(int64_t K, int64_t bytes) {
  static const int64_t room = cache_bytes(2) / 8 * 5;
  return std::clamp<int64_t>(room / std::max<int64_t>(K * bytes, 1), 24, 96);
}

// Bytes of `rows` rows in chunks.
int64_t arranged_bytes(int64_t rows, int64_t row_bytes) { return rows * chunks(row_bytes) * kLinearChunk; }

int64_t rests_bytes(int64_t rows, int64_t K) { return rows * chunks(K) * static_cast<int64_t>(sizeof(Rests)); }

// Rows of x, `ld` bytes apart, as [chunk][row][kLinearChunk].
void arrange(const uint8_t* from, int64_t ld, int64_t rows, int64_t row_bytes, uint8_t* to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t at = 0; at < row_bytes; at += kLinearChunk)
      std::memcpy(to + at * rows + r * kLinearChunk, from + r * ld + at,
                  static_cast<size_t>(std::min(kLinearChunk, row_bytes - at)));
}

// A call, as one thread sees it.
class Product {
 public:
  Product(const LinearArgs& args, Team& team)
      : a_(args), team_(team), k_(args.kernel), K_(args.parts[0].weight->cols), wanted_(args.parts, args.count) {
    heads_stride_ = quantized_bytes(K_);
  }

  void run() {
    quantize();
    const int64_t most = block_rows(K_, wanted_.bytes());
    int64_t panels = 0;
    for (int i = 0; i < a_.count; ++i) panels += a_.parts[i].weight->panel_count();
    // Rows are shared out where every thread gets a block of its own; else each block is, panel by panel.
    const bool by_rows = a_.rows >= team_.nth * most || (panels < 2 * team_.nth && a_.rows >= 2 * team_.nth);
    int64_t blocks = ceil_div(a_.rows, most);
    if (by_rows) blocks = std::min(a_.rows, ceil_div(blocks, team_.nth) * team_.nth);
    find_steps(ceil_div(a_.rows, blocks));
    const auto block = [&](int64_t b) { return Range{a_.rows * b / blocks, a_.rows * (b + 1) / blocks}; };
    if (by_rows) {
      team_.each(blocks * steps_, [&](int64_t i) { multiply(block(i / steps_), i % steps_); });
    } else {
      for (int64_t b = 0; b < blocks; ++b) team_.each(steps_, [&](int64_t i) { multiply(block(b), i); });
    }
  }

 private:
  // Parts that one thread computes together: a part and those after it that multiply by the one before.
  int linked_end(int first) const {
    int end = first + 1;
    while (end < a_.count && a_.parts[end].multiply && a_.parts[end].multiply == a_.parts[end - 1].y) ++end;
    return end;
  }

  // Panels of the linked parts [first, end) in a step.
  int64_t step_panels(int first, int end) const {
    int64_t bytes = 0;
    for (int i = first; i < end; ++i) bytes += panel_bytes(a_.parts[i].weight->type, K_);
    const int64_t by_bytes = kStepBytes / std::max<int64_t>(bytes, 1);
    const int64_t panels = step_rows_ == 1 ? by_bytes : std::min(by_bytes * 4, by_flops_ / (end - first));
    return round_up(std::max<int64_t>(1, panels), a_.grain);
  }

  void find_steps(int64_t rows) {
    step_rows_ = rows;
    by_flops_ =
        static_cast<int64_t>(kStepFlops / (2.0 * kPanel * static_cast<double>(rows * std::max<int64_t>(K_, 1))));
    steps_ = 0;
    for (int i = 0, end; i < a_.count; i = end) {
      end = linked_end(i);
      steps_ += ceil_div(a_.parts[i].weight->panel_count(), step_panels(i, end));
    }
  }

  // Step i of the panels of all parts for a block of rows.
  void multiply(Range rows, int64_t i) {
    prepare(rows);
    for (int first = 0, end; first < a_.count; first = end) {
      end = linked_end(first);
      const int64_t panels = a_.parts[first].weight->panel_count(), size = step_panels(first, end);
      const int64_t count = ceil_div(panels, size);
      if (i < count) {
        return multiply_step(first, end, {i * size, std::min(panels, (i + 1) * size)}, rows);
      }
      i -= count;
    }
  }

  void multiply_step(int first, int end, Range panels, Range rows) const {
    if (!a_.finished) {
      for (int part = first; part < end; ++part) multiply_part(a_.parts[part], panels, rows);
      return;
    }
    for (int64_t p = panels.begin; p < panels.end; p += a_.grain) {
      const Range run{p, std::min(panels.end, p + a_.grain)};
      multiply_part(a_.parts[first], run, rows);
      a_.finished(a_.context, run, rows);
    }
  }

  void multiply_part(const LinearPart& part, Range panels, Range rows) const {
    const Weight& w = *part.weight;
    const int64_t c = panels.begin * kPanel, r = rows.begin;
    PanelArgs args{};
    args.x = w.type == DType::int8       ? split_codes_
             : w.type == DType::int4     ? codes_
             : w.type == DType::bfloat16 ? rounded_
                                         : floats_;
    args.rows = rows.end - r, args.K = K_;
    args.ld_chunk = args.rows * kLinearChunk;
    args.heads = is_quantized(w.type) ? heads_ + r * heads_stride_ : nullptr, args.ld_heads = heads_stride_;
    args.rests = rests_;
    args.panels = w.panel(panels.begin);
    args.y = part.y + r * part.ldy + c, args.ldy = part.ldy;
    args.cols = std::min(panels.end * kPanel, w.rows) - c;
    args.epilogue.bias = part.bias ? part.bias + c : nullptr;
    args.epilogue.activation = part.activation;
    args.epilogue.residual = part.residual ? part.residual + r * part.ld_residual + c : nullptr;
    args.epilogue.ld_residual = part.ld_residual;
    args.epilogue.multiply = part.multiply ? part.multiply + r * part.ld_multiply + c : nullptr;
    args.epilogue.ld_multiply = part.ld_multiply;
    panel_kernel(k_, w.type)(&args);
  }

  // All rows to int8; where there are many, by all threads for all.
  void quantize() {
    if (!wanted_.codes()) return;
    const bool alone = a_.rows <= alone_rows(K_);
    uint8_t* rows = reinterpret_cast<uint8_t*>(alone ? a_.scratch : a_.shared);
    if (!alone) team_.barrier();  // another product may still read what is there
    const Range mine = alone ? Range{0, a_.rows} : team_.split(a_.rows);
    for (int64_t r = mine.begin; r < mine.end; ++r) k_.quantize_row(a_.x + r * a_.ldx, K_, rows + r * heads_stride_);
    if (!alone) team_.barrier();
    heads_ = rows;
  }

  // x of a block of rows as the kernels take it, in this thread's scratch.
  void prepare(Range rows) {
    if (rows.begin == prepared_) return;
    prepared_ = rows.begin;
    const int64_t count = rows.end - rows.begin;
    const uint8_t* x = reinterpret_cast<const uint8_t*>(a_.x + rows.begin * a_.ldx);
    const uint8_t* codes = heads_ ? heads_ + rows.begin * heads_stride_ + quantized_codes(K_) : nullptr;
    floats_ = x, codes_ = split_codes_ = codes;
    uint8_t* room = reinterpret_cast<uint8_t*>(a_.scratch);
    if (wanted_.codes()) room += std::min(a_.rows, alone_rows(K_)) * heads_stride_;
    if (wanted_.rounded) {
      round(rows, room);
      rounded_ = room;
      room += arranged_bytes(count, rounded_bytes(K_));
    }
    if (count == 1) return;
    if (wanted_.int4) {
      arrange(codes, heads_stride_, count, round_up(K_, 64), room);
      codes_ = room;
      room += arranged_bytes(count, K_);
    }
    if (wanted_.int8) {
      arrange(codes, heads_stride_, count, round_up(K_, 64), room);
      split_codes_ = room;
      Rests* rests = reinterpret_cast<Rests*>(room + arranged_bytes(count, K_));
      k_.split_codes(reinterpret_cast<int8_t*>(room), count, K_, rests);
      rests_ = rests;
      room += arranged_bytes(count, K_) + rests_bytes(count, K_);
    }
    if (wanted_.floats) {
      arrange(x, a_.ldx * 4, count, K_ * 4, room);
      floats_ = room;
    }
  }

  // Rows to bfloat16, in chunks; one row is as it is in chunks of its own.
  void round(Range rows, uint8_t* to) const {
    constexpr int64_t step = kLinearChunk / 2;
    for (int64_t k = 0; k < K_; k += step)
      for (int64_t r = rows.begin; r < rows.end; ++r, to += kLinearChunk)
        k_.round_row(a_.x + r * a_.ldx + k, std::min(step, K_ - k), to);
  }

  const LinearArgs& a_;
  Team& team_;
  const KernelTable& k_;
  const int64_t K_;
  const Wanted wanted_;
  int64_t heads_stride_ = 0, steps_ = 0, step_rows_ = 1, by_flops_ = 0, prepared_ = -1;
  const uint8_t *heads_ = nullptr, *codes_ = nullptr, *split_codes_ = nullptr, *rounded_ = nullptr, *floats_ = nullptr;
  const Rests* rests_ = nullptr;
};

}  // namespace

PanelKernel panel_kernel(const KernelTable& k, DType type) {
  switch (type) {
    case DType::bfloat16: return k.linear_bfloat16;
    case DType::narrow: return k.linear_narrow;
    case DType::float16: return k.linear_float16;
    case DType::int8: return k.linear_int8;
    case DType::int4: return k.linear_int4;
    default: return k.linear_float32;
  }
}

LinearScratch linear_scratch(const LinearPart* parts, int count, int64_t rows) {
  const Wanted wanted(parts, count);
  const int64_t K = parts[0].weight->cols, size = quantized_bytes(K);
  const int64_t block = rows > 1 ? std::min(rows, block_rows(K, wanted.bytes())) : 0;
  int64_t shared = 0, own = 0;
  if (wanted.codes()) {
    shared = rows > alone_rows(K) ? rows * size : 0;
    own = std::min(rows, alone_rows(K)) * size;
  }
  if (wanted.int4) own += arranged_bytes(block, K);
  if (wanted.int8) own += arranged_bytes(block, K) + rests_bytes(block, K);
  if (wanted.rounded) own += arranged_bytes(std::max<int64_t>(block, 1), rounded_bytes(K));
  if (wanted.floats) own += arranged_bytes(block, K * 4);
  return {shared / 4, own / 4};
}

LinearScratch linear_scratch(const Weight& weight, int64_t rows) {
  LinearPart part{};
  part.weight = &weight;
  return linear_scratch(&part, 1, rows);
}

void linear(const LinearArgs& args, Team& team) {
  if (args.rows && args.count) Product(args, team).run();
}

void arrange_rows(const float* x, int64_t ldx, int64_t rows, int64_t K, float* out) {
  arrange(reinterpret_cast<const uint8_t*>(x), ldx * 4, rows, K * 4, reinterpret_cast<uint8_t*>(out));
}

}  // namespace fastattn
