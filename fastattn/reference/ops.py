"""The graph ops that are plain functions of matrices: inputs first, parameters and attributes by name.

Those that read or write a session's caches, memories and states are in `fastattn.reference.stateful`.
"""

# mypy: disable-error-code="no-any-return"
# (arithmetic on arrays of either float type is Any to mypy)

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_erf_each = np.frompyfunc(math.erf, 1, 1)
_erfc_each = np.frompyfunc(math.erfc, 1, 1)


@functools.cache
def _erf_series() -> Array:
    """Chebyshev series of erf(x) / x in x² over |x| ≤ 4, where float32 erf has reached ±1."""

    def ratio(u: Array) -> Array:  # u in [-1, 1] is x² / 8 - 1
        x = np.sqrt(8 * (u + 1))
        return _erf_each(x).astype(float) / x

    interpolate: Callable[..., Array] = np.polynomial.chebyshev.chebinterpolate
    return interpolate(ratio, 23).astype(np.float32)


def erf(x: Array) -> Array:
    """The error function: float64 by the C library, float32 by a series, as a Python call per element is slow."""
    if x.dtype != np.float32:
        return np.asarray(_erf_each(x)).astype(x.dtype)
    x = np.clip(x, -4, 4)
    series = np.polynomial.chebyshev.chebval(x * x * np.float32(0.125) - np.float32(1), _erf_series())
    return np.asarray(np.clip(x * series, -1, 1))


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(-x) = inf is meant: it gives 0
        return np.asarray(1 / (1 + np.exp(-x)))


def gelu(x: Array) -> Array:
    """Hendrycks and Gimpel 2016: x · Φ(x)."""
    if x.dtype != np.float32:  # the truth: 1 + erf loses the left tail
        return 0.5 * x * np.asarray(_erfc_each(x * -math.sqrt(0.5))).astype(x.dtype)
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def gelu_tanh(x: Array) -> Array:
    """Its tanh approximation, as in GPT-2."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": lambda x: x * sigmoid(x),
}


def embedding(ids: Array, *, weight: Array, scale: float = 1.0) -> Array:
    """ids [rows, 1], weight [V, C]: the rows of weight, scaled."""
    rows = weight[ids[:, 0]]
    return rows if scale == 1.0 else rows * float(scale)


def linear(
    x: Array, residual: Array | None = None, *, weight: Array, bias: Array | None = None, activation: str = "none"
) -> Array:
    """act(x Wᵀ + b) + residual."""
    y = product(x, weight)
    if bias is not None:
        y = y + bias
    y = ACTIVATIONS[activation](y)
    return y if residual is None else y + residual


def projections(
    x: Array,
    *,
    weight_a: Array,
    weight_b: Array,
    weight_c: Array | None = None,
    bias_a: Array | None = None,
    bias_b: Array | None = None,
    bias_c: Array | None = None,
) -> tuple[Array, ...]:
    """x Wᵀ + b for each of two or three weights."""
    pairs = ((weight_a, bias_a), (weight_b, bias_b), (weight_c, bias_c))
    return tuple(linear(x, weight=weight, bias=bias) for weight, bias in pairs if weight is not None)


def gated_linear(
    x: Array,
    *,
    weight_gate: Array,
    weight_up: Array,
    bias_gate: Array | None = None,
    bias_up: Array | None = None,
    activation: str,
) -> Array:
    """act(x Wᵀ + b) of the gate, times x Wᵀ + b (Shazeer 2020, arXiv:2002.05202)."""
    gate = linear(x, weight=weight_gate, bias=bias_gate, activation=activation)
    return gate * linear(x, weight=weight_up, bias=bias_up)


def layer_norm(x: Array, *, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = np.mean(centred * centred, -1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weight + bias


def rms_norm(x: Array, *, weight: Array, eps: float = 1e-6) -> Array:
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * weight


def activation(x: Array, *, kind: str) -> Array:
    return ACTIVATIONS[kind](x)


def add(a: Array, b: Array) -> Array:
    return a + b


def multiply(a: Array, b: Array) -> Array:
    return a * b


def rope(x: Array, rotations: Array, *, heads: int) -> Array:
    """Su et al. 2021, arXiv:2104.09864: in each head, columns i and i + R/2 of the first R turn by an angle; the rest stays.

    rotations [rows, R]: the angles' cosines, then their sines.
    """
    cos, sin = np.split(rotations[:, None], 2, -1)
    a, b, rest = np.split(x.reshape(len(x), heads, -1), [cos.shape[-1], 2 * cos.shape[-1]], -1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1).reshape(x.shape)


def concat(*x: Array) -> Array:
    return np.concatenate(x, -1)


def product(x: Array, weight: Any) -> Array:
    """x Wᵀ; a weight that is no array (`matrices.Rounded`, `Quantized`) knows how it is multiplied with."""
    return x @ weight.T if isinstance(weight, np.ndarray) else weight.product(x).astype(x.dtype)


def project(x: Array, weight: Array, bias: Array | None) -> Array:
    y = product(x, weight)
    return y if bias is None else y + bias


def gru_gates(gi: Array, gh: Array, h: Array) -> Array:
    """The new h from the projected input and state [rows, 3 H], gates r z n; Cho et al. 2014 as PyTorch computes it."""
    (ir, iz, i_n), (hr, hz, hn) = np.split(gi, 3, -1), np.split(gh, 3, -1)
    r, z = sigmoid(ir + hr), sigmoid(iz + hz)
    return (1 - z) * np.tanh(i_n + r * hn) + z * h


def lstm_gates(gates: Array, c: Array) -> tuple[Array, Array]:
    """The new (h, c) from the summed projections [rows, 4 H], gates i f g o; Hochreiter and Schmidhuber 1997."""
    i, f, g, o = np.split(gates, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_cell(
    x: Array,
    h: Array,
    *,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
) -> Array:
    return gru_gates(project(x, weight_ih, bias_ih), project(h, weight_hh, bias_hh), h)


def lstm_cell(
    x: Array,
    h: Array,
    c: Array,
    *,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
) -> tuple[Array, Array]:
    return lstm_gates(project(x, weight_ih, bias_ih) + project(h, weight_hh, bias_hh), c)


PLAIN: dict[str, Callable[..., Any]] = {
    op.__name__: op
    for op in (
        embedding,
        linear,
        projections,
        gated_linear,
        layer_norm,
        rms_norm,
        activation,
        add,
        multiply,
        rope,
        concat,
        gru_cell,
        lstm_cell,
    )
}
