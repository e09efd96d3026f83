// Attention whose products are of bfloat16: queries, keys, values and powers are rounded to the nearest, ties to even.
// A product of two is exact in float32, so pairs and floats give the same sums: see linear_bfloat16.inl. `l` sums
// powers before they are rounded.
//
// Pages are [D][16] and [16][ld] of Nearest, or [(D + 1) / 2][16] and [8][ld] of Pair, of neighbours along the sum.
// Zeros stand behind the last d, token and column. All values of a page take part, with weight 0 where a row does not
// see the key.

void attention_rounded(const AttentionArgs* args) { attention(args); }

int64_t rounded_page_bytes(int64_t width) { return page_size(DType::rounded, width); }

// A vector of a row of a page, from vectors of the rows that it holds.
INLINE void store_row(Nearest* page, const Vf (&x)[1]) { store_int(page, nearest_bfloat16(x[0])); }
INLINE void store_row(Pair* page, const Vf (&x)[2]) {
  store_int(page, paired(nearest_bfloat16(x[1]), nearest_bfloat16(x[0])));
}

void round_keys(const float* k, int64_t ldk, int count, int64_t D, void* page) {
  constexpr int terms = kTerms<Rounded>;
  for (int64_t d = 0; d < D; d += kLanes)
    for (int t = 0; t < kPage; t += kLanes) {
      Vf x[kLanes];
      for (int i = 0; i < kLanes; ++i) x[i] = t + i < count ? load_up_to(k + (t + i) * ldk + d, D - d) : set1(0.0f);
      transpose(x);
      for (int i = 0; i < kLanes && d + i < D; i += terms) {
        Vf row[terms];
        for (int j = 0; j < terms; ++j) row[j] = x[i + j];
        store_row(static_cast<Rounded*>(page) + (d + i) / terms * kPage + t, row);
      }
    }
}

void round_values(const float* v, int64_t ldv, int count, int64_t Dv, void* page, int64_t ld) {
  constexpr int terms = kTerms<Rounded>;
  for (int t = 0; t < kPage; t += terms)
    for (int64_t c = 0; c < ld; c += kLanes) {
      Vf x[terms];
      for (int j = 0; j < terms; ++j)
        x[j] = t + j < count && c < Dv ? load_up_to(v + (t + j) * ldv + c, Dv - c) : set1(0.0f);
      store_row(static_cast<Rounded*>(page) + t / terms * ld + c, x);
    }
}
