#include "ops/dense_rows.h"

#include "dispatch/dispatch.h"

namespace fastattn::dense {
namespace {

// f(row, x) for every row, with x contiguous; `cost` is the work of one element. The threads split the rows.
template <typename F>
void for_each_row(const In<2>& x, double cost, F&& f) {
  const int64_t rows = x.shape[0], n = x.shape[1];
  if (rows == 0) return;
  const int threads =
      static_cast<int>(std::min<int64_t>(threads_for(cost * static_cast<double>(rows) * static_cast<double>(n)), rows));
  const bool copy = !rows_contiguous(x);
  const int64_t size = copy ? Scratch::padded(n) : 0;
  Scratch scratch(threads * size);
  float* room = scratch.take(threads * size);
  parallel(threads, [&](Team& team) {
    const Range mine = team.split(rows);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const float* row = x.data + i * x.stride[0];
      if (copy) {
        gather(row, x.stride[1], n, room + team.ith * size);
        row = room + team.ith * size;
      }
      f(i, row);
    }
  });
}

constexpr double kExpCost = 24, kCopyCost = 8;

// Elementwise and in one piece: one long row is cut so that all threads get a share. Every element stands for itself.
In<2> cut(const In<2>& x) {
  constexpr int64_t kPiece = 4096;
  const bool one_piece = x.shape[0] <= 1 || x.stride[0] == x.shape[1];
  const int64_t total = x.shape[0] * x.shape[1];
  if (!one_piece || !rows_contiguous(x) || x.shape[1] <= kPiece || total % kPiece != 0) return x;
  return {x.data, {total / kPiece, kPiece}, {kPiece, 1}};
}

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

void activation(const In<2>& given, Activation kind, float* y) {
  const KernelTable& k = kernels();
  const In<2> x = cut(given);
  const int64_t n = x.shape[1];
  for_each_row(x, kind == Activation::relu ? kCopyCost : kExpCost,
               [&](int64_t i, const float* row) { k.activation_row(kind, row, n, y + i * n); });
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
