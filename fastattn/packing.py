"""From arrays to what the engine streams: each tensor packed once, in the compute type, straight from the mapped file.

A `WeightStore` gives the engine its weights by name. `PackingStore` packs them from arrays; a converted model's store borrows
them from the file (`fastattn.container`).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastattn import _native
from fastattn.errors import InputError, LoadError
from fastattn.graph import Graph
from fastattn.ops.table import OPS

AnyArray = NDArray[Any]
Progress = Callable[[int, int], None]  # parameters done, of how many

COMPUTE_TYPES = ("float32", "bfloat16", "int8", "int4")
CHECKED = 1 << 16  # values looked at together


class Needed(NamedTuple):
    """One tensor as an op wants it: matrix = packed in the compute type, else plain float32."""

    name: str
    shape: tuple[int, ...]
    matrix: bool


def needed(graphs: Iterable[Graph]) -> Iterator[Needed]:
    """What the graphs' ops read, each once, in order of use. The `matrices` of an op's row say what is packed."""
    seen = set()
    for graph in graphs:
        for node in graph.nodes:
            for role, name in node.params.items():
                item = Needed(name, graph.params[name], role in OPS[node.op].matrices)
                if item not in seen:
                    seen.add(item)
                    yield item


def packed_bytes(item: Needed, kind: str) -> int:
    """How much memory a tensor takes (docs/packing.md): panels of 32 rows; int8 in quads, int4 in groups of 32 columns."""
    if not item.matrix:
        return 4 * math.prod(item.shape)
    rows, columns = item.shape
    panel = {
        "float32": 128 * columns,
        "bfloat16": 64 * columns,
        "float16": 64 * columns,
        "int8": 128 * -(-columns // 4) + 128,
        "int4": 576 * -(-columns // 32),
    }
    return -(-rows // 32) * panel[kind]


def matrix_type(array: AnyArray, compute_type: str) -> str:
    """How a matrix is kept: in the compute type; where that is float32, in 16 bits if a type of 16 bits holds every value."""
    if compute_type != "float32":
        return compute_type
    return "bfloat16" if is_bfloat16(array) else "float16" if is_float16(array) else "float32"


def is_bfloat16(array: AnyArray) -> bool:
    """Whether bfloat16 holds every value exactly, of float32 or float16. uint16 holds bfloat16.

    >>> is_bfloat16(np.array([1, 1.5, -0.0078125], np.float32)), is_bfloat16(np.array([1, 0.1], np.float32))
    (True, False)
    """
    if array.dtype not in (np.float32, np.float16):
        return array.dtype == np.uint16
    return not any(np.bitwise_or.reduce(block.view(np.uint32), axis=None) & 0xFFFF for block in _blocks(array))


def is_float16(array: AnyArray) -> bool:
    """Whether float16 holds every value of float32 exactly; of what is float16, always.

    >>> is_float16(np.array([1, 1.001953125], np.float32)), is_float16(np.array([1, 0.1], np.float32))
    (True, False)
    """
    if array.dtype != np.float32:
        return array.dtype == np.float16
    return all(map(_fits_float16, _blocks(array)))


def _fits_float16(block: AnyArray) -> bool:
    bits = block.view(np.uint32)
    if np.bitwise_or.reduce(bits, axis=None) & 0x1FFF:
        return False
    size = bits & 0x7FFFFFFF
    size -= 0x38800000  # 2^-14: what is below wraps around
    rest = block[size >= 0x0F000000]  # not among the normal numbers of float16, which end below 2^16
    with np.errstate(over="ignore"):
        return bool((rest.astype(np.float16).astype(np.float32).view(np.uint32) == rest.view(np.uint32)).all())


def _blocks(array: AnyArray) -> Iterator[AnyArray]:
    """An array a part at a time, as float32, in the order of memory: what a type does not hold shows in the first of them."""
    array = array.transpose(np.argsort([-abs(stride) for stride in array.strides]))
    rows = max(1, CHECKED // max(1, math.prod(array.shape[1:])))
    return (array[i : i + rows].astype(np.float32, copy=False) for i in range(0, len(array), rows))


class WeightStore(Protocol):
    """Where the engine's weights come from."""

    compute_type: str

    def get(self, item: Needed) -> _native.Weight:
        """The weight; InputError where it is missing or of another shape."""


