// Keys and values in bfloat16 and int8: how a row is rounded, and attention over such pages beside the same over
// floats.
#include <algorithm>

#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

// A row as the cache keeps it, back as floats.
std::vector<float> rounded(DType type, const float* x, int64_t n) {
  std::vector<uint8_t> codes(size_t(n) * 4 + 16);
  float scale = 1.0f;
  kernels().cache_row(type, x, n, codes.data(), 1, &scale);
  std::vector<float> out;
  for (int64_t i = 0; i < n; ++i) {
    if (type == DType::int8) {
      out.push_back(float(int8_t(codes[size_t(i)])) * scale);
    } else {
      const uint32_t bits = uint32_t(codes[size_t(2 * i)] | codes[size_t(2 * i + 1)] << 8) << 16;
      float y;
      std::memcpy(&y, &bits, 4);
      out.push_back(y);
    }
  }
  return out;
}

void check_rounding() {
  for (int n : sizes()) {
    const Array x = random_array(n);
    float largest = 0.0f;
    for (int i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
    const std::vector<float> half = rounded(DType::bfloat16, x, n), byte = rounded(DType::int8, x, n);
    for (int i = 0; i < n; ++i) {
      report(within(half[size_t(i)], x[i], std::ldexp(std::fabs(x[i]), -8)), "bfloat16 of %g: %g", x[i],
             half[size_t(i)]);
      report(within(byte[size_t(i)], x[i], 0.5001 * largest / 127), "int8 of %g: %g", x[i], byte[size_t(i)]);
    }
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      if (n == 0) continue;
      x[n - 1] = bad;
      report(std::isnan(rounded(DType::int8, x, n)[0]), "int8 row with %g is NaN", bad);
      report(within(rounded(DType::bfloat16, x, n).back(), bad, 0), "bfloat16 keeps %g", bad);
    }
    x.fill(1e-38f);
    for (float y : rounded(DType::int8, x, n)) report(y == 0.0f, "int8 of tiny: %g", y);
  }
}

struct Pages {
  std::vector<Array> memory;  // as floats, for their guard
  std::vector<const void*> pages;
};

// tokens: (S, width) -> pages of the type; with_scales: the floats instead that the codes stand for.
Pages pages_of(DType type, const Array& tokens, int64_t S, int64_t width, bool keys, bool as_floats) {
  Pages all;
  const DType stored = as_floats ? DType::float32 : type;
  for (int64_t p = 0; p * kPage < S; ++p) {
    all.memory.push_back(Array(page_bytes(stored, width) / 4));
    float* page = all.memory.back();
    all.memory.back().fill(NAN);
    for (int64_t t = 0; t < std::min<int64_t>(kPage, S - p * kPage); ++t) {
      const float* x = tokens + (p * kPage + t) * width;
      auto* bytes = reinterpret_cast<uint8_t*>(page);
      if (as_floats) {
        const std::vector<float> y = rounded(type, x, width);
        for (int64_t i = 0; i < width; ++i) page[keys ? i * kPage + t : t * width + i] = y[size_t(i)];
      } else {
        const int64_t element = type == DType::int8 ? 1 : 2;
        float unused;
        float* scale = type == DType::int8 ? reinterpret_cast<float*>(bytes + page_scales(width)) + t : &unused;
        kernels().cache_row(type, x, width, bytes + (keys ? t : t * width) * element, keys ? kPage : 1, scale);
      }
    }
    all.pages.push_back(page);
  }
  return all;
}

// bfloat16 gives the bits of the same numbers in float pages; int8 comes as near as its scales' roundings let it.
void check_attention(DType type, int rows, int64_t S, int64_t D, int64_t Dv, bool causal) {
  const Array k = random_array(S * D), v = random_array(S * Dv), q = random_array(rows * D);
  const Array out(rows * Dv), expected(rows * Dv), alone(Dv), scratch(attention_scratch(rows, D));
  std::vector<const float*> q_rows;
  std::vector<float*> out_rows, expected_rows;
  std::vector<int64_t> lo(size_t(rows), 0), hi;
  for (int r = 0; r < rows; ++r) {
    q_rows.push_back(q + r * D), out_rows.push_back(out + r * Dv), expected_rows.push_back(expected + r * Dv);
    hi.push_back(causal ? std::max<int64_t>(S - rows + r + 1, 0) : S);
  }
  const Pages kp = pages_of(type, k, S, D, true, false), vp = pages_of(type, v, S, Dv, false, false);
  const Pages kf = pages_of(type, k, S, D, true, true), vf = pages_of(type, v, S, Dv, false, true);
  AttentionArgs args = {rows,      D,       Dv,   q_rows.data(), kp.pages.data(), vp.pages.data(), Dv,      lo.data(),
                        hi.data(), nullptr, 0.3f, 0.0f,          out_rows.data(), nullptr,         scratch, type};
  kernels().attention(&args);
  AttentionArgs floats = args;
  floats.k_pages = kf.pages.data(), floats.v_pages = vf.pages.data(), floats.out = expected_rows.data();
  floats.type = DType::float32, floats.near = true;
  kernels().attention(&floats);
  if (type == DType::bfloat16)
    report(same_bits(out, expected, rows * Dv), "bfloat16 pages, rows=%d S=%ld D=%ld", rows, long(S), long(D));
  const double bound = (4.0 * double(D) * 4 + double(S) + 32) * kEps * 8;
  for (int64_t i = 0; i < rows * Dv; ++i)
    report(within(out[i], expected[i], bound), "int8 pages, rows=%d S=%ld D=%ld Dv=%ld: %g, want %g", rows, long(S),
           long(D), long(Dv), out[i], expected[i]);
  for (int r = 0; r < rows; ++r) {
    AttentionArgs one = args;
    float* to = alone;
    one.rows = 1, one.q += r, one.lo += r, one.hi += r, one.out = &to;
    kernels().attention(&one);
    report(same_bits(alone, out + r * Dv, Dv), "row %d of %d alone, type %d", r, rows, int(type));
  }
}

}  // namespace

void test_attention_cache() {
  check_rounding();
  for (const DType type : {DType::bfloat16, DType::int8})
    for (int rows : {1, 2, 5, 13})
      for (int64_t S : {1, 16, 33, 130, 300})
        for (const bool causal : {false, true}) {
          check_attention(type, rows, S, 16, 16, causal);
          check_attention(type, rows, S, 5, 33, causal);
          check_attention(type, rows, S, 64, 100, causal);
        }
}

}  // namespace fastattn::selftest
