#include "ops/weight.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "base/threads.h"
#include "dispatch/dispatch.h"

namespace fastattn {
namespace {

constexpr int64_t kStep = 64;  // columns of the source at a time: what they fill of a panel stays in L1

float widen(float x) { return x; }

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

float widen(BFloat16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }

// IEEE 754 binary16. Exponent and fraction move into place and the exponent's bias is made up for by a product, which
// also makes denormal numbers right; exponent 31 stands for infinity and NaN.
float widen(Float16 x) {
  const uint32_t sign = (x.bits & 0x8000u) << 16, rest = (x.bits & 0x7fffu) << 13;
  const bool special = (x.bits & 0x7c00u) == 0x7c00u;
  const float magnitude = special ? from_bits(rest | 0x7f800000u) : from_bits(rest) * 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &magnitude, sizeof bits);
  return from_bits(bits | sign);
}

// columns: [K][kPanel], from up to kPanel rows of the source; `room` for kPanel * kStep floats.
template <typename T>
void transpose_rows(const T* from, int64_t row_stride, int64_t col_stride, int rows, int64_t K, float* columns,
                    float* room) {
  const KernelTable& kernel = kernels();
  if constexpr (std::is_same_v<T, float>) {
    if (col_stride == 1) return kernel.turn_rows(from, row_stride, rows, K, columns);
  }
  if (row_stride == 1 && col_stride != 1) {  // the transpose of a matrix: its rows are lines of the panel
    if (rows < kPanel) std::fill_n(columns, K * kPanel, 0.0f);
    for (int64_t k = 0; k < K; ++k)
      for (int r = 0; r < rows; ++r) columns[k * kPanel + r] = widen(from[k * col_stride + r]);
    return;
  }
  for (int64_t k = 0; k < K; k += kStep) {
    const int64_t n = std::min(kStep, K - k);
    const T* part = from + k * col_stride;
    for (int r = 0; r < rows; ++r)
      for (int64_t i = 0; i < n; ++i) room[r * kStep + i] = widen(part[r * row_stride + i * col_stride]);
    kernel.turn_rows(room, kStep, rows, n, columns + k * kPanel);
  }
}

template <typename T>
void read_panel_of(const Source& s, int64_t p, float* columns) {
  alignas(64) float room[kPanel * kStep];
  const int rows = static_cast<int>(std::min<int64_t>(kPanel, s.rows - p * kPanel));
  transpose_rows(static_cast<const T*>(s.data) + p * kPanel * s.row_stride, s.row_stride, s.col_stride, rows, s.cols,
                 columns, room);
}

template <typename T>
void read_row(const Source& s, int64_t r, float* out) {
  const T* from = static_cast<const T*>(s.data) + r * s.row_stride;
  for (int64_t c = 0; c < s.cols; ++c) out[c] = widen(from[c * s.col_stride]);
}

std::shared_ptr<uint8_t> aligned_bytes(int64_t bytes) {
  void* p = aligned_memory(static_cast<size_t>(std::max<int64_t>(bytes, 64)));
  return {static_cast<uint8_t*>(p), [](uint8_t* q) { std::free(q); }};
}

void check_columns(int64_t cols, DType type) {
  if (type == DType::int8 && cols > kInt8MaxK)
    throw std::invalid_argument("an int8 weight has at most " + std::to_string(kInt8MaxK) + " columns, got " +
                                std::to_string(cols));
}

}  // namespace

void read_panel(const Source& s, int64_t p, float* columns) {
  switch (s.type) {
    case Source::Type::float32: read_panel_of<float>(s, p, columns); break;
    case Source::Type::float16: read_panel_of<Float16>(s, p, columns); break;
    case Source::Type::bfloat16: read_panel_of<BFloat16>(s, p, columns); break;
  }
}

