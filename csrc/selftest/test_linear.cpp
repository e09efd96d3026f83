// The products with packed panels: against double, with every epilogue, and a row alone against the same row among
// others; packing and unpacking; quantised rows.
#include <algorithm>

#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

using Kernel = void (*)(const PanelArgs*);

Kernel kernel_of(DType type) {
  const KernelTable& k = kernels();
  const Kernel all[] = {k.linear_float32, k.linear_bfloat16, k.linear_int8,
                        k.linear_int4,    k.linear_narrow,   k.linear_float16};
  return all[static_cast<int>(type)];
}

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::tanh: return std::tanh(x);
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
    case Activation::silu: return x / (1 + std::exp(-x));
    default: return x;
  }
}

// A packed panel and the float rows it stands for, with nothing readable behind either.
struct Panel {
  Array bytes, rows;  // rows: (cols, K)

  Panel(DType type, int64_t K, int cols) : bytes(panel_bytes(type, K) / 4), rows(cols * K) {
    const Array columns = random_array(K * kPanel);
    for (int64_t i = 0; i < K * kPanel; ++i)
      if (i % kPanel >= cols) columns[i] = 0.0f;
    kernels().pack_panel(type, columns, K, bytes.data());
    for (int c = 0; c < cols; ++c) kernels().unpack_row(type, bytes.data(), K, c, rows + c * K);
    check(type, columns, K, cols);
  }

  // What unpack_row gives is near what was packed.
  void check(DType type, const float* columns, int64_t K, int cols) {
    // Of the largest magnitude of the column. int4: where the lowest number is put at -9, the highest may be cut from 9
    // to 7.
    const double most[] = {0.0, 1.0 / 256, 1.0 / 254, 2.0 / 9, 1.0 / 256, 1.0 / 1024};
    for (int c = 0; c < cols; ++c) {
      double largest = 0.0;
      for (int64_t k = 0; k < K; ++k) largest = std::max(largest, std::fabs(double(columns[k * kPanel + c])));
      for (int64_t k = 0; k < K; ++k)
        report(within(rows[c * K + k], columns[k * kPanel + c], 1.01 * most[static_cast<int>(type)] * largest),
               "pack and unpack type=%d K=%ld c=%d k=%ld: %g, was %g", int(type), long(K), c, long(k), rows[c * K + k],
               columns[k * kPanel + c]);
    }
  }
};

// Rows as the kernel of a type takes them, and the numbers these stand for.
struct Inputs {
  DType type;
  int64_t rows, K, row_bytes;
  Array floats, quantized, rounded, meant, arranged, rests;

  Inputs(DType t, int64_t r, int64_t k)
      : type(t),
        rows(r),
        K(k),
        row_bytes(is_quantized(t)        ? round_up(k, 64)
                  : t == DType::bfloat16 ? rounded_bytes(k)
                                         : k * 4),
        floats(random_array(r * k)),
        quantized(r * quantized_bytes(k) / 4),
        rounded(r * rounded_bytes(k) / 4),
        meant(r * k),
        arranged(r * chunks(row_bytes) * kLinearChunk / 4),
        rests(r * chunks(row_bytes) * int64_t(sizeof(Rests)) / 4) {
    for (int64_t i = 0; i < rows; ++i) quantize(i), round(i);
    arrange();
  }

