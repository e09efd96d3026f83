"""What the ops accept, convert and refuse, whatever they compute."""

from __future__ import annotations

import inspect
import threading
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ops_support import same_bits, threads

import fastattn
from fastattn import ops, reference

RNG = np.random.default_rng(6)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


# Every op with arguments it accepts, by name; what is not an array is left out of the checks below.
CALLS: dict[str, dict[str, Any]] = {
    "scaled_dot_product_attention": {"query": ones(2, 2, 3, 4), "key": ones(2, 1, 5, 4), "value": ones(2, 1, 5, 6)},
    "multi_head_attention": {
        "query": ones(2, 3, 4), "key": ones(2, 5, 4), "value": ones(2, 5, 4), "in_proj_weight": ones(12, 4),
        "in_proj_bias": ones(12), "out_proj_weight": ones(4, 4), "out_proj_bias": ones(4), "num_heads": 2,
    },
    "additive_attention": {
        "query": ones(2, 3, 4), "keys": ones(2, 5, 6), "W_q": ones(7, 4), "W_k": ones(7, 6), "v": ones(7),
        "values": ones(2, 5, 8), "bias": ones(7),
    },
    "luong_attention": {
        "query": ones(2, 3, 4), "keys": ones(2, 5, 6), "score": "concat", "W": ones(7, 10), "v": ones(7),
        "values": ones(2, 5, 8),
    },
    "attentional_state": {"context": ones(2, 4), "state": ones(2, 3), "W_c": ones(5, 7), "bias": ones(5)},
    "pack": {"weight": ones(2, 3)},
    "softmax": {"x": ones(2, 3)},
    "log_softmax": {"x": ones(2, 3)},
    "top_k": {"x": ones(2, 3), "k": 2},
    "layer_norm": {"x": ones(2, 3), "weight": ones(3), "bias": ones(3)},
    "rms_norm": {"x": ones(2, 3), "weight": ones(3)},
    "embedding": {"ids": 1, "weight": ones(3, 4)},
    "linear": {"x": ones(2, 3), "weight": ones(4, 3), "bias": ones(4), "residual": ones(2, 4)},
    **{name: {"x": ones(2, 3)} for name in ("tanh", "sigmoid", "relu", "gelu", "silu", "swish", "exp", "erf")},
    "gru_cell": {
        "x": ones(2, 3), "h": ones(2, 4), "weight_ih": ones(12, 3), "weight_hh": ones(12, 4),
        "bias_ih": ones(12), "bias_hh": ones(12),
    },
    "lstm_cell": {
        "x": ones(2, 3), "h": ones(2, 4), "c": ones(2, 4), "weight_ih": ones(16, 3), "weight_hh": ones(16, 4),
        "bias_ih": ones(16), "bias_hh": ones(16),
    },
    "gru": {"x": ones(2, 5, 3), "weights": [(ones(12, 3), ones(12, 4))], "h0": ones(1, 2, 4)},
    "lstm": {"x": ones(2, 5, 3), "weights": [(ones(16, 3), ones(16, 4))]},
}  # fmt: skip
SDPA = "scaled_dot_product_attention"
ARRAYS = [(op, name) for op, call in CALLS.items() for name, value in call.items() if isinstance(value, np.ndarray)]


def call(op: str, **arguments: Any) -> Any:
    if op == "pack":
        return ops.linear(np.eye(3), ops.pack(**arguments))
    return getattr(ops, op)(**arguments)


def first(result: Any) -> np.ndarray:
    return result[0] if isinstance(result, tuple) else result


def test_every_op_is_called_here() -> None:
    assert set(CALLS) == set(ops.__all__) - {"PackedWeight"}
    for op, arguments in CALLS.items():
        result = first(call(op, **arguments))
        assert result.dtype == np.float32 and result.size, op


@pytest.mark.parametrize("op", CALLS)
def test_docstrings_have_an_example(op: str) -> None:
    assert ">>>" in (inspect.getdoc(getattr(ops, op)) or "")


