"""The table of graph ops: one row each, with inputs, parameters, attributes and the rule for the shape of its result.

`fastattn.reference` has one NumPy function per row, `csrc/ops` one native function. A trailing `?` marks what may be absent,
`*` an input that may repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastattn.graph import Attr, Value

Shapes = Mapping[str, tuple[int, ...]]
Attrs = Mapping[str, Attr]
Result = list[tuple[str, int]]  # (row space, columns) of each output
Rule = Callable[[Sequence[Value], Shapes, Attrs], Result]

ACTIVATIONS = ("none", "tanh", "sigmoid", "relu", "gelu", "gelu_tanh", "silu")


@dataclass(frozen=True)
class Op:
    """One row: see the module's docstring. `attrs` holds defaults; a type instead of a value means required.

    rows: the row space its inputs must stand in: "step" is that of the graph's token ids, "batch", "out" the rows that
    want an output, or "any". matrices: the parameters kept in the model's compute type and packed for streaming; all
    others (biases, norms, position and other small tables) stay float32.
    """

    name: str
    inputs: tuple[str, ...]
    params: tuple[str, ...]
    attrs: Mapping[str, Attr | type]
    infer: Rule
    rows: str = "any"
    matrices: tuple[str, ...] = ()

    def check_rows(self, inputs: Sequence[Value], step: str) -> None:
        """ValueError if an input stands in a row space where the op would mistake its rows."""
        spaces = {"step": {step}, "batch": {"batch"}, "out": {"last"} if step == "tokens" else {"last", "batch"}}
        for value in inputs if self.rows != "any" else ():
            allowed = spaces[self.rows]
            _expect(
                value.rows in allowed, f"{self.name}: takes rows of {' or '.join(sorted(allowed))}, got {value.rows}"
            )

    def check(self, inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> dict[str, Attr]:
        """The full attributes; ValueError naming the op and what does not fit its row."""
        required = [i for i in self.inputs if not i.endswith(("?", "*"))]
        most = None if any(i.endswith("*") for i in self.inputs) else len(self.inputs)
        if len(inputs) < len(required) or (most is not None and len(inputs) > most):
            raise ValueError(f"{self.name}: takes inputs {self.inputs}, got {len(inputs)}")
        for role in self.params:
            if not role.endswith("?") and role not in shapes:
                raise ValueError(f"{self.name}: parameter {role!r} is missing")
        for role in shapes:
            if role not in self.params and role + "?" not in self.params:
                raise ValueError(f"{self.name}: has no parameter {role!r}; it takes {self.params}")
        for key in attrs:
            if key not in self.attrs:
                raise ValueError(f"{self.name}: has no attribute {key!r}; it takes {tuple(self.attrs)}")
        full: dict[str, Attr] = {}
        for key, default in self.attrs.items():
            value = attrs.get(key, default)
            if isinstance(value, type):
                raise ValueError(f"{self.name}: attribute {key!r} ({value.__name__}) is missing")
            full[key] = value
        return full


def _expect(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _same(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    return [(inputs[0].rows, inputs[0].cols)]


def _norm(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    _expect(shapes["weight"] == (inputs[0].cols,), f"norm: weight {shapes['weight']} for {inputs[0].cols} columns")
    return _same(inputs, shapes, attrs)


def _pair(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    a, b = inputs
    _expect((a.rows, a.cols) == (b.rows, b.cols), f"elementwise: {a.rows, a.cols} against {b.rows, b.cols}")
    return _same(inputs, shapes, attrs)


def _embedding(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    _expect(inputs[0].dtype == "i32", "embedding: takes int32 ids")
    return [(inputs[0].rows, shapes["weight"][1])]


def _position(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    _expect(shapes["weight"][1] == inputs[0].cols, f"position_embedding: weight {shapes['weight']}, x {inputs[0].cols}")
    return _same(inputs, shapes, attrs)


def _linear(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    x, (out, width) = inputs[0], shapes["weight"]
    _expect(width == x.cols, f"linear: weight {shapes['weight']} for an input of {x.cols} columns")
    _expect(
        attrs["activation"] in ACTIVATIONS, f"linear: activation is one of {ACTIVATIONS}, got {attrs['activation']!r}"
    )
    _expect(shapes.get("bias", (out,)) == (out,), f"linear: bias {shapes.get('bias')} for weight {shapes['weight']}")
    if len(inputs) == 2:
        _expect((inputs[1].rows, inputs[1].cols) == (x.rows, out), "linear: residual and result differ in shape")
    return [(x.rows, out)]


def _one_linear(inputs: Sequence[Value], shapes: Shapes, tail: str) -> int:
    """The width of x Wᵀ + b for the parameters with this tail."""
    out, width = shapes["weight" + tail]
    _expect(width == inputs[0].cols, f"linear: weight {(out, width)} for an input of {inputs[0].cols} columns")
    bias = shapes.get("bias" + tail, (out,))
    _expect(bias == (out,), f"linear: bias {bias} for weight {(out, width)}")
    return out


def _projections(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    tails = [tail for tail in ("_a", "_b", "_c") if "weight" + tail in shapes]
    return [(inputs[0].rows, _one_linear(inputs, shapes, tail)) for tail in tails]


def _gated_linear(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    _expect(attrs["activation"] in ACTIVATIONS, f"gated_linear: activation is one of {ACTIVATIONS}")
    gate, up = (_one_linear(inputs, shapes, tail) for tail in ("_gate", "_up"))
    _expect(gate == up, f"gated_linear: a gate of {gate} columns for {up}")
    return [(inputs[0].rows, up)]


def _output(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    return [(inputs[0].rows, _one_linear(inputs, shapes, ""))] if "weight" in shapes else []


def _activation(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    _expect(attrs["kind"] in ACTIVATIONS, f"activation: kind is one of {ACTIVATIONS}, got {attrs['kind']!r}")
    return _same(inputs, shapes, attrs)


def _rotations(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    _expect(len(shapes["inv_freq"]) == 1, f"rotations: inv_freq is a vector, got {shapes['inv_freq']}")
    return [(inputs[0].rows, 2 * shapes["inv_freq"][0])]


def _rope(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    (x, rotations), heads = inputs, int(attrs["heads"])
    _expect(x.rows == rotations.rows, f"rope: x of {x.rows}, rotations of {rotations.rows}")
    _expect(x.cols % heads == 0, f"rope: {x.cols} columns for {heads} heads")
    _expect(rotations.cols <= x.cols // heads, f"rope: {rotations.cols} columns turn in heads of {x.cols // heads}")
    return _same(inputs, shapes, attrs)


def _concat(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    _expect(len({v.rows for v in inputs}) == 1, f"concat: row spaces {[v.rows for v in inputs]} differ")
    return [(inputs[0].rows, sum(v.cols for v in inputs))]


def _attention(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    q, k, v = inputs
    heads, kv = int(attrs["heads"]), int(attrs["kv_heads"])
    _expect(heads % kv == 0, f"attention: {heads} heads are no multiple of {kv} key/value heads")
    _expect(
        q.cols % heads == 0 and q.cols // heads * kv == k.cols, f"attention: q {q.cols}, k {k.cols}, heads {heads}/{kv}"
    )
    _distance_bias(shapes, attrs, heads)
    _expect(not attrs["rounded"] or sees_all(attrs), f"attention: rounded, but not all keys are seen: {dict(attrs)}")
    return [(q.rows, v.cols // kv * heads)]


def sees_all(attrs: Attrs) -> bool:
    """Whether an `attention` keeps no keys and its rows see all of their sequence."""
    return attrs["cache"] == attrs["window_left"] == attrs["window_right"] == -1 and not attrs["causal"]


def _distance_bias(shapes: Shapes, attrs: Attrs, heads: int) -> None:
    buckets, furthest = int(attrs["buckets"]), int(attrs["max_distance"])
    table, slopes = shapes.get("bias_table"), shapes.get("slopes")
    _expect((table is not None) == (buckets > 0), f"attention: bias_table goes with buckets > 0, got {buckets}")
    _expect(table is None or slopes is None, "attention: takes bias_table or slopes, not both")
    _expect(slopes in (None, (heads,)), f"attention: slopes {slopes} for {heads} heads")
    if table is not None:
        exact = buckets // (4 if attrs["bidirectional"] else 2)
        _expect(table == (buckets, heads), f"attention: bias_table {table}, expected {(buckets, heads)}")
        _expect(
            0 < exact < furthest, f"attention: max_distance {furthest} for {buckets} buckets, {exact} of them exact"
        )


def _cross(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    return [(inputs[0].rows, int(attrs["heads"]) * int(attrs["value_size"]))]


def _none(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    return []


def _recurrent(gates: int, states: int, sequence: bool) -> Rule:
    def rule(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
        rows, hidden = shapes["weight_hh"]
        _expect(rows == gates * hidden, f"recurrent: weight_hh {shapes['weight_hh']} for {gates} gates")
        _expect(
            shapes["weight_ih"] == (rows, inputs[0].cols),
            f"recurrent: weight_ih {shapes['weight_ih']}, x {inputs[0].cols}",
        )
        for state in () if sequence else inputs[1:]:
            _expect(state.cols == hidden, f"recurrent: a state of {state.cols} columns for {hidden} hidden units")
        last = [("batch", hidden)] * states
        return [(inputs[0].rows, hidden), *last] if sequence else last

    return rule


def _state_read(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    return [("batch", int(attrs["width"]))]


def _rnn_attention(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    _expect(inputs[0].cols == attrs["keys_width"], f"rnn_attention: query {inputs[0].cols}, keys {attrs['keys_width']}")
    _expect(attrs["score"] in ("dot", "additive"), f"rnn_attention: score is dot or additive, got {attrs['score']!r}")
    _expect((attrs["score"] == "additive") == ("v" in shapes), "rnn_attention: v belongs to the additive score only")
    _expect(
        attrs["score"] == "additive" or "bias" not in shapes, "rnn_attention: bias belongs to the additive score only"
    )
    return [(inputs[0].rows, int(attrs["values_width"]))]


def _select(inputs: Sequence[Value], shapes: Shapes, attrs: Attrs) -> Result:
    return [("last", inputs[0].cols)]


_RNN = ("weight_ih", "weight_hh", "bias_ih?", "bias_hh?")
_RNN_MATRICES = ("weight_ih", "weight_hh")
_PROJECTIONS = ("weight_a", "bias_a?", "weight_b", "bias_b?", "weight_c?", "bias_c?")
_GATED = ("weight_gate", "bias_gate?", "weight_up", "bias_up?")
_HEADS: dict[str, Attr | type] = {"heads": int, "kv_heads": int, "scale": float, "layer": int}
_SELF: dict[str, Attr | type] = {
    "causal": 0,
    "cache": -1,
    "softcap": 0.0,
    "window_left": -1,
    "window_right": -1,
    "rounded": 0,  # products of bfloat16
}
_BIAS: dict[str, Attr | type] = {"buckets": 0, "max_distance": 0, "bidirectional": 0}

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op("embedding", ("ids",), ("weight",), {"scale": 1.0}, _embedding, matrices=("weight",)),
        Op("position_embedding", ("x",), ("weight",), {"offset": 0}, _position, "step"),
        Op("linear", ("x", "residual?"), ("weight", "bias?"), {"activation": "none"}, _linear, matrices=("weight",)),
        Op("projections", ("x",), _PROJECTIONS, {}, _projections, matrices=("weight_a", "weight_b", "weight_c")),
        Op("gated_linear", ("x",), _GATED, {"activation": str}, _gated_linear, matrices=("weight_gate", "weight_up")),
        Op("layer_norm", ("x",), ("weight", "bias"), {"eps": 1e-5}, _norm),
        Op("rms_norm", ("x",), ("weight",), {"eps": 1e-6}, _norm),
        Op("activation", ("x",), (), {"kind": str}, _activation),
        Op("add", ("a", "b"), (), {}, _pair),
        Op("multiply", ("a", "b"), (), {}, _pair),
        Op("rotations", ("ids",), ("inv_freq",), {"scale": 1.0}, _rotations, "step"),
        Op("rope", ("x", "rotations"), (), {"heads": int}, _rope),
        Op("concat", ("x*",), (), {}, _concat),
        Op("attention", ("q", "k", "v"), ("bias_table?", "slopes?"), {**_HEADS, **_SELF, **_BIAS}, _attention, "step"),
        Op("memory_write", ("k", "v"), (), {"layer": int, "kv_heads": int}, _none, "step"),
        Op("cross_attention", ("q",), (), {**_HEADS, "value_size": int, "softcap": 0.0}, _cross, "step"),
        Op("gru_sequence", ("x",), _RNN, {"reverse": 0}, _recurrent(3, 1, True), "step", _RNN_MATRICES),
        Op("lstm_sequence", ("x",), _RNN, {"reverse": 0}, _recurrent(4, 2, True), "step", _RNN_MATRICES),
        Op("gru_cell", ("x", "h"), _RNN, {}, _recurrent(3, 1, False), "batch", _RNN_MATRICES),
        Op("lstm_cell", ("x", "h", "c"), _RNN, {}, _recurrent(4, 2, False), "batch", _RNN_MATRICES),
        Op("state_read", (), (), {"name": str, "width": int}, _state_read),
        Op("state_write", ("x",), (), {"name": str}, _none, "batch"),
        Op("memory_rows_write", ("x",), (), {"name": str}, _none, "step"),
        Op(
            "rnn_attention",
            ("query",),
            ("v?", "bias?"),
            {"keys": str, "values": str, "score": str, "keys_width": int, "values_width": int},
            _rnn_attention,
            "batch",
        ),
        Op("select_rows", ("x",), (), {}, _select, "step"),
        Op("output", ("x",), ("weight?", "bias?"), {}, _output, "out", ("weight",)),
    )
}
