#include "bindings/engine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>

#include "bindings/arrays.h"
#include "bindings/unlocked.h"
#include "engine/session.h"

namespace py = pybind11;

namespace fastattn {
namespace {

using Ints = py::array_t<int32_t, py::array::c_style>;
using Longs = py::array_t<int64_t, py::array::c_style>;
using Attributes = std::map<std::string, std::variant<int64_t, double, std::string>>;
using WeightPtr = std::shared_ptr<Weight>;

// The memory of an array as it stands; its type is float32, float16, or uint16 that holds bfloat16.
Source source_of(const py::array& array, bool bfloat16) {
  if (array.ndim() < 1 || array.ndim() > 2)
    throw std::invalid_argument("a weight has one or two dimensions, got " + std::to_string(array.ndim()));
  check_size(array, "a weight");
  const py::dtype type = array.dtype();
  const bool native = type.byteorder() == '=' || type.byteorder() == '|';
  Source s{};
  if (native && !bfloat16 && type.kind() == 'f' && type.itemsize() == 4) {
    s.type = Source::Type::float32;
  } else if (native && !bfloat16 && type.kind() == 'f' && type.itemsize() == 2) {
    s.type = Source::Type::float16;
  } else if (native && bfloat16 && type.kind() == 'u' && type.itemsize() == 2) {
    s.type = Source::Type::bfloat16;
  } else {
    throw std::invalid_argument("a weight is float32, float16, or bfloat16 as uint16, got " +
                                py::str(static_cast<py::object>(type)).cast<std::string>());
  }
  const auto stride = [&](int axis) {
    if (array.strides(axis) % type.itemsize() != 0)
      throw std::invalid_argument("a weight's strides are multiples of its element");
    return static_cast<int64_t>(array.strides(axis) / type.itemsize());
  };
  if (reinterpret_cast<uintptr_t>(array.data()) % static_cast<uintptr_t>(type.itemsize()))
    throw std::invalid_argument("a weight's elements are aligned");
  s.data = array.data();
  s.rows = array.shape(0), s.row_stride = stride(0);
  s.cols = array.ndim() == 2 ? array.shape(1) : 1, s.col_stride = array.ndim() == 2 ? stride(1) : 1;
  return s;
}

// exact: bfloat16 holds the values of a float32 matrix, and what it multiplies is not rounded.
DType packed_type(const std::string& dtype, bool exact) {
  const DType type = type_named(dtype);
  return exact && type == DType::bfloat16 ? DType::narrow : type;
}

WeightPtr make_weight(const py::array& array, bool packed, int num_threads, const std::string& dtype, bool bfloat16,
                      bool exact) {
  const Source source = source_of(array, bfloat16);
  const DType type = packed_type(dtype, exact);
  if (!packed && type != DType::float32) throw std::invalid_argument("a plain weight is float32, not " + dtype);
  const Unlocked unlocked;
  return packed ? packed_weight(source, type, std::max(1, num_threads)) : plain_weight(source);
}

// Keeps a reference to the array, whose memory is read in place.
WeightPtr weight_from_packed(const py::array& bytes, int64_t rows, int64_t cols, const std::string& dtype, bool exact) {
  if (!py::isinstance<py::array_t<uint8_t>>(bytes) || bytes.ndim() != 1 || !(bytes.flags() & py::array::c_style))
    throw std::invalid_argument("a packed weight is a contiguous vector of uint8");
  auto* owner = new py::array(bytes);
  const std::shared_ptr<const uint8_t> panels(static_cast<const uint8_t*>(bytes.data()), [owner](const uint8_t*) {
    const py::gil_scoped_acquire locked;
    delete owner;
  });
  return borrowed_weight(panels, bytes.size(), rows, cols, packed_type(dtype, exact));
}

// The panels of a packed weight, without copying: the array keeps the weight alive.
py::object packed_bytes(const WeightPtr& weight) {
  if (!weight->packed()) return py::none();
  py::array view(py::dtype::of<uint8_t>(), {static_cast<py::ssize_t>(weight->packed_bytes())},
                 {static_cast<py::ssize_t>(1)}, weight->panels.get(), py::cast(weight));
  view.attr("flags").attr("writeable") = false;
  return view;
}

// The attributes of fastattn/ops/table.py by name. Names of states and memories come as slot numbers.
Attrs attrs_of(const Attributes& given) {
  Attrs a;
  const std::map<std::string, int64_t*> integers = {{"heads", &a.heads},
                                                    {"kv_heads", &a.kv_heads},
                                                    {"layer", &a.layer},
                                                    {"cache", &a.cache},
                                                    {"causal", &a.causal},
                                                    {"window_left", &a.window_left},
                                                    {"window_right", &a.window_right},
                                                    {"rounded", &a.rounded},
                                                    {"max_distance", &a.max_distance},
                                                    {"bidirectional", &a.bidirectional},
                                                    {"offset", &a.offset},
                                                    {"reverse", &a.reverse},
                                                    {"additive", &a.additive}};
  const std::map<std::string, double*> reals = {{"scale", &a.scale}, {"softcap", &a.softcap}, {"eps", &a.eps}};
  const std::map<std::string, int*> slots = {{"slot", &a.slot}, {"values_slot", &a.values_slot}};
  for (const auto& [name, value] : given) {
    if (const auto it = reals.find(name); it != reals.end()) {
      *it->second = std::holds_alternative<double>(value) ? std::get<double>(value)
                                                          : static_cast<double>(std::get<int64_t>(value));
    } else if (const auto integer = integers.find(name); integer != integers.end()) {
      *integer->second = std::get<int64_t>(value);
    } else if (const auto slot = slots.find(name); slot != slots.end()) {
      *slot->second = static_cast<int>(std::get<int64_t>(value));
    } else if (name == "activation") {
      a.activation = activation_named(std::get<std::string>(value));
    } else {
      throw std::invalid_argument("the engine knows no attribute " + name);
    }
  }
  return a;
}

void add_value(Program& program, const std::string& rows, int64_t cols) {
  const Rows space = rows == "tokens" ? Rows::tokens : rows == "batch" ? Rows::batch : Rows::last;
  program.values.push_back({space, cols, -1});
}

void add_node(Program& program, const std::string& op, std::vector<int> inputs, std::vector<int> outputs,
              const std::vector<WeightPtr>& weights, const Attributes& attrs) {
  Node node;
  node.op = find_op(op);
  if (!node.op) throw std::invalid_argument("the engine has no op " + op);
  if (weights.size() > kRoles) throw std::invalid_argument(op + " has too many parameters");
  for (const auto* list : {&inputs, &outputs})
    for (const int v : *list)
      if (v < 0 || v >= static_cast<int>(program.values.size()))
        throw std::invalid_argument(op + " names a value that does not exist");
  node.inputs = std::move(inputs), node.outputs = std::move(outputs);
  for (size_t i = 0; i < weights.size(); ++i) node.weights[i] = weights[i];
  node.attrs = attrs_of(attrs);
  program.nodes.push_back(std::move(node));
}

std::shared_ptr<Program> make_program(const std::string& name, bool sequential) {
  auto program = std::make_shared<Program>();
  program->name = name, program->sequential = sequential;
  return program;
}

template <typename T>
py::array_t<T> copied(const T* data, std::vector<py::ssize_t> shape) {
  return py::array_t<T>(std::move(shape), data);
}

// Token ids by row: tokens[starts[r]] up to tokens[starts[r + 1]].
struct CsrCopy {
  std::vector<int32_t> starts, tokens;
};

// A session as Python has it. One call at a time: they give up the GIL while they work, when the caller's arrays may
// change. What was checked is therefore copied, into memory that is reused from call to call.
struct PySession : Session {
  using Session::Session;
  bool in_use = false;  // guarded by the GIL
  std::vector<int32_t> ids, stops;
  std::vector<int64_t> lengths;
  CsrCopy penalised, banned;
};

// A call's turn, taken with the GIL and kept until its results are copied.
class Turn {
 public:
  explicit Turn(PySession& session) : session_(session) {
    if (session.in_use)
      throw std::runtime_error("a session takes one call at a time: another thread's call has not returned yet");
    session.in_use = true;
  }
  ~Turn() { session_.in_use = false; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  PySession& session_;
};

// (scores, tokens, log_sum_exp, logits or None)
py::tuple results_of(const Session& session, int k) {
  const Frame& f = session.frame();
  const Results& r = *f.results;
  const py::ssize_t rows = f.last;
  py::object logits = py::none();
  if (r.logits) logits = copied(r.logits, {rows, static_cast<py::ssize_t>(r.vocabulary)});
  return py::make_tuple(copied(r.scores.data(), {rows, k}), copied(r.tokens.data(), {rows, k}),
                        copied(r.log_sum_exp.data(), {static_cast<py::ssize_t>(r.log_sum_exp.size())}), logits);
}

// ([(kind, layer, weights, scores or None)], {tap: values}) of the last step.
py::tuple captured(PySession& session) {
  const Turn turn(session);
  static const char* kinds[] = {"self", "cross", "encoder"};
  const Frame& f = session.frame();
  const Program& program = session.last_program();
  py::list attention;
  py::dict taps;
  for (size_t i = 0; f.records && i < program.records.size(); ++i) {
    const Record& r = f.records[i];
    const std::vector<py::ssize_t> shape = {r.rows, r.heads, r.span};
    py::object scores = py::none();
    if (r.scores.size()) scores = copied(r.scores.data(), shape);
    attention.append(py::make_tuple(kinds[static_cast<int>(r.kind)], r.layer, copied(r.weights.data(), shape), scores));
  }
  if (f.capture == Capture::nothing) return py::make_tuple(attention, taps);
  for (const Tap& tap : program.taps) {
    const ValueInfo& info = program.values[static_cast<size_t>(tap.value)];
    taps[py::str(tap.name)] =
        copied(static_cast<const float*>(f.data(tap.value)), {static_cast<py::ssize_t>(f.rows(info.rows)), info.cols});
  }
  return py::make_tuple(attention, taps);
}

// (steps, rows, seconds, [(calls, barriers, seconds, waiting, weight bytes, kept bytes, value bytes, flops) by node])
py::tuple profile_of(const Profile& p) {
  py::list ops;
  for (const OpCost& c : p.ops)
    ops.append(py::make_tuple(c.calls, c.barriers, c.seconds, c.waiting, c.weight_bytes, c.kept_bytes, c.value_bytes,
                              c.flops));
  return py::make_tuple(p.steps, p.rows, p.seconds, ops);
}

template <typename T>
void copy_vector(const py::array_t<T, py::array::c_style>& array, const char* what, std::vector<T>& to) {
  if (array.ndim() != 1) throw std::invalid_argument(std::string(what) + " has one dimension");
  to.assign(array.data(), array.data() + array.shape(0));
}

// The step's ids and lengths.
void take_tokens(PySession& session, const Ints& ids, const Longs& lengths) {
  copy_vector(ids, "an array of token ids", session.ids);
  copy_vector(lengths, "an array of lengths", session.lengths);
  int64_t left = ids.shape(0);
  for (const int64_t length : session.lengths) {
    if (length < 0 || length > left) throw std::invalid_argument("lengths and token ids do not fit");
    left -= length;
  }
  if (left) throw std::invalid_argument("lengths and token ids do not fit");
}

// Numbered as fastattn.runtime.Capture.
Capture capture_of(int number) {
  if (number < 0 || number > 2) throw std::invalid_argument("capture is 0, 1 or 2, not " + std::to_string(number));
  return static_cast<Capture>(number);
}

void start(PySession& session, int64_t batch) {
  const Turn turn(session);
  session.start(batch);
}

void encode(PySession& session, const Ints& ids, const Longs& lengths, int capture) {
  const Turn turn(session);
  take_tokens(session, ids, lengths);
  const Capture wanted = capture_of(capture);
  const Unlocked unlocked;
  session.encode(session.ids.data(), session.lengths.data(), lengths.shape(0), wanted);
}

using Csr = std::optional<std::pair<Ints, Ints>>;

void attach(const Csr& csr, int64_t rows, int64_t vocabulary, const char* what, CsrCopy& copy, const int32_t** starts,
            const int32_t** tokens) {
  if (!csr) return;
  const auto& [indptr, ids] = *csr;
  if (indptr.ndim() != 1 || indptr.shape(0) != rows + 1 || ids.ndim() != 1)
    throw std::invalid_argument(std::string(what) + ": expected indptr of " + std::to_string(rows + 1) +
                                " and one row of ids");
  copy_vector(indptr, what, copy.starts);
  copy_vector(ids, what, copy.tokens);
  if (!std::is_sorted(copy.starts.begin(), copy.starts.end()))
    throw std::invalid_argument(std::string(what) + ": indptr must not decrease");
  if (copy.starts.front() != 0 || copy.starts.back() > ids.shape(0))
    throw std::invalid_argument(std::string(what) + ": indptr and ids do not fit");
  for (int32_t i = 0; i < copy.starts.back(); ++i)
    if (const int32_t id = copy.tokens[static_cast<size_t>(i)]; id < 0 || id >= vocabulary)
      throw std::invalid_argument(std::string(what) + ": token id " + std::to_string(id) +
                                  " is outside the vocabulary of " + std::to_string(vocabulary));
  *starts = copy.starts.data(), *tokens = copy.tokens.data();
}

py::tuple step(PySession& session, const Ints& ids, const Longs& lengths, int k, bool log_probs, float penalty,
               const Csr& penalised, const Csr& banned, bool logits, bool all_rows, int capture, int64_t vocabulary) {
  const Turn turn(session);
  Select select;
  select.k = k, select.log_probs = log_probs, select.logits = logits, select.penalty = penalty;
  take_tokens(session, ids, lengths);
  const int64_t rows = all_rows ? ids.shape(0) : lengths.shape(0);
  attach(penalised, rows, vocabulary, "penalised", session.penalised, &select.penalised_rows, &select.penalised);
  attach(banned, rows, vocabulary, "banned", session.banned, &select.banned_rows, &select.banned);
  const Capture wanted = capture_of(capture);
  {
    const Unlocked unlocked;
    session.step(session.ids.data(), session.lengths.data(), lengths.shape(0), select, all_rows, wanted);
  }
  return results_of(session, k);
}

// (tokens [steps, batch], log-probabilities [steps, batch])
py::tuple greedy(PySession& session, const Ints& ids, int64_t most, const Ints& stops, const Csr& banned,
                 int64_t vocabulary) {
  const Turn turn(session);
  copy_vector(ids, "an array of token ids", session.ids);
  copy_vector(stops, "an array of stops", session.stops);
  const py::ssize_t batch = ids.shape(0);
  Select best;
  best.k = 1;
  attach(banned, batch, vocabulary, "banned", session.banned, &best.banned_rows, &best.banned);
  py::array_t<int32_t> tokens({static_cast<py::ssize_t>(most), batch});
  py::array_t<float> scores({static_cast<py::ssize_t>(most), batch});
  int32_t* token = tokens.mutable_data();
  float* score = scores.mutable_data();
  int64_t done;
  {
    const Unlocked unlocked;
    done = session.greedy(session.ids.data(), batch, most, best, session.stops.data(), stops.shape(0), token, score);
  }
  const py::slice taken(0, done, 1);
  return py::make_tuple(tokens[taken], scores[taken]);
}

void reorder(PySession& session, const Ints& parents) {
  const Turn turn(session);
  copy_vector(parents, "an array of parents", session.ids);
  const Unlocked unlocked;
  session.reorder(session.ids.data(), parents.shape(0));
}

void profile(PySession& session, bool on) {
  const Turn turn(session);
  session.profile(on);
}

}  // namespace

void bind_engine(py::module_& m) {
  py::class_<Weight, std::shared_ptr<Weight>>(m, "Weight", "An immutable weight: packed for matrix products, or plain.")
      .def(py::init(&make_weight), py::arg("array"), py::arg("packed"), py::arg("num_threads"),
           py::arg("dtype") = "float32", py::arg("bfloat16") = false, py::arg("exact") = false,
           "Copies a vector or matrix [out, in], float32 or float16, or with bfloat16=True uint16 that holds bfloat16, "
           "of any strides; packed: into panels of `dtype` for matrix products and embeddings. exact: bfloat16 panels "
           "hold a float32 matrix, and what it multiplies is not rounded.")
      .def_static("from_packed", &weight_from_packed, py::arg("panels"), py::arg("rows"), py::arg("cols"),
                  py::arg("dtype"), py::arg("exact") = false,
                  "A weight whose panels (`packed`) are read where they are; keeps the array alive.")
      .def_property_readonly("packed", &packed_bytes, "The panels as a read-only uint8 view, or None if it is plain.")
      .def_property_readonly("dtype", [](const Weight& w) { return type_name(w.type); })
      .def_property_readonly("shape", [](const Weight& w) { return py::make_tuple(w.rows, w.cols); })
      .def_property_readonly("nbytes", &Weight::bytes);

  py::class_<Program, std::shared_ptr<Program>>(m, "Program", "A graph made ready to run.")
      .def(py::init(&make_program), py::arg("name"), py::arg("sequential"))
      .def("add_value", &add_value, py::arg("rows"), py::arg("cols"))
      .def("add_node", &add_node, py::arg("op"), py::arg("inputs"), py::arg("outputs"), py::arg("weights"),
           py::arg("attrs"))
      .def(
          "add_tap", [](Program& p, const std::string& name, int value) { p.taps.push_back({name, value}); },
          py::arg("name"), py::arg("value"))
      .def("finish", &Program::finish, "Places the values; nothing may be added afterwards.");

  py::class_<PySession>(m, "Session", "Sequences in flight; see fastattn.runtime.Session.")
      .def(py::init([](std::shared_ptr<Program> encoder, std::shared_ptr<Program> decoder, int num_threads,
                       const std::string& cache_type) {
             const DType type = type_named(cache_type);
             if (type == DType::int4 || type == DType::float16)
               throw std::invalid_argument("cache_type is float32, bfloat16 or int8, not " + cache_type);
             return std::make_unique<PySession>(std::move(encoder), std::move(decoder), num_threads, type);
           }),
           py::arg("encoder").none(true), py::arg("decoder").none(false), py::arg("num_threads"),
           py::arg("cache_type") = "float32")
      .def("start", &start, py::arg("batch"))
      .def("encode", &encode, py::arg("ids"), py::arg("lengths"), py::arg("capture"))
      .def("step", &step, py::arg("ids"), py::arg("lengths"), py::arg("k"), py::arg("log_probs"), py::arg("penalty"),
           py::arg("penalised"), py::arg("banned"), py::arg("logits"), py::arg("all_rows"), py::arg("capture"),
           py::arg("vocabulary"))
      .def("greedy", &greedy, py::arg("ids"), py::arg("most"), py::arg("stops"), py::arg("banned"),
           py::arg("vocabulary"))
      .def("reorder", &reorder, py::arg("parents"))
      .def("captured", &captured)
      .def("profile", &profile, py::arg("on"), "Times every op from now on, from zero, or no longer.")
      .def(
          "profiled",
          [](PySession& s) {
            const Turn turn(s);
            return py::make_tuple(profile_of(s.encoder_profile()), profile_of(s.decoder_profile()));
          },
          "What the steps of encoder and decoder cost since `profile(True)`.")
      .def_property_readonly("batch", [](const PySession& s) { return s.batch(); })
      .def_property_readonly("nbytes", [](const PySession& s) { return s.bytes(); })
      .def_property_readonly("pages_in_use", [](const PySession& s) { return s.pages_in_use(); });

  m.attr("LAYOUT") = kLayout;
  m.def(
      "allocation_count", [] { return allocation_count.load(); },
      "Allocations of the engine's buffers so far, in this process.");
}

}  // namespace fastattn