@pytest.mark.parametrize("op", ["additive_attention", "luong_attention", "attentional_state", "softmax", SDPA])
def test_signatures_are_those_of_the_reference(op: str) -> None:
    ours, theirs = inspect.signature(getattr(ops, op)), inspect.signature(getattr(reference, op))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]


@pytest.mark.parametrize(("op", "name"), ARRAYS)
@pytest.mark.parametrize(
    "value", ["text", np.array([1j]), np.array([None, "x"]), np.array(["2020-01-01"], "M8[D]"), object()]
)
def test_a_wrong_dtype_is_named(op: str, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: ") as raised:
        call(op, **{**CALLS[op], name: value})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (op, name)
        for op, name in ARRAYS
        if op not in ("softmax", "log_softmax", "top_k") and CALLS[op].keys() != {"x"}  # those take any shape
    ],
)
def test_a_wrong_shape_is_named(op: str, name: str) -> None:
    wrong = ones(9, 9, 9, 9, 9)
    with pytest.raises(ValueError, match="9") as raised:
        call(op, **{**CALLS[op], name: wrong})
    # a wrong x may also be told by what does not fit it any more
    assert ":" in str(raised.value) and "\n" not in str(raised.value)
    if name not in ("x", "context"):
        assert str(raised.value).startswith(f"{name}: expected")