class PackingStore:
    """Packs arrays as they are asked for; each tensor and form once.

    weights: name -> float32, float16, or uint16 that holds bfloat16; any strides. After a tensor is packed, its pages of a
    mapped file are given back. progress: called with parameters packed and how many there are in all. where: the model's
    path, for errors.
    """

    def __init__(
        self,
        weights: Mapping[str, AnyArray],
        compute_type: str = "float32",
        num_threads: int | None = None,
        progress: Progress | None = None,
        total: int = 0,
        where: str = "",
    ) -> None:
        self.compute_type, self._where = compute_type, f"{where}: " if where else ""
        self._weights, self._threads = weights, num_threads or int(_native.get_num_threads())
        self._progress, self._done, self._total = progress, 0, total
        self._kept: dict[Needed, _native.Weight] = {}

    def get(self, item: Needed) -> _native.Weight:
        """The packed or plain weight, made at the first call."""
        if item not in self._kept:
            self._kept[item] = self.pack(item)
        return self._kept[item]

    def pack(self, item: Needed) -> _native.Weight:
        """A weight of its own, not kept."""
        array = self._array(item)
        _advise(array, "MADV_WILLNEED")  # read ahead: threads fault at several places at once
        kind = matrix_type(array, self.compute_type) if item.matrix else "float32"
        try:
            is_half, exact = array.dtype == np.uint16, self.compute_type == "float32"
            weight = _native.Weight(_elements(array), item.matrix, self._threads, kind, is_half, exact)
        except ValueError as error:
            raise LoadError(f"{self._where}tensor {item.name!r}: {error}") from None
        self._took(array)
        return weight

    def plain(self, item: Needed) -> NDArray[np.float32]:
        """The tensor as float32, not kept."""
        array = self._array(item)
        copy = np.array(as_float32(array))
        self._took(array)
        return copy

    def _array(self, item: Needed) -> AnyArray:
        if item.name not in self._weights:
            raise InputError(f"{self._where}tensor {item.name!r} is missing: expected {list(item.shape)}")
        array = self._weights[item.name]
        if array.shape != item.shape:
            raise InputError(f"{self._where}tensor {item.name!r} is {list(array.shape)}, expected {list(item.shape)}")
        return array

    def _took(self, array: AnyArray) -> None:
        drop_pages(array)
        self._done += array.size
        if self._progress:
            self._progress(min(self._done, self._total), self._total)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights kept."""
        return sum(weight.nbytes for weight in self._kept.values())


class BFloat16Array(np.ndarray[Any, np.dtype[np.uint16]]):
    """bfloat16 as a file holds it: its 16 bits in uint16. Slices and transposes are views; arithmetic is done in float32.

    >>> a = np.array([0x3F80, 0x4000], np.uint16).view(BFloat16Array)
    >>> a[::-1] + 0
    array([2., 1.], dtype=float32)
    """

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Every ufunc sees float32."""
        plain = [as_float32(x) if isinstance(x, BFloat16Array) else x for x in inputs]
        return getattr(ufunc, method)(*plain, **options)


def as_float32(array: AnyArray) -> NDArray[np.float32]:
    """float32, C-contiguous and aligned: the array itself where it is so, else a copy. uint16 holds bfloat16."""
    if array.dtype == np.uint16:
        bits = np.ascontiguousarray(array.view(np.ndarray)).astype(np.uint32)
        return np.left_shift(bits, 16, out=bits).view(np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        return np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def _elements(array: AnyArray) -> AnyArray:
    """The array itself where the engine can read it, else a copy: float64, elements that are not aligned."""
    if array.dtype in (np.float32, np.float16, np.uint16):
        return np.require(array.view(np.ndarray), array.dtype.newbyteorder("="), ["ALIGNED"])
    return as_float32(array)


def drop_pages(array: AnyArray) -> None:
    """Gives the memory of a view on a mapped file back to the system; reading it again reads the file again."""
    _advise(array, "MADV_DONTNEED")


def _advise(array: AnyArray, advice: str) -> None:
    """Tells the system about the pages of a view on a mapped file; nothing where it is none, or the system takes no advice."""
    owner: Any = array
    while isinstance(owner, (np.ndarray, memoryview)):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if not isinstance(owner, mmap.mmap) or not hasattr(mmap, advice) or not array.size:
        return
    first = array.__array_interface__["data"][0] - np.frombuffer(owner, np.uint8, 1).__array_interface__["data"][0]
    low = first + sum(min(0, (n - 1) * stride) for n, stride in zip(array.shape, array.strides, strict=True))
    high = first + sum(max(0, (n - 1) * stride) for n, stride in zip(array.shape, array.strides, strict=True))
    start = low // mmap.PAGESIZE * mmap.PAGESIZE
    owner.madvise(getattr(mmap, advice), start, high + array.itemsize - start)
