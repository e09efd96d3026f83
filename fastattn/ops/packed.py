"""Weights in the layout the kernels stream, and the product that everything here multiplies with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastattn import _native
from fastattn._native import ops as native
from fastattn.ops._arrays import Floats, contiguous, contiguous_rows, expect, floats, matrix


class PackedWeight:
    """A weight matrix [O, I] made by `pack`. Immutable; safe to use from many threads.

    Attributes:
        shape: (O, I).
        dtype: "float32", "bfloat16", "int8" or "int4".
        native: what the kernels read.

    >>> pack(np.eye(2)).shape
    (2, 2)
    """

    __slots__ = ("native", "shape")
    ndim = 2

    def __init__(self, native_weight: _native.Weight, shape: tuple[int, int]) -> None:
        self.native = native_weight
        self.shape = shape

    @property
    def dtype(self) -> str:
        return self.native.dtype

    def __repr__(self) -> str:
        return f"PackedWeight([{self.shape[0]}, {self.shape[1]}], {self.dtype})"


WeightLike = ArrayLike | PackedWeight


DTYPES = ("float32", "bfloat16", "int8", "int4")


def pack(weight: ArrayLike, dtype: str = "float32") -> PackedWeight:
    """A weight packed once, for ops that multiply with it many times.

    An op that is given an array multiplies up to eight rows by it as it lies, and packs it at every call for more: both take
    longer. The result is the same, bit by bit, if the type is float32. Taken by `linear`, `attentional_state`,
    `additive_attention` (W_q, W_k), `multi_head_attention`, `gru_cell`, `lstm_cell`, `gru`, `lstm` and `embedding`.

    Args:
        weight: [O, I], of any strides. It is copied: later changes to it have no effect.
        dtype: how it is stored. "float32"; "bfloat16", rounded to the nearest, as each row of what is multiplied is; "int8",
            symmetric with one scale for each output; "int4", symmetric with one scale for each output and 32 inputs. With
            int8 and int4, each row of what is multiplied is quantised to int8 on the fly, and a row that holds a NaN or an
            infinity gives NaN.

    Raises:
        TypeError: weight is no array of numbers. ValueError: it is no matrix, or there is no such dtype.

    >>> import numpy as np
    >>> from fastattn import ops
    >>> ops.linear([[1.0, 2.0]], ops.pack(np.eye(2))).tolist()
    [[1.0, 2.0]]
    """
    w = floats(weight, "weight")
    expect(w, "weight", "O I", None, None)
    if dtype not in DTYPES:
        raise ValueError(f"dtype: one of {', '.join(DTYPES)} expected, got {dtype!r}")
    return PackedWeight(native.pack(w, dtype), (w.shape[0], w.shape[1]))


def weight_of(value: Any, name: str) -> Floats | PackedWeight:
    return value if isinstance(value, PackedWeight) else floats(value, name)


def native_of(weight: Floats | PackedWeight) -> Floats | _native.Weight:
    """A weight as the kernels take it."""
    return weight.native if isinstance(weight, PackedWeight) else weight


def project(
    x: Floats,
    weight: Floats | PackedWeight,
    bias: Floats | None = None,
    activation: str = "none",
    residual: Floats | None = None,
) -> Floats:
    """activation(x Wᵀ + b) + residual: [..., I] to [..., O]. Shapes have been checked."""
    rows = matrix(x)
    out = np.empty((len(rows), weight.shape[0]), np.float32)
    extra = None if residual is None else contiguous_rows(matrix(residual))
    native.linear(rows, native_of(weight), 0, contiguous(bias), activation, extra, out)
    return out if x.ndim == 2 else out.reshape(*x.shape[:-1], weight.shape[0])


def project_rows(x: Floats, weight: Floats | PackedWeight, bias: Floats | None, begin: int, end: int) -> Floats:
    """x Wᵀ + b for the rows [begin, end) of the weight: [..., I] to [..., end - begin]."""
    b = None if bias is None else bias[begin:end]
    if not isinstance(weight, PackedWeight):
        return project(x, weight[begin:end], b)
    skip = begin % native.PANEL  # a packed weight begins at the panel that holds its row
    if b is not None and skip:
        b = np.concatenate([np.zeros(skip, np.float32), b])
    out = np.empty((math.prod(x.shape[:-1]), skip + end - begin), np.float32)
    native.linear(matrix(x), weight.native, begin // native.PANEL, contiguous(b), "none", None, out)
    result: Floats = out[:, skip:].reshape(*x.shape[:-1], end - begin)
    return result
