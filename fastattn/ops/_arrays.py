"""Arguments of the ops: what is taken as it is, what is copied, what is refused.

* float32 of any strides (negative and zero ones too) is used in place wherever the last axis is contiguous; each op
  says where it must copy. Arrays that are not aligned or not in native byte order are copied.
* float64, float16, bfloat16, integers and bool are converted to float32, which is a copy. Results are float32 always.
* Anything else (complex, object, str, ...) is a TypeError; a shape that does not fit is a ValueError. Both name the
  argument.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]
AnyArray = NDArray[Any]

_FLOAT32 = np.dtype(np.float32)
_LARGEST = float(np.finfo(np.float32).max)

_FAR = 1 << 40  # positions and windows beyond this are refused or cut, so that int64 sums of them cannot overflow


class Shaped(Protocol):
    """An array, or what has the shape of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...


def as_array(value: Any, name: str) -> AnyArray:
    """`value` as an array; a ValueError that names the argument if its rows differ in length."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: not an array: {error}") from None


def floats(value: ArrayLike, name: str) -> Floats:
    """`value` as an aligned float32 array: itself, or a converted copy."""
    if type(value) is np.ndarray and value.dtype is _FLOAT32 and value.flags.aligned:
        return value
    x = as_array(value, name)
    if x.dtype == np.float32 and x.dtype.isnative and x.flags.aligned:
        return x
    if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        from fastattn.ops.packed import PackedWeight  # which imports this module

        found = "a packed weight" if isinstance(value, PackedWeight) else f"dtype {x.dtype}"
        raise TypeError(f"{name}: expected numbers (float32, or what converts to it), got {found}")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, as with every conversion
        return np.asarray(x.astype(np.float32))


def optional_floats(value: ArrayLike | None, name: str) -> Floats | None:
    return None if value is None else floats(value, name)


def contiguous_rows(x: Floats) -> Floats:
    """x with a contiguous last axis: itself, or a copy."""
    return x if x.shape[-1] <= 1 or x.strides[-1] == x.itemsize else np.ascontiguousarray(x)


def contiguous(x: Floats | None) -> Floats | None:
    return x if x is None or x.flags.c_contiguous else np.ascontiguousarray(x)


def expect(x: Shaped, name: str, layout: str, *sizes: int | None) -> None:
    """ValueError unless x has these sizes (None: any). `layout` names the axes, as in "B S Ck"."""
    shape = x.shape
    if shape == sizes:
        return
    if len(shape) == len(sizes):
        for want, have in zip(sizes, shape, strict=True):  # a call of all() takes as long as a small op
            if want is not None and want != have:
                break
        else:
            return
    axes = layout.split()
    wanted = [axis if size is None else f"{axis}={size}" for axis, size in zip(axes, sizes, strict=True)]
    raise ValueError(f"{name}: expected shape [{', '.join(wanted)}], got {list(shape)}")


def matrix(x: Floats) -> Floats:
    """[..., n] as [rows, n]: a view where the strides allow it, else a copy."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def last_axis(x: Floats, axis: int, name: str = "x") -> Floats:
    """A view with `axis` moved to the end."""
    axis = integer(axis, "axis")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis: {name} has shape {list(x.shape)}, got axis {axis}")
    return x if axis in (-1, x.ndim - 1) else np.moveaxis(x, axis, -1)


def back_to_axis(x: AnyArray, axis: int) -> AnyArray:
    """A view with the last axis moved to `axis`: what `last_axis` did, undone."""
    return x if axis in (-1, x.ndim - 1) else np.moveaxis(x, -1, axis)


def integer(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None


def number(value: Any, name: str, least: float = -math.inf) -> float:
    """`value` as a finite float, as the kernels hold it: a NaN or an infinity would make every result one."""
    try:
        if isinstance(value, (str, bytes, bytearray)):  # which float() would read
            raise TypeError
        found = float(value)
    except OverflowError:
        found = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {value!r}") from None
    if not max(least, -_LARGEST) <= found <= _LARGEST:
        at_least = f" of at least {least:g}" if math.isfinite(least) else ""
        raise ValueError(f"{name}: expected a finite float32 number{at_least}, got {value!r}")
    return found


def expect_sequence(value: Any, name: str) -> None:
    """TypeError unless value has a length and can be walked through."""
    if not isinstance(value, Collection):
        raise TypeError(f"{name}: expected a sequence, got {value!r}")


def integers(value: ArrayLike, name: str) -> Longs:
    """`value` as a contiguous int64 array; floats, even whole ones, are refused."""
    x = as_array(value, name)
    if x.dtype.kind not in "iu" and x.size:
        raise TypeError(f"{name}: expected integers, got dtype {x.dtype}")
    if x.dtype.kind == "u" and x.size and int(x.max()) > _FAR:
        raise ValueError(f"{name}: {int(x.max())} is out of range")
    return np.asarray(x, np.int64, order="C")


def lengths_of(value: ArrayLike | None, name: str, batch: int, most: int) -> Longs | None:
    """How many of `most` items each batch row has; None: all."""
    if value is None:
        return None
    x = integers(value, name)
    expect(x, name, "B", batch)
    if batch and (int(x.min()) < 0 or int(x.max()) > most):
        raise ValueError(f"{name}: expected values from 0 to {most}, got {x.tolist()}")
    return x


def positions_of(value: ArrayLike | None, name: str, batch: int) -> Longs | None:
    """An int, or one per batch row; None: what the kernels take then."""
    if value is None:
        return None
    x = integers(value, name)
    if x.ndim == 0:
        x = np.full(batch, x, np.int64)
    expect(x, name, "B", batch)
    if batch and (int(x.min()) < -_FAR or int(x.max()) > _FAR):
        raise ValueError(f"{name}: {x.tolist()} is out of range")
    return x


def window_of(value: Sequence[int | None] | None) -> tuple[int, int]:
    """(left, right) as the kernels take it: -1 is unbounded."""
    if value is None:
        return -1, -1
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"window: expected (left, right), got {value!r}")
    sides = [-1 if side is None else integer(side, "window") for side in value]
    if any(side is not None and size < 0 for side, size in zip(value, sides, strict=True)):
        raise ValueError(f"window: expected sides of at least 0, or None for unbounded, got {tuple(value)}")
    return min(sides[0], _FAR), min(sides[1], _FAR)


def mask_of(value: ArrayLike | None, shape: tuple[int, int, int, int], lengths: Longs | None) -> AnyArray | None:
    """The mask as a view of `shape` [B, Hq, T, S], bool or float32.

    As in the ONNX operator, its last axis may be shorter than S if it covers all of `lengths`.
    """
    if value is None:
        return None
    mask = as_array(value, "attn_mask")
    if mask.dtype.kind in "iu":
        raise TypeError(
            f"attn_mask: expected bool (True = attend) or float (added to the scores), got dtype {mask.dtype}"
        )
    if mask.dtype != np.bool_:
        mask = floats(mask, "attn_mask")
    keys = shape[-1]
    if (
        lengths is not None
        and mask.ndim
        and 1 < mask.shape[-1] < keys
        and int(lengths.max(initial=0)) <= mask.shape[-1]
    ):
        mask = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])])
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"attn_mask: expected a shape that broadcasts to [B, Hq, T, S] = {list(shape)}, got {list(mask.shape)}"
        ) from None
