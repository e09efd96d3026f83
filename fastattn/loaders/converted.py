"""Models that `fastattn convert` wrote: packed.safetensors holds the weights as the engine streams them.

The file is an ordinary safetensors file (see `safetensors`). Its "__metadata__":

    format         "fastattn"
    version        of this container; a reader refuses another
    layout         of the packed bytes (docs/packing.md); a reader refuses another
    compute_type   what `load` runs the model in
    family         the model family the weights belong to
    parameters     how many numbers the model had before packing
    matrices       JSON object: tensor name -> [rows, columns, type, bytes]

Matrix NAME is the tensor "NAME.packed", U8, at a multiple of 64 bytes in the file, `bytes` of it used; all else is F32 under
its own name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastattn.errors import LoadError
from fastattn.loaders.files import unique
from fastattn.loaders.safetensors import read_safetensors
from fastattn.loaders.tensors import AnyArray, Weight

FILE = "packed.safetensors"
FORMAT, VERSION, PACKED, ALIGNMENT = "fastattn", 1, ".packed", 64
MOST = 1 << 48  # rows, columns and bytes beyond this are nonsense


class Matrix(NamedTuple):
    """A packed matrix [rows, columns] of a compute type."""

    rows: int
    columns: int
    kind: str
    nbytes: int


@dataclass(frozen=True)
class Converted:
    """An opened file: nothing of its tensors is read yet."""

    path: Path
    compute_type: str
    layout: int
    family: str
    parameters: int
    matrices: dict[str, Matrix]
    tensors: dict[str, Weight]

    def packed(self, name: str) -> AnyArray:
        """The bytes of a matrix, uint8, viewed in the mapped file."""
        return self.tensors[name + PACKED].stored[: self.matrices[name].nbytes]


def open_converted(path: Path) -> Converted | None:
    """The file `path`, or FILE in the folder `path`; None where that is nothing `fastattn convert` wrote.

    Raises LoadError for a damaged file or one of another version.
    """
    file = path if path.is_file() else path / FILE
    if not file.name.endswith(".safetensors") or not file.is_file():
        return None
    found = read_safetensors(file)
    if found.metadata.get("format") != FORMAT:
        if file.name == FILE:
            raise LoadError(f"{file}: its metadata has format {found.metadata.get('format')!r}, expected {FORMAT!r}")
        return None
    version = _integer(file, found.metadata, "version")
    if version != VERSION:
        raise LoadError(f"{file}: container version {version}, this fastattn reads {VERSION}: convert the model again")
    matrices = _matrices(file, found.metadata)
    for name, matrix in matrices.items():
        _check(file, name, matrix, found.tensors)
    return Converted(
        file,
        _text(file, found.metadata, "compute_type"),
        _integer(file, found.metadata, "layout"),
        _text(file, found.metadata, "family"),
        _integer(file, found.metadata, "parameters"),
        matrices,
        found.tensors,
    )


def _text(file: Path, metadata: dict[str, str], key: str) -> str:
    if key not in metadata:
        raise LoadError(f"{file}: its metadata has no {key!r}")
    return metadata[key]


def _integer(file: Path, metadata: dict[str, str], key: str) -> int:
    text = _text(file, metadata, key)
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise LoadError(f"{file}: its metadata has {key} {text[:40]!r}, expected a number")
    return int(text)


def _matrices(file: Path, metadata: dict[str, str]) -> dict[str, Matrix]:
    try:
        listed = json.loads(_text(file, metadata, "matrices"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, LoadError):
            raise
        raise LoadError(f"{file}: its metadata's matrices are not JSON: {' '.join(str(error).split())}") from None
    if not isinstance(listed, dict):
        raise LoadError(f"{file}: its metadata's matrices are no JSON object")
    for name, entry in listed.items():
        numbers = [entry[i] for i in (0, 1, 3)] if isinstance(entry, list) and len(entry) == 4 else []
        if not numbers or not isinstance(entry[2], str) or not all(type(n) is int and 0 < n < MOST for n in numbers):
            raise LoadError(f"{file}: matrix {name!r} is {str(entry)[:80]}, expected [rows, columns, type, bytes]")
    return {name: Matrix(*entry) for name, entry in listed.items()}


def _check(file: Path, name: str, matrix: Matrix, tensors: dict[str, Weight]) -> None:
    where = f"{file}: tensor {name + PACKED!r}"
    if name + PACKED not in tensors:
        raise LoadError(f"{where} is missing")
    stored = tensors[name + PACKED].stored
    if stored.dtype.name != "uint8" or stored.ndim != 1:
        raise LoadError(f"{where} is {stored.dtype.name} {list(stored.shape)}, expected one row of uint8")
    if stored.size < matrix.nbytes:
        raise LoadError(f"{where} has {stored.size} bytes, expected {matrix.nbytes}")
    if stored.__array_interface__["data"][0] % ALIGNMENT:
        raise LoadError(f"{where} is not at a multiple of {ALIGNMENT} bytes: another tool rewrote the file")
