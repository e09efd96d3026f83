"""Checkpoints: a folder or file in a supported format → configuration and lazily mapped tensors.

A format is one row of `FORMATS`: how its files are recognised in a folder, and the function that reads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from fastattn.errors import LoadError
from fastattn.loaders.converted import Converted, open_converted
from fastattn.loaders.files import read_json
from fastattn.loaders.onnx import find_onnx, load_onnx, role_of
from fastattn.loaders.safetensors import find_safetensors, load_safetensors
from fastattn.loaders.tensors import TensorMap

__all__ = ["FORMATS", "Checkpoint", "describe", "open_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, opened but not read.

    Attributes:
        path: the model's folder.
        config: config.json, {} when there is none; "model_type" chooses the model family.
        generation_config: generation_config.json, {} when there is none.
        tensors: PyTorch parameter name -> array; floating types come as float32. Reading one touches its pages only.
        origin: name -> where the tensor was found and how its name was derived, one line for people.
        aliases: further name -> name in `tensors`, from the places that use a tensor (tied or deduplicated ones).
        constants: names in `tensors` of values that are no parameters (masks, folded position tables).
        call_paths: name in `tensors` -> role of its file ("encoder", "decoder", "model"), for names that are the path
            of the calls at export and may leave out parts of the module path (see `callpaths`); `bind_weights`
            settles them. Where two files have the same call path the name starts with "role:".
        format: name of the file format it was read from.
        hint: why tensors may be missing from it, "" where nothing speaks for that.
        converted: the packed weights, where `fastattn convert` wrote them; `tensors` then has them as bytes.
    """

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tensors: Mapping[str, npt.NDArray[Any]]
    origin: Mapping[str, str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    constants: frozenset[str] = frozenset()
    call_paths: Mapping[str, str] = field(default_factory=dict)
    format: str = ""
    hint: str = ""
    converted: Converted | None = None


class Format(NamedTuple):
    """One row: a name for messages, and a function that finds the format's files and opens them, or returns None."""

    name: str
    suffixes: tuple[str, ...]
    open: Callable[[Path], Checkpoint | None]


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a model: a folder, or one file of a supported format.

    Args:
        path: a folder that `fastattn convert` wrote; a folder with config.json and model.safetensors (or
            model.safetensors.index.json and its shards) or, for ONNX, encoder_model.onnx and decoder_model[_merged].onnx, or
            model.onnx, there or in a folder onnx below it (also all with _fp16 or _optimized at the end of their names); or one
            .safetensors or .onnx file. A folder with both is read from safetensors, where every tensor has its own name.

    Returns:
        The checkpoint; tensors are mapped, none is read yet.

    Raises:
        LoadError: nothing there, no supported format, or a damaged file; one line, naming the file.

    Example:
        >>> from fastattn.loaders import open_checkpoint
        >>> open_checkpoint("no/such/model")
        Traceback (most recent call last):
        fastattn.errors.LoadError: no/such/model: no such file or folder
    """
    where = Path(path)
    try:
        return _open(where)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
        raise LoadError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open(where: Path) -> Checkpoint:
    if not where.exists():
        raise LoadError(f"{where}: no such file or folder")
    if where.is_file() and not any(where.name.endswith(suffix) for f in FORMATS for suffix in f.suffixes):
        known = ", ".join(suffix for f in FORMATS for suffix in f.suffixes)
        raise LoadError(f"{where}: not a model file; expected a folder or a file ending in {known}")
    if not where.is_dir() and not where.is_file():
        raise LoadError(f"{where}: expected a folder or a regular file")
    for row in FORMATS:
        checkpoint = row.open(where)
        if checkpoint is not None:
            return checkpoint
    names = ", ".join(f.name for f in FORMATS)
    raise LoadError(f"{where}: holds no model; expected files of one of these formats: {names}{_pickles(where)}")


def _pickles(folder: Path) -> str:
    """What to do with weights that only PyTorch can read."""
    found = next((p.name for p in sorted(folder.iterdir()) if p.name.endswith((".bin", ".pt", ".pth", ".ckpt"))), "")
    advice = (
        "is a pickle, which runs code when it is read; save the model as safetensors: model.save_pretrained(folder)"
    )
    return f"; {found} {advice}" if found else ""


def _open_onnx(path: Path) -> Checkpoint | None:
    if path.is_file():
        folder, files = path.parent, {role_of(path): path} if path.name.endswith(".onnx") else {}
    else:
        folder, files = path, find_onnx(path)
    if not files:
        return None
    found = load_onnx(files)
    if folder.name == "onnx" and not (folder / "config.json").exists() and (folder.parent / "config.json").exists():
        folder = folder.parent  # the layout of repositories that hold several formats
    config, generation = read_json(folder / "config.json"), read_json(folder / "generation_config.json")
    names = (found.aliases, found.constants, found.call_paths)
    return Checkpoint(folder, config, generation, found.tensors, found.origin, *names, format="ONNX", hint=found.hint)


def _open_safetensors(path: Path) -> Checkpoint | None:
    if path.is_file():
        folder, file = path.parent, path if path.name.endswith(_SAFETENSORS) else None
    else:
        folder, file = path, find_safetensors(path)
    if file is None:
        return None
    tensors = load_safetensors(file)
    config, generation = read_json(folder / "config.json"), read_json(folder / "generation_config.json")
    origin = {name: tensors.weight(name).origin for name in tensors}
    return Checkpoint(folder, config, generation, tensors, origin, format="safetensors")


def _open_converted(path: Path) -> Checkpoint | None:
    converted = open_converted(path)
    if converted is None:
        return None
    folder = converted.path.parent
    config, generation = read_json(folder / "config.json"), read_json(folder / "generation_config.json")
    tensors = TensorMap(converted.tensors)
    origin = {name: tensors.weight(name).origin for name in tensors}
    return Checkpoint(folder, config, generation, tensors, origin, format="converted", converted=converted)


_SAFETENSORS = (".safetensors", ".safetensors.index.json")
# where a folder holds several formats the first one counts
FORMATS: tuple[Format, ...] = (
    Format("fastattn convert (packed.safetensors)", (), _open_converted),
    Format("safetensors (*.safetensors)", _SAFETENSORS, _open_safetensors),
    Format("ONNX (*.onnx)", (".onnx",), _open_onnx),
)


def describe(checkpoint: Checkpoint) -> list[tuple[str, tuple[int, ...], str, str]]:
    """One row per tensor, by name: (name, shape, element type in the file, origin). Reads no data."""
    rows = []
    for name in sorted(checkpoint.tensors):
        tensors = checkpoint.tensors
        held = tensors.weight(name) if isinstance(tensors, TensorMap) else tensors[name]
        rows.append((name, tuple(held.shape), str(held.dtype), checkpoint.origin.get(name, "")))
    return rows
