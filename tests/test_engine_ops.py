"""Every row of the op table, run natively as a graph of one op, against the float64 reference within a derived bound.

An op's inputs come from embeddings (exact), its results leave as taps. Bounds: with eps = 2^-23, a float32 sum of k
products errs at most k · eps · sum |a b|, whatever its order, and an elementary function a few eps of its result;
`bound` of a case says how its op carries that on. Worst cases are far off, so an op may also err at most twice what
NumPy errs in float32, plus a few roundings. A case is a row of CASES; a row of the op table without one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from toys import Backend, Toy, backends

from fastattn import graph as g
from fastattn import nn
from fastattn.ops.table import ACTIVATIONS, OPS
from fastattn.reference.stateful import relative_buckets
from fastattn.runtime import Capture, Select

EPS = float(np.finfo(np.float32).eps)
ROUNDINGS = 4
ELEMENTARY = 8 * EPS  # relative error of exp, tanh, erf, division and the roundings around them
SIZES = (1, 3, 15, 16, 17, 31, 32, 33, 100)  # around every vector and panel width
BATCHES = ([1], [1, 17, 3], [33, 2])
MANY = [130, 1, 97]  # enough rows that linear, attention and recurrent steps go to several threads
ROWS = 50  # of the tables inputs are drawn from
Truth = Mapping[str, np.ndarray]


def peak(x: Any) -> float:
    return float(np.abs(x).max()) if np.size(x) else 0.0


@dataclass
class Case:
    """build(maker) records the op and taps "out0", …; bound(truth, weights): the largest error its outputs may have."""

    build: Callable[[Maker], None]
    bound: Callable[[Truth, Truth], float]
    sequential: bool = False
    encode: Callable[[Maker], None] | None = None  # records an encoder graph before
    sizes: tuple[int, ...] = SIZES
    cache_type: str = "float32"


@dataclass
class Maker:
    """Gives a case its inputs: `table` draws rows by token id, each call from a table of its own."""

    size: int
    seed: int
    ids: g.Value | None = None
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    taps: int = 0

    def parameter(self, *shape: int, scale: float = 1.0) -> nn.Parameter:
        parameter = nn.Parameter(*shape)
        parameter.name = f"w{len(self.weights)}"
        rng = np.random.default_rng([self.seed, len(self.weights)])
        self.weights[parameter.name] = rng.normal(0, scale, shape).astype(np.float32)
        return parameter

    def table(self, width: int, scale: float = 1.0) -> g.Value:
        assert self.ids is not None
        value = g.apply("embedding", [self.ids], {"weight": self.parameter(ROWS, width, scale=scale)})[0]
        g.current_graph().tap(value, f"in{len(self.weights) - 1}")
        return value

    def out(self, *values: g.Value) -> None:
        for value in values:
            g.current_graph().tap(value, f"out{self.taps}")
            self.taps += 1


def build(case: Case, size: int, seed: int) -> Toy:
    maker, graphs = Maker(size, seed), {}
    if case.encode:
        with g.tracing("encoder") as (graphs["encoder"], maker.ids):
            case.encode(maker)
    with g.tracing("decoder", sequential=case.sequential) as (graphs["decoder"], maker.ids):
        case.build(maker)
    return Toy(graphs, maker.weights, case.sequential, case.cache_type)


def run(backend: Backend, toy: Toy, counts: list[int], steps: int = 2) -> list[dict[str, np.ndarray]]:
    """Taps of some steps; ids depend on the step only, so that every backend sees the same."""
    rng = np.random.default_rng(0)
    session = backend.session(toy)
    session.capture = Capture.ATTENTION
    taps = []
    sources = [rng.integers(0, ROWS, n).astype(np.int32) for n in counts[::-1]]
    if toy.has_encoder:
        taps.append(session.encode(sources).taps)
    else:
        session.start(len(counts))
    for step in range(steps):
        lengths = [1] * len(counts) if toy.sequential else [n + step for n in counts]
        taps.append(session.step([rng.integers(0, ROWS, n).astype(np.int32) for n in lengths], all_rows=True).taps)
    return taps


# --- bounds


def exact(truth: Truth, weights: Truth) -> float:
    return 0.0


def rounding(roundings: int) -> Callable[[Truth, Truth], float]:
    return lambda truth, weights: roundings * EPS * max(peak(truth[name]) for name in truth)


def product(x: float, w: np.ndarray) -> float:
    """Of x Wᵀ with |x| at most x."""
    return w.shape[-1] * EPS * x * float(np.abs(w).sum(-1).max())


def linear_bound(truth: Truth, weights: Truth) -> float:
    # activations are Lipschitz with at most 1.13 (gelu); bias and residual round once each
    return 1.13 * product(peak(truth["in0"]), weights["w1"]) + (2 * EPS + ELEMENTARY) * (
        peak(truth["out0"])
        + peak(truth["in0"]) * float(np.abs(weights["w1"]).sum(-1).max())
        + sum(map(peak, truth.values()))
    )


def norm_bound(truth: Truth, weights: Truth) -> float:
    # mean and mean square are sums of C terms; y = (x - mean) / deviation · weight + bias
    x = truth["in0"]
    centred = x - x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(np.mean(centred * centred, -1, keepdims=True) + 1e-5)
    normed = peak(centred * inverse) + peak(x) * peak(inverse)
    return (x.shape[-1] + 8) * EPS * normed * peak(weights["w1"]) + 2 * EPS * peak(truth["out0"])


def softmax_bound(score_error: float, keys: int, value: float) -> float:
    # weights are off by the factor exp(± 2 score_error) and the rounding of a sum of `keys` terms
    return (2 * score_error + 2 * (keys + 8) * EPS + ELEMENTARY) * value


def attention_bound(
    q: float, k: float, v: float, head: int, scale: float, keys: int, cap: float = 0.0, bias: float = 0.0
) -> float:
    score = head * scale * q * k
    return softmax_bound((head + 4) * EPS * score + 2 * EPS * bias + ELEMENTARY * (cap or 1), keys, v)


def recurrent_bound(truth: Truth, weights: Truth) -> float:
    # gates are off by their two products; a state by its gates (Lipschitz at most 1 each, four of them), times what it
    # scales; over a sequence the error of h feeds back through rows of W_hh of sum r < 1: a factor 1 / (1 - r) at most
    x, hidden = peak(truth["in0"]), max(1.0, max(peak(value) for name, value in truth.items() if name != "in0"))
    w_ih, w_hh = (w for name, w in weights.items() if w.ndim == 2 and len(w) != ROWS)
    gates = product(x, w_ih) + product(hidden, w_hh) + 8 * EPS
    return 4 * (gates + ELEMENTARY) * hidden * STEPS_OF_MEMORY


STEPS_OF_MEMORY = 8  # the toys' forget and update gates stay below 0.88: an error is gone after as many steps


# --- cases


def linear_case(activation: str, bias: bool, residual: bool) -> Case:
    def build(m: Maker) -> None:
        x, out = m.table(m.size), 33 if m.size < 33 else m.size - 1
        inputs, params = [x], {"weight": m.parameter(out, m.size, scale=m.size**-0.5)}
        if bias:
            params["bias"] = m.parameter(out)
        if residual:
            inputs.append(m.table(out))
        m.out(*g.apply("linear", inputs, params, activation=activation))

    return Case(build, linear_bound)


def joined_case(count: int, bias: bool) -> Case:
    def build(m: Maker) -> None:
        x, params = m.table(m.size), {}
        for i, tail in enumerate(("_a", "_b", "_c")[:count]):
            params["weight" + tail] = m.parameter(m.size + 31 * i, m.size, scale=m.size**-0.5)
            if bias:
                params["bias" + tail] = m.parameter(m.size + 31 * i)
        m.out(*g.apply("projections", [x], params))

    def bound(truth: Truth, weights: Truth) -> float:
        matrices = [w for name, w in weights.items() if w.ndim == 2 and name != "w0"]
        return max(product(peak(truth["in0"]), w) for w in matrices) + 2 * EPS * max(map(peak, truth.values()))

    return Case(build, bound)


def gated_case(activation: str) -> Case:
    def build(m: Maker) -> None:
        x, params = m.table(m.size), {}
        for tail in ("_gate", "_up"):
            params["weight" + tail] = m.parameter(m.size + 40, m.size, scale=m.size**-0.5)
            params["bias" + tail] = m.parameter(m.size + 40)
        m.out(*g.apply("gated_linear", [x], params, activation=activation))

    def bound(truth: Truth, weights: Truth) -> float:
        x, matrices = peak(truth["in0"]), (weights["w1"], weights["w3"])
        largest = max(
            x * float(np.abs(w).sum(-1).max()) + peak(b)
            for w, b in zip(matrices, (weights["w2"], weights["w4"]), strict=True)
        )
        return 2 * largest * (1.13 * max(product(x, w) for w in matrices) + (4 * EPS + ELEMENTARY) * (1 + largest))

    return Case(build, bound)


def pair_case(op: str) -> Case:
    return Case(lambda m: m.out(*g.apply(op, [m.table(m.size), m.table(m.size)])), rounding(1))


def self_attention(heads: int, kv_heads: int, slopes: bool = False, cache_type: str = "float32", **attrs: Any) -> Case:
    def build(m: Maker) -> None:
        value = m.size + 2  # values may be wider than keys
        q, k, v = m.table(heads * m.size), m.table(kv_heads * m.size), m.table(kv_heads * value)
        sizes = {"heads": heads, "kv_heads": kv_heads, "layer": 0, "scale": m.size**-0.5}
        params = {}
        if attrs.get("buckets"):
            params["bias_table"] = m.parameter(attrs["buckets"], heads)
        if slopes:
            params["slopes"] = m.parameter(heads, scale=0.1)
        m.out(*g.apply("attention", [q, k, v], params, **sizes, **attrs))

    def bound(truth: Truth, weights: Truth) -> float:
        q, k, v = (peak(truth[name]) for name in ("in0", "in1", "in2"))
        head = weights["w0"].shape[1] // heads
        keys = 2 * max(MANY) + 1
        bias = peak(weights["w3"]) * (keys if slopes else 1) if len(weights) > 3 else 0.0
        return attention_bound(q, k, v, head, head**-0.5, keys, float(attrs.get("softcap", 0)), bias)

    return Case(build, bound, cache_type=cache_type)


def cross_case(cache_type: str = "float32") -> Case:
    def encode(m: Maker) -> None:
        g.apply("memory_write", [m.table(2 * m.size), m.table(2 * (m.size + 2))], layer=0, kv_heads=2)

    def build(m: Maker) -> None:
        sizes = {"heads": 4, "kv_heads": 2, "value_size": m.size + 2, "layer": 0, "scale": m.size**-0.5}
        m.out(*g.apply("cross_attention", [m.table(4 * m.size)], **sizes))

    def bound(truth: Truth, weights: Truth) -> float:
        k, v, q = (peak(weights[name]) for name in ("w0", "w1", "w2"))
        head = weights["w2"].shape[1] // 4
        return attention_bound(q, k, v, head, head**-0.5, max(MANY))

    return Case(build, bound, encode=encode, cache_type=cache_type)


def recurrent_params(m: Maker, gates: int, bias: bool) -> dict[str, nn.Parameter]:
    hidden = m.size
    params = {
        "weight_ih": m.parameter(gates * hidden, 5, scale=0.3),
        "weight_hh": m.parameter(gates * hidden, hidden, scale=0.5 / hidden),
    }
    if bias:
        params |= {"bias_ih": m.parameter(gates * hidden, scale=0.3), "bias_hh": m.parameter(gates * hidden, scale=0.3)}
    return params


def cell_case(op: str, gates: int, bias: bool) -> Case:
    def build(m: Maker) -> None:
        inputs = [m.table(5), *(m.table(m.size) for _ in range(gates - 2))]
        m.out(*g.apply(op, inputs, recurrent_params(m, gates, bias)))

    return Case(build, recurrent_bound, sequential=True)


def sequence_case(op: str, gates: int, reverse: int) -> Case:
    def build(m: Maker) -> None:
        m.out(*g.apply(op, [m.table(5)], recurrent_params(m, gates, bias=True), reverse=reverse))

    return Case(build, recurrent_bound)


def rnn_case(score: str) -> Case:
    def encode(m: Maker) -> None:
        for name, width in (("keys", m.size), ("values", m.size + 2)):
            g.apply("memory_rows_write", [m.table(width)], name=name)

    def build(m: Maker) -> None:
        query = m.table(m.size, scale=m.size**-0.5)
        params = {"v": m.parameter(m.size), "bias": m.parameter(m.size)} if score == "additive" else {}
        names = {"keys": "keys", "values": "values", "score": score}
        m.out(*g.apply("rnn_attention", [query], params, **names, keys_width=m.size, values_width=m.size + 2))

    def bound(truth: Truth, weights: Truth) -> float:
        size, keys, values, query = weights["w0"].shape[1], *(peak(weights[name]) for name in ("w0", "w1", "w2"))
        if score == "dot":
            error = (size + 2) * EPS * size * query * keys
        else:  # |tanh| ≤ 1
            error = float(np.abs(weights["w3"]).sum()) * (
                size * EPS + ELEMENTARY + 3 * EPS * (query + keys + peak(weights["w4"]))
            )
        return max(softmax_bound(error, max(MANY), values), 2 * error)  # the scores are a tap too

    return Case(build, bound, sequential=True, encode=encode)


def state_case() -> Case:
    def build(m: Maker) -> None:
        m.out(nn.state_read("kept", m.size))
        nn.state_write(m.table(m.size), "kept")
        m.out(nn.state_read("kept", m.size))

    return Case(build, exact, sequential=True)


def position_case() -> Case:
    def build(m: Maker) -> None:
        weight = m.parameter(2 * sum(MANY), m.size)
        m.out(*g.apply("position_embedding", [m.table(m.size)], {"weight": weight}, offset=2))

    return Case(build, rounding(1))


def inv_freq(m: Maker, half: int) -> nn.Parameter:
    parameter = m.parameter(half)
    m.weights[parameter.name] = (1.0 / 100.0 ** (np.arange(half) / half)).astype(np.float32)
    return parameter


def rotations_case(scale: float) -> Case:
    def build(m: Maker) -> None:
        assert m.ids is not None
        m.out(*g.apply("rotations", [m.ids], {"inv_freq": inv_freq(m, m.size)}, scale=scale))

    return Case(build, rounding(1))  # two halves: of the cosine and of the product


def rope_case(heads: int, rest: int) -> Case:
    def build(m: Maker) -> None:
        assert m.ids is not None
        x = m.table(heads * (2 * m.size + rest))
        m.out(*g.apply("rope", [x, *g.apply("rotations", [m.ids], {"inv_freq": inv_freq(m, m.size)})], heads=heads))

    return Case(build, lambda truth, weights: 2 * 3 * EPS * peak(truth["in0"]))


def scaled_embedding(m: Maker) -> None:
    m.out(*g.apply("embedding", [m.ids], {"weight": m.parameter(ROWS, m.size)}, scale=np.sqrt(m.size).item()))  # type: ignore[list-item]


def concat_and_select(m: Maker) -> None:
    parts = [m.table(m.size), m.table(1), m.table(7)]
    m.out(g.apply("select_rows", [nn.concat(parts)])[0])


def normed(op: str) -> Case:
    def build(m: Maker) -> None:
        x, params = m.table(m.size), {"weight": m.parameter(m.size)}
        if op == "layer_norm":
            params["bias"] = m.parameter(m.size)
        m.out(*g.apply(op, [x], params, eps=1e-5))

    return Case(build, norm_bound)


def output(m: Maker) -> None:
    x = g.apply("select_rows", [m.table(m.size)])[0]
    m.out(x)
    g.apply("output", [x])


CASES: dict[str, dict[str, Case]] = {
    "embedding": {"scaled": Case(scaled_embedding, rounding(1))},
    "position_embedding": {"offset": position_case()},
    "linear": {
        **{kind: linear_case(kind, bias=True, residual=False) for kind in ACTIVATIONS},
        "plain": linear_case("none", bias=False, residual=False),
        "residual": linear_case("none", bias=True, residual=True),
        "both": linear_case("relu", bias=False, residual=True),
    },
    "projections": {"two": joined_case(2, bias=True), "three": joined_case(3, bias=False)},
    "gated_linear": {"silu": gated_case("silu"), "gelu": gated_case("gelu")},
    "layer_norm": {"": normed("layer_norm")},
    "rms_norm": {"": normed("rms_norm")},
    "activation": {
        kind: Case(
            lambda m, kind=kind: m.out(*g.apply("activation", [m.table(m.size, scale=3)], kind=kind)),
            lambda truth, weights: ELEMENTARY * max(1.0, peak(truth["in0"])),
        )
        for kind in ACTIVATIONS
    },
    "add": {"": pair_case("add")},
    "multiply": {"": pair_case("multiply")},
    "rotations": {"": rotations_case(1.0), "scaled": rotations_case(0.37)},
    "rope": {"": rope_case(3, 0), "partial": rope_case(2, 5)},
    "concat": {"": Case(concat_and_select, exact)},
    "select_rows": {"": Case(concat_and_select, exact)},
    "attention": {
        "encoder": self_attention(2, 2),
        "causal": self_attention(2, 2, causal=1),
        "cached": self_attention(2, 2, causal=1, cache=0),
        "grouped": self_attention(6, 2, causal=1, cache=0),
        "softcap": self_attention(2, 1, causal=1, cache=0, softcap=2.0),
        "window": self_attention(2, 2, causal=1, cache=0, window_left=4),
        "two-sided": self_attention(2, 2, window_left=3, window_right=1),
        "buckets both ways": self_attention(2, 2, buckets=32, max_distance=128, bidirectional=1),
        "buckets": self_attention(4, 2, causal=1, cache=0, buckets=8, max_distance=20),
        "buckets, window": self_attention(2, 2, buckets=7, max_distance=9, window_left=11, window_right=3),
        "slopes": self_attention(4, 2, slopes=True, causal=1, cache=0, softcap=3.0),
        "slopes both ways": self_attention(2, 1, slopes=True),
        "bfloat16": self_attention(4, 2, cache_type="bfloat16", causal=1, cache=0),
        "int8": self_attention(4, 2, cache_type="int8", causal=1, cache=0),
        "int8, window": self_attention(2, 2, cache_type="int8", causal=1, cache=0, window_left=4),
    },
    "memory_write": {"": cross_case()},
    "cross_attention": {"": cross_case(), "bfloat16": cross_case("bfloat16"), "int8": cross_case("int8")},
    "gru_sequence": {"forward": sequence_case("gru_sequence", 3, 0), "reverse": sequence_case("gru_sequence", 3, 1)},
    "lstm_sequence": {"forward": sequence_case("lstm_sequence", 4, 0), "reverse": sequence_case("lstm_sequence", 4, 1)},
    "gru_cell": {"bias": cell_case("gru_cell", 3, True), "plain": cell_case("gru_cell", 3, False)},
    "lstm_cell": {"bias": cell_case("lstm_cell", 4, True), "plain": cell_case("lstm_cell", 4, False)},
    "state_read": {"": state_case()},
    "state_write": {"": state_case()},
    "memory_rows_write": {"": rnn_case("dot")},
    "rnn_attention": {"dot": rnn_case("dot"), "additive": rnn_case("additive")},
    "output": {"": Case(output, exact)},
}
ROWS_OF_CASES = [(op, name) for op, cases in CASES.items() for name in cases]
NATIVE = [backend for backend in backends() if backend.exact]


def test_every_op_has_a_case() -> None:
    assert set(CASES) == set(OPS), "a row of the op table needs a case in CASES"


@pytest.mark.parametrize(("op", "name"), ROWS_OF_CASES, ids=lambda part: part or "-")
def test_native_op_is_within_its_bound(op: str, name: str) -> None:
    case = CASES[op][name]
    for size in case.sizes:
        for counts in (*BATCHES, *([MANY] if size in (17, 100) else [])):
            toy = build(case, size, seed=size)
            truth = run(Backend("reference"), toy, counts)
            numpy32 = run(Backend("reference", dtype=np.float32), toy, counts)
            exact_weights = {key: value.astype(np.float64) for key, value in toy.weights.items()}
            for backend in NATIVE:
                with backend.active():
                    found = run(backend, toy, counts)
                for step, taps in enumerate(zip(truth, numpy32, found, strict=True)):
                    assert_within(
                        case, exact_weights, *taps, f"{backend.name}, size {size}, batch {counts}, step {step}"
                    )


def assert_within(case: Case, weights: Truth, truth: Truth, numpy32: Truth, found: Truth, where: str) -> None:
    assert set(truth) == set(found), where
    outs = [key for key in truth if key.startswith(("out", "scores"))]
    floor = ROUNDINGS * EPS * max([1.0, *map(peak, truth.values()), *map(peak, weights.values())])
    for key, value in truth.items():
        assert found[key].dtype == np.float32 and found[key].shape == value.shape, f"{where}: {key}"
        limit = min(case.bound(truth, weights), 2 * peak(numpy32[key] - value) + floor) if key in outs else 0.0
        error = peak(found[key] - value)
        assert error <= limit, f"{where}: {key} errs {error:.3g} of {limit:.3g}"


@pytest.mark.parametrize("name", ["encoder", "causal", "two-sided", "buckets both ways"])
def test_copied_values_give_the_same_bits(name: str) -> None:
    """A long sequence has the values of all sequences beside it copied; alone, the short ones are read in place."""
    toy, rng = build(CASES["attention"][name], 17, seed=17), np.random.default_rng(3)
    sequences = [rng.integers(0, ROWS, n).astype(np.int32) for n in (300, 7, 41)]

    def out(backend: Backend, *ids: np.ndarray) -> np.ndarray:
        session = backend.session(toy)
        session.capture = Capture.ATTENTION
        session.start(len(ids))
        return session.step(list(ids), all_rows=True).taps["out0"]

    truth = out(Backend("reference"), *sequences)
    numpy32 = out(Backend("reference", dtype=np.float32), *sequences)
    for backend in NATIVE:
        with backend.active():
            together, apart = out(backend, *sequences), [out(backend, ids) for ids in sequences]
        assert np.array_equal(together, np.concatenate(apart)), backend.name
        limit = 2 * peak(numpy32 - truth) + ROUNDINGS * EPS * max(1.0, peak(truth))
        assert peak(together - truth) <= limit, backend.name


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("vocabulary", [1, 15, 16, 17, 100, 1000])
def test_output_chooses_the_best_tokens(rows: int, vocabulary: int) -> None:
    """Random logits with many ties; float32 scores must be those of the logits, to the bit."""
    maker = Maker(vocabulary, rows)
    with g.tracing("decoder") as (graph, maker.ids):
        output(maker)
    toy = Toy({"decoder": graph}, {"w0": np.round(maker.weights["w0"] * 4) / 4})
    tokens = np.arange(rows, dtype=np.int32)
    logits = toy.weights["w0"][:rows]
    for backend in NATIVE:
        with backend.active():
            session = backend.session(toy)
            for k in sorted({1, min(5, vocabulary), vocabulary}):
                session.start(rows)
                result = session.step(tokens, Select(k=k, logits=True))
                order = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
                np.testing.assert_array_equal(result.tokens, order, backend.name)
                np.testing.assert_array_equal(result.scores, np.take_along_axis(logits, order, -1), backend.name)
                np.testing.assert_array_equal(result.logits, logits, backend.name)


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 20), (7, 9), (64, 1000), (320, 800)])
def test_buckets_are_those_of_transformers(buckets: int, furthest: int, both_ways: bool) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    torch = pytest.importorskip("torch")
    distance = np.arange(-3000, 3001)
    theirs = t5.T5Attention._relative_position_bucket(torch.from_numpy(distance), both_ways, buckets, furthest)
    np.testing.assert_array_equal(relative_buckets(distance, buckets, furthest, both_ways), theirs.numpy())


@pytest.mark.parametrize("both_ways", [0, 1])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (64, 257), (9, 13)])
def test_native_buckets_are_the_references(buckets: int, furthest: int, both_ways: int) -> None:
    """Scores are the biases alone, of a value for each bucket that no other comes near."""
    maker, keys = Maker(1, 0), 600
    maker.weights["zero"] = np.zeros((1, 1), np.float32)
    maker.weights["table"] = np.arange(buckets, dtype=np.float32)[:, None]
    zero, table = nn.Parameter(1, 1), nn.Parameter(buckets, 1)
    zero.name, table.name = "zero", "table"
    sizes = {"heads": 1, "kv_heads": 1, "layer": 0, "scale": 1.0}
    bias = {"buckets": buckets, "max_distance": furthest, "bidirectional": both_ways}
    with g.tracing("decoder") as (graph, maker.ids):
        x = g.apply("embedding", [maker.ids], {"weight": zero})[0]
        graph.tap(g.apply("attention", [x, x, x], {"bias_table": table}, **sizes, **bias)[0], "out")
    for backend in NATIVE:
        with backend.active():
            session = backend.session(Toy({"decoder": graph}, maker.weights))
            session.capture = Capture.ATTENTION
            session.start(1)
            found = np.log(session.step([np.zeros(keys, np.int32)]).attention[0].weights[:, 0])
        distance = np.arange(keys) - np.arange(keys)[:, None]
        expected = relative_buckets(distance, buckets, furthest, bool(both_ways))
        shift = found - expected  # -log of the row's sum
        assert np.abs(shift - np.median(shift, 1, keepdims=True)).max() < 0.01, backend.name
