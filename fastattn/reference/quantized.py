"""What weights of fewer bits mean: the numbers that a packed weight stands for, and how activations meet them.

docs/packing.md says how they lie in memory. Every step is one float32 operation, so codes and scales are those of the
kernels bit by bit; a value below 2^-100 throughout its channel, group or row counts as zero.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.ops import ACTIVATIONS

Array = NDArray[Any]

GROUP = 32  # inputs that share a scale in int4
LEAST = np.float32(2.0**-100)
INT4_STEPS = (-8.0, -7.5, -8.5, -9.0, -7.0, 7.0, 7.5, 8.0)


def to_bfloat16(x: Array) -> Array:
    """The nearest bfloat16, ties to even, in the dtype of x.

    >>> to_bfloat16(np.array([1.0, 1.00390625, 3.14159265], np.float32)).tolist()
    [1.0, 1.0, 3.140625]
    """
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), np.float32(np.nan), rounded.view(np.float32)).astype(x.dtype, copy=False)


def quantize_rows(x: Array) -> tuple[Array, Array]:
    """x [rows, K] as codes int8 [rows, K] and scales float32 [rows]: absmax / 127, ties to even; NaN for a row that holds
    a NaN or an infinity.

    >>> codes, scales = quantize_rows(np.array([[1.0, -2.54]], np.float32))
    >>> codes.tolist(), round(float(scales[0]), 6)
    ([[50, -127]], 0.02)
    """
    x = np.asarray(x, np.float32)
    with np.errstate(all="ignore"):
        absmax = np.abs(x).max(-1, initial=0)
        finite: Array = np.asarray(np.isfinite(x).all(-1))
        zero = absmax < LEAST
        inverse = np.where(finite & ~zero, np.float32(127) / absmax, np.float32(0))
        codes = np.rint(np.where(finite[..., None], x, 0) * inverse[..., None]).astype(np.int8)
        scales = np.where(finite, np.where(zero, np.float32(0), absmax / np.float32(127)), np.float32(np.nan))
    return codes, scales.astype(np.float32)


def quantize_int4(weight: Array) -> tuple[Array, Array]:
    """weight [O, K] as codes int8 [O, ceil(K / 32), 32] in [-8, 7] and scales float32 [O, ceil(K / 32)], which are bfloat16.

    Of eight scales, which make the element of largest magnitude the codes ±7 … ±9 (cut off at [-8, 7]), the one of least
    squared error.
    """
    rows, size = weight.shape
    groups = -(-size // GROUP)
    x = np.zeros((rows, groups * GROUP), np.float32)
    x[:, :size] = weight
    x = x.reshape(rows, groups, GROUP)
    finite: Array = np.asarray(np.isfinite(x).all(-1))
    x = np.where(finite[..., None], x, np.float32(0))
    extreme = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)[..., 0]
    zero = np.abs(extreme) < LEAST
    least = np.full(extreme.shape, np.inf, np.float32)
    scales, codes = np.zeros_like(extreme), np.zeros(x.shape, np.float32)
    for step in INT4_STEPS:
        with np.errstate(all="ignore"):
            scale = to_bfloat16(np.where(zero, np.float32(0), extreme / np.float32(step)))
            inverse = np.where(zero, np.float32(0), np.float32(1) / scale)
            q = np.rint(np.clip(x * inverse[..., None], np.float32(-8), np.float32(7)))
            difference = x - q * scale[..., None]
            error = np.zeros_like(least)
            for k in range(GROUP):  # in the order of the kernels
                error = error + difference[..., k] * difference[..., k]
        better = (error < least) | (step == INT4_STEPS[0])  # errors of huge weights are infinite
        least, scales = np.where(better, error, least), np.where(better, scale, scales)
        codes = np.where(better[..., None], q, codes)
    return codes.astype(np.int8), np.where(finite, scales, np.float32(np.nan)).astype(np.float32)


def dequantized(weight: Array, dtype: str) -> Array:
    """The float32 [O, K] that a weight packed as "float32", "bfloat16", "int8" or "int4" stands for.

    >>> np.float64(dequantized(np.array([[1.0, -2.54]], np.float32), "int8")).round(4).tolist()
    [[1.0, -2.54]]
    """
    weight = np.asarray(weight, np.float32)
    if dtype == "float32":
        return weight
    if dtype == "bfloat16":
        return to_bfloat16(weight)
    if dtype == "int8":
        codes, scales = quantize_rows(weight)
        return codes.astype(np.float32) * scales[:, None]
    if dtype == "int4":
        codes, scales = quantize_int4(weight)
        values = codes.astype(np.float32) * scales[..., None]
        return values.reshape(len(weight), -1)[:, : weight.shape[1]]
    raise ValueError(f"dtype: float32, bfloat16, int8 or int4 expected, got {dtype!r}")


def linear(
    x: Array,
    weight: Array,
    dtype: str,
    bias: Array | None = None,
    activation: str = "none",
    residual: Array | None = None,
) -> Array:
    """act(x Wᵀ + b) + residual with a weight [O, K] of that type. x [..., K] is rounded for bfloat16, and quantised row by row
    for int8 and int4.

    >>> np.float64(linear(np.array([[1.0, 2.0]], np.float32), np.eye(2, dtype=np.float32), "int8")).round(2).tolist()
    [[1.01, 2.0]]
    """
    if dtype in ("float32", "bfloat16"):
        given = np.asarray(x, np.float32)
        y = (to_bfloat16(given) if dtype == "bfloat16" else given) @ dequantized(weight, dtype).T
    else:
        codes, scales = quantize_rows(x)
        y = _int8(codes, scales, weight) if dtype == "int8" else _int4(codes, scales, weight)
    y = ACTIVATIONS[activation](y if bias is None else y + bias)
    return y if residual is None else y + residual


def _int8(codes: Array, scales: Array, weight: Array) -> Array:
    weight_codes, weight_scales = quantize_rows(weight)
    dots = (codes.astype(np.float64) @ weight_codes.T.astype(np.float64)).astype(
        np.float32
    )  # exact integers, rounded once
    return dots * (scales[..., None] * weight_scales)


def _int4(codes: Array, scales: Array, weight: Array) -> Array:
    weight_codes, weight_scales = quantize_int4(weight)
    y = np.zeros((*codes.shape[:-1], len(weight)), np.float32)
    for g in range(weight_scales.shape[1]):
        part = codes[..., g * GROUP : (g + 1) * GROUP].astype(np.float64)
        dots = part @ weight_codes[:, g, : part.shape[-1]].T.astype(np.float64)
        y = (y + dots * weight_scales[:, g].astype(np.float64)).astype(np.float32)  # as fused: rounded once
    return y * scales[..., None]
