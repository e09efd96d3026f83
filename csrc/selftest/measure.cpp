// Speed on one thread, beside what this machine can do at most (roofline.inl).
#include <time.h>

#include <algorithm>

#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {
namespace {

// Time that this thread has run: what it waits for other processes does not count.
double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// Best seconds of one call, over at least `budget` seconds.
template <class Call>
double seconds(Call call, double budget = 0.4) {
  double best = 1e9, spent = 0.0;
  for (int n = 0; n < 3 || spent < budget; ++n) {
    const double begin = now();
    call();
    const double t = now() - begin;
    best = std::min(best, t);
    spent += t;
  }
  return best;
}

float* aligned(int64_t n) {
  float* p = static_cast<float*>(std::aligned_alloc(64, (size_t(n) * sizeof(float) + 63) / 64 * 64));
  for (int64_t i = 0; i < n; ++i) p[i] = 0.01f * float(i % 101) - 0.5f;
  return p;
}

// Measured anew beside every figure: the clock of a shared machine is not constant.
double peak() {
  const double operations = kernels().fma_peak(1);
  return 20000 * operations / seconds([] { kernels().fma_peak(20000); }, 0.05);
}

void linear(int64_t rows, int64_t N, int64_t K, double bandwidth) {
  const double flops = peak();
  float *w = aligned(N * K), *x = aligned(rows * K), *y = aligned(rows * N);
  PanelArgs args{};
  args.x = x, args.ld_chunk = rows * kLinearChunk, args.rows = rows, args.K = K;  // K is a multiple of a chunk
  args.panels = w, args.y = y, args.ldy = N, args.cols = N;
  const double t = seconds([&] { kernels().linear_float32(&args); });
  const double bytes = 4.0 * double(N * K), operations = 2.0 * double(rows * N * K);
  std::printf("  linear %4ld rows, %ld x %ld: %7.2f GB/s (%3.0f%%)  %8.2f GFLOP/s (%3.0f%%)\n", long(rows), long(N),
              long(K), bytes / t * 1e-9, bytes / t / bandwidth * 100, operations / t * 1e-9,
              operations / t / flops * 100);
  std::free(w), std::free(x), std::free(y);
}

void attention(int rows, int64_t S, int64_t D, bool causal, double bandwidth) {
  const double flops = peak();
  const int64_t pages = S / kPage;
  float *k = aligned(S * D), *v = aligned(S * D), *q = aligned(rows * D), *out = aligned(rows * D);
  std::vector<const float*> qp;
  std::vector<const void*> kp, vp;
  std::vector<float*> op;
  std::vector<int64_t> lo(size_t(rows), 0), hi;
  for (int64_t p = 0; p < pages; ++p) kp.push_back(k + p * D * kPage), vp.push_back(v + p * D * kPage);
  double pairs = 0.0;
  for (int r = 0; r < rows; ++r) {
    qp.push_back(q + r * D), op.push_back(out + r * D);
    hi.push_back(causal ? S - rows + r + 1 : S);
    pairs += double(hi.back());
  }
  float* scratch = aligned(attention_scratch(rows, D));
  const AttentionArgs args = {rows,      D,       D,      qp.data(), kp.data(), vp.data(), D,      lo.data(),
                              hi.data(), nullptr, 0.125f, 0.0f,      op.data(), nullptr,   scratch};
  const double t = seconds([&] { kernels().attention(&args); });
  const double operations = 4.0 * pairs * double(D), bytes = 8.0 * double(S * D);
  std::printf("  attention %4d rows, %5ld keys of %ld%s: %8.2f GFLOP/s (%3.0f%%)  %7.2f GB/s (%3.0f%%)\n", rows,
              long(S), long(D), causal ? ", causal" : "", operations / t * 1e-9, operations / t / flops * 100,
              bytes / t * 1e-9, bytes / t / bandwidth * 100);
  std::free(k), std::free(v), std::free(q), std::free(out), std::free(scratch);
}

// Many calls at once: reading the thread's clock costs as much as a short row.
template <class Call>
void per_element(const char* name, int64_t n, Call call) {
  const int64_t repeats = 1 + 500000 / n;
  const double t = seconds(
      [&] {
        for (int64_t i = 0; i < repeats; ++i) call();
      },
      0.1);
  std::printf("  %-22s %6.3f ns an element\n", name, t / double(n * repeats) * 1e9);
}

void rows_of(int64_t n) {
  float *x = aligned(n), *y = aligned(n);
  int32_t indices[64];
  for (int64_t i = 0; i < n; ++i) x[i] = random_normal();
  per_element("softmax", n, [&] { kernels().softmax_row(x, n, y); });
  per_element("log_sum_exp", n, [&] { kernels().log_sum_exp(x, n); });
  per_element("top_k 5", n, [&] { kernels().top_k(x, n, 5, y, indices); });
  per_element("top_k 64", n, [&] { kernels().top_k(x, n, 64, y, indices); });
  per_element("layer_norm", 512, [&] { kernels().layer_norm_row(x, 512, x, x, 1e-5f, y); });
  per_element("tanh", 4096, [&] { kernels().activation_row(Activation::tanh, x, 4096, y); });
  per_element("gelu", 4096, [&] { kernels().activation_row(Activation::gelu, x, 4096, y); });
  per_element("sigmoid", 4096, [&] { kernels().activation_row(Activation::sigmoid, x, 4096, y); });
  per_element("additive (40 x 128)", 40 * 128, [&] { kernels().additive_scores(x, x, 128, 40, 128, x, y); });
  per_element("pack_keys (16 x 64)", 16 * 64, [&] { kernels().pack_keys(x, 64, 16, 64, y, 0); });
  std::free(x), std::free(y);
}

}  // namespace

void measure() {
  const double flops = peak();
  const int64_t n = int64_t{1} << 24;  // 64 MB, as much as the matrix of the first linear
  float* x = aligned(n);
  const double bandwidth = 4.0 * double(n) / seconds([&] { kernels().read_sum(x, n); }, 1.0);
  std::free(x);
  std::printf("%s, one thread: fma peak %.1f GFLOP/s, read %.2f GB/s\n", active_isa().c_str(), flops * 1e-9,
              bandwidth * 1e-9);
  linear(1, 4096, 4096, bandwidth);
  linear(2, 4096, 4096, bandwidth);
  linear(5, 2048, 2048, bandwidth);
  linear(16, 2048, 2048, bandwidth);
  linear(64, 2048, 2048, bandwidth);
  linear(64, 512, 512, bandwidth);
  for (int64_t S : {512, 2048}) attention(int(S), S, 64, false, bandwidth);
  attention(2048, 2048, 64, true, bandwidth);
  attention(20, 32, 64, false, bandwidth);
  attention(1, 65536, 64, false, bandwidth);
  attention(4, 2048, 64, false, bandwidth);
  attention(1, 512, 64, false, bandwidth);
  rows_of(50000);
}

}  // namespace fastattn::selftest
