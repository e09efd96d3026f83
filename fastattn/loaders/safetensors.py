"""safetensors → tensors as they lie in the mapped file.

The format (https://huggingface.co/docs/safetensors): 8 bytes, the length N of the header as little-endian uint64; N bytes of
JSON, name -> {"dtype", "shape", "data_offsets": [begin, end)}, and "__metadata__" of strings; then the data, which the tensors
cover without gap or overlap. Written over the format rather than the safetensors package, which reads bfloat16 only through
PyTorch: see docs/decisions/safetensors-read-in-place.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from fastattn.errors import LoadError
from fastattn.loaders.files import map_file, named_file, read_json, unique
from fastattn.loaders.tensors import TensorMap, Weight

INDEX = "model.safetensors.index.json"
MAX_HEADER = 100_000_000  # bytes; the limit the format's own library sets
MAX_RANK = 16
MAX_DIMENSION = 1 << 40

# as the format spells it -> little-endian NumPy type; bfloat16 is held as its bits
ELEMENT_TYPES: dict[str, str] = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "<u2",
    "F32": "<f4",
    "F64": "<f8",
}


@dataclass
class SafetensorsFile:
    """One file: tensors by name, viewed in the mapping, and the strings of its "__metadata__"."""

    tensors: dict[str, Weight]
    metadata: dict[str, str] = field(default_factory=dict)


def find_safetensors(folder: Path) -> Path | None:
    """The file to load from a folder (a .safetensors file or the index of several), None when it holds none."""
    for name in ("model.safetensors", INDEX):
        if (folder / name).is_file():
            return folder / name
    names = sorted(p.name for p in folder.glob("*.safetensors"))
    if len(names) > 1:
        raise LoadError(f"{folder}: which of {', '.join(names)} is the model? expected model.safetensors or {INDEX}")
    return folder / names[0] if names else None


def load_safetensors(path: Path) -> TensorMap:
    """Open one file, or all that an index names.

    Args:
        path: a .safetensors file, or a model.safetensors.index.json beside its shards.

    Returns:
        The tensors by name, viewed in the mapped files; nothing is read until one is used.

    Raises:
        LoadError: a file is missing, truncated or inconsistent, an element type is unknown, an index names a file that is no
            plain name or a tensor that its file lacks; one line.
    """
    if path.name.endswith(".json"):
        return TensorMap(_read_index(path))
    return TensorMap(read_safetensors(path).tensors)


def _read_index(index: Path) -> dict[str, Weight]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise LoadError(f"{index}: expected an object 'weight_map' of tensors and their files")
    for tensor, name in listed.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise LoadError(
                f"{index}: tensor {tensor!r} is in {name!r}, expected the plain name of a .safetensors file"
            )
    shards = {
        name: read_safetensors(named_file(index.parent, name, f"{index}: the file")).tensors
        for name in sorted(set(listed.values()))
    }
    for tensor, name in listed.items():
        if tensor not in shards[name]:
            raise LoadError(f"{index}: tensor {tensor!r} is not in {name}, where the index says it is")
    home: dict[str, str] = {}
    for name, held in shards.items():  # what the index leaves out counts too, as it does for transformers
        for tensor in held:
            if tensor in home and tensor not in listed:
                raise LoadError(
                    f"{index}: tensor {tensor!r} is in {home[tensor]} and {name}, and the index does not say which"
                )
            home[tensor] = str(listed.get(tensor, name))
    return {tensor: shards[name][tensor] for tensor, name in home.items()}


def read_safetensors(path: Path) -> SafetensorsFile:
    """One file, every shape and offset checked against its size before any array is made; raises as `load_safetensors`."""
    data = map_file(path)
    if len(data) < 8:
        raise LoadError(f"{path}: not a safetensors file: {len(data)} bytes, expected at least 8")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        most = f"{MAX_HEADER} at most" if length > MAX_HEADER else f"but {len(data) - 8} follow"
        raise LoadError(f"{path}: not a safetensors file: a header of {length} bytes, {most}")
    header = _header(path, bytes(data[8 : 8 + length]))
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise LoadError(f"{path}: __metadata__ is not an object of strings")
    spans = {name: _span(f"{path}: tensor {name!r}", entry) for name, entry in header.items()}
    _check_cover(path, spans, len(data) - 8 - length)
    tensors: dict[str, Weight] = {}
    for name, (dtype, shape, begin, end) in spans.items():
        start = 8 + length + begin
        flat = np.frombuffer(data[start : start + end - begin], ELEMENT_TYPES[dtype])
        try:
            stored = flat.reshape(shape)
        except ValueError as error:  # an empty tensor with absurd dimensions
            raise LoadError(f"{path}: tensor {name!r}: shape {shape} is not possible") from error
        tensors[name] = Weight(stored, f"{path.name}: byte {start}", bfloat16=dtype == "BF16")
    return SafetensorsFile(tensors, metadata)


def _header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: not a safetensors file: its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise LoadError(f"{path}: not a safetensors file: its header is not a JSON object")
    for name in header:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise LoadError(
                f"{path}: tensor {name!r}: expected a name of whole characters, found half a surrogate pair"
            )
    return header


def _span(where: str, entry: Any) -> tuple[str, list[int], int, int]:
    """(dtype, shape, begin, end) of one entry of the header, the size of the data checked."""
    if not isinstance(entry, dict):
        raise LoadError(f"{where}: expected an object with dtype, shape and data_offsets")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ELEMENT_TYPES:
        raise LoadError(f"{where}: element type {dtype!r} is not supported; supported are {', '.join(ELEMENT_TYPES)}")
    if not _counts(shape) or len(shape) > MAX_RANK or max(shape, default=0) > MAX_DIMENSION:
        raise LoadError(f"{where}: shape {str(shape)[:80]} is not possible")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise LoadError(f"{where}: data_offsets {str(offsets)[:80]}, expected [begin, end]")
    need, found = math.prod(shape) * np.dtype(ELEMENT_TYPES[dtype]).itemsize, offsets[1] - offsets[0]
    if need != found:
        raise LoadError(f"{where}: shape {shape} of {dtype} needs {need} bytes, data_offsets give {found}")
    return dtype, shape, offsets[0], offsets[1]


def _counts(value: Any) -> TypeGuard[list[int]]:
    """Whether it is a list of integers from 0 on."""
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_cover(path: Path, spans: Mapping[str, tuple[str, Sequence[int], int, int]], size: int) -> None:
    """The tensors lie side by side from the first to the last byte of the data."""
    at = 0
    for name, (_, _, begin, end) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if begin != at:
            what = "overlaps the one before" if begin < at else f"leaves {begin - at} bytes before it unused"
            raise LoadError(f"{path}: tensor {name!r} at offset {begin} {what}")
        if end > size:
            raise LoadError(f"{path}: tensor {name!r} ends at offset {end}, but there are {size} bytes of data")
        at = end
    if at != size:
        raise LoadError(f"{path}: {size} bytes of data, but the tensors end at {at}")
