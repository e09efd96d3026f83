"""Small safetensors files for tests, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fastattn.loaders.safetensors import ELEMENT_TYPES


def packed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], bfloat16: tuple[str, ...] = ()) -> Path:
    """A well-formed file; uint16 arrays named in `bfloat16` are its bits."""
    names = {np.dtype(t): name for name, t in ELEMENT_TYPES.items() if name != "BF16"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in arrays.items():
        dtype = "BF16" if name in bfloat16 else names[array.dtype]
        header[name] = entry(dtype, list(array.shape), at, at + array.nbytes)
        at += array.nbytes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(header, b"".join(a.tobytes() for a in arrays.values())))
    return path


def bfloat16_bits(array: np.ndarray) -> np.ndarray:
    """float32 to the bits of bfloat16, rounded to nearest even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """float32 with the values that float16 or bfloat16 can hold."""
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float32)
    return (bfloat16_bits(array).astype(np.uint32) << 16).view(np.float32)
