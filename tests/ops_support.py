"""What the tests of `fastattn.ops` share: odd arrays, chosen threads, and error bounds that follow from lengths.

U is the unit roundoff of float32. A sum of n products in any order errs by at most n U times the sum of their absolute
values; the bounds below add such terms up and leave 5 % for what is of second order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastattn

Array = NDArray[Any]
U = 2.0**-24
TINY = 2.0**-120  # exponentials below 2^-126 are flushed to zero
BLOCK = 256  # keys per softmax block


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = fastattn.get_num_threads()
    fastattn.set_num_threads(n)
    try:
        yield
    finally:
        fastattn.set_num_threads(before)


def same_bits(a: Array, b: Array) -> bool:
    """Equal, NaN included."""
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)


def misaligned(x: Array) -> Array:
    """The same, starting four bytes after a 64-byte boundary."""
    room = np.empty(x.size + 32, np.float32)
    start = (-room.ctypes.data // 4) % 16 + 1
    view = room[start : start + x.size].reshape(x.shape)
    view[...] = x
    return view


def reversed_view(x: Array) -> Array:
    """The same through negative strides on every axis."""
    flip = (slice(None, None, -1),) * x.ndim
    return np.ascontiguousarray(x[flip])[flip]


def spread(x: Array) -> Array:
    """The same with a NaN between any two elements of the last axis."""
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, np.float32)
    wide[..., ::2] = x
    return wide[..., ::2]


def padded_rows(x: Array) -> Array:
    """The same with NaN after every row, so that rows stand further apart."""
    wide = np.full((*x.shape[:-1], x.shape[-1] + 3), np.nan, np.float32)
    wide[..., :-3] = x
    return wide[..., :-3]


def swapped(x: Array) -> Array:
    """The same with the last two axes swapped in memory."""
    return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "misaligned": misaligned,
    "reversed": reversed_view,
    "spread": spread,
    "padded_rows": padded_rows,
    "swapped": swapped,
    "fortran": np.asfortranarray,
}


def attention_bounds(
    q: Array, k: Array, v: Array, weights: Array, *, scale: float, softcap: float = 0.0, bias: float = 0.0
) -> tuple[Array, Array]:
    """Greatest errors of the context and of the weights (float64, exact). bias: the greatest finite |attn_mask|.

    A score errs by d = U ((D + 3) |scale| |q|.|k| + |s|), plus 6 U softcap and 2 U |bias| if there are any. Weights
    e^(s - m) err relatively by 2 d, the rounding of s - m, and 3 U; sums over a block by min(S, 128) U, each merge of
    two blocks by 8 U.
    """
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(np.abs(k), group, 1), np.repeat(np.abs(v), group, 1)
    size, keys = q.shape[-1], k.shape[2]
    products = np.abs(scale) * (np.abs(q) @ k.swapaxes(-1, -2))
    top = products.max(-1, keepdims=True, initial=0.0)
    top = np.minimum(top, softcap) + bias if softcap else top + bias
    d = U * ((size + 3) * products.max(-1, keepdims=True, initial=0.0) + 3 * top + 6 * softcap + 2 * bias)
    relative = 1.05 * (2 * d + U * (8 + 2 * min(keys, BLOCK) + 8 * -(-keys // BLOCK)))
    return relative * (weights @ v) + TINY, relative * weights + TINY


def dot_bound(x: Array, w: Array, extra: float = 0.0) -> Array:
    """Greatest error of x wᵀ: (K + 2) U sum |x| |w|, and 2 U `extra` for what is added."""
    return 1.05 * U * ((x.shape[-1] + 2) * (np.abs(x) @ np.abs(w).T) + 2 * extra) + TINY


def ulp_error(y: Array, truth: Array) -> Array:
    """Distance of float32 y from the exact value, in units of the last place of the exact value."""
    unit = np.exp2(np.floor(np.log2(np.maximum(np.abs(truth), 2.0**-126))) - 23)
    return np.abs(y.astype(np.float64) - truth) / unit
