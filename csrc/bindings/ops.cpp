// The dense ops, for fastattn/ops/*.py, which checks arguments and says which one is wrong. What could touch memory
// outside an array is checked here once more. Every call writes into arrays it is given and runs without the GIL.
#include "bindings/ops.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/unlocked.h"
#include "ops/dense_attention.h"
#include "ops/dense_linear.h"
#include "ops/dense_recurrent.h"
#include "ops/dense_rows.h"
#include "ops/dense_scores.h"

namespace py = pybind11;

namespace fastattn {
namespace {

using Floats = py::array_t<float, 0>;
using Longs = py::array_t<int64_t, 0>;
using OptionalFloats = std::optional<Floats>;
using OptionalLongs = std::optional<Longs>;
using WeightLike = std::variant<Floats, std::shared_ptr<Weight>>;

void require(bool ok, const char* name, const char* what) {
  if (!ok) throw std::invalid_argument(std::string(name) + ": " + what);
}

template <typename T, int N>
dense::View<T, N> view_of(T* data, const py::array& x, const char* name) {
  require(x.ndim() == N, name, "wrong number of dimensions");
  check_size(x, name);
  dense::View<T, N> v;
  v.data = data;
  for (int i = 0; i < N; ++i) {
    require(x.strides(i) % static_cast<py::ssize_t>(sizeof(T)) == 0, name, "strides are no multiple of the element");
    v.shape[i] = x.shape(i);
    v.stride[i] = x.strides(i) / static_cast<py::ssize_t>(sizeof(T));
  }
  return v;
}

template <int N>
dense::In<N> in(const Floats& x, const char* name) {
  return view_of<const float, N>(x.data(), x, name);
}

template <int N>
dense::Out<N> out(Floats& x, const char* name) {
  return view_of<float, N>(x.mutable_data(), x, name);
}

// A C-contiguous array of exactly this many elements, or null.
template <typename T>
const T* flat(const py::array_t<T, 0>& x, int64_t size, const char* name) {
  require((x.flags() & py::array::c_style) && x.size() == size, name, "not contiguous, or of the wrong size");
  return x.data();
}
const float* flat(const OptionalFloats& x, int64_t size, const char* name) {
  return x ? flat(*x, size, name) : nullptr;
}

float* flat_out(Floats& x, int64_t size, const char* name) {
  flat(x, size, name);
  return x.mutable_data();
}

template <int N>
void require_shape(const dense::Out<N>& x, const int64_t (&shape)[N], const char* name) {
  for (int i = 0; i < N; ++i) require(x.shape[i] == shape[i], name, "wrong shape");
  require(rows_contiguous(x), name, "last axis is not contiguous");
}

constexpr int64_t kFarthest = int64_t{1} << 40;  // of a position from key 0

// A copy, as the array may change while the GIL is given up.
std::vector<int64_t> copied(const Longs& x, int64_t size, const char* name) {
  const int64_t* data = flat(x, size, name);
  return {data, data + size};
}

// A copy, whose elements are checked; without an array, `size` times `all`.
std::vector<int64_t> bounded(const OptionalLongs& x, int64_t size, int64_t least, int64_t most, int64_t all,
                             const char* name) {
  if (!x) return std::vector<int64_t>(static_cast<size_t>(size), all);
  const std::vector<int64_t> copy = copied(*x, size, name);
  for (const int64_t i : copy) require(i >= least && i <= most, name, "outside its range");
  return copy;
}

dense::Mask mask_of(const std::optional<py::array>& mask, const int64_t (&shape)[4]) {
  if (!mask) return {};
  const bool boolean = mask->dtype().kind() == 'b';
  require(boolean || py::isinstance<Floats>(*mask), "attn_mask", "neither bool nor float32");
  const py::ssize_t size = boolean ? 1 : sizeof(float);
  require(mask->ndim() == 4, "attn_mask", "wrong number of dimensions");
  dense::Mask m{boolean ? dense::Mask::Kind::boolean : dense::Mask::Kind::added, mask->data(), {}};
  for (int i = 0; i < 4; ++i) {
    require(mask->shape(i) == shape[i] && mask->strides(i) % size == 0, "attn_mask", "wrong shape");
    m.stride[i] = mask->strides(i) / size;
  }
  return m;
}

void attention(const Floats& query, const Floats& key, const Floats& value, const std::optional<py::array>& mask,
               int64_t left, int64_t right, const OptionalLongs& q_start, const OptionalLongs& kv_lengths, float scale,
               float softcap, Floats& result, std::optional<Floats>& weights) {
  dense::Attention op{};
  op.q = in<4>(query, "query"), op.k = in<4>(key, "key"), op.v = in<4>(value, "value");
  const int64_t B = op.q.shape[0], H = op.q.shape[1], T = op.q.shape[2], G = op.k.shape[1], S = op.k.shape[2];
  require(op.k.shape[0] == B && op.v.shape[0] == B && op.k.shape[3] == op.q.shape[3] && (G ? H % G == 0 : H == 0),
          "key", "wrong shape");
  require(op.v.shape[1] == G && op.v.shape[2] == S, "value", "wrong shape");
  op.mask = mask_of(mask, {B, H, T, S});
  op.window = {left, right};
  const std::vector<int64_t> seen = bounded(kv_lengths, B, 0, S, S, "kv_lengths");
  const std::vector<int64_t> starts = bounded(q_start, B, -kFarthest, kFarthest, S - T, "q_start");
  op.q_start = starts.data(), op.kv_lengths = seen.data();
  op.scale = scale, op.softcap = softcap;
  op.out = out<4>(result, "out");
  require_shape(op.out, {B, H, T, op.v.shape[3]}, "out");
  op.weights = weights ? flat_out(*weights, B * H * T * S, "weights") : nullptr;
  const Unlocked unlocked;
  dense::attention(op);
}

void score_attention(const Floats& query, const Floats& keys, const OptionalFloats& v, const Floats& values,
                     const OptionalLongs& lengths, Floats& context, Floats& weights) {
  dense::ScoreAttention op{};
  op.q = in<3>(query, "query"), op.k = in<3>(keys, "keys"), op.values = in<3>(values, "values");
  const int64_t B = op.q.shape[0], T = op.q.shape[1], A = op.q.shape[2], S = op.k.shape[1];
  require(op.k.shape[0] == B && op.k.shape[2] == A, "keys", "wrong shape");
  require(op.values.shape[0] == B && op.values.shape[1] == S, "values", "wrong shape");
  require(rows_contiguous(op.q) && rows_contiguous(op.k) && rows_contiguous(op.values), "keys",
          "last axis is not contiguous");
  const std::vector<int64_t> seen = bounded(lengths, B, 0, S, S, "lengths");
  op.v = flat(v, A, "v"), op.lengths = seen.data();
  op.weights = flat_out(weights, B * T * S, "weights");
  op.context = flat_out(context, B * T * op.values.shape[2], "context");
  const Unlocked unlocked;
  dense::score_attention(op);
}

std::shared_ptr<Weight> pack(const Floats& weight, const std::string& dtype) {
  const auto view = in<2>(weight, "weight");
  const DType type = type_named(dtype);
  const Unlocked unlocked;
  return dense::pack(view, type);
}

void require_packed(const Weight& weight, int64_t rows, int64_t cols, const char* name) {
  require(weight.rows >= rows && weight.cols == cols, name, "wrong shape");
  require(weight.packed(), name, "not packed");
}

// weight: an array, or what `pack` made of one, of which the panels from first_panel on are used.
void linear(const Floats& x, const WeightLike& weight, int64_t first_panel, const OptionalFloats& bias,
            const std::string& activation, const OptionalFloats& residual, Floats& result) {
  dense::Linear op{};
  op.x = in<2>(x, "x"), op.y = out<2>(result, "out");
  const int64_t rows = op.x.shape[0], O = op.y.shape[1];
  if (const auto* packed = std::get_if<std::shared_ptr<Weight>>(&weight)) {
    require(*packed && first_panel >= 0, "weight", "missing");
    require_packed(**packed, first_panel * kPanel + O, op.x.shape[1], "weight");
    op.packed = packed->get(), op.first_panel = first_panel;
    op.weight.shape[0] = O, op.weight.shape[1] = op.x.shape[1];
  } else {
    op.weight = in<2>(std::get<Floats>(weight), "weight");
    require(op.weight.shape[0] == O && op.weight.shape[1] == op.x.shape[1], "weight", "wrong shape");
  }
  require_shape(op.y, {rows, O}, "out");
  op.bias = flat(bias, O, "bias"), op.activation = activation_named(activation);
  if (residual) {
    op.residual = in<2>(*residual, "residual");
    require(op.residual.shape[0] == rows && op.residual.shape[1] == O && rows_contiguous(op.residual), "residual",
            "wrong shape");
  }
  const Unlocked unlocked;
  dense::linear(op);
}

void softmax(const Floats& x, Floats& result) {
  const auto view = in<2>(x, "x");
  float* y = flat_out(result, x.size(), "out");
  const Unlocked unlocked;
  dense::softmax(view, y);
}

void log_softmax(const Floats& x, Floats& result) {
  const auto view = in<2>(x, "x");
  float* y = flat_out(result, x.size(), "out");
  const Unlocked unlocked;
  dense::log_softmax(view, y);
}

// x: rows, or an array of any shape in one piece.
void activation(const Floats& x, const std::string& kind, Floats& result) {
  const bool whole = x.flags() & py::array::c_style;
  if (whole) check_size(x, "x");
  const auto view = whole ? dense::In<2>{x.data(), {1, x.size()}, {x.size(), 1}} : in<2>(x, "x");
  const Activation activation = activation_named(kind);
  float* y = flat_out(result, x.size(), "out");
  const Unlocked unlocked;
  dense::activation(view, activation, y);
}

void layer_norm(const Floats& x, const OptionalFloats& weight, const OptionalFloats& bias, float eps, Floats& result) {
  const auto view = in<2>(x, "x");
  const float *w = flat(weight, view.shape[1], "weight"), *b = flat(bias, view.shape[1], "bias");
  float* y = flat_out(result, x.size(), "out");
  const Unlocked unlocked;
  dense::layer_norm(view, w, b, eps, y);
}

void rms_norm(const Floats& x, const OptionalFloats& weight, float eps, Floats& result) {
  const auto view = in<2>(x, "x");
  const float* w = flat(weight, view.shape[1], "weight");
  float* y = flat_out(result, x.size(), "out");
  const Unlocked unlocked;
  dense::rms_norm(view, w, eps, y);
}

void top_k(const Floats& x, int k, Floats& values, py::array_t<int32_t, 0>& indices) {
  const auto view = in<2>(x, "x");
  require(k >= 0 && k <= view.shape[1], "k", "outside its range");
  float* v = flat_out(values, view.shape[0] * k, "values");
  flat(indices, view.shape[0] * k, "indices");
  int32_t* i = indices.mutable_data();
  const Unlocked unlocked;
  dense::top_k(view, k, v, i);
}

// Ids of the rows of a table.
std::vector<int64_t> row_ids(const Longs& ids, int64_t rows) {
  const std::vector<int64_t> list = copied(ids, ids.size(), "ids");
  for (const int64_t i : list)
    if (i < 0 || i >= rows)
      throw py::index_error("ids: expected 0 to " + std::to_string(rows - 1) + ", the rows of weight, got " +
                            std::to_string(i));
  return list;
}

void embedding(const Longs& ids, const WeightLike& weight, float scale, Floats& result) {
  const int64_t count = ids.size();
  if (const auto* packed = std::get_if<std::shared_ptr<Weight>>(&weight)) {
    require(*packed && (*packed)->packed(), "weight", "not packed");
    const std::vector<int64_t> list = row_ids(ids, (*packed)->rows);
    float* y = flat_out(result, count * (*packed)->cols, "out");
    const Unlocked unlocked;
    return dense::embedding(list.data(), count, **packed, scale, y);
  }
  const auto table = in<2>(std::get<Floats>(weight), "weight");
  const std::vector<int64_t> list = row_ids(ids, table.shape[0]);
  float* y = flat_out(result, count * table.shape[1], "out");
  const Unlocked unlocked;
  dense::embedding(list.data(), count, table, scale, y);
}

dense::Cell cell_named(const std::string& name) {
  require(name == "lstm" || name == "gru", "cell", "neither gru nor lstm");
  return name == "lstm" ? dense::Cell::lstm : dense::Cell::gru;
}

void cell(const std::string& name, const Floats& from_x, const Floats& from_h, Floats& h, std::optional<Floats>& c) {
  const dense::Cell cell = cell_named(name);
  const bool lstm = cell == dense::Cell::lstm;
  const auto state = in<2>(h, "h");
  const int64_t B = state.shape[0], H = state.shape[1], O = (lstm ? 4 : 3) * H;
  require(lstm == c.has_value(), "c", "belongs to the LSTM");
  const float *x = flat(from_x, B * O, "from_x"), *s = flat(from_h, B * O, "from_h");
  float *to_h = flat_out(h, B * H, "h"), *to_c = lstm ? flat_out(*c, B * H, "c") : nullptr;
  const Unlocked unlocked;
  dense::cell(cell, x, s, B, H, to_h, to_c);
}

dense::Matrix matrix_of(const WeightLike& weight, int64_t rows, int64_t cols, const char* name) {
  dense::Matrix m{};
  if (const auto* packed = std::get_if<std::shared_ptr<Weight>>(&weight)) {
    require(*packed && (*packed)->rows == rows, name, "wrong shape");
    require_packed(**packed, rows, cols, name);
    m.packed = packed->get();
  } else {
    m.rows = in<2>(std::get<Floats>(weight), name);
    require(m.rows.shape[0] == rows && m.rows.shape[1] == cols, name, "wrong shape");
  }
  return m;
}

void recurrent(const std::string& cell, bool reverse, const Floats& x, const WeightLike& weight_ih,
               const WeightLike& weight_hh, const OptionalFloats& bias_ih, const OptionalFloats& bias_hh,
               const OptionalLongs& lengths, Floats& result, Floats& h, std::optional<Floats>& c) {
  dense::Recurrent op{};
  op.cell = cell_named(cell);
  const bool lstm = op.cell == dense::Cell::lstm;
  op.direction = reverse ? dense::Recurrent::Direction::reverse : dense::Recurrent::Direction::forward;
  op.x = in<3>(x, "x"), op.out = out<3>(result, "out");
  const int64_t B = op.x.shape[0], T = op.x.shape[1], H = op.out.shape[2], O = (lstm ? 4 : 3) * H;
  op.weight_ih = matrix_of(weight_ih, O, op.x.shape[2], "weight_ih");
  op.weight_hh = matrix_of(weight_hh, O, H, "weight_hh");
  require(rows_contiguous(op.x), "x", "last axis is not contiguous");
  require(lstm == c.has_value(), "c", "belongs to the LSTM");
  op.bias_ih = flat(bias_ih, O, "bias_ih"), op.bias_hh = flat(bias_hh, O, "bias_hh");
  const std::vector<int64_t> seen = bounded(lengths, B, 0, T, T, "lengths");
  op.lengths = seen.data();
  require_shape(op.out, {B, T, H}, "out");
  op.h = flat_out(h, B * H, "h"), op.c = lstm ? flat_out(*c, B * H, "c") : nullptr;
  const Unlocked unlocked;
  dense::recurrent(op);
}

}  // namespace

void bind_ops(py::module_& m) {
  const auto exact = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("attention", &attention, exact("query"), exact("key"), exact("value"), exact("mask"), py::arg("left"),
        py::arg("right"), exact("q_start"), exact("kv_lengths"), py::arg("scale"), py::arg("softcap"), exact("out"),
        exact("weights"),
        "Scaled dot-product attention; mask [B, H, T, S] bool or float32, a window side below zero is unbounded.");
  m.def("score_attention", &score_attention, exact("query"), exact("keys"), exact("v"), exact("values"),
        exact("lengths"), exact("context"), exact("weights"),
        "Attention by v . tanh(q + k), or by q . k when v is None.");
  m.attr("PANEL") = kPanel;
  m.def("pack", &pack, exact("weight"), py::arg("dtype"),
        "A weight [O, I] as panels of PANEL rows, for linear and recurrent.");
  m.def("linear", &linear, exact("x"), exact("weight"), py::arg("first_panel"), exact("bias"), py::arg("activation"),
        exact("residual"), exact("out"), "act(x W^T + bias) + residual.");
  m.def("softmax", &softmax, exact("x"), exact("out"), "Softmax of each row.");
  m.def("log_softmax", &log_softmax, exact("x"), exact("out"), "Log-softmax of each row.");
  m.def("activation", &activation, exact("x"), py::arg("kind"), exact("out"), "An activation, element by element.");
  m.def("layer_norm", &layer_norm, exact("x"), exact("weight"), exact("bias"), py::arg("eps"), exact("out"),
        "Layer norm of each row.");
  m.def("rms_norm", &rms_norm, exact("x"), exact("weight"), py::arg("eps"), exact("out"), "RMS norm of each row.");
  m.def("top_k", &top_k, exact("x"), py::arg("k"), exact("values"), exact("indices"),
        "The k largest of each row, best first.");
  m.def("embedding", &embedding, exact("ids"), exact("weight"), py::arg("scale"), exact("out"),
        "Rows of a table, scaled.");
  m.def("cell", &cell, py::arg("cell"), exact("from_x"), exact("from_h"), exact("h"), exact("c"),
        "One step of a GRU or LSTM from the products of inputs and states; h and c: the state before, and after.");
  m.def("recurrent", &recurrent, py::arg("cell"), py::arg("reverse"), exact("x"), exact("weight_ih"),
        exact("weight_hh"), exact("bias_ih"), exact("bias_hh"), exact("lengths"), exact("out"), exact("h"), exact("c"),
        "One layer and direction of a GRU or LSTM; h and c hold the state before the call, and after.");
}

}  // namespace fastattn
