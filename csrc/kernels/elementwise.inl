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
