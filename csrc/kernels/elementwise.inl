// Rows of elementwise operations. In place (y equal to an input) is allowed.

void activation_row(Activation activation, const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kLanes) store_up_to(y + i, activate(activation, load_up_to(x + i, n - i)), n - i);
}

void add_row(const float* a, const float* b, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kLanes)
    store_up_to(y + i, load_up_to(a + i, n - i) + load_up_to(b + i, n - i), n - i);
}

void multiply_row(const float* a, const float* b, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kLanes)
    store_up_to(y + i, load_up_to(a + i, n - i) * load_up_to(b + i, n - i), n - i);
}

void scale_row(const float* x, float s, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kLanes) store_up_to(y + i, load_up_to(x + i, n - i) * set1(s), n - i);
}

// x: (heads, D), rotations: cosines (half), then sines (half). In each head the pairs (x[i], x[i + half]) turn by angle
// i:
//   y[i] = x[i] cos_i - x[i + half] sin_i,   y[i + half] = x[i + half] cos_i + x[i] sin_i
// and columns from 2 half on are copied (Su et al. 2021, arXiv:2104.09864, in the order of Hugging Face).
void rope_row(const float* x, const float* rotations, int64_t heads, int64_t D, int64_t half, float* y) {
  for (const float* end = x + heads * D; x < end; x += D, y += D) {
    for (int64_t i = 0; i < half; i += kLanes) {
      const int64_t n = half - i;
      const Vf cos = load_up_to(rotations + i, n), sin = load_up_to(rotations + half + i, n);
      const Vf a = load_up_to(x + i, n), b = load_up_to(x + half + i, n);
      store_up_to(y + i, fma(a, cos, -(b * sin)), n);
      store_up_to(y + half + i, fma(b, cos, a * sin), n);
    }
    for (int64_t i = 2 * half; i < D; i += kLanes) store_up_to(y + i, load_up_to(x + i, D - i), D - i);
  }
}