std::shared_ptr<Weight> plain_weight(const Source& s) {
  auto weight = std::make_shared<Weight>();
  weight->rows = s.rows, weight->cols = s.cols;
  weight->plain.resize(static_cast<size_t>(s.rows * s.cols));
  for (int64_t r = 0; r < s.rows; ++r) {
    float* out = weight->plain.data() + r * s.cols;
    switch (s.type) {
      case Source::Type::float32: read_row<float>(s, r, out); break;
      case Source::Type::float16: read_row<Float16>(s, r, out); break;
      case Source::Type::bfloat16: read_row<BFloat16>(s, r, out); break;
    }
  }
  return weight;
}

void pack_panels(const Source& s, DType type, int num_threads, uint8_t* panels) {
  const int64_t count = (s.rows + kPanel - 1) / kPanel, size = panel_bytes(type, s.cols), floats = s.cols * kPanel;
  const int threads = s.rows * s.cols < (1 << 16) ? 1 : num_threads;
  Buffer<float> room;  // each thread's panel as floats, where it is stored otherwise
  if (type != DType::float32) room.resize(static_cast<size_t>(threads * floats));
  const KernelTable& k = kernels();
  parallel(threads, [&](Team& team) {
    const Range mine = team.split(count);
    for (int64_t p = mine.begin; p < mine.end; ++p) {
      uint8_t* panel = panels + p * size;
      if (type == DType::float32) {
        read_panel(s, p, reinterpret_cast<float*>(panel));
      } else {
        read_panel(s, p, room.data() + team.ith * floats);
        k.pack_panel(type, room.data() + team.ith * floats, s.cols, panel);
      }
    }
  });
}

std::shared_ptr<Weight> packed_weight(const Source& s, DType type, int num_threads) {
  check_columns(s.cols, type);
  auto weight = std::make_shared<Weight>();
  weight->rows = s.rows, weight->cols = s.cols, weight->type = type;
  const std::shared_ptr<uint8_t> bytes = aligned_bytes(weight->panel_count() * panel_bytes(type, s.cols));
  weight->panels = bytes;
  pack_panels(s, type, num_threads, bytes.get());
  return weight;
}

std::shared_ptr<Weight> borrowed_weight(std::shared_ptr<const uint8_t> panels, int64_t bytes, int64_t rows,
                                        int64_t cols, DType type) {
  constexpr int64_t kMost = int64_t{1} << 40;
  if (rows < 0 || cols < 0 || rows > kMost || cols > kMost || (cols && rows > kMost / cols))
    throw std::invalid_argument("a packed weight cannot have the shape [" + std::to_string(rows) + ", " +
                                std::to_string(cols) + "]");
  check_columns(cols, type);
  auto weight = std::make_shared<Weight>();
  weight->rows = rows, weight->cols = cols, weight->type = type;
  weight->panels = std::move(panels);
  const int64_t expected = weight->panel_count() * panel_bytes(type, cols);
  if (bytes != expected)
    throw std::invalid_argument("a packed " + std::string(type_name(type)) + " weight [" + std::to_string(rows) + ", " +
                                std::to_string(cols) + "] has " + std::to_string(expected) + " bytes, got " +
                                std::to_string(bytes));
  if (reinterpret_cast<uintptr_t>(weight->panels.get()) % 4)
    throw std::invalid_argument("a packed weight begins at a multiple of 4 bytes");
  return weight;
}

Weight part_of(const Weight& weight, int64_t first_panel, int64_t rows) {
  Weight part;
  part.rows = rows, part.cols = weight.cols, part.type = weight.type;
  part.panels = std::shared_ptr<const uint8_t>(weight.panels, weight.panel(first_panel));
  return part;
}

namespace {
const char* const kTypeNames[] = {"float32", "bfloat16", "int8", "int4", "bfloat16", "float16"};
}

const char* type_name(DType type) { return kTypeNames[static_cast<int>(type)]; }

DType type_named(const std::string& name) {
  for (const DType type : {DType::float32, DType::bfloat16, DType::int8, DType::int4, DType::float16})
    if (name == type_name(type)) return type;
  throw std::invalid_argument("weights are float32, bfloat16, float16, int8 or int4, not '" + name + "'");
}

}  // namespace fastattn
