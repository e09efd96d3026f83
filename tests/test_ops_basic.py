"""Linear, softmax, top-k, norms, embedding and activations against float64, and bit by bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_support import LAYOUTS, TINY, U, dot_bound, same_bits, threads, ulp_error

from fastattn import isa, ops
from fastattn.ops.packed import project_rows

RNG = np.random.default_rng(4)
SIZES = [*range(1, 36), 47, 48, 49, 63, 64, 65, 127, 128, 129, 1000]


@pytest.fixture(params=isa.available(), autouse=True)
def each_isa(request: pytest.FixtureRequest) -> Iterator[None]:
    with isa.use(request.param):
        yield


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


# --- activations

MATH: dict[str, Callable[[float], float]] = {
    "exp": lambda x: math.exp(x) if x < 709 else math.inf,
    "tanh": math.tanh,
    "erf": math.erf,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)) if x > -700 else 0.0,
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)) if x > -700 else -0.0,
    "gelu": lambda x: x * math.erfc(-x / math.sqrt(2)) / 2,
}
# Bounds stated in csrc/simd/math.h, in ULP of the exact result where that is a normal number;
# silu adds a product to sigmoid.
ULP = {"exp": 1.5, "tanh": 3.0, "erf": 2.0, "sigmoid": 3.0, "relu": 0.0, "silu": 4.0}
FUNCTIONS = {
    "exp": ops.exp, "tanh": ops.tanh, "erf": ops.erf, "sigmoid": ops.sigmoid, "relu": ops.relu, "silu": ops.silu,
    "gelu": ops.gelu, "gelu_tanh": lambda x: ops.gelu(x, approximate="tanh"),
}  # fmt: skip


def grid() -> np.ndarray:
    """Dense where functions bend, spread over all exponents elsewhere, of both signs, with the edges of what they
    do.
    """
    magnitudes = np.exp2(np.linspace(-126, 7, 12000))
    edges = [
        0,
        88,
        88.5,
        88.72283,
        88.72284,
        87.33654,
        87.33655,
        9.0,
        9.01,
        10,
        4,
        3.9999998,
        1,
        0.99999994,
        0.625,
        0.5,
    ]
    x = np.concatenate([np.linspace(-12, 12, 24001), magnitudes, -magnitudes, edges, np.negative(edges)])
    return x.astype(np.float32)


@pytest.mark.parametrize("shape", [(3, 5), (70, 130), (4, 5, 6), (64, 17, 33), (1, 4, 5), (5000, 3)])
def test_activations_of_arrays_in_any_order_are_those_of_a_copy(shape: tuple[int, ...]) -> None:
    whole = normal(*shape)
    for order in itertools.permutations(range(len(shape))):
        x = whole.transpose(order)
        for view in (x, x[..., ::2], x[::-1], np.broadcast_to(x[:1], x.shape)):
            assert same_bits(ops.tanh(view), ops.tanh(view.copy()))
        assert 1 in shape or ops.tanh(x).strides == np.tanh(x).strides


@pytest.mark.parametrize("name", ULP)
def test_errors_in_ulp(name: str) -> None:
    x = grid()
    y = FUNCTIONS[name](x)
    truth = np.array([MATH[name](float(v)) for v in x])
    factor = np.abs(x) if name == "silu" else 1.0  # x sigmoid(x): what is flushed to zero is sigmoid(x)
    normal_result = (np.abs(truth) >= factor * 2.0**-126) & (np.abs(truth) <= np.finfo(np.float32).max)
    error = ulp_error(y[normal_result], truth[normal_result])
    assert error.max() <= ULP[name], (x[normal_result][error.argmax()], float(error.max()))
    small = np.abs(truth) < factor * 2.0**-126
    assert (np.abs(y - truth) <= factor * 2.0**-126)[small].all()
    assert np.isinf(y[truth > np.finfo(np.float32).max]).all()


def test_gelu() -> None:
    """gelu(x) = x/2 (1 + erf(x / √2)): the sum is at most 2 and errs by 3 ULP of erf and its argument: in all 5 U
    |x|.
    """
    x = grid()
    truth = np.array([MATH["gelu"](float(v)) for v in x])
    assert (np.abs(ops.gelu(x) - truth) <= 5 * U * np.abs(x) + TINY).all()
    cubic = x.astype(np.float64)
    inner = math.sqrt(2 / math.pi) * (cubic + 0.044715 * cubic**3)
    truth = cubic / 2 * (1 + np.tanh(inner))
    bend = 1 - np.tanh(inner) ** 2  # an error of the argument counts by the slope there
    bound = U * np.abs(cubic) * (6 + 5 * np.abs(inner) * bend) + TINY
    assert (np.abs(ops.gelu(x, approximate="tanh") - truth) <= bound).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_at_the_edges(name: str) -> None:
    f = FUNCTIONS[name]
    assert np.isnan(f([np.nan])).all()
    high = {"exp": np.inf, "tanh": 1, "erf": 1, "sigmoid": 1}.get(name, np.inf)
    low = {"tanh": -1, "erf": -1}.get(name, 0)
    assert f([np.inf, 1e30]).tolist() == [high, high if name in ("exp", "tanh", "erf", "sigmoid") else np.float32(1e30)]
    assert abs(f([-200.0])[0] - low) == 0
    if name in ("exp", "tanh", "erf", "sigmoid", "relu"):
        assert f([-np.inf])[0] == low
    assert f([0.0, -0.0]).tolist() == [{"exp": 1, "sigmoid": 0.5}.get(name, 0)] * 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_element_does_not_depend_on_its_place(name: str) -> None:
    x = normal(300) * 3
    y = FUNCTIONS[name](x)
    for n in SIZES[:60]:
        assert same_bits(FUNCTIONS[name](x[:n]), y[:n])
        assert same_bits(FUNCTIONS[name](x[n : n + 7]), y[n : n + 7])
    for layout in LAYOUTS.values():
        assert same_bits(FUNCTIONS[name](layout(x.reshape(20, 15))), y.reshape(20, 15))
    assert same_bits(FUNCTIONS[name](x[::-3]), y[::-3].copy())
    assert FUNCTIONS[name](x[0]).shape == () and FUNCTIONS[name](np.zeros((0, 3))).shape == (0, 3)


def test_activations_do_not_depend_on_threads() -> None:
    x = normal(48, 4096)
    with threads(1):
        alone = ops.tanh(x)
    with threads(2):
        assert same_bits(ops.tanh(x), alone)
        assert same_bits(ops.tanh(x.ravel()), alone.ravel())


# --- softmax


@pytest.mark.parametrize("n", SIZES)
def test_softmax(n: int) -> None:
    """Relatively 2 |s - m| U + 3 U of the exponential and (n + 1) U of the sum; of log-softmax, absolutely."""
    x = normal(3, n) * 5
    exact = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    total = exact.sum(-1, keepdims=True)
    spread = float(np.ptp(x))
    relative = 1.05 * U * (2 * spread + 8 + n)
    y = ops.softmax(x)
    assert (np.abs(y - exact / total) <= relative * exact / total + TINY).all()
    truth = x - x.max(-1, keepdims=True) - np.log(total)
    assert (np.abs(ops.log_softmax(x) - truth) <= relative + 4 * U * np.abs(x).max() + 2 * U * np.abs(truth)).all()


@pytest.mark.parametrize("f", [ops.softmax, ops.log_softmax])
def test_softmax_of_special_rows(f: Callable[..., np.ndarray]) -> None:
    logarithm = f is ops.log_softmax
    for n in (1, 5, 40):
        rows = np.zeros((4, n), np.float32)
        rows[1] = -np.inf
        rows[2, n // 2] = np.nan
        rows[3, 0] = np.inf
        y = f(rows)
        assert y[1].tolist() == [-np.inf if logarithm else 0.0] * n
        assert np.isnan(y[2]).all() and np.isnan(y[3, 0])
        assert np.isfinite(y[0]).all()
    assert f([[]]).shape == (1, 0) and f(np.zeros((0, 4))).shape == (0, 4)
    assert np.isfinite(f([3e38, -3e38, 3e38])[[0, 2]]).all()


@pytest.mark.parametrize("f", [ops.softmax, ops.log_softmax])
def test_softmax_along_any_axis_and_stride(f: Callable[..., np.ndarray]) -> None:
    x = normal(4, 5, 37)
    for axis in (0, 1, 2, -1, -3):
        moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
        expected = np.moveaxis(f(moved), -1, axis)
        assert f(x, axis).shape == x.shape
        for layout in LAYOUTS.values():
            assert same_bits(np.ascontiguousarray(f(layout(x), axis)), np.ascontiguousarray(expected))
    assert same_bits(f(x)[1, 2], f(x[1, 2]))


def test_softmax_does_not_depend_on_threads() -> None:
    x = normal(64, 2000)
    with threads(1):
        alone = ops.softmax(x), ops.log_softmax(x), ops.top_k(x, 9)[1], ops.layer_norm(x), ops.rms_norm(x)
    with threads(2):
        both = ops.softmax(x), ops.log_softmax(x), ops.top_k(x, 9)[1], ops.layer_norm(x), ops.rms_norm(x)
    assert all(same_bits(a, b) for a, b in zip(alone, both, strict=True))


# --- top-k


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_top_k(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 300))
    k = data.draw(st.integers(0, n))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = rng.integers(-9, 9, (2, n)).astype(np.float32)  # many equal ones
    x[rng.random(x.shape) < data.draw(st.sampled_from([0, 0.1]))] = np.nan
    x[rng.random(x.shape) < 0.05] = -np.inf
    values, indices = ops.top_k(x, k)
    order = np.lexsort((np.broadcast_to(np.arange(n), x.shape), -np.nan_to_num(x, nan=0, neginf=-99), np.isnan(x)))[
        :, :k
    ]
    assert indices.dtype == np.int32 and same_bits(indices, order.astype(np.int32))
    assert same_bits(values, np.take_along_axis(x, order, -1))


def test_top_k_along_an_axis() -> None:
    x = normal(7, 3)
    values, indices = ops.top_k(x, 2, axis=0)
    assert values.shape == indices.shape == (2, 3)
    assert same_bits(np.ascontiguousarray(values), np.sort(x, 0)[:-3:-1])


# --- norms


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_norms(n: int, offset: float) -> None:
    """Sums run over chunks of 1024 in float, their totals in double: the mean errs by (min(n, 1024) + 2) U mean |x|,
    which shifts every element by that, over the deviation; the deviation itself errs relatively by half of
    (min(n, 1024) + 6) U and of what the shift adds."""
    x, w, b = normal(3, n) + np.float32(offset), normal(n), normal(n)
    d = x.astype(np.float64)
    chunk = min(n, 1024)
    eps = 1e-5
    centred = d - d.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    shift = U * (chunk + 3) * np.abs(d).mean(-1, keepdims=True) + U * np.abs(d)
    relative = U * (chunk + 8) + np.max(shift / deviation, -1, keepdims=True) ** 2
    z = centred / deviation
    slack = 1.05 * ((shift / deviation + relative * np.abs(z)) * np.abs(w) + 2 * U * (np.abs(z * w) + np.abs(b))) + TINY
    assert (np.abs(ops.layer_norm(x, w, b, eps) - (z * w + b)) <= slack).all()
    assert (np.abs(ops.layer_norm(x, eps=eps) - z) <= 1.05 * (shift / deviation + relative * np.abs(z)) + TINY).all()
    root = d / np.sqrt((d**2).mean(-1, keepdims=True) + 1e-6)
    assert (np.abs(ops.rms_norm(x, w) - root * w) <= 1.05 * U * (chunk + 8) * np.abs(root * w) + TINY).all()


def test_norms_of_odd_arrays() -> None:
    x, w, b = normal(4, 5, 33), normal(33), normal(33)
    layer, rms = ops.layer_norm(x, w, b), ops.rms_norm(x, w)
    for layout in LAYOUTS.values():
        assert same_bits(ops.layer_norm(layout(x), w[::-1][::-1], b), layer)
        assert same_bits(ops.rms_norm(layout(x), w), rms)
    assert same_bits(ops.layer_norm(x[2, 3], w, b), layer[2, 3]) and same_bits(
        ops.rms_norm(x[:, 1], w), rms[:, 1].copy()
    )
    assert ops.layer_norm(np.zeros((0, 3))).shape == (0, 3) and ops.rms_norm(np.zeros((2, 0))).shape == (2, 0)
    assert not ops.layer_norm(np.full((1, 8), 7.0)).any()


# --- linear


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7, 13, 50])
@pytest.mark.parametrize(("K", "O"), [(1, 1), (3, 31), (8, 32), (17, 33), (64, 96), (130, 70)])
def test_linear(rows: int, K: int, O: int) -> None:  # noqa: E741
    x, W, b, r = normal(rows, K), normal(O, K), normal(O), normal(rows, O)
    double = [a.astype(np.float64) for a in (x, W, b, r)]
    plain = double[0] @ double[1].T
    bound = dot_bound(double[0], double[1])
    assert (np.abs(ops.linear(x, W) - plain) <= bound).all()
    exact = np.maximum(plain + double[2], 0) + double[3]
    bound = bound + 4 * U * (np.abs(plain) + np.abs(b) + np.abs(r))
    assert (np.abs(ops.linear(x, W, b, activation="relu", residual=r) - exact) <= bound).all()
    assert same_bits(ops.linear(x, W, b, activation="tanh"), ops.tanh(ops.linear(x, W, b)))


@pytest.mark.parametrize("rows", range(1, 10))
@pytest.mark.parametrize(("K", "O"), [(1, 1), (40, 33), (5, 300), (200, 700)])
def test_linear_with_a_transposed_weight(rows: int, K: int, O: int) -> None:  # noqa: E741
    x, W, b, r = normal(rows, K), normal(O, K), normal(O), normal(rows, O)
    transposed = LAYOUTS["swapped"](W)
    assert same_bits(ops.linear(x, transposed), ops.linear(x, W))
    whole = ops.linear(x, W, b, activation="gelu", residual=r)
    assert same_bits(ops.linear(x, transposed, b, activation="gelu", residual=r), whole)
    assert same_bits(ops.linear(x, ops.pack(transposed), b, activation="gelu", residual=r), whole)


def test_linear_of_odd_arrays() -> None:
    x, W, b, r = normal(4, 5, 40), normal(50, 40), normal(50), normal(4, 5, 50)
    y = ops.linear(x, W, b, residual=r)
    for layout in LAYOUTS.values():
        assert same_bits(ops.linear(layout(x), layout(W), layout(b[None])[0], residual=layout(r)), y)
    assert same_bits(ops.linear(x[1, 2], W, b, residual=r[1, 2]), y[1, 2])
    assert same_bits(ops.linear(x[:, ::2], W, b, residual=r[:, ::2]), y[:, ::2].copy())
    assert same_bits(ops.linear(np.broadcast_to(x[:1, :1], x.shape), W)[3, 4], ops.linear(x[0, 0], W))
    assert ops.linear(np.zeros((0, 40)), W).shape == (0, 50) and ops.linear(x, W[:0]).shape == (4, 5, 0)
    assert same_bits(ops.linear(np.zeros((2, 0)), np.zeros((50, 0)), b), np.stack([b, b]))


@pytest.mark.parametrize("K", [1, 15, 16, 127, 128, 129, 300])
@pytest.mark.parametrize("start", [0, 1, 5, 16])
def test_few_rows_read_a_weight_as_it_lies(K: int, start: int) -> None:
    """Lines of the cache, the chunks of a sum and the squares that are turned begin at different columns."""
    x, b = normal(12, K), normal(75)
    for wide in (start + K, start + K + 3, 512):
        W = normal(75, wide)[:, start : start + K]
        whole = ops.linear(x, ops.pack(W), b, activation="silu")
        for rows in range(1, 13):
            assert same_bits(ops.linear(x[:rows], W, b, activation="silu"), whole[:rows])
        assert same_bits(ops.linear(x[:3], W[::-2], b[::-2]), ops.linear(x[:3], ops.pack(W[::-2]), b[::-2]))
    x[1, K // 2] = np.nan
    y = ops.linear(x[:4], W)
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2, 3]]).all()


@pytest.mark.parametrize(
    ("rows", "K", "O"),
    [(300, 200, 33), (300, 64, 200), (1, 1000, 1500), (8, 900, 70), (97, 300, 40), (301, 20000, 100)],
)
def test_linear_does_not_depend_on_threads_or_rows(rows: int, K: int, O: int) -> None:  # noqa: E741
    x, W, b = normal(rows, K), normal(O, K), normal(O)
    with threads(1):
        alone = ops.linear(x, W, b, activation="gelu")
    with threads(2):
        assert same_bits(ops.linear(x, W, b, activation="gelu"), alone)
    assert same_bits(ops.linear(x, ops.pack(W), b, activation="gelu"), alone)
    some = [0, rows // 2, rows - 1]
    assert same_bits(ops.linear(x[some], W, b, activation="gelu"), alone[some])


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("outputs", [1, 2, 7, 8, 9, 16, 17])
@pytest.mark.parametrize("rows", [15, 16, 33, 300, 1100])
@pytest.mark.parametrize("K", [0, 5, 130, 700])
def test_few_outputs_of_many_rows_are_those_of_each_row(outputs: int, rows: int, K: int) -> None:
    x, w, b, r = normal(rows, K), normal(40 + outputs, K), normal(outputs), normal(rows, outputs)
    part = w[40:]
    with threads(2):
        y = ops.linear(x, part, b, activation="silu", residual=r)
    assert same_bits(ops.linear(x, ops.pack(part), b, activation="silu", residual=r), y)
    whole = np.concatenate([normal(40), b])
    assert same_bits(project_rows(x, ops.pack(w), whole, 40, 40 + outputs), ops.linear(x, part, b))
    for layout in LAYOUTS.values():
        assert same_bits(ops.linear(layout(x), layout(part), b, activation="silu", residual=layout(r)), y)
    for i in {0, rows // 2, rows - 1}:
        assert same_bits(ops.linear(x[i], part, b, activation="silu", residual=r[i]), y[i])


# --- embedding


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
def test_embedding(shape: tuple[int, ...]) -> None:
    table = normal(11, 19)
    ids = RNG.integers(0, 11, shape)
    assert same_bits(ops.embedding(ids, table), table[ids])
    assert same_bits(ops.embedding(ids.astype(np.uint8), LAYOUTS["swapped"](table), 2.0), table[ids] * 2)
    assert same_bits(ops.embedding(ids.astype(np.int32), LAYOUTS["reversed"](table)), table[ids])