  void arrange() {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t at = 0; at < row_bytes; at += kLinearChunk)
        std::memcpy(reinterpret_cast<char*>(arranged.data()) + at * rows + i * kLinearChunk,
                    static_cast<const char*>(row(i)) + at, size_t(std::min(kLinearChunk, row_bytes - at)));
    if (type == DType::int8)
      kernels().split_codes(reinterpret_cast<int8_t*>(arranged.data()), rows, K,
                            reinterpret_cast<Rests*>(rests.data()));
  }

  const uint8_t* head(int64_t i) const {
    return reinterpret_cast<const uint8_t*>(quantized.data()) + i * quantized_bytes(K);
  }
  const void* row(int64_t i) const {
    if (is_quantized(type)) return head(i) + quantized_codes(K);
    if (type == DType::bfloat16) return rounded + i * rounded_bytes(K) / 4;
    return floats + i * K;
  }

  // Words of two, the even one in the high half, each the nearest; zeros behind the last.
  void round(int64_t i) {
    float* row = rounded + i * rounded_bytes(K) / 4;
    kernels().round_row(floats + i * K, K, row);
    for (int64_t k = 0; k < rounded_bytes(K) / 2; ++k) {
      uint32_t word;
      std::memcpy(&word, row + k / 2, sizeof word);
      word = k % 2 ? word << 16 : word & 0xffff0000u;
      float y;
      std::memcpy(&y, &word, sizeof y);
      const float x = k < K ? floats[i * K + k] : 0.0f;
      report(within(y, x, std::fabs(x) / 256), "round_row K=%ld k=%ld: %g, was %g", long(K), long(k), y, x);
      if (type == DType::bfloat16 && k < K) meant[i * K + k] = y;
    }
  }

  void quantize(int64_t i) {
    kernels().quantize_row(floats + i * K, K, quantized + i * quantized_bytes(K) / 4);
    const int8_t* codes = reinterpret_cast<const int8_t*>(head(i)) + quantized_codes(K);
    const float scale = quantized[i * quantized_bytes(K) / 4];
    for (int64_t k = 0; k < K; ++k) {
      const float x = floats[i * K + k];
      meant[i * K + k] = is_quantized(type) ? static_cast<float>(codes[k]) * scale : x;
      report(within(static_cast<float>(codes[k]) * scale, x, 0.501 * scale), "quantize_row K=%ld k=%ld", long(K),
             long(k));
    }
    for (int64_t k = K; k < round_up(K, 64); ++k) report(codes[k] == 0, "quantize_row pads with zeros");
  }

  // `count` rows from `first` on, all of them or one.
  void give(PanelArgs& args, int64_t first, int64_t count) const {
    args.x = count == 1 ? row(first) : arranged.data();
    args.ld_chunk = rows * kLinearChunk;
    args.heads = is_quantized(type) ? head(first) : nullptr, args.ld_heads = quantized_bytes(K);
    args.rests = reinterpret_cast<const Rests*>(rests.data());
    args.rows = count, args.K = K;
  }
};

// Weights as they lie give the bits of the panel they are turned into.   y: what the panel gave
void check_unpacked(const PanelArgs& packed, const Panel& panel, int cols, const float* y, int64_t y_size) {
  for (int64_t ld : {packed.K, packed.K + 3, round_up(packed.K + 1, 16)}) {
    const Array rows(cols ? (cols - 1) * ld + packed.K : 0), columns(packed.K * kPanel), again(y_size);
    rows.fill(NAN);
    for (int c = 0; c < cols; ++c)
      for (int64_t k = 0; k < packed.K; ++k) rows[c * ld + k] = panel.rows[c * packed.K + k];
    columns.fill(NAN);
    kernels().turn_rows(rows, ld, cols, packed.K, columns);
    report(same_bits(columns, panel.bytes, packed.K * kPanel), "turn_rows K=%ld cols=%d ld=%ld", long(packed.K), cols,
           long(ld));
    if (packed.rows < 1 || packed.rows > kMostUnpackedRows) continue;
    PanelArgs args = packed;
    args.ld_chunk = packed.rows * kLinearChunk;
    again.fill(-77.0f);
    args.panels = rows, args.ld_weights = ld, args.y = again;
    kernels().linear_rows_float32(&args);
    report(same_bits(again, y, y_size), "unpacked weights, rows=%ld K=%ld cols=%d ld=%ld", long(packed.rows),
           long(packed.K), cols, long(ld));
  }
}

void check_panel(DType type, int64_t rows, int64_t K, int cols, Activation activation, int form) {
  const int64_t ldy = cols + random_int(0, 2);
  const int64_t y_size = rows ? (rows - 1) * ldy + cols : 0;
  const Array bias = random_array(cols), residual = random_array(y_size), multiply = random_array(y_size);
  const Panel panel(type, K, cols);
  const Inputs x(type, rows, K);
  Array y(y_size), alone(cols);
  y.fill(-77.0f);
  PanelArgs args{};
  if (rows) x.give(args, 0, rows);
  args.panels = panel.bytes.data(), args.y = y, args.ldy = ldy, args.cols = cols;
  args.epilogue = {form & 1 ? bias.data() : nullptr,     activation, form & 2 ? residual.data() : nullptr, ldy,
                   form & 4 ? multiply.data() : nullptr, ldy};
  kernel_of(type)(&args);
  if (type == DType::float32) check_unpacked(args, panel, cols, y, y_size);
  for (int64_t i = 0; i < rows; ++i) {
    for (int c = 0; c < cols; ++c) {
      double s = 0.0, magnitude = 0.0;
      for (int64_t k = 0; k < K; ++k) {
        s += double(x.meant[i * K + k]) * panel.rows[c * K + k];
        magnitude += std::fabs(double(x.meant[i * K + k]) * panel.rows[c * K + k]);
      }
      if (form & 1) s += bias[c], magnitude += std::fabs(bias[c]);
      double want = activate(activation, s);
      // K products and sums of eps/2 each way, and for quantised types three roundings of the scales; every
      // activation's slope is below 1.2, and it errs by less than 4 eps |s|
      double bound = 1.2 * kEps * double(K + 4) * magnitude + 4 * kEps * (std::fabs(s) + std::fabs(want));
      if (form & 4)
        want *= multiply[i * ldy + c], bound = bound * std::fabs(multiply[i * ldy + c]) + kEps * std::fabs(want);
      if (form & 2) want += residual[i * ldy + c], bound += kEps * std::fabs(want);
      report(within(y[i * ldy + c], want, bound), "linear type=%d rows=%ld K=%ld cols=%d act=%d form=%d: %g, want %g",
             int(type), long(rows), long(K), cols, int(activation), form, y[i * ldy + c], want);
    }
    PanelArgs own = args;
    x.give(own, i, 1);
    own.y = alone;
    if (form & 2) own.epilogue.residual += i * ldy;
    if (form & 4) own.epilogue.multiply += i * ldy;
    kernel_of(type)(&own);
    report(same_bits(alone, y + i * ldy, cols), "linear type=%d row %ld of %ld alone, K=%ld cols=%d", int(type),
           long(i), long(rows), long(K), cols);
    if (i + 1 < rows)
      for (int64_t c = cols; c < ldy; ++c) report(y[i * ldy + c] == -77.0f, "linear wrote beside its columns");
  }
}

