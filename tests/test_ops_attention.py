"""`ops.scaled_dot_product_attention` against float64 NumPy, and the equalities that must hold bit by bit."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_support import LAYOUTS, attention_bounds, same_bits, threads

from fastattn import isa, ops, reference

RNG = np.random.default_rng(1)
attention = ops.scaled_dot_product_attention


@pytest.fixture(params=isa.available())
def each_isa(request: pytest.FixtureRequest) -> Iterator[None]:
    with isa.use(request.param):
        yield


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def inputs(B: int, H: int, G: int, T: int, S: int, D: int, Dv: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return normal(B, H, T, D), normal(B, G, S, D), normal(B, G, S, Dv)


def check(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None, **options: Any) -> None:
    """Context and weights within their bounds of float64; without weights, the same bits."""
    context, weights = attention(q, k, v, mask, return_weights=True, **options)
    exact = reference.scaled_dot_product_attention(
        *(x.astype(np.float64) for x in (q, k, v)), mask, return_weights=True, **options
    )
    bias = 0.0 if mask is None or mask.dtype == bool else float(np.abs(mask[np.isfinite(mask)]).max(initial=0))
    scale = options.get("scale") or 1 / np.sqrt(q.shape[-1])
    bounds = attention_bounds(q, k, v, exact[1], scale=scale, softcap=options.get("softcap", 0.0), bias=bias)
    for found, truth, bound in zip((context, weights), exact, bounds, strict=True):
        assert found.dtype == np.float32 and found.shape == truth.shape
        assert (np.abs(found - truth) <= bound).all(), float((np.abs(found - truth) / bound).max())
    assert not weights[exact[1] == 0].any() or np.abs(weights[exact[1] == 0]).max() < 1e-30
    assert same_bits(attention(q, k, v, mask, **options), context)


SHAPES = {
    "one": (1, 1, 1, 1, 1, 1, 1),
    "tiny": (2, 2, 2, 3, 2, 3, 5),
    "grouped": (2, 6, 2, 7, 19, 16, 8),
    "one_kv_head": (1, 5, 1, 13, 33, 8, 24),
    "wide": (1, 2, 2, 9, 40, 130, 67),
    "decode": (2, 4, 2, 1, 300, 64, 64),
    "block_edge": (1, 2, 1, 30, 256, 17, 16),
    "past_block_edge": (1, 1, 1, 60, 257, 32, 33),
    "long": (1, 2, 1, 150, 270, 20, 20),
}


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"is_causal": True, "q_start": 0},
        {"is_causal": True, "q_start": -2},
        {"softcap": 1.5},
        {"scale": 0.5, "window": (3, None)},
        {"window": (2, 1), "q_start": 1},
        {"window": (None, 0)},
        {"is_causal": True, "window": (130, 5)},
    ],
    ids=str,
)
def test_options(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    check(*inputs(*shape), **options)


def test_rows_of_the_batch_have_their_own_start_and_length() -> None:
    q, k, v = inputs(4, 2, 1, 5, 20, 8, 8)
    check(q, k, v, is_causal=True, q_start=[0, 3, 15, -4], kv_lengths=[20, 7, 0, 3])


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("size", [*range(1, 36), 47, 48, 49, 63, 64, 65, 127, 128, 129])
def test_sizes_around_the_vector_width(size: int) -> None:
    check(*inputs(1, 2, 1, 3, size, 8, 8))
    check(*inputs(1, 1, 1, 2, 5, size, 8))
    check(*inputs(1, 1, 1, 8, 18, 4, size))
    check(*inputs(1, 1, 1, size, 20, 4, 4), is_causal=True)


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("shape", [(1, 1, 1, 24), (9, 24), (2, 1, 9, 24), (2, 4, 9, 24), (24,), (9, 1), (1, 4, 1, 1)])
@pytest.mark.parametrize("kind", ["bool", "float", "holes"])
@pytest.mark.parametrize("causal", [False, True])
def test_masks(shape: tuple[int, ...], kind: str, causal: bool) -> None:
    seen = RNG.random(shape) < 0.6
    mask = {"bool": seen, "float": normal(*shape), "holes": np.where(seen, normal(*shape), np.float32(-np.inf))}[kind]
    q, k, v = inputs(2, 4, 2, 9, 24, 8, 12)
    check(q, k, v, mask, is_causal=causal)
    check(q, k, v, mask, kv_lengths=[24, 5])


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_float_masks_of_other_types_are_converted(kind: type) -> None:
    q, k, v = inputs(1, 1, 1, 2, 4, 3, 3)
    mask = np.array([[0, -1e300 if kind is np.float64 else -np.inf, 1, -np.inf]], kind)
    assert same_bits(attention(q, k, v, mask), attention(q, k, v, np.array([0, -np.inf, 1, -np.inf], np.float32)))


def test_bool_and_float_masks_of_the_same_meaning_give_the_same_bits() -> None:
    q, k, v = inputs(2, 4, 2, 70, 140, 16, 16)
    seen = RNG.random((2, 1, 70, 140)) < 0.5
    as_float = np.where(seen, np.float32(0), np.float32(-np.inf))
    result = attention(q, k, v, seen)
    assert same_bits(result, attention(q, k, v, as_float))
    assert same_bits(result, attention(q, k, v, LAYOUTS["spread"](as_float)))
    assert same_bits(result, attention(q, k, v, np.asfortranarray(seen)))


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("T", [1, 8, 70])
def test_a_query_that_sees_nothing_gives_zeros(T: int) -> None:
    q, k, v = inputs(2, 2, 1, T, 150, 8, 9)
    mask = np.ones((T, 150), bool)
    mask[0] = False
    for options in ({"kv_lengths": [0, 0]}, {"window": (0, 0), "q_start": 1000}, {"is_causal": True, "q_start": -1000}):
        context, weights = attention(q, k, v, return_weights=True, **options)
        assert not context.any() and not weights.any()
    context, weights = attention(q, k, v, mask, return_weights=True)
    assert not context[:, :, 0].any() and not weights[:, :, 0].any()
    assert T == 1 or (np.abs(weights[:, :, 1:].sum(-1) - 1) < 1e-5).all()


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("T", [3, 60])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize(
    "width", [8, 33, 48]
)  # of values: parts of vectors, too, are looked through for what is not finite
def test_what_is_not_seen_may_hold_anything(T: int, garbage: float, width: int) -> None:
    q, k, v = inputs(1, 2, 1, T, 200, 8, width)
    hidden = {
        "kv_lengths": (slice(77, None), {"kv_lengths": [77]}),
        "mask": (slice(20, 180), {"attn_mask": np.r_[[True] * 20, [False] * 160, [True] * 20]}),
        "window": (slice(0, 120), {"window": (0, 3), "q_start": 120}),
        "causal": (slice(100 + T, None), {"is_causal": True, "q_start": 100}),
    }
    for keys, options in hidden.values():
        clean = attention(q, k, v, **options)
        dirty_k, dirty_v = k.copy(), v.copy()
        dirty_k[:, :, keys] = garbage
        dirty_v[:, :, keys, -1] = garbage
        assert same_bits(clean, attention(q, dirty_k, dirty_v, **options))
        dirty_v[:, :, keys] = garbage
        assert same_bits(clean, attention(q, dirty_k, dirty_v, **options))


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("T", [4, 60])
def test_nan_stays_in_its_row(T: int) -> None:
    q, k, v = inputs(1, 1, 1, T, 140, 8, 8)
    clean = attention(q, k, v, is_causal=True, q_start=50)
    q[0, 0, 1, 3] = np.nan
    dirty = attention(q, k, v, is_causal=True, q_start=50)
    assert np.isnan(dirty[0, 0, 1]).all()
    assert same_bits(np.delete(clean, 1, 2), np.delete(dirty, 1, 2))
    k[0, 0, 53] = np.nan  # seen from query 3 on
    assert np.isnan(attention(q, k, v, is_causal=True, q_start=50)[0, 0, 3:]).all()


def test_large_scores_do_not_overflow() -> None:
    q = np.full((1, 1, 2, 4), 1e4, np.float32)
    k = np.full((1, 1, 3, 4), 1e4, np.float32)
    k[0, 0, 1] *= 1.001
    context = attention(q, k, np.arange(3, dtype=np.float32).reshape(1, 1, 3, 1))
    assert context.ravel().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("empty", range(7))
def test_empty_dimensions(empty: int) -> None:
    shape = [2, 2, 2, 3, 4, 5, 6]
    shape[empty] = 0
    if empty == 1:
        shape[2] = 0
    elif empty == 2:
        shape[1] = 0
    B, H, _, T, S, _, Dv = shape
    context, weights = attention(*inputs(*shape), is_causal=empty == 3, return_weights=True)
    assert context.shape == (B, H, T, Dv) and weights.shape == (B, H, T, S)
    if empty == 4:
        assert not context.any()
    if empty == 5:
        assert np.allclose(weights, 1 / S)


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("T", [2, 60, 260])  # of 256 rows and more values are copied
@pytest.mark.parametrize("keys", [37, 300])  # one block of keys, and two
def test_strides_do_not_change_a_bit(layout: str, T: int, keys: int) -> None:
    q, k, v = inputs(2, 4, 2, T, keys, 12, 20)
    expected = attention(q, k, v, is_causal=True)
    odd = LAYOUTS[layout]
    assert same_bits(expected, attention(odd(q), odd(k), odd(v), is_causal=True))
    by_token = [np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in (q, k, v)]  # [B, T, H, D] in memory
    assert same_bits(expected, attention(*by_token, is_causal=True))


@pytest.mark.parametrize("T", [1, 60])
def test_broadcast_arrays_are_read_in_place(T: int) -> None:
    q, k, v = inputs(1, 1, 1, T, 37, 12, 20)
    wide = [np.broadcast_to(x, (3, 4, *x.shape[2:])) for x in (q, k, v)]
    context = attention(*wide)
    assert same_bits(context, np.broadcast_to(attention(q, k, v), context.shape).copy())
    one_key = np.broadcast_to(k[:, :, :1], k.shape), np.broadcast_to(v[:, :, :1], v.shape)
    assert same_bits(attention(q, *one_key), attention(q, *(x.copy() for x in one_key)))


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 1, 1, 1, 9000, 64, 64), {}),
        ((1, 1, 1, 7, 5000, 40, 24), {"window": (3000, None)}),
        ((3, 8, 2, 1, 700, 64, 64), {"kv_lengths": [700, 130, 1]}),
        ((1, 1, 1, 300, 300, 64, 64), {"is_causal": True}),
        ((2, 3, 1, 120, 200, 32, 48), {"attn_mask": RNG.random((2, 1, 120, 200)) < 0.5}),
        ((2, 7, 7, 400, 400, 16, 16), {"is_causal": True}),  # threads without a head help the others
        ((40, 4, 4, 30, 33, 8, 8), {"kv_lengths": [33, 1, 0, 20] * 10}),  # many small heads
        ((1, 2, 2, 40, 16400, 128, 8), {}),  # heads so large that there is memory for one at a time
    ],
)
def test_threads_do_not_change_a_bit(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    q, k, v = inputs(*shape)
    results = []
    for n in (1, 2, 3, 5):
        with threads(n):
            results.append(attention(q, k, v, return_weights=True, **options))
    for context, weights in results[1:]:
        assert same_bits(context, results[0][0]) and same_bits(weights, results[0][1])


@pytest.mark.usefixtures("each_isa")
def test_a_row_does_not_depend_on_its_batch_its_padding_or_the_queries_beside_it() -> None:
    lengths = [150, 1, 64, 17]
    q, k, v = inputs(4, 4, 2, 60, 150, 24, 40)
    together = attention(q, k, v, is_causal=True, q_start=[n - 60 for n in lengths], kv_lengths=lengths)
    for b, n in enumerate(lengths):
        one = [x[b : b + 1] for x in (q, k[:, :, :n], v[:, :, :n])]
        assert same_bits(together[b : b + 1], attention(*one, is_causal=True))
        for t in (0, 31, 59):  # as in decoding: one query, the keys so far
            seen = max(n - 60 + t + 1, 0)
            alone = attention(q[b : b + 1, :, t : t + 1], k[b : b + 1, :, :seen], v[b : b + 1, :, :seen])
            assert same_bits(together[b : b + 1, :, t : t + 1], alone)


def test_grouped_heads_are_repeated_heads() -> None:
    q, k, v = inputs(2, 6, 2, 11, 30, 8, 8)
    assert same_bits(attention(q, k, v), attention(q, np.repeat(k, 3, 1), np.repeat(v, 3, 1)))


@st.composite
def problems(draw: st.DrawFn) -> tuple[tuple[np.ndarray, ...], np.ndarray | None, dict[str, Any]]:
    B, G, group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    T, S, D, Dv = (
        draw(st.integers(1, 30)),
        draw(st.integers(0, 150)),
        draw(st.integers(1, 40)),
        draw(st.integers(1, 40)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = tuple(rng.standard_normal(s, np.float32) for s in ((B, G * group, T, D), (B, G, S, D), (B, G, S, Dv)))
    side = st.none() | st.integers(0, 160)
    options: dict[str, Any] = {
        "is_causal": draw(st.booleans()),
        "q_start": draw(st.none() | st.integers(-40, 200) | st.lists(st.integers(-40, 200), min_size=B, max_size=B)),
        "window": draw(st.none() | st.tuples(side, side)),
        "kv_lengths": draw(st.none() | st.lists(st.integers(0, S), min_size=B, max_size=B)),
        "softcap": draw(st.sampled_from([0.0, 0.7, 30.0])),
        "scale": draw(st.sampled_from([None, 1.0, -0.3])),
    }
    shape = tuple(draw(st.sampled_from([1, n])) for n in (B, G * group, T, S))[draw(st.integers(0, 3)) :]
    kind = draw(st.sampled_from(["none", "bool", "float", "holes"]))
    seen = rng.random(shape) < draw(st.sampled_from([0.02, 0.5, 0.95]))
    added = rng.standard_normal(shape, np.float32)
    mask = {"none": None, "bool": seen, "float": added, "holes": np.where(seen, added, np.float32(-np.inf))}[kind]
    return arrays, mask, options


@settings(max_examples=120, deadline=None, derandomize=True)
@given(problems())
def test_any_problem(problem: tuple[tuple[np.ndarray, ...], np.ndarray | None, dict[str, Any]]) -> None:
    arrays, mask, options = problem
    check(*arrays, mask, **options)


def test_positions_that_change_meanwhile_are_those_at_the_call() -> None:
    """The GIL is given up: what was checked is copied before."""
    q, k = np.ones((2, 2, 128, 16), np.float32), np.ones((2, 2, 600, 16), np.float32)
    starts, done = np.array([500, 500], np.int64), threading.Event()

    def change() -> None:
        for value in itertools.cycle((500, 0, 300, -100)):
            if done.is_set():
                return
            starts[:] = value

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for window in (None, 5) * 40:
            options = {} if window is None else {"window": (window, 0)}
            out = attention(q, k, k, is_causal=True, q_start=starts, **options)
            assert np.isin(out, [0, 1]).all()
    finally:
        done.set()
        changer.join()
    with pytest.raises(ValueError, match="q_start"):
        attention(q, k, k, q_start=1 << 60)
