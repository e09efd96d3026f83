#include "ops/dense_rows.h"

#include "dispatch/dispatch.h"

namespace fastattn::dense {
namespace {

// f(row, x) for every row, with x contiguous; `cost` is the work of one element. The threads split the rows. Those that
// are not contiguous are copied some at a time, as neighbours may share lines of the cache.
template <typename F>
void for_each_row(const In<2>& x, double cost, F&& f) {
  constexpr int64_t kTogether = 16, kLongest = 1 << 16;
  const int64_t rows = x.shape[0], n = x.shape[1];
  if (rows == 0) return;
  const int threads =
      static_cast<int>(std::min<int64_t>(threads_for(cost * static_cast<double>(rows) * static_cast<double>(n)), rows));
  const bool copy = !rows_contiguous(x);
  const int64_t together = n <= kLongest ? kTogether : 1;
  const int64_t ld = Scratch::padded(n) + 16;  // whole lines, and no power of two
  const int64_t room = copy ? together * ld : 0;
  Scratch scratch(threads * room);
  float* rooms = scratch.take(threads * room);
  parallel(threads, [&](Team& team) {
    const Range mine = team.split(rows);
    if (!copy) {
      for (int64_t i = mine.begin; i < mine.end; ++i) f(i, x.data + i * x.stride[0]);
      return;
    }
    float* copies = rooms + team.ith * room;
    for (int64_t i = mine.begin; i < mine.end; i += together) {
      const int64_t count = std::min(together, mine.end - i);
      gather_rows(x.data + i * x.stride[0], x.stride[0], x.stride[1], count, n, copies, ld);
      for (int64_t r = 0; r < count; ++r) f(i + r, copies + r * ld);
    }
  });
}

constexpr double kExpCost = 24, kCopyCost = 8;

}  // namespace

void softmax(const In<2>& x, float* y) {
  const KernelTable& k = kernels();
  const int64_t n = x.shape[1];
  for_each_row(x, kExpCost, [&](int64_t i, const float* row) { k.softmax_row(row, n, y + i * n); });
}

void log_softmax(const In<2>& x, float* y) {
  const KernelTable& k = kernels();
  const int64_t n = x.shape[1];
  for_each_row(x, kExpCost, [&](int64_t i, const float* row) { k.log_softmax_row(row, n, y + i * n); });
}

// Every element stands for itself: an array in one piece is one row, whatever its shape, and is cut so that all threads
// get a share.
void activation(const In<2>& x, Activation kind, float* y) {
  constexpr int64_t kPiece = 4096;
  const KernelTable& k = kernels();
  const double cost = kind == Activation::relu ? kCopyCost : kExpCost;
  const int64_t n = x.shape[1], total = x.shape[0] * n;
  if (!rows_contiguous(x) || (x.shape[0] > 1 && x.stride[0] != n))
    return for_each_row(x, cost, [&](int64_t i, const float* row) { k.activation_row(kind, row, n, y + i * n); });
  const int64_t pieces = (total + kPiece - 1) / kPiece;
  const int threads = static_cast<int>(
      std::clamp<int64_t>(threads_for(cost * static_cast<double>(total)), 1, std::max<int64_t>(pieces, 1)));
  parallel(threads, [&](Team& team) {
    const Range mine = team.split(pieces);
    const int64_t begin = mine.begin * kPiece, end = std::min(total, mine.end * kPiece);
    if (begin < end) k.activation_row(kind, x.data + begin, end - begin, y + begin);
  });
}

void layer_norm(const In<2>& x, const float* weight, const float* bias, float eps, float* y) {
  const KernelTable& k = kernels();
  const int64_t n = x.shape[1];
  for_each_row(x, kCopyCost,
               [&](int64_t i, const float* row) { k.layer_norm_row(row, n, weight, bias, eps, y + i * n); });
}

void rms_norm(const In<2>& x, const float* weight, float eps, float* y) {
  const KernelTable& k = kernels();
  const int64_t n = x.shape[1];
  for_each_row(x, kCopyCost, [&](int64_t i, const float* row) { k.rms_norm_row(row, n, weight, eps, y + i * n); });
}

void top_k(const In<2>& x, int count, float* values, int32_t* indices) {
  const KernelTable& k = kernels();
  const int64_t n = x.shape[1];
  for_each_row(x, kCopyCost,
               [&](int64_t i, const float* row) { k.top_k(row, n, count, values + i * count, indices + i * count); });
}

void embedding(const int64_t* ids, int64_t count, const In<2>& table, float scale, float* y) {
  const KernelTable& k = kernels();
  const int64_t C = table.shape[1];
  const int threads = threads_for(kCopyCost * static_cast<double>(count) * static_cast<double>(C));
  parallel(threads, [&](Team& team) {
    const Range mine = team.split(count);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const float* row = table.data + ids[i] * table.stride[0];
      float* to = y + i * C;
      if (!rows_contiguous(table)) {
        gather(row, table.stride[1], C, to);
        row = to;
      }
      if (scale != 1.0f) {
        k.scale_row(row, scale, C, to);
      } else if (row != to && C) {
        std::memcpy(to, row, static_cast<size_t>(C) * sizeof(float));
      }
    }
  });
}

void embedding(const int64_t* ids, int64_t count, const Weight& table, float scale, float* y) {
  const KernelTable& k = kernels();
  const int64_t C = table.cols;
  parallel(threads_for(kCopyCost * static_cast<double>(count) * static_cast<double>(C)), [&](Team& team) {
    const Range mine = team.split(count);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      k.unpack_row(table.type, table.panel(ids[i] / kPanel), C, static_cast<int>(ids[i] % kPanel), y + i * C);
      if (scale != 1.0f) k.scale_row(y + i * C, scale, C, y + i * C);
    }
  });
}

}  // namespace fastattn::dense
