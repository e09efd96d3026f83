"""Converted models: written tensor by tensor, and borrowed by the engine from the mapped file. The format is described in
`fastattn.loaders.converted`."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn import _native
from fastattn.errors import LoadError
from fastattn.loaders.converted import ALIGNMENT, FORMAT, MOST, PACKED, VERSION, Converted
from fastattn.packing import COMPUTE_TYPES, Needed, PackingStore, packed_bytes


class BorrowingStore:
    """Weights of a converted model: matrices stay where they are in the mapped file, so processes share their pages."""

    def __init__(
        self, converted: Converted, wanted: Sequence[Needed], computed: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """wanted: what the model's graphs need; LoadError names all that the file lacks or has in another shape.

        computed: tensors that follow from config.json; they replace those of the file.
        """
        self._computed = computed or {}
        self._file, self.compute_type = converted, converted.compute_type
        self._kept: dict[Needed, _native.Weight] = {}
        self._check(wanted)

    def _check(self, wanted: Sequence[Needed]) -> None:
        file = self._file
        if file.compute_type not in COMPUTE_TYPES:
            raise LoadError(
                f"{file.path}: compute type {file.compute_type!r}, expected one of {', '.join(COMPUTE_TYPES)}"
            )
        if file.layout != _native.LAYOUT:
            other = f"layout {file.layout}, this fastattn reads {_native.LAYOUT}: convert the model again"
            raise LoadError(f"{file.path}: its weights are packed in {other}")
        missing: list[str] = []
        misshapen: dict[str, str] = {}
        for item in wanted:
            name, shape, matrix = item
            if name not in (file.matrices if matrix else file.tensors):
                missing.append(name)
            elif self._shape(name, matrix) != shape:
                misshapen[name] = f"{name} is {list(self._shape(name, matrix))}, expected {list(shape)}"
            elif matrix and (fault := self._wrong_bytes(item)):
                misshapen[name] = fault
            elif not matrix and file.tensors[name].stored.dtype != np.float32:
                misshapen[name] = f"{name} is {file.tensors[name].dtype}, expected float32"
        known = {name + PACKED if matrix else name for name, _, matrix in wanted}
        unexpected = sorted(file.tensors.keys() - known)
        faults = (("missing", missing), ("misshapen", list(misshapen.values())), ("unexpected", unexpected))
        said = [f"{len(names)} {fault}: {', '.join(names[:8])}" for fault, names in faults if names]
        if said:
            raise LoadError(
                f"{file.path}: {'; '.join(said)}",
                missing=tuple(missing),
                unexpected=tuple(unexpected),
                misshapen=tuple(misshapen),
            )

    def _wrong_bytes(self, item: Needed) -> str:
        """What is wrong with the type and size that the file gives a matrix, '' if nothing."""
        found, kind = self._file.matrices[item.name], self._file.compute_type
        if found.kind != kind and (kind != "float32" or found.kind not in ("bfloat16", "float16")):
            return f"{item.name + PACKED} is {found.kind[:40]!r}, expected {kind!r}"
        expected = packed_bytes(item, found.kind)
        return "" if found.nbytes == expected else f"{item.name + PACKED} has {found.nbytes} bytes, expected {expected}"

    def _shape(self, name: str, matrix: bool) -> tuple[int, ...]:
        held = self._file.matrices.get(name) if matrix else None
        return (held.rows, held.columns) if held else self._file.tensors[name].shape

    def get(self, item: Needed) -> _native.Weight:
        """A matrix without copying; what is plain is small, and copied."""
        if item not in self._kept:
            self._kept[item] = self._borrow(item.name) if item.matrix else self._copy(item.name)
        return self._kept[item]

    def _borrow(self, name: str) -> _native.Weight:
        matrix, exact = self._file.matrices[name], self.compute_type == "float32"
        try:
            return _native.Weight.from_packed(self._file.packed(name), matrix.rows, matrix.columns, matrix.kind, exact)
        except ValueError as error:
            raise LoadError(f"{self._file.path}: tensor {name + PACKED!r}: {error}") from None

    def _copy(self, name: str) -> _native.Weight:
        array = self._computed.get(name, self._file.tensors[name].stored)
        try:
            return _native.Weight(array, False, 1)
        except ValueError as error:
            raise LoadError(f"{self._file.path}: tensor {name!r}: {error}") from None

    @property
    def nbytes(self) -> int:
        """Bytes of all weights in use."""
        return sum(weight.nbytes for weight in self._kept.values())


def write_converted(path: Path, store: PackingStore, wanted: Iterable[Needed], family: str, parameters: int) -> None:
    """Packs what is wanted and writes it, one tensor at a time; the file is on the disk when it returns.

    The header comes first in the file but is known last: room is kept for the largest it may be, and filled up with spaces.
    """
    facts = {"format": FORMAT, "version": VERSION, "layout": _native.LAYOUT}
    facts |= {"compute_type": store.compute_type, "family": family, "parameters": parameters}
    order = sorted(wanted, key=lambda item: not item.matrix)  # what is padded first: all of it stays aligned
    longest = max(COMPUTE_TYPES, key=len)
    room = _aligned(len(_header(facts, [Placed(item, longest, MOST, MOST, MOST) for item in order])))
    placed: list[Placed] = []
    with open(path, "wb", buffering=0) as file:
        out = _Blocks(file)
        out.write(bytes(room))
        for item in order:
            weight = store.pack(item) if item.matrix else None
            data: Any = weight.packed if weight else store.plain(item)
            begin = placed[-1].end if placed else 0
            end = begin + (_aligned(data.nbytes) if item.matrix else data.nbytes)
            placed.append(Placed(item, weight.dtype if weight else "float32", begin, end, data.nbytes))
            out.write(data)
            out.write(bytes(end - begin - data.nbytes))
        out.end()
        header = _header(facts, placed)
        file.seek(0)
        _write_all(file, (room - 8).to_bytes(8, "little") + header[8:].ljust(room - 8))
        os.fsync(file.fileno())


class _Blocks:
    """Writes a file in blocks of several huge pages.

    The system keeps what it has just written in pages as large as the writes allow, and may map 2 MB at once where they
    are whole (Linux 6.18 on ext4 does): weights are then read faster than in pages of 4 KB.
    """

    SIZE = 8 << 20

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._block = bytearray()

    def write(self, data: Any) -> None:
        left = memoryview(data).cast("B")
        while left:
            room = self.SIZE - len(self._block)
            self._block += left[:room]
            left = left[room:]
            if len(self._block) == self.SIZE:
                self.end()

    def end(self) -> None:
        """Writes what is left."""
        _write_all(self._file, self._block)
        self._block = bytearray()


def _write_all(file: io.RawIOBase, data: bytes | bytearray) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


class Placed(NamedTuple):
    """Where a tensor lies in the data of the file, padding included, and how many bytes of it are used."""

    item: Needed
    kind: str
    begin: int
    end: int
    nbytes: int


def _header(facts: Mapping[str, object], placed: Sequence[Placed]) -> bytes:
    """The file's header behind eight bytes of room for its length."""
    matrices = {p.item.name: [*p.item.shape, p.kind, p.nbytes] for p in placed if p.item.matrix}
    metadata = {key: str(value) for key, value in facts.items()} | {"matrices": json.dumps(matrices)}
    entries = {
        p.item.name + PACKED * p.item.matrix: {
            "dtype": "U8" if p.item.matrix else "F32",
            "shape": [p.end - p.begin or MOST] if p.item.matrix else list(p.item.shape),
            "data_offsets": [p.begin, p.end],
        }
        for p in placed
    }
    return bytes(8) + json.dumps({"__metadata__": metadata, **entries}).encode()


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
