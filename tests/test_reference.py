"""The NumPy reference against formulas written out element by element, and against the ONNX operator `Attention`."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest

from fastattn import ops as public
from fastattn import reference
from fastattn.ops.table import OPS
from fastattn.reference import ops, stateful

RNG = np.random.default_rng(0)
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


def test_every_row_of_the_op_table_has_its_function() -> None:
    assert set(reference.OPS) == set(OPS)
    for name, row in OPS.items():
        function = reference.OPS[name]
        names = set(inspect.signature(function).parameters) - {"step"}
        expected = {entry.rstrip("?*") for entry in (*row.inputs, *row.params)} | set(row.attrs)
        assert names == expected, name


def test_the_public_ops_have_the_signatures_of_their_references() -> None:
    for name in set(reference.__all__) - {"OPS", "ReferenceSession"}:
        ours, native = (inspect.signature(getattr(module, name)).parameters for module in (reference, public))
        assert {k: (p.kind, p.default) for k, p in ours.items()} == {k: (p.kind, p.default) for k, p in native.items()}


# --- activations and norms


def test_erf() -> None:
    x = np.concatenate([np.linspace(-6, 6, 4001), [0.0, 1e-30, -40.0, np.inf]])
    truth = np.array([math.erf(v) for v in x])
    assert np.abs(ops.erf(x) - truth).max() <= 1e-15
    assert np.abs(ops.erf(x.astype(np.float32)) - truth).max() <= 4 * np.finfo(np.float32).eps


@pytest.mark.parametrize("kind", ops.ACTIVATIONS)
def test_activations(kind: str) -> None:
    def gelu_tanh(v: float) -> float:
        return 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))

    scalar = {
        "none": lambda v: v,
        "tanh": math.tanh,
        "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
        "relu": lambda v: max(v, 0.0),
        "gelu": lambda v: v * math.erfc(-v / math.sqrt(2)) / 2,
        "gelu_tanh": gelu_tanh,
        "silu": lambda v: v / (1 + math.exp(-v)),
    }[kind]
    x = np.linspace(-30, 30, 2001)
    np.testing.assert_allclose(ops.ACTIVATIONS[kind](x), [scalar(v) for v in x], rtol=1e-13, atol=1e-15)
    far = ops.ACTIVATIONS[kind](np.array([-1e4, 1e4], np.float32))
    assert far.dtype == np.float32 and np.isfinite(far).all()


def test_norms() -> None:
    x, weight, bias = normal(3, 7), normal(7), normal(7)
    for row, normed, root in zip(
        x, ops.layer_norm(x, weight=weight, bias=bias, eps=1e-3), ops.rms_norm(x, weight=weight, eps=1e-3), strict=True
    ):
        deviation = math.sqrt(sum((v - row.mean()) ** 2 for v in row) / 7 + 1e-3)
        np.testing.assert_allclose(normed, (row - row.mean()) / deviation * weight + bias, **CLOSE)
        np.testing.assert_allclose(root, row / math.sqrt(sum(v * v for v in row) / 7 + 1e-3) * weight, **CLOSE)


def test_float32_stays_float32() -> None:
    x, w = normal(3, 4).astype(np.float32), normal(4, 4).astype(np.float32)
    for kind in ops.ACTIVATIONS:
        assert ops.linear(x, x, weight=w, bias=w[0], activation=kind).dtype == np.float32
    assert ops.layer_norm(x, weight=w[0], bias=w[1]).dtype == np.float32
    assert ops.rms_norm(x, weight=w[0]).dtype == np.float32
    assert ops.embedding(np.array([[1]]), weight=w, scale=math.sqrt(4)).dtype == np.float32
    q = x[None, None]
    assert reference.scaled_dot_product_attention(q, q, q, softcap=2.0, is_causal=True).dtype == np.float32


# --- recurrent cells, element by element


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def gates_of(x: np.ndarray, w: np.ndarray, b: np.ndarray, count: int) -> list[list[float]]:
    full = [sum(wi * xi for wi, xi in zip(row, x, strict=True)) + bi for row, bi in zip(w, b, strict=True)]
    size = len(full) // count
    return [full[i * size : (i + 1) * size] for i in range(count)]


def gru_by_hand(x: np.ndarray, h: np.ndarray, w: dict[str, np.ndarray]) -> list[float]:
    ri, zi, ni = gates_of(x, w["weight_ih"], w["bias_ih"], 3)
    rh, zh, nh = gates_of(h, w["weight_hh"], w["bias_hh"], 3)
    new = []
    for j, old in enumerate(h):
        r, z = sigma(ri[j] + rh[j]), sigma(zi[j] + zh[j])
        new.append((1 - z) * math.tanh(ni[j] + r * nh[j]) + z * old)
    return new


def lstm_by_hand(
    x: np.ndarray, h: np.ndarray, c: np.ndarray, w: dict[str, np.ndarray]
) -> tuple[list[float], list[float]]:
    own, fed = gates_of(x, w["weight_ih"], w["bias_ih"], 4), gates_of(h, w["weight_hh"], w["bias_hh"], 4)
    i, f, g, o = ([a + b for a, b in zip(p, q, strict=True)] for p, q in zip(own, fed, strict=True))
    cells = [sigma(f[j]) * c[j] + sigma(i[j]) * math.tanh(g[j]) for j in range(len(c))]
    return [sigma(o[j]) * math.tanh(cells[j]) for j in range(len(c))], cells


def recurrent_weights(gates: int, width: int, hidden: int) -> dict[str, np.ndarray]:
    rows = gates * hidden
    shapes = {"weight_ih": (rows, width), "weight_hh": (rows, hidden), "bias_ih": (rows,), "bias_hh": (rows,)}
    return {role: normal(*shape) for role, shape in shapes.items()}


def test_cells() -> None:
    x, h, c = normal(2, 3), normal(2, 4), normal(2, 4)
    gru, lstm = recurrent_weights(3, 3, 4), recurrent_weights(4, 3, 4)
    new_h, new_c = ops.lstm_cell(x, h, c, **lstm)
    for row in range(2):
        np.testing.assert_allclose(ops.gru_cell(x, h, **gru)[row], gru_by_hand(x[row], h[row], gru), **CLOSE)
        by_hand = lstm_by_hand(x[row], h[row], c[row], lstm)
        np.testing.assert_allclose((new_h[row], new_c[row]), by_hand, **CLOSE)


def step_of(counts: list[int]) -> stateful.Step:
    class Graph:
        name = "encoder"

    kept = stateful.Kept(np.zeros(len(counts), int))
    return stateful.Step(Graph, np.array(counts), kept, np.dtype(float), all_rows=False, capture=False)


@pytest.mark.parametrize("reverse", [0, 1])
def test_sequences_walk_each_sequence_by_itself(reverse: int) -> None:
    counts = [3, 1, 5]
    x, gru, lstm = normal(9, 3), recurrent_weights(3, 3, 4), recurrent_weights(4, 3, 4)
    g_out, g_last = stateful.gru_sequence(step_of(counts), x, reverse=reverse, **gru)
    l_out, l_last, c_last = stateful.lstm_sequence(step_of(counts), x, reverse=reverse, **lstm)
    start = 0
    for b, count in enumerate(counts):
        order = range(start, start + count)
        hg = hl = c = np.zeros(4)
        for t in reversed(order) if reverse else order:
            hg = np.array(gru_by_hand(x[t], hg, gru))
            hl, c = (np.array(v) for v in lstm_by_hand(x[t], hl, c, lstm))
            np.testing.assert_allclose((g_out[t], l_out[t]), (hg, hl), **CLOSE)
        np.testing.assert_allclose((g_last[b], l_last[b], c_last[b]), (hg, hl, c), **CLOSE)
        start += count


# --- public attention ops


def attention_by_hand(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, seen: Any, bias: Any, scale: float, cap: float
) -> Any:
    """One head: q [T, D], k [S, D], v [S, Dv], seen(t, s) and bias(t, s) as functions; gives (out, weights)."""
    out, weights = np.zeros((len(q), v.shape[1])), np.zeros((len(q), len(k)))
    for t in range(len(q)):
        scores = {}
        for s in range(len(k)):
            if seen(t, s) and bias(t, s) > -np.inf:
                score = scale * sum(a * b for a, b in zip(q[t], k[s], strict=True))
                scores[s] = (cap * math.tanh(score / cap) if cap else score) + bias(t, s)
        total = sum(math.exp(value) for value in scores.values())
        for s, value in scores.items():
            weights[t, s] = math.exp(value) / total
            out[t] += weights[t, s] * v[s]
    return out, weights


SDPA = {
    "plain": {},
    "causal": {"is_causal": True},
    "causal from 0": {"is_causal": True, "q_start": 0},
    "start per row": {"is_causal": True, "q_start": np.array([1, 4])},
    "window": {"window": (1, 2)},
    "left window, causal": {"window": (2, None), "is_causal": True},
    "right window": {"window": (None, 0), "q_start": 2},
    "lengths": {"kv_lengths": np.array([3, 6])},
    "no keys": {"kv_lengths": np.array([0, 2])},
    "softcap": {"softcap": 1.5, "scale": 0.7},
    "bool mask": {"attn_mask": RNG.random((2, 1, 4, 7)) < 0.5},
    "float mask": {"attn_mask": np.where(RNG.random((4, 7)) < 0.3, -np.inf, RNG.normal(size=(4, 7)))},
    "empty row": {"attn_mask": np.array([[True], [False], [True], [False]])},
    "all": {"attn_mask": RNG.normal(size=(4, 4, 7)), "is_causal": True, "window": (3, 1), "softcap": 2.0, "q_start": 3},
}


@pytest.mark.parametrize("options", SDPA.values(), ids=SDPA)
def test_scaled_dot_product_attention(options: dict[str, Any]) -> None:
    q, k, v = normal(2, 4, 4, 5), normal(2, 2, 7, 5), normal(2, 2, 7, 3)
    out, weights = reference.scaled_dot_product_attention(q, k, v, return_weights=True, **options)
    mask = np.broadcast_to(options.get("attn_mask", 0.0), (2, 4, 4, 7))
    start = np.broadcast_to(options.get("q_start", 7 - 4), 2)
    left, right = options.get("window", (None, None))
    lengths = options.get("kv_lengths", [7, 7])
    for b in range(2):
        for h in range(4):

            def seen(t: int, s: int, b: int = b, h: int = h) -> bool:
                ahead = s - (start[b] + t)
                return bool(
                    s < lengths[b]
                    and (mask.dtype != bool or mask[b, h, t, s])
                    and (ahead <= 0 or not options.get("is_causal"))
                    and (left is None or ahead >= -left)
                    and (right is None or ahead <= right)
                )

            def bias(t: int, s: int, b: int = b, h: int = h) -> float:
                return 0.0 if mask.dtype == bool else float(mask[b, h, t, s])

            by_hand = attention_by_hand(
                q[b, h],
                k[b, h // 2],
                v[b, h // 2],
                seen,
                bias,
                options.get("scale", 5**-0.5),
                options.get("softcap", 0.0),
            )
            np.testing.assert_allclose(out[b, h], by_hand[0], **CLOSE)
            np.testing.assert_allclose(weights[b, h], by_hand[1], **CLOSE)


def test_what_keys_beyond_the_length_hold_does_not_matter() -> None:
    q, k, v = normal(2, 1, 3, 4), normal(2, 1, 5, 4), normal(2, 1, 5, 4)
    lengths = np.array([2, 4])
    expected = reference.scaled_dot_product_attention(q, k, v, kv_lengths=lengths)
    for b, length in enumerate(lengths):
        k[b, :, length:], v[b, :, length:] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(reference.scaled_dot_product_attention(q, k, v, kv_lengths=lengths), expected)


ONNX = {
    "plain": ({}, {}),
    "causal": ({"is_causal": 1}, {"is_causal": True, "q_start": 0}),
    "scale and softcap": ({"scale": 0.25, "softcap": 1.75}, {"scale": 0.25, "softcap": 1.75}),
    "past": ({"is_causal": 1, "past": 3}, {"is_causal": True}),
    "bool mask": ({"mask": RNG.random((4, 7)) < 0.6}, {}),
    "empty rows": ({"mask": np.zeros((4, 7), bool)}, {}),
    "float mask": ({"mask": RNG.normal(size=(2, 1, 4, 7))}, {}),
    "float mask, causal": ({"mask": RNG.normal(size=(4, 4, 7)), "is_causal": 1}, {"is_causal": True, "q_start": 0}),
}


@pytest.mark.parametrize(("onnx_options", "options"), ONNX.values(), ids=ONNX)
def test_equals_the_onnx_operator(onnx_options: dict[str, Any], options: dict[str, Any]) -> None:
    onnx = pytest.importorskip("onnx", minversion="1.19")
    from onnx.reference import ReferenceEvaluator

    given = dict(onnx_options)
    mask, past = given.pop("mask", None), given.pop("past", 0)
    q, k, v = normal(2, 4, 4, 5), normal(2, 2, 7, 5), normal(2, 2, 7, 3)
    feeds = {"Q": q, "K": k[:, :, past:], "V": v[:, :, past:]}
    if mask is not None:
        feeds["mask"] = mask
    if past:
        feeds |= {"pk": k[:, :, :past], "pv": v[:, :, :past]}
    names = [name if name in feeds else "" for name in ("Q", "K", "V", "mask", "pk", "pv")]
    outputs = ["Y", *(["presk", "presv"] if past else [])]
    node = onnx.helper.make_node("Attention", names, outputs, **given)
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in (*feeds, "Y")]
    graph = onnx.helper.make_graph([node], "attention", infos[:-1], infos[-1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])
    expected = ReferenceEvaluator(model).run(None, feeds)[0]
    ours = reference.scaled_dot_product_attention(q, k, v, mask, **options)
    np.testing.assert_allclose(ours, expected, **CLOSE)


@pytest.mark.parametrize("lengths", [None, [5, 2]])
@pytest.mark.parametrize("queries", [0, 3])
def test_additive_and_luong_attention(lengths: list[int] | None, queries: int) -> None:
    q = normal(2, queries, 3) if queries else normal(2, 3)
    keys, values = normal(2, 5, 4), normal(2, 5, 6)
    W_q, W_k, v, bias = normal(7, 3), normal(7, 4), normal(7), normal(7)
    W_general, W_concat, same = normal(3, 4), normal(7, 7), normal(2, 5, 3)
    cases = [
        (reference.additive_attention(q, keys, W_q, W_k, v, values=values, bias=bias, lengths=lengths), keys,
         lambda a, b: v @ np.tanh(W_q @ a + W_k @ b + bias)),
        (reference.luong_attention(q, same, values=values, lengths=lengths), same, lambda a, b: a @ b),
        (reference.luong_attention(q, keys, score="general", W=W_general, values=values, lengths=lengths), keys,
         lambda a, b: a @ W_general @ b),
        (reference.luong_attention(q, keys, score="concat", W=W_concat, v=v, values=values, lengths=lengths), keys,
         lambda a, b: v @ np.tanh(W_concat @ np.concatenate([a, b]))),
    ]  # fmt: skip
    for (context, weights), scored, score in cases:
        assert context.shape == (*q.shape[:-1], 6) and weights.shape == (*q.shape[:-1], 5)
        for index in np.ndindex(q.shape[:-1]):
            b = index[0]
            there = range(5 if lengths is None else lengths[b])
            e = np.array([math.exp(score(q[index], scored[b, s])) for s in there])
            np.testing.assert_allclose(weights[index][: len(e)], e / e.sum(), **CLOSE)
            assert not weights[index][len(e) :].any()
            np.testing.assert_allclose(context[index], (e / e.sum()) @ values[b, : len(e)], **CLOSE)


def test_luong_names_an_unknown_score() -> None:
    with pytest.raises(ValueError, match=r"score: .* got 'cosine'"):
        reference.luong_attention(normal(1, 2), normal(1, 3, 2), score="cosine")


def test_multi_head_attention_splits_projects_and_joins() -> None:
    x, memory = normal(2, 4, 6), normal(2, 5, 6)
    w_in, b_in, w_out, b_out = normal(18, 6), normal(18), normal(6, 6), normal(6)
    out, weights = reference.multi_head_attention(
        x, memory, memory, w_in, b_in, w_out, b_out, 3, kv_lengths=np.array([5, 2]), return_weights=True
    )
    joined = np.zeros((2, 4, 6))
    for b, length in enumerate((5, 2)):
        q, k, v = (
            s @ w_in[6 * i : 6 * i + 6].T + b_in[6 * i : 6 * i + 6] for i, s in enumerate((x[b], memory[b], memory[b]))
        )
        for h in range(3):
            part = slice(2 * h, 2 * h + 2)
            joined[b, :, part], expected = attention_by_hand(
                q[:, part], k[:, part], v[:, part], lambda t, s, n=length: s < n, lambda t, s: 0.0, 2**-0.5, 0.0
            )
            np.testing.assert_allclose(weights[b, h], expected, **CLOSE)
    np.testing.assert_allclose(out, joined @ w_out.T + b_out, **CLOSE)


def test_softmax_and_attentional_state() -> None:
    x = normal(3, 4)
    np.testing.assert_allclose(reference.softmax(x, axis=0), np.exp(x) / np.exp(x).sum(0), **CLOSE)
    assert reference.softmax(np.full((2, 3), -np.inf)).tolist() == [[0.0] * 3] * 2
    assert reference.softmax(np.array([1e4, 0.0, -1e4])).tolist() == [1.0, 0.0, 0.0]
    assert reference.softmax(np.zeros((2, 0))).shape == (2, 0)
    c, h, W, b = normal(2, 3), normal(2, 4), normal(5, 7), normal(5)
    np.testing.assert_allclose(
        reference.attentional_state(c, h, W, b), np.tanh(c @ W[:, :3].T + h @ W[:, 3:].T + b), **CLOSE
    )


# --- sessions: what only the reference session says; the contract is in test_engine_session.py


def test_a_session_names_missing_and_misshapen_tensors() -> None:
    from toys import transformer

    toy = transformer()
    weights = dict(toy.weights)
    missing = weights.pop("decoder.1.up.bias")
    with pytest.raises(ValueError, match=r"'decoder\.1\.up\.bias' is missing"):
        reference.ReferenceSession(toy.graphs, weights)
    weights["decoder.1.up.bias"] = missing[:-1]
    with pytest.raises(ValueError, match=r"'decoder\.1\.up\.bias' is \[32\], expected \[33\]"):
        reference.ReferenceSession(toy.graphs, weights)


def test_results_have_the_dtype_of_the_session() -> None:
    from toys import translator

    from fastattn.runtime import Capture, Select

    toy = translator("gru")
    for dtype in (np.float32, np.float64):
        session = reference.ReferenceSession(toy.graphs, toy.weights, dtype)
        session.capture = Capture.ATTENTION
        session.encode([np.arange(3, dtype=np.int32)])
        result = session.step(np.array([1], np.int32), Select(k=2, logits=True, log_probs=True))
        arrays = [result.scores, result.log_sum_exp, result.logits, *result.taps.values(), result.attention[0].weights]
        assert {array.dtype for array in arrays} == {np.dtype(dtype)}