// Several panels in one call are each panel alone.
void check_panels(DType type, int64_t rows, int64_t K) {
  const int count = 7;
  const int64_t cols = count * kPanel - 5, size = panel_bytes(type, K) / 4;
  const Array bytes(count * size), y(rows * cols), alone(rows * kPanel);
  const Inputs x(type, rows, K);
  for (int p = 0; p < count; ++p) {
    const Panel panel(type, K, p + 1 < count ? kPanel : kPanel - 5);
    std::memcpy(bytes + p * size, panel.bytes.data(), size_t(size) * 4);
  }
  PanelArgs args{};
  x.give(args, 0, rows);
  args.panels = bytes.data(), args.y = y, args.ldy = cols, args.cols = cols;
  kernel_of(type)(&args);
  for (int p = 0; p < count; ++p) {
    PanelArgs own = args;
    own.panels = bytes + p * size, own.y = alone, own.ldy = kPanel;
    own.cols = std::min<int64_t>(kPanel, cols - p * kPanel);
    kernel_of(type)(&own);
    for (int64_t i = 0; i < rows; ++i)
      report(same_bits(alone + i * kPanel, y + i * cols + p * kPanel, own.cols), "panel %d of type %d alone, rows=%ld",
             p, int(type), long(rows));
  }
}

// The integer parts against integers: the largest codes of either sign, and the same bits from every lower level.
void check_extremes(DType type) {
  const int64_t K = 1024;
  const Array columns(K * kPanel), x(K), bytes(panel_bytes(type, K) / 4), row(quantized_bytes(K) / 4), y(kPanel);
  for (int64_t k = 0; k < K; ++k) {
    x[k] = random_int(0, 1) ? 1.0f : -1.0f;
    for (int c = 0; c < kPanel; ++c) columns[k * kPanel + c] = c == 0 ? x[k] : c == 1 ? -x[k] : c == 2 ? 1.0f : -1.0f;
  }
  kernels().pack_panel(type, columns, K, bytes.data());
  kernels().quantize_row(x, K, row.data());
  PanelArgs args{};
  args.heads = reinterpret_cast<const uint8_t*>(row.data());
  args.x = args.heads + quantized_codes(K), args.rows = 1, args.K = K;
  args.panels = bytes.data(), args.y = y, args.ldy = kPanel, args.cols = kPanel;
  kernel_of(type)(&args);
  float sum = 0.0f;
  for (int64_t k = 0; k < K; ++k) sum += x[k];
  const float want[] = {float(K), -float(K), sum, -sum};
  for (int c = 0; c < 4; ++c)
    report(within(y[c], want[c], (type == DType::int4 ? 1.0 / 256 : 1e-6) * double(K)),
           "extreme codes type=%d column %d: %g, want %g", int(type), c, y[c], want[c]);
}

// Rows with none, some, many and nothing but large codes side by side, among others and alone.
void check_large_codes(int64_t K) {
  const int64_t rows = 29;
  const Panel panel(DType::int8, K, kPanel);
  Inputs x(DType::int8, rows, K);
  for (int64_t i = 0; i < rows; ++i) {
    int8_t* codes = reinterpret_cast<int8_t*>(x.quantized.data()) + i * quantized_bytes(K) + quantized_codes(K);
    int32_t sum = 0;
    for (int64_t k = 0; k < K; ++k) {
      if (random_int(0, 27) < i) codes[k] = int8_t(random_int(0, 1) ? random_int(64, 127) : random_int(-127, -64));
      sum += codes[k];
    }
    std::memcpy(x.quantized + i * quantized_bytes(K) / 4 + 1, &sum, sizeof sum);
  }
  x.arrange();
  PanelArgs args{};
  const Array y(rows * kPanel), alone(kPanel);
  x.give(args, 0, rows);
  args.panels = panel.bytes.data(), args.y = y, args.ldy = kPanel, args.cols = kPanel;
  kernels().linear_int8(&args);
  args.y = alone;
  for (int64_t i = 0; i < rows; ++i) {
    x.give(args, i, 1);
    kernels().linear_int8(&args);
    report(same_bits(alone, y + i * kPanel, kPanel), "large codes, row %ld alone, K=%ld", long(i), long(K));
  }
}

