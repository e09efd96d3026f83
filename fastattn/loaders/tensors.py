"""Tensors of a checkpoint: views on mapped files, converted to what the engine computes with when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Weight:
    """One tensor as it lies in a file.

    Attributes:
        stored: view on the mapped file, any strides; bfloat16 is held as its 16 bits in uint16.
        origin: where it was found and how its name was derived, for people.
        bfloat16: `stored` holds bfloat16.
        gates: blocks of the first axis to be read in this order (recurrent cells), () for as they are.
        product: how a graph's products take a square matrix: "rows", as it is stored each row gives an output, or "columns", each
            column; "" where that is not known, or the shape tells.
    """

    stored: AnyArray
    origin: str
    bfloat16: bool = False
    gates: tuple[int, ...] = ()
    product: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def dtype(self) -> str:
        """Name of the element type in the file."""
        return "bfloat16" if self.bfloat16 else str(self.stored.dtype)

    def read(self) -> AnyArray:
        """The tensor: floating types as float32, integers and booleans as stored. float32 is a view, never a copy,
        unless recurrent gates have to change places."""
        array = self.stored
        if self.gates:
            blocks = np.split(array, len(self.gates))
            array = np.concatenate([blocks[gate] for gate in self.gates])
        return _as_float32(array, self.bfloat16)


def _as_float32(array: AnyArray, bfloat16: bool) -> AnyArray:
    """Floating types as float32, others as they are; bfloat16: the array holds its bits."""
    if bfloat16:  # the upper half of a float32
        bits: npt.NDArray[np.uint32] = array.astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    if array.dtype.kind == "f" and array.dtype != np.float32:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            return array.astype(np.float32)
    return array


class TensorMap(Mapping[str, AnyArray]):
    """Name -> array, read on access; `weight` gives the description without reading."""

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        self._weights = dict(weights)

    def __getitem__(self, name: str) -> AnyArray:
        return self._weights[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def weight(self, name: str) -> Weight:
        return self._weights[name]


def same_values(a: Weight, b: Weight) -> bool:
    """Whether two weights are the same tensor, value by value (NaN equals NaN), a tile at a time: a tied embedding and its
    transpose are compared without temporaries of their size, and with both read along their rows."""
    if a.shape != b.shape:
        return False
    if a.gates != b.gates:
        return same_values(Weight(a.read(), a.origin), Weight(b.read(), b.origin))
    x_all, y_all = a.stored, b.stored
    if x_all.ndim < 2 or not x_all.size:
        x_all, y_all = x_all.reshape(1, -1), y_all.reshape(1, -1)
    step = 256
    for i in range(0, x_all.shape[0], step):
        for j in range(0, x_all.shape[1], step):
            tile = np.s_[i : i + step, j : j + step]
            x, y = _as_float32(x_all[tile], a.bfloat16), _as_float32(y_all[tile], b.bfloat16)
            same = x == y
            if not same.all() and not (same | ((x != x) & (y != y))).all():
                return False
    return True