@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        (SDPA, {"key": ones(2, 1, 5, 3)}, r"key: expected shape \[B=2, Hkv, S, D=4\], got \[2, 1, 5, 3\]"),
        (SDPA, {"value": ones(2, 1, 4, 6)}, r"value: expected shape \[B=2, Hkv=1, S=5, Dv\]"),
        (SDPA, {"key": ones(2, 3, 5, 4), "value": ones(2, 3, 5, 6)}, r"query: .*multiple of key's 3, got 2"),
        (SDPA, {"key": ones(2, 0, 5, 4), "value": ones(2, 0, 5, 6)}, r"key: expected at least one head"),
        (SDPA, {"attn_mask": np.ones((3, 4), bool)}, r"attn_mask: .*\[2, 2, 3, 5\], got \[3, 4\]"),
        (SDPA, {"attn_mask": np.ones((1, 2, 2, 3, 5), bool)}, r"attn_mask: "),
        (SDPA, {"attn_mask": np.ones(4, bool), "kv_lengths": [5, 1]}, r"attn_mask: "),
        (SDPA, {"kv_lengths": [5]}, r"kv_lengths: expected shape \[B=2\], got \[1\]"),
        (SDPA, {"kv_lengths": [5, 6]}, r"kv_lengths: expected values from 0 to 5, got \[5, 6\]"),
        (SDPA, {"kv_lengths": [-1, 6]}, r"kv_lengths: "),
        (SDPA, {"kv_lengths": np.array([1, 2**63], np.uint64)}, rf"kv_lengths: {2**63} is out of range"),
        (SDPA, {"q_start": [1, 2, 3]}, r"q_start: expected shape \[B=2\]"),
        (SDPA, {"q_start": 2**62}, r"q_start: .*out of range"),
        (SDPA, {"window": (1,)}, r"window: expected \(left, right\)"),
        (SDPA, {"window": 3}, r"window: "),
        (SDPA, {"window": (-1, 2)}, r"window: .*at least 0"),
        (SDPA, {"softcap": -1.0}, r"softcap: "),
        (SDPA, {"softcap": float("nan")}, r"softcap: "),
        (SDPA, {"scale": float("nan")}, r"scale: expected a finite float32 number, got nan"),
        (SDPA, {"scale": -1e300}, r"scale: "),
        (SDPA, {"scale": 10**400}, r"scale: "),
        ("rms_norm", {"eps": float("inf")}, r"eps: expected a finite float32 number of at least 0, got inf"),
        ("embedding", {"scale": float("inf")}, r"scale: "),
        ("top_k", {"x": np.broadcast_to(np.float32(1), (1, 2**32)), "k": 1}, r"x: .* axis -1, got 4294967296"),
        ("multi_head_attention", {"num_heads": 3}, r"num_heads: expected a divisor of C = 4, got 3"),
        ("multi_head_attention", {"num_heads": 0}, r"num_heads: "),
        ("additive_attention", {"W_k": ones(7, 5)}, r"W_k: expected shape \[A=7, Hk=6\], got \[7, 5\]"),
        ("additive_attention", {"lengths": [5, 9]}, r"lengths: "),
        ("luong_attention", {"score": "cosine"}, r"score: .*got 'cosine'"),
        ("luong_attention", {"score": "dot"}, r"W: score 'dot' does not take it"),
        ("luong_attention", {"v": None}, r"v: score 'concat' needs it"),
        ("luong_attention", {"score": "general", "v": None}, r"W: expected shape \[Hq=4, Hk=6\], got \[7, 10\]"),
        ("luong_attention", {"score": "dot", "W": None, "v": None}, r"keys: expected shape \[B=2, S, Hq=4\]"),
        ("attentional_state", {"state": ones(3, 3)}, r"state: "),
        ("softmax", {"axis": 2}, r"axis: "),
        ("softmax", {"x": 1.0}, r"axis: "),
        ("softmax", {"x": [[1.0], [1.0, 2.0]]}, r"x: not an array"),
        ("top_k", {"k": 4}, r"k: expected 0 to 3"),
        ("linear", {"activation": "swoosh"}, r"activation: .*got 'swoosh'"),
        ("layer_norm", {"eps": -1.0}, r"eps: "),
        ("gelu", {"approximate": "fast"}, r"approximate: "),
        ("gru", {"weights": []}, r"weights: expected one per layer, got 0"),
        ("gru", {"bidirectional": True}, r"weights: expected two per layer"),
        ("gru", {"weights": [(ones(12, 3),)]}, r"weights\[0\]"),
        ("gru", {"h0": None, "weights": [(ones(12, 3), ones(12, 4))] * 2}, r"weights\[1\]\.weight_ih: .*I=4"),
        ("gru", {"h0": ones(1, 2, 5)}, r"h0: "),
        ("lstm", {"state": ones(1, 2, 4)}, r"state: expected \(h0, c0\)"),
        ("lstm", {"state": (ones(1, 2, 4), ones(1, 3, 4))}, r"c0: "),
    ],
)  # fmt: skip
def test_errors_say_what_was_found_and_expected(op: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call(op, **{**CALLS[op], **change})


@pytest.mark.parametrize(
    ("op", "change", "name"),
    [
        (SDPA, {"attn_mask": np.ones((3, 5), np.int64)}, "attn_mask"),
        (SDPA, {"kv_lengths": [5.0, 1.0]}, "kv_lengths"),
        (SDPA, {"q_start": 1.5}, "q_start"),
        (SDPA, {"window": (1.5, 2)}, "window"),
        ("multi_head_attention", {"num_heads": 2.0}, "num_heads"),
        ("embedding", {"ids": [1.0]}, "ids"),
        ("top_k", {"k": 1.0}, "k"),
        ("softmax", {"axis": "last"}, "axis"),
        ("gru", {"lengths": ["5", "5"]}, "lengths"),
        (SDPA, {"scale": "x"}, "scale"),
        (SDPA, {"softcap": None}, "softcap"),
        (SDPA, {"softcap": "x"}, "softcap"),
        ("multi_head_attention", {"scale": "1"}, "scale"),
        ("layer_norm", {"eps": "x"}, "eps"),
        ("rms_norm", {"eps": None}, "eps"),
        ("embedding", {"scale": "x"}, "scale"),
        ("embedding", {"scale": [1.0, 2.0]}, "scale"),
        ("gru", {"weights": None}, "weights"),
        ("lstm", {"weights": 5}, "weights"),
        ("gru", {"weights": [None]}, r"weights\[0\]"),
    ],
)
def test_integers_numbers_and_masks_of_a_wrong_type_are_named(op: str, change: dict[str, Any], name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: "):
        call(op, **{**CALLS[op], **change})


@pytest.mark.parametrize("ids", [[3], [-1], [2**40]])
def test_ids_outside_the_table(ids: list[int]) -> None:
    with pytest.raises(IndexError, match=rf"^ids: expected 0 to 2, the rows of weight, got {ids[0]}"):
        ops.embedding(ids, ones(3, 4))


@pytest.mark.parametrize(("op", "name"), ARRAYS)
@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", ">f4", "bool", "bfloat16"])
def test_other_numbers_are_converted_to_float32(op: str, name: str, dtype: str) -> None:
    if dtype == "bfloat16":
        kind: Any = pytest.importorskip("ml_dtypes").bfloat16
    else:
        kind = np.dtype(dtype)
    values = RNG.integers(0, 2, CALLS[op][name].shape)
    expected = first(call(op, **{**CALLS[op], name: values.astype(np.float32)}))
    found = first(call(op, **{**CALLS[op], name: values.astype(kind)}))
    assert same_bits(expected, found)


def test_lists_and_unaligned_arrays_are_taken() -> None:
    assert ops.softmax([[0, 0]]).tolist() == [[0.5, 0.5]]
    raw = np.zeros(33, np.uint8)[1:].view(np.float32)  # four-byte floats at odd addresses
    record = np.zeros(4, np.dtype([("flag", np.uint8), ("x", np.float32)]))["x"]
    assert not raw.flags.aligned and not record.flags.aligned
    assert ops.softmax(raw).tolist() == [0.125] * 8 and ops.softmax(record).tolist() == [0.25] * 4


@pytest.mark.parametrize("op", CALLS)
def test_arguments_are_left_as_they_were(op: str) -> None:
    before = {name: value.copy() for name, value in CALLS[op].items() if isinstance(value, np.ndarray)}
    result = first(call(op, **CALLS[op]))
    assert all(same_bits(CALLS[op][name], value) for name, value in before.items())
    assert not any(np.shares_memory(result, CALLS[op][name]) for name in before)


def test_read_only_arrays_are_taken() -> None:
    x = ones(2, 3)
    x.flags.writeable = False
    assert ops.tanh(x).shape == (2, 3)


def test_the_interpreter_runs_while_an_op_computes() -> None:
    x = RNG.standard_normal((1, 8, 1200, 64), np.float32)
    running, ticks = threading.Event(), 0

    def compute() -> None:
        running.set()
        with threads(1):
            ops.scaled_dot_product_attention(x, x, x)

    worker = threading.Thread(target=compute)
    begin = time.perf_counter()
    worker.start()
    running.wait()
    longest, last = 0.0, time.perf_counter()
    while worker.is_alive():
        time.sleep(0)
        now = time.perf_counter()
        longest, last, ticks = max(longest, now - last), now, ticks + 1
    assert ticks > 20 and longest < time.perf_counter() - begin


def test_many_threads_at_once_give_the_same_results() -> None:
    x = RNG.standard_normal((2, 4, 90, 32), np.float32)
    w = RNG.standard_normal((700, 32), np.float32)
    expected = ops.scaled_dot_product_attention(x, x, x, is_causal=True), ops.linear(x, w)
    failures: list[int] = []

    def work(index: int) -> None:
        for _ in range(5):
            found = ops.scaled_dot_product_attention(x, x, x, is_causal=True), ops.linear(x, w)
            if not all(map(same_bits, expected, found)):
                failures.append(index)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


PACKABLE = [
    ("linear", "weight"), ("attentional_state", "W_c"), ("additive_attention", "W_q"), ("additive_attention", "W_k"),
    ("multi_head_attention", "in_proj_weight"), ("multi_head_attention", "out_proj_weight"),
    *[(op, name) for op in ("gru_cell", "lstm_cell") for name in ("weight_ih", "weight_hh")],
]  # fmt: skip


@pytest.mark.parametrize(("op", "name"), PACKABLE)
def test_a_packed_weight_gives_the_same_bits(op: str, name: str) -> None:
    values = {
        n: RNG.standard_normal(x.shape, np.float32) if isinstance(x, np.ndarray) else x for n, x in CALLS[op].items()
    }
    assert same_bits(first(call(op, **values)), first(call(op, **{**values, name: ops.pack(values[name])})))
    with pytest.raises(ValueError, match=rf"^{name}: expected shape|^x: expected"):
        call(op, **{**values, name: ops.pack(ones(5, 9))})


@pytest.mark.parametrize("op", ["gru", "lstm"])
def test_packed_sequences_give_the_same_bits(op: str) -> None:
    x, rows = RNG.standard_normal((2, 5, 3), np.float32), 12 if op == "gru" else 16
    w = RNG.standard_normal((rows, 3), np.float32), RNG.standard_normal((rows, 4), np.float32)
    assert same_bits(call(op, x=x, weights=[w])[0], call(op, x=x, weights=[[ops.pack(m) for m in w]])[0])


@pytest.mark.parametrize("width", [8, 24, 32, 40, 64])
def test_packed_projections_of_heads_begin_in_any_panel(width: int) -> None:
    q, k, v = (RNG.standard_normal((2, 5, width), np.float32) for _ in range(3))
    w_in, b_in, w_out, b_out = (
        RNG.standard_normal(s, np.float32) for s in ((3 * width, width), 3 * width, (width, width), width)
    )
    for arrays in ((q, k, v), (q, q, q), (q, k, k), (q, q, v)):
        plain = ops.multi_head_attention(*arrays, w_in, b_in, w_out, b_out, 2)
        assert same_bits(plain, ops.multi_head_attention(*arrays, ops.pack(w_in), b_in, ops.pack(w_out), b_out, 2))
        assert same_bits(
            ops.multi_head_attention(*arrays, w_in, None, w_out, None, 2),
            ops.multi_head_attention(*arrays, ops.pack(w_in), None, w_out, None, 2),
        )


@pytest.mark.parametrize(("op", "name"), sorted(set(ARRAYS) - set(PACKABLE) - {("embedding", "weight")}))
def test_a_packed_weight_where_none_is_taken_is_called_so(op: str, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: expected numbers .*got a packed weight"):
        call(op, **{**CALLS[op], name: ops.pack(ones(7, 10))})


@pytest.mark.parametrize("scale", [2, np.float32(2), np.float64(2), np.array(2.0), Fraction(2)])
def test_any_real_number_is_a_scale(scale: Any) -> None:
    assert ops.embedding([0], ones(1, 2), scale).tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_threads": "x"}, "num_threads: expected a positive number, got 'x'"),
        ({"num_threads": 0}, "num_threads: expected a positive number, got 0"),
        ({"num_threads": True}, "num_threads: expected a positive number, got True"),
        ({"num_threads": 1.5}, "num_threads: found 1.5, expected an integer from 1 to 1024"),
        ({"num_threads": 1025}, "num_threads: found 1025, expected an integer from 1 to 1024"),
        ({"seconds": None}, "seconds: expected a positive number, got None"),
        ({"seconds": float("nan")}, "seconds: expected a positive number, got nan"),
        ({"megabytes": 1.5}, "megabytes: found 1.5, expected an integer"),
    ],
)
def test_arguments_of_the_roofline_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(fastattn.OptionError, match=f"^{message}"):
        fastattn.roofline(**options)


def test_packing_copies_and_takes_any_strides() -> None:
    w, x = RNG.standard_normal((70, 33), np.float32), RNG.standard_normal((3, 33), np.float32)
    expected = ops.linear(x, w)
    for odd in (w.copy(), w.astype(np.float64), np.asfortranarray(w), np.ascontiguousarray(w[::-1, ::-1])[::-1, ::-1]):
        packed = ops.pack(odd)
        assert packed.shape == (70, 33)
        odd[...] = 0
        assert same_bits(ops.linear(x, packed), expected)
    with pytest.raises(ValueError, match=r"^weight: expected shape \[O, I\], got \[3\]"):
        ops.pack(ones(3))
