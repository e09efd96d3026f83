// What this machine can do at most with these instructions: the two numbers that every other kernel is measured
// against.

// A loop of nothing but multiply-adds in registers, kAccumulators independent chains. Returns the operations done.
double fma_peak(int64_t iterations) {
  volatile float one = 1.0f, tiny = 1e-30f, sink;
  const Vf a = set1(one), b = set1(tiny);  // volatile: not known to the compiler
  Vf acc[kAccumulators];
  for (int i = 0; i < kAccumulators; ++i) acc[i] = set1(tiny * static_cast<float>(i));
  for (int64_t n = 0; n < iterations; ++n)
#pragma GCC unroll 32
    for (int i = 0; i < kAccumulators; ++i) acc[i] = fma(acc[i], a, b);
  Vf total = set1(0.0f);
  for (int i = 0; i < kAccumulators; ++i) total = total + acc[i];
  sink = sum(total);
  (void)sink;
  return 2.0 * kLanes * kAccumulators * static_cast<double>(iterations);
}

// The sum of a long array, eight vectors at a time: as fast as the memory delivers.
float read_sum(const float* x, int64_t n) {
  constexpr int V = 8;
  Vf acc[V];
  for (int v = 0; v < V; ++v) acc[v] = set1(0.0f);
  int64_t i = 0;
  for (; i + V * kLanes <= n; i += V * kLanes)
    for (int v = 0; v < V; ++v) acc[v] = acc[v] + load(x + i + v * kLanes);
  for (; i < n; i += kLanes) acc[0] = acc[0] + load_up_to(x + i, n - i);
  for (int v = 1; v < V; ++v) acc[0] = acc[0] + acc[v];
  return sum(acc[0]);
}
