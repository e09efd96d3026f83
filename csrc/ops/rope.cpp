// Rotary position embeddings (Su et al. 2021, arXiv:2104.09864): the turns of a step's rows are computed once, for the
// queries and keys of all layers.
#include "ops/graph_ops.h"

namespace fastattn {
namespace {

// pi / 2 in three parts; the first two have 29 bits, so that their products with a quadrant below 2^24 are exact.
constexpr double kHalfPi[] = {1.570796325802803, 9.920935774287987e-10, 2.2517417741562176e-18};
constexpr double kTwoOverPi = 0.6366197723675814;

// (sin r - r) / r^3 and (cos r - 1) / r^2 as series in r^2: below 1e-13 of the result for |r| <= pi / 4
constexpr double kSin[] = {-1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800};
constexpr double kCos[] = {-1.0 / 2,       1.0 / 24,        -1.0 / 720,        1.0 / 40320,
                           -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200};

template <int N>
double series(const double (&c)[N], double x) {
  double y = c[N - 1];
  for (int i = N - 2; i >= 0; --i) y = y * x + c[i];
  return y;
}

// Rounded from double, hence the nearest floats but for ties; own code, as the last bit of a C library's functions
// differs from CPU to CPU. Adding and subtracting 1.5 * 2^52 rounds to an integer.
void cos_sin(float angle, float* cos, float* sin) {
  const double x = angle, magic = 6755399441055744.0, n = (x * kTwoOverPi + magic) - magic;
  const double r = ((x - n * kHalfPi[0]) - n * kHalfPi[1]) - n * kHalfPi[2], square = r * r;
  const double s = r + r * square * series(kSin, square), c = 1 + square * series(kCos, square);
  const int64_t quadrant = static_cast<int64_t>(n) & 3;
  *cos = static_cast<float>(quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s);
  *sin = static_cast<float>(quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c);
}

}  // namespace

Needs rotations_needs(const Node& n, const Frame& f) {
  return {0, 0, 40.0 * static_cast<double>(f.rows_of(n.outputs[0]) * f.cols(n.outputs[0]))};
}

void run_rotations(const Node& n, Frame& f, Team& team) {
  const int64_t half = f.cols(n.outputs[0]) / 2;
  const float *inv_freq = n.weights[0]->plain.data(), scale = static_cast<float>(n.attrs.scale);
  const Range mine = team.split(f.rows_of(n.outputs[0]));
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const int64_t s = f.row_sequence[static_cast<size_t>(r)];
    const float position =
        static_cast<float>(f.positions[static_cast<size_t>(s)] + r - f.offsets[static_cast<size_t>(s)]);
    float *cos = f.data(n.outputs[0]) + r * 2 * half, *sin = cos + half;
    for (int64_t i = 0; i < half; ++i) {
      cos_sin(position * inv_freq[i], &cos[i], &sin[i]);
      cos[i] *= scale, sin[i] *= scale;
    }
  }
}

void run_rope(const Node& n, Frame& f, Team& team) {
  const int64_t C = f.cols(n.inputs[0]), R = f.cols(n.inputs[1]), heads = n.attrs.heads;
  const Range mine = team.split(f.rows_of(n.outputs[0]));
  for (int64_t r = mine.begin; r < mine.end; ++r)
    f.kernel->rope_row(f.data(n.inputs[0]) + r * C, f.data(n.inputs[1]) + r * R, heads, C / heads, R / 2,
                       f.data(n.outputs[0]) + r * C);
}

}  // namespace fastattn
