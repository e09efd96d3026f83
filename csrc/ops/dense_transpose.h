// Rows to columns: what packing keys into pages and weights into panels comes down to.
#pragma once

#include <cstdint>

namespace fastattn::dense {

typedef float Four __attribute__((vector_size(16), aligned(4)));

// to[d * ldt + t] = from[t * ldf + d] for four rows t and n columns d, four by four: eight shuffles move sixteen
// floats.
inline void transpose_four(const float* from, int64_t ldf, int64_t n, float* to, int64_t ldt) {
  int64_t d = 0;
  for (; d + 4 <= n; d += 4) {
    const auto row = [&](int t) { return *reinterpret_cast<const Four*>(from + t * ldf + d); };
    const Four r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
    const Four a = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), b = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
    const Four c = __builtin_shufflevector(r0, r1, 2, 6, 3, 7), e = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
    const auto store = [&](int i, Four x) { *reinterpret_cast<Four*>(to + (d + i) * ldt) = x; };
    store(0, __builtin_shufflevector(a, b, 0, 1, 4, 5));
    store(1, __builtin_shufflevector(a, b, 2, 3, 6, 7));
    store(2, __builtin_shufflevector(c, e, 0, 1, 4, 5));
    store(3, __builtin_shufflevector(c, e, 2, 3, 6, 7));
  }
  for (; d < n; ++d)
    for (int t = 0; t < 4; ++t) to[d * ldt + t] = from[t * ldf + d];
}

// The same for `count` rows. Four rows at a time are read from end to end, so that few cache lines are open at once.
inline void transpose(const float* from, int64_t ldf, int count, int64_t n, float* to, int64_t ldt) {
  int t = 0;
  for (; t + 4 <= count; t += 4) transpose_four(from + t * ldf, ldf, n, to + t, ldt);
  for (; t < count; ++t)
    for (int64_t d = 0; d < n; ++d) to[d * ldt + t] = from[t * ldf + d];
}

}  // namespace fastattn::dense
