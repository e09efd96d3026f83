// Keys and values on their way into pages.

constexpr int kPagesAhead = 2;  // of keys that are packed one page after the other

// kLanes rows of kLanes floats, or as many as there are, to columns of a page, with zeros behind the last.
INLINE void pack_square(const float* k, int64_t ldk, int rows, int64_t width, float* to) {
  Vf x[kLanes];
  if (rows >= kLanes && width >= kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) x[i] = load(k + i * ldk);
    transpose(x);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(to + i * kPage, x[i]);
    return;
  }
  for (int i = 0; i < kLanes; ++i) x[i] = i < rows ? load_up_to(k + i * ldk, width) : set1(0.0f);
  transpose(x);
  for (int i = 0; i < kLanes && i < width; ++i) store(to + i * kPage, x[i]);
}

// Writes `count` tokens into columns offset.. of a page; from offset 0, the columns behind them may be zeroed.
// k: (count, D), page: (D, kPage)
void pack_keys(const float* k, int64_t ldk, int count, int64_t D, float* page, int offset) {
  if (offset > 0 || count < kPage / 2) {
    for (int64_t d = 0; d < D; ++d)
      for (int t = 0; t < count; ++t) page[d * kPage + offset + t] = k[t * ldk + d];
    return;
  }
  for (int t = 0; t < count; ++t) {
    touch_row(k + t * ldk, D);
    for (int64_t d = 0; d < D; d += kLine) __builtin_prefetch(k + (t + kPagesAhead * kPage) * ldk + d);
  }
  for (int t = 0; t < kPage; t += kLanes)
    for (int64_t d = 0; d < D; d += kLanes) pack_square(k + t * ldk + d, ldk, count - t, D - d, page + d * kPage + t);
}

// The largest |x|; NaN if anything is NaN or infinite.
float finite_magnitude(const float* x, int64_t n) {
  float largest = 0.0f, bad = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float a = x[i] < 0.0f ? -x[i] : x[i];
    largest = a > largest ? a : largest;
    bad += x[i] * 0.0f;
  }
  return largest + bad;
}

// Symmetric: code = x / scale, to the nearest, scale = max |x| / 127. All below 2^-100: scale 0. NaN or infinity in a
// row: its scale is NaN, and so is all that it is multiplied with.
void cache_int8(const float* x, int64_t n, int8_t* out, int64_t stride, float* scale) {
  const float largest = finite_magnitude(x, n);
  *scale = largest < kLeast ? 0.0f : largest / 127.0f;
  const float divisor = *scale > 0.0f ? *scale : kInfinity;  // codes 0
  for (int64_t i = 0; i < n; i += kLanes) {
    int8_t codes[kLanes];
    const Vf q = load_up_to(x + i, n - i) / set1(divisor);
    store_bytes(codes, to_int(select(is_nan(q), set1(0.0f), q)));
    for (int64_t c = 0; c < minimum(kLanes, n - i); ++c) out[(i + c) * stride] = codes[c];
  }
}

void cache_bfloat16(const float* x, int64_t n, BFloat16* out, int64_t stride) {
  for (int64_t i = 0; i < n; i += kLanes) {
    uint32_t words[kLanes];
    store_int(words, nearest_bfloat16(load_up_to(x + i, n - i)));
    for (int64_t c = 0; c < minimum(kLanes, n - i); ++c)
      out[(i + c) * stride] = {static_cast<uint16_t>(words[c] >> 16)};
  }
}

void cache_row(DType type, const float* x, int64_t n, void* out, int64_t stride, float* scale) {
  if (type == DType::int8) return cache_int8(x, n, static_cast<int8_t*>(out), stride, scale);
  if (type == DType::bfloat16) return cache_bfloat16(x, n, static_cast<BFloat16*>(out), stride);
  for (int64_t i = 0; i < n; ++i) static_cast<float*>(out)[i * stride] = x[i];
}
