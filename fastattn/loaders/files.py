"""What all formats share: files mapped read-only, JSON objects, and which file names a model's files may give."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any

from fastattn.errors import LoadError

MAX_JSON = 100_000_000  # bytes
LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/"  # what stands in a file's place in a clone made without Git LFS
)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: an object whose keys differ; a key that occurs twice is a ValueError."""
    if len(found := dict(pairs)) != len(pairs):
        for name, _ in pairs:
            if name not in found:
                raise ValueError(f"{name!r} occurs twice")
            del found[name]
    return found


def map_file(path: Path) -> memoryview:
    """The file's bytes, mapped read-only; an error for anything that is not a non-empty regular file, or stands for one."""
    try:
        if not path.is_file():
            raise LoadError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
        with open(path, "rb") as handle:
            if os.fstat(handle.fileno()).st_size == 0:
                raise LoadError(f"{path}: the file is empty")
            data = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
        if data[: len(LFS_POINTER)] == LFS_POINTER:
            raise LoadError(f"{path}: only the Git LFS pointer to the file; fetch the file itself with `git lfs pull`")
        return data
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
        raise LoadError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a regular file, {} when there is nothing of that name."""
    if not os.path.lexists(path):
        return {}
    try:
        if not path.is_file():
            raise LoadError(f"{path}: not a regular file" if path.exists() else f"{path}: a link that leads nowhere")
        if (size := path.stat().st_size) > MAX_JSON:
            raise LoadError(f"{path}: {size} bytes, expected {MAX_JSON} at most")
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except LoadError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise LoadError(f"{path}: not readable as JSON: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise LoadError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def named_file(folder: Path, name: str, where: str) -> Path:
    """The file that a model's file names, in or below `folder`; `where` opens the error.

    The name may not lead out: no absolute path, no "..". What the name finds may be a link to anywhere: links are made by
    whoever laid out the folder, not by the file that is read (docs/decisions/links-in-model-folders.md).
    """
    if not name or "\0" in name or "\\" in name or os.path.isabs(name):
        raise LoadError(f"{where} {name!r} is not a relative path")
    if ".." in Path(name).parts:
        raise LoadError(f"{where} {name!r} leaves the model's folder")
    path = folder / name
    try:
        missing = not path.exists()
    except (OSError, RuntimeError) as error:  # a loop of links, a name longer than the system takes
        raise LoadError(f"{where} {name!r} cannot be resolved") from error
    if missing:
        raise LoadError(f"{where} {name!r} is missing from {folder}")
    return path