// Every number of float16 comes back; NaN stays NaN.
void check_float16() {
  const int64_t K = (1 << 16) / kPanel;
  const Array columns(K * kPanel), bytes(panel_bytes(DType::float16, K) / 4), row(K);
  for (int64_t i = 0; i < K * kPanel; ++i) {
    const int exponent = int(i >> 10 & 31), fraction = int(i & 1023);
    const double size = exponent == 31 ? (fraction ? std::nan("") : HUGE_VAL)
                        : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                                       : std::ldexp(fraction, -24);
    columns[i] = static_cast<float>(i >> 15 ? -size : size);
  }
  kernels().pack_panel(DType::float16, columns, K, bytes.data());
  for (int c = 0; c < kPanel; ++c) {
    kernels().unpack_row(DType::float16, bytes.data(), K, c, row);
    for (int64_t k = 0; k < K; ++k) {
      const float x = columns[k * kPanel + c];
      report(same_bits(&row[k], &x, 1) || (x != x && row[k] != row[k]), "float16 %g: %g", x, row[k]);
    }
  }
}

// Ties go to the even neighbour; what is not finite, or too large for bfloat16, stays so or becomes infinite.
void check_rounding() {
  const float inf = __builtin_inff(), below = 1.0f + 0x1p-8f, above = 1.0f + 0x3p-8f;
  const float x[] = {1.0f, below, above, -below, inf, -inf, inf - inf, 0x1.fffffep127f, -0.0f};
  const float want[] = {1.0f, 1.0f, 1.0f + 0x1p-6f, -1.0f, inf, -inf, inf - inf, inf, -0.0f};
  const Array row(rounded_bytes(9) / 4);
  kernels().round_row(x, 9, row.data());
  for (int k = 0; k < 9; ++k) {
    uint32_t word;
    std::memcpy(&word, row + k / 2, sizeof word);
    word = k % 2 ? word << 16 : word & 0xffff0000u;
    float y;
    std::memcpy(&y, &word, sizeof y);
    report(same_bits(&y, &want[k], 1) || (y != y && want[k] != want[k]), "round_row of %g: %g", x[k], y);
  }
}

void check_odd_rows() {
  const float inf = __builtin_inff();
  const int64_t K = 70;
  for (const float bad : {inf, -inf, inf - inf}) {
    Array x = random_array(K), row(quantized_bytes(K) / 4);
    x[K - 1] = bad;
    kernels().quantize_row(x, K, row.data());
    report(std::isnan(row[0]), "quantize_row of %g", bad);
    for (int64_t i = 16; i < row.size(); ++i) report(row[i] == 0.0f, "quantize_row of %g leaves codes", bad);
  }
  for (const float little : {0.0f, -0.0f, 1e-38f, 1e-45f}) {
    Array x(K), row(quantized_bytes(K) / 4);
    x.fill(little);
    kernels().quantize_row(x, K, row.data());
    for (const float word : {row[0], row[1], row[16], row[40]}) report(word == 0.0f, "quantize_row of %g", little);
  }
}

}  // namespace

void test_linear() {
  const Activation activations[] = {Activation::none, Activation::tanh, Activation::relu, Activation::gelu,
                                    Activation::silu};
  int variant = 0;
  for (const DType type : {DType::float32, DType::bfloat16, DType::int8, DType::int4, DType::narrow, DType::float16})
    for (int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 31})
      for (int64_t K : {0, 1, 3, 16, 33, 130})
        for (int cols : {1, 7, 8, 17, 32}) {
          if (type != DType::float32 && (variant + cols) % 3) {  // a third of these will do
            ++variant;
            continue;
          }
          check_panel(type, rows, K, cols, activations[variant % 5], variant % 8);
          ++variant;
        }
  for (const DType type : {DType::float32, DType::bfloat16, DType::int8, DType::int4, DType::narrow, DType::float16})
    for (int64_t rows : {1, 5, 100})
      for (int64_t K : {129, 513}) check_panels(type, rows, K);  // more than one chunk
  check_extremes(DType::int8);
  check_extremes(DType::int4);
  for (int64_t K : {2, 4, 31, 130, 512, 700}) check_large_codes(K);
  check_odd_rows();
  check_rounding();
  check_float16();
}

}  // namespace fastattn::selftest
