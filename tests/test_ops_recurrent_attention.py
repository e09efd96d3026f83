"""Bahdanau's, Luong's and multi-head attention and the attentional state against float64 NumPy, and bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_support import LAYOUTS, TINY, U, dot_bound, same_bits, threads

from fastattn import isa, ops, reference

RNG = np.random.default_rng(3)


@pytest.fixture(params=isa.available())
def each_isa(request: pytest.FixtureRequest) -> Iterator[None]:
    with isa.use(request.param):
        yield


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


class Case:
    """Arrays of one problem: q [B, T, Hq], keys [B, S, Hk], values [B, S, Hv], and the parameters of every score."""

    def __init__(self, B: int, T: int, S: int, Hq: int, Hk: int, A: int, Hv: int) -> None:
        self.q, self.keys, self.values = normal(B, T, Hq), normal(B, S, Hk), normal(B, S, Hv)
        self.W_q, self.W_k = normal(A, Hq) / 2, normal(A, Hk) / 2
        self.v, self.bias = normal(A), normal(A)
        self.W = normal(Hq, Hk) / 2
        self.W_qk = np.concatenate([self.W_q, self.W_k], 1)
        self.project = normal(Hk, Hq) / 2

    def call(
        self, module: Any, score: str, cast: Callable[[np.ndarray], np.ndarray] = lambda x: x, **options: Any
    ) -> Any:
        c = {name: cast(x) for name, x in vars(self).items()}
        if score == "additive":
            return module.additive_attention(
                c["q"], c["keys"], c["W_q"], c["W_k"], c["v"], values=c["values"], bias=c["bias"], **options
            )
        more = {"dot": {}, "general": {"W": c["W"]}, "concat": {"W": c["W_qk"], "v": c["v"]}}[score]
        return module.luong_attention(c["q"], c["keys"], score=score, values=c["values"], **more, **options)

    def score_error(self, score: str) -> float:
        """Greatest error of a score.

        Additive: a pre-activation errs by its two products, tanh by 3 ULP of at most 1, the sum over A by (A + 2) U.
        """
        q, keys = (np.abs(x.astype(np.float64)) for x in (self.q, self.keys))
        width, A = max(q.shape[-1], keys.shape[-1]), len(self.v)
        if score == "dot":
            return U * (width + 2) * float((q @ keys.swapaxes(1, 2)).max(initial=0))
        if score == "general":
            return U * (2 * width + 4) * float((q @ np.abs(self.W) @ keys.swapaxes(1, 2)).max(initial=0))
        inner = (
            (q @ np.abs(self.W_q).T).max(initial=0)
            + (keys @ np.abs(self.W_k).T).max(initial=0)
            + np.abs(self.bias).max()
        )
        return U * float(np.abs(self.v).sum()) * ((width + 4) * float(inner) + 6 + A + 2)


def check(case: Case, score: str, **options: Any) -> None:
    context, weights = case.call(ops, score, **options)
    exact, exact_weights = case.call(reference, score, lambda x: x.astype(np.float64), **options)
    S = case.keys.shape[1]
    top = float(
        np.abs(np.log(np.maximum(exact_weights, 1e-30))).max(initial=0)
    )  # the greatest s - m, and log of the sum
    relative = 1.05 * (2 * case.score_error(score) + U * (2 * top + 10 + 2 * S))
    assert context.dtype == weights.dtype == np.float32
    assert context.shape == exact.shape and weights.shape == exact_weights.shape
    assert (np.abs(weights - exact_weights) <= relative * exact_weights + TINY).all()
    bound = relative * (exact_weights @ np.abs(case.values.astype(np.float64))) + TINY
    assert (np.abs(context - exact) <= bound).all()


SCORES = ["additive", "dot", "general", "concat"]
SHAPES = {
    "one": (1, 1, 1, 1, 1, 1, 1),
    "odd": (3, 2, 7, 5, 5, 9, 6),
    "vector": (2, 1, 16, 32, 32, 16, 64),
    "wide": (2, 3, 70, 130, 130, 67, 33),
}


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_scores(score: str, shape: tuple[int, ...]) -> None:
    case = Case(*shape)
    check(case, score)
    check(case, score, lengths=RNG.integers(0, shape[2] + 1, shape[0]))


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("size", [*range(1, 36), 63, 64, 65])
def test_sizes_around_the_vector_width(size: int) -> None:
    for score in SCORES:
        check(Case(1, 2, size, 4, 4, 3, 5), score)
        check(Case(1, 1, 6, size, size, size, size), score)


@pytest.mark.parametrize("score", ["additive", "general", "concat"])
def test_keys_of_another_width(score: str) -> None:
    check(Case(2, 3, 9, 5, 8, 7, 4), score)


@pytest.mark.parametrize("score", SCORES)
def test_one_query_per_sequence_and_default_values(score: str) -> None:
    case = Case(3, 1, 7, 6, 6, 5, 6)
    case.values = case.keys
    context, weights = case.call(ops, score)
    case.q = case.q[:, 0]
    single = case.call(ops, score)
    assert same_bits(single[0], context[:, 0]) and same_bits(single[1], weights[:, 0])
    more = {"dot": {}, "general": {"W": case.W}, "concat": {"W": case.W_qk, "v": case.v}}
    if score == "additive":
        default = ops.additive_attention(case.q, case.keys, case.W_q, case.W_k, case.v, bias=case.bias)
    else:
        default = ops.luong_attention(case.q, case.keys, score=score, **more[score])
    assert same_bits(default[0], single[0])


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("score", SCORES)
def test_batch_padding_and_threads_do_not_change_a_bit(score: str) -> None:
    case = Case(4, 7, 260, 96, 96, 80, 72)
    lengths = [260, 0, 33, 100]
    with threads(1):
        together = case.call(ops, score, lengths=lengths)
    with threads(2):
        again = case.call(ops, score, lengths=lengths)
    assert same_bits(together[0], again[0]) and same_bits(together[1], again[1])
    for b, n in enumerate(lengths):
        alone = Case.__new__(Case)
        vars(alone).update(
            vars(case), q=case.q[b : b + 1], keys=case.keys[b : b + 1, :n], values=case.values[b : b + 1, :n]
        )
        context, weights = alone.call(ops, score)
        assert same_bits(context, together[0][b : b + 1]) and same_bits(weights, together[1][b : b + 1, :, :n])
        assert not together[1][b, :, n:].any()
        for t in range(7):
            vars(alone).update(q=case.q[b : b + 1, t])
            assert same_bits(alone.call(ops, score)[0], together[0][b : b + 1, t])


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_change_a_bit(score: str, layout: str) -> None:
    case = Case(2, 3, 18, 20, 20, 12, 9)
    expected, found = case.call(ops, score), case.call(ops, score, LAYOUTS["misaligned"])
    assert same_bits(expected[0], found[0])

    def odd(x: np.ndarray) -> np.ndarray:
        return LAYOUTS[layout](x) if x.ndim > 1 or layout not in ("swapped",) else x

    found = case.call(ops, score, odd)
    assert same_bits(expected[0], found[0]) and same_bits(expected[1], found[1])


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("score", SCORES)
def test_what_lies_beyond_a_length_may_hold_anything(score: str) -> None:
    case = Case(1, 2, 40, 8, 8, 8, 8)
    clean = case.call(ops, score, lengths=[23])
    case.keys[:, 23:] = np.nan
    case.values[:, 23:] = np.inf
    dirty = case.call(ops, score, lengths=[23])
    assert same_bits(clean[0], dirty[0]) and same_bits(clean[1], dirty[1])
    case.keys[:, 22, 0] = np.nan
    assert np.isnan(case.call(ops, score, lengths=[23])[0]).all()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("empty", range(3))
def test_empty_batches_and_sequences(score: str, empty: int) -> None:
    shape = [2, 3, 4]
    shape[empty] = 0
    context, weights = Case(*shape, 5, 5, 6, 7).call(ops, score)
    assert context.shape == (*shape[:2], 7) and weights.shape == tuple(shape)
    assert not context.any()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_problem(data: st.DataObject) -> None:
    B, T, S = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4)), data.draw(st.integers(0, 80))
    width, A, Hv = (data.draw(st.integers(1, 40)) for _ in range(3))
    lengths = data.draw(st.none() | st.lists(st.integers(0, S), min_size=B, max_size=B))
    check(Case(B, T, S, width, width, A, Hv), data.draw(st.sampled_from(SCORES)), lengths=lengths)


# --- attentional state


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("lead", [(), (3,), (2, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_attentional_state(lead: tuple[int, ...], bias: bool) -> None:
    c, h, W, b = normal(*lead, 20), normal(*lead, 13), normal(37, 33), normal(37) if bias else None
    found = ops.attentional_state(c, h, W, b)
    double = [None if x is None else x.astype(np.float64) for x in (c, h, W, b)]
    exact = reference.attentional_state(*double)
    joined = np.concatenate([double[0], double[1]], -1)
    bound = dot_bound(joined, double[2], float(np.abs(b).max()) if bias else 0.0) + 6 * U * np.abs(exact)
    assert found.shape == exact.shape and (np.abs(found - exact) <= bound).all()
    if lead:
        assert same_bits(found[0], ops.attentional_state(c[0], h[0], W, b))


# --- multi-head attention


def mha_weights(width: int) -> tuple[np.ndarray, ...]:
    return normal(3 * width, width) / width**0.5, normal(3 * width), normal(width, width) / width**0.5, normal(width)


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"kv_lengths": [9, 4]},
        {"attn_mask": RNG.random((9, 9)) < 0.7},
        {"softcap": 3.0},
        {"window": (2, 2)},
    ],
    ids=["plain", "causal", "lengths", "mask", "softcap", "window"],
)
def test_multi_head_attention(bias: bool, options: dict[str, Any]) -> None:
    """Errors pass through three products one after the other; a first-order bound of their composition.

    Projections err by e = (C + 2) U |x| |W|; scores by 2 e |k| + the attention's own; the context by that times |v|,
    plus e; the output by |W_o| times it, plus (C + 2) U |context| |W_o|. Maxima stand for the arrays.
    """
    C, H, x = 24, 4, normal(2, 9, 24)
    W_in, b_in, W_out, b_out = mha_weights(C)
    if not bias:
        b_in = b_out = None
    found, weights = ops.multi_head_attention(x, x, x, W_in, b_in, W_out, b_out, H, return_weights=True, **options)
    double = [None if a is None else a.astype(np.float64) for a in (x, W_in, b_in, W_out, b_out)]
    exact, exact_weights = reference.multi_head_attention(
        *[double[0]] * 3, *double[1:], H, return_weights=True, **options
    )
    projected = double[0] @ double[1].T + (0 if b_in is None else double[2])
    e = (
        U
        * (C + 4)
        * float((np.abs(double[0]) @ np.abs(double[1]).T).max() + (0 if b_in is None else np.abs(b_in).max()))
    )
    largest, D = float(np.abs(projected).max()), C // H
    score = (D * largest * (2 * e + U * (D + 6) * largest)) / D**0.5 + U * 40
    context = largest * (2 * score + U * 40) + e
    rows = float(np.abs(double[3]).sum(1).max())
    bound = rows * (context + U * (C + 4) * largest) + 2 * U * float(np.abs(exact).max())
    assert (np.abs(found - exact) <= bound).all()
    assert (np.abs(weights - exact_weights) <= 2 * score + U * 40).all()
    assert same_bits(found, ops.multi_head_attention(x, x, x, W_in, b_in, W_out, b_out, H, **options))


@pytest.mark.usefixtures("each_isa")
def test_multi_head_attention_does_not_depend_on_how_inputs_are_shared_on_batch_or_threads() -> None:
    x, memory = normal(3, 40, 64), normal(3, 50, 64)
    W_in, b_in, W_out, b_out = mha_weights(64)

    def call(q: np.ndarray, k: np.ndarray, v: np.ndarray, **options: Any) -> np.ndarray:
        return ops.multi_head_attention(q, k, v, W_in, b_in, W_out, b_out, 8, **options)

    with threads(1):
        itself, cross = call(x, x, x, is_causal=True), call(x, memory, memory, kv_lengths=[50, 3, 20])
    with threads(2):
        assert same_bits(itself, call(x, x.copy(), x.copy(), is_causal=True))
        assert same_bits(cross, call(x, memory, memory.copy(), kv_lengths=[50, 3, 20]))
    assert same_bits(cross[1:2], call(x[1:2], memory[1:2, :3], memory[1:2, :3]))
    assert same_bits(itself[:, :7], call(x[:, :7], x[:, :7], x[:, :7], is_causal=True))


def test_multi_head_attention_of_an_empty_batch() -> None:
    weights = mha_weights(8)
    assert ops.multi_head_attention(*[np.zeros((0, 3, 8), np.float32)] * 3, *weights, 2).shape == (0, 3, 8)
    q, nothing = normal(2, 3, 8), np.zeros((2, 0, 8), np.float32)
    assert same_bits(
        ops.multi_head_attention(q, nothing, nothing, *weights, 2), np.broadcast_to(weights[3], (2, 3, 8)).copy()
    )
