"""Linear maps, softmax, norms, lookups and activations, row by row or element by element."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn._native import ops as native
from fastattn.ops._arrays import (
    Floats,
    back_to_axis,
    contiguous,
    expect,
    floats,
    integer,
    integers,
    last_axis,
    matrix,
    number,
    optional_floats,
)
from fastattn.ops.packed import PackedWeight, WeightLike, native_of, project, weight_of

ACTIVATIONS = ("none", "tanh", "sigmoid", "relu", "gelu", "gelu_tanh", "silu", "exp", "erf")

_WIDEST = np.iinfo(np.int32).max  # what an int32 index can tell apart


def linear(
    x: ArrayLike,
    weight: WeightLike,
    bias: ArrayLike | None = None,
    *,
    activation: str = "none",
    residual: ArrayLike | None = None,
) -> Floats:
    """activation(x weightᵀ + bias) + residual, in one pass over the result.

    Args:
        x: [..., I]. Read in place if its rows are contiguous and evenly spaced, else copied.
        weight: [O, I] as in PyTorch, of any strides (the transpose of [I, O] is not copied). A few rows of x read it as
            it lies; for more it is packed on the way, panel by panel. To use a weight again and again, pack it once with
            `pack`.
        bias: [O] or None.
        activation: "none", "tanh", "sigmoid", "relu", "gelu", "gelu_tanh", "silu", "exp" or "erf".
        residual: [..., O], or None.

    Returns:
        float32 [..., O]. A row's result does not depend on the rows beside it.

    Raises:
        TypeError: an argument is no array of numbers; it is named.
        ValueError: a shape does not fit, or the activation is unknown.

    >>> import numpy as np
    >>> linear([[1.0, -2.0]], np.eye(2), activation="relu", residual=[[0.5, 0.5]]).tolist()
    [[1.5, 0.5]]
    """
    a, w, b = floats(x, "x"), weight_of(weight, "weight"), optional_floats(bias, "bias")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    expect(w, "weight", "O I", None, None)
    if a.ndim == 0 or a.shape[-1] != w.shape[1]:
        raise ValueError(f"x: expected shape [..., I={w.shape[1]}], got {list(a.shape)}")
    if b is not None:
        expect(b, "bias", "O", w.shape[0])
    shape = (*a.shape[:-1], w.shape[0])
    r = optional_floats(residual, "residual")
    if r is not None and r.shape != shape:
        raise ValueError(f"residual: expected the shape of the result, {list(shape)}, got {list(r.shape)}")
    return project(a, w, b, activation, r)


def softmax(x: ArrayLike, axis: int = -1) -> Floats:
    """exp(x) over its sum along `axis`. A row of nothing but -inf gives zeros; one with NaN or +inf gives NaN.

    Args:
        x: an array of at least one dimension, of any strides; along an axis that is not contiguous, rows are copied
            one by one.
        axis: the axis whose elements add up to one.

    Returns:
        float32, of the shape of x.

    Raises:
        TypeError: x is no array of numbers. ValueError: x has no such axis.

    >>> import numpy as np
    >>> softmax([0.0, 0.0, -np.inf]).tolist()
    [0.5, 0.5, 0.0]
    """
    rows = last_axis(floats(x, "x"), axis)
    out = np.empty(rows.shape, np.float32)
    native.softmax(matrix(rows), out)
    return back_to_axis(out, axis)


def log_softmax(x: ArrayLike, axis: int = -1) -> Floats:
    """x - log Σ exp(x) along `axis`, without overflow. A row of nothing but -inf stays so.

    Args and errors are those of `softmax`. Returns float32, of the shape of x.

    >>> log_softmax([1000.0, 0.0]).tolist()
    [0.0, -1000.0]
    """
    rows = last_axis(floats(x, "x"), axis)
    out = np.empty(rows.shape, np.float32)
    native.log_softmax(matrix(rows), out)
    return back_to_axis(out, axis)


def top_k(x: ArrayLike, k: int, axis: int = -1) -> tuple[Floats, NDArray[np.int32]]:
    """The k largest elements along `axis`, largest first, and where they stand. Of equal ones the first comes first,
    NaN last.

    Args:
        x: an array of at least one dimension.
        k: from 0 to the size of the axis.
        axis: where to look.

    Returns:
        (values float32, indices int32): the shape of x, with k in place of the axis.

    Raises:
        TypeError: x is no array of numbers, or k no integer. ValueError: x has no such axis, or k is out of range.

    >>> values, indices = top_k([3.0, 1.0, 3.0, 2.0], 3)
    >>> values.tolist(), indices.tolist()
    ([3.0, 3.0, 2.0], [0, 2, 3])
    """
    rows = last_axis(floats(x, "x"), axis)
    if rows.shape[-1] > _WIDEST:
        raise ValueError(f"x: expected at most {_WIDEST} elements along axis {axis}, got {rows.shape[-1]}")
    k = integer(k, "k")
    if not 0 <= k <= rows.shape[-1]:
        raise ValueError(f"k: expected 0 to {rows.shape[-1]}, the size of axis {axis} of x, got {k}")
    values = np.empty((*rows.shape[:-1], k), np.float32)
    indices = np.empty(values.shape, np.int32)
    if k:
        native.top_k(matrix(rows), k, values, indices)
    return back_to_axis(values, axis), back_to_axis(indices, axis)


def _norm_rows(x: ArrayLike) -> Floats:
    rows = floats(x, "x")
    if rows.ndim == 0:
        raise ValueError("x: expected shape [..., C], got []")
    return rows


def _norm_vector(value: ArrayLike | None, name: str, width: int) -> Floats | None:
    vector = contiguous(optional_floats(value, name))
    if vector is not None:
        expect(vector, name, "C", width)
    return vector


def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, eps: float = 1e-5
) -> Floats:
    """(x - mean) / sqrt(variance + eps) · weight + bias over the last axis; the variance is that of the whole,
    divided by C.

    Ba, Kiros & Hinton 2016, "Layer Normalization".

    Args:
        x: [..., C]. weight, bias: [C] or None.
        eps: at least 0.

    Returns:
        float32 [..., C].

    Raises:
        TypeError: an argument is no array of numbers. ValueError: a shape does not fit.

    >>> layer_norm([1.0, 3.0], eps=0.0).tolist()
    [-1.0, 1.0]
    """
    rows = _norm_rows(x)
    w, b = _norm_vector(weight, "weight", rows.shape[-1]), _norm_vector(bias, "bias", rows.shape[-1])
    out = np.empty(rows.shape, np.float32)
    native.layer_norm(matrix(rows), w, b, number(eps, "eps", 0), out)
    return out


def rms_norm(x: ArrayLike, weight: ArrayLike | None = None, eps: float = 1e-6) -> Floats:
    """x / sqrt(mean of x² + eps) · weight over the last axis.

    Zhang & Sennrich 2019, "Root Mean Square Layer Normalization".

    Args:
        x: [..., C]. weight: [C] or None.
        eps: at least 0.

    Returns:
        float32 [..., C].

    Raises:
        TypeError: an argument is no array of numbers. ValueError: a shape does not fit.

    >>> rms_norm([3.0, 3.0], [1.0, 2.0], eps=0.0).tolist()
    [1.0, 2.0]
    """
    rows = _norm_rows(x)
    w = _norm_vector(weight, "weight", rows.shape[-1])
    out = np.empty(rows.shape, np.float32)
    native.rms_norm(matrix(rows), w, number(eps, "eps", 0), out)
    return out


def embedding(ids: ArrayLike, weight: WeightLike, scale: float = 1.0) -> Floats:
    """weight[ids] · scale.

    Args:
        ids: integers of any shape, from 0 to V - 1.
        weight: [V, C], of any strides, or what `pack` made of it.
        scale: a factor, sqrt(C) in some Transformers.

    Returns:
        float32, of the shape of ids and one axis of C more.

    Raises:
        TypeError: ids are no integers, or weight no array of numbers.
        IndexError: an id is outside the table. ValueError: weight is no matrix.

    >>> embedding([1, 0], [[1.0, 2.0], [3.0, 4.0]], scale=2.0).tolist()
    [[6.0, 8.0], [2.0, 4.0]]
    """
    index, table = integers(ids, "ids"), weight_of(weight, "weight")
    if not isinstance(table, PackedWeight):
        expect(table, "weight", "V C", None, None)
    out = np.empty((*index.shape, table.shape[1]), np.float32)
    native.embedding(index, native_of(table), number(scale, "scale"), out)
    return out


def _elementwise(x: ArrayLike, kind: str) -> Floats:
    a = floats(x, "x")
    if a.ndim > 1 and not a.flags.c_contiguous:
        out = np.empty_like(a, subok=False)  # axes in the order that x has them in memory
        if out.strides == a.strides:  # and all of x there: one row
            native.activation(a.ravel("K"), kind, out.ravel("K"))
            return out
    out = np.empty(a.shape, np.float32)
    native.activation(a if a.flags.c_contiguous else matrix(a), kind, out)
    return out


def tanh(x: ArrayLike) -> Floats:
    """The hyperbolic tangent of every element: float32, of the shape of x. Error bounds: docs/numerics.md.

    Here and in the other activations, x is any array of numbers; an array whose axes are in another order in memory gives one
    like it, and rows whose elements are not side by side are copied. TypeError if x is no array of numbers.

    >>> tanh([0.0, 100.0]).tolist()
    [0.0, 1.0]
    """
    return _elementwise(x, "tanh")


def sigmoid(x: ArrayLike) -> Floats:
    """1 / (1 + exp(-x)) of every element: float32, of the shape of x.

    >>> sigmoid([0.0, -200.0]).tolist()
    [0.5, 0.0]
    """
    return _elementwise(x, "sigmoid")


def relu(x: ArrayLike) -> Floats:
    """max(x, 0) of every element: float32, of the shape of x.

    >>> relu([-1.0, 2.0]).tolist()
    [0.0, 2.0]
    """
    return _elementwise(x, "relu")


def gelu(x: ArrayLike, approximate: str = "none") -> Floats:
    """x · Φ(x), Φ the normal distribution, of every element: float32, of the shape of x.

    Hendrycks & Gimpel 2016, "Gaussian Error Linear Units". approximate="tanh" takes the paper's
    x / 2 · (1 + tanh(sqrt(2 / π) (x + 0.044715 x³))), as GPT-2 does; ValueError for anything but "none" and "tanh".

    >>> gelu([0.0, 1.0]).round(4).tolist(), gelu(1.0, approximate="tanh").round(4).item()
    ([0.0, 0.8413000106811523], 0.8411999940872192)
    """
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    if approximate not in kinds:
        raise ValueError(f"approximate: expected 'none' or 'tanh', got {approximate!r}")
    return _elementwise(x, kinds[approximate])


def silu(x: ArrayLike) -> Floats:
    """x · sigmoid(x) of every element: float32, of the shape of x.

    >>> silu([0.0, 100.0]).tolist()
    [0.0, 100.0]
    """
    return _elementwise(x, "silu")


def swish(x: ArrayLike) -> Floats:
    """`silu` by its other name (Ramachandran et al. 2017, "Searching for Activation Functions", with β = 1).

    >>> swish([0.0, 100.0]).tolist()
    [0.0, 100.0]
    """
    return silu(x)


def exp(x: ArrayLike) -> Floats:
    """e to the power of every element: float32, of the shape of x.

    >>> import numpy as np
    >>> exp([0.0, -np.inf, 200.0]).tolist()
    [1.0, 0.0, inf]
    """
    return _elementwise(x, "exp")


def erf(x: ArrayLike) -> Floats:
    """The error function 2 / sqrt(π) ∫₀ˣ exp(-t²) dt of every element: float32, of the shape of x.

    >>> erf([0.0, 10.0]).tolist()
    [0.0, 1.0]
    """
    return _elementwise(x, "erf")
