"""`convert`: a model's weights packed once and written, so that loading is mapping."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fastattn import _native
from fastattn.api import check_choice, check_threads, find_model
from fastattn.errors import LoadError, OptionError
from fastattn.loaders.converted import FILE as WEIGHTS
from fastattn.packing import COMPUTE_TYPES, PackingStore, Progress

if TYPE_CHECKING:
    from fastattn.assembly import Assembly

# what stands beside the weights and is needed to use them; README.md and the like stay behind
COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "target_tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "source.spm",
    "target.spm",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.json",
    "target_vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "preprocessor_config.json",
)


def convert(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    compute_type: str = "int8",
    force: bool = False,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes a model as a folder that `load` maps into memory: at once, without copying, shared between processes.

    model: what `load` takes. out: the folder to make; it appears when it is complete. compute_type: "float32", "bfloat16",
    "int8" or "int4". force: replace `out` where it is a converted model. progress: as in `load`. The memory taken is that of
    the largest tensor. Gives the folder. Raises LoadError and OptionError as `load` does, and where `out` is in the way.

    >>> import tempfile
    >>> from fastattn.api import load
    >>> folder = tempfile.mkdtemp()
    >>> load(convert("en-fr-luong", folder + "/luong-int8")).generate("I see a dog").text
    'je vois un chien'
    """
    check_choice("compute_type", compute_type, COMPUTE_TYPES)
    if num_threads is not None:
        check_threads(num_threads)
    from fastattn.assembly import assemble
    from fastattn.loaders import open_checkpoint

    if not isinstance(out, (str, os.PathLike)):
        raise OptionError(f"out: found {type(out).__name__}, expected a string or a path")
    source, target = find_model(model), Path(out)
    checkpoint = open_checkpoint(source)
    if checkpoint.converted:
        raise LoadError(
            f"{source}: is converted already, to {checkpoint.converted.compute_type}; convert the original model"
        )
    assembly = assemble(checkpoint)  # before any folder is made
    watched = _Watched(progress) if progress else None
    try:
        _check_target(source, target, force)
        making = _beside(target)
        try:
            making.mkdir(parents=True)
            _write(assembly, making, compute_type, num_threads, watched)
            _check_target(source, target, force)  # what has appeared there meanwhile
            _move(making, target, force)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
    except OSError as error:
        if watched and error is watched.raised:
            raise
        raise OptionError(f"out: {target} cannot be written: {error.strerror or error}") from error
    return target


class _Watched:
    """The caller's progress; an OSError it raises is the caller's own, and says nothing about `out`."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.raised: OSError | None = None

    def __call__(self, done: int, total: int) -> None:
        try:
            self.progress(done, total)
        except OSError as error:
            self.raised = error
            raise


def _check_target(source: Path, target: Path, force: bool) -> None:
    if "\0" in str(target):
        raise OptionError(f"out: {str(target)!r} is no path: it holds a null character")
    if not target.exists() and not target.is_symlink():
        return
    if target.resolve() in (source.resolve(), source.resolve().parent):
        raise OptionError(f"out: {target} holds the model that is to be converted")
    if not target.is_dir() or target.is_symlink():
        raise OptionError(f"out: {target} exists and is no folder")
    if target.samefile(os.curdir) or os.path.ismount(target):
        what = "a mount point" if os.path.ismount(target) else "the current folder"
        raise OptionError(f"out: {target} is {what}, which cannot be replaced; choose a folder in it")
    found = sorted(path.name for path in target.iterdir())
    strange = [name for name in found if name not in (WEIGHTS, *COPIED)] or (found if WEIGHTS not in found else [])
    if strange:
        raise OptionError(f"out: {target} holds {strange[0]!r}, which no conversion wrote; choose another folder")
    if not force and found:
        raise OptionError(f"out: {target} exists; force=True (--force) replaces it")


def _write(
    assembly: Assembly, folder: Path, compute_type: str, num_threads: int | None, progress: Progress | None
) -> None:
    from fastattn.container import write_converted

    store = assembly.store(compute_type, num_threads or int(_native.get_num_threads()), progress)
    assert isinstance(store, PackingStore)
    write_converted(folder / WEIGHTS, store, assembly.needed, assembly.architecture.family, assembly.parameters)
    for name in COPIED:
        if (assembly.checkpoint.path / name).is_file():
            (folder / name).write_bytes(_read(assembly.checkpoint.path / name))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from error


def _beside(target: Path) -> Path:
    """A name that nothing has, in the folder of `target`."""
    return target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}"


def _move(made: Path, target: Path, force: bool) -> None:
    """The finished folder takes its place; what was there is gone only then."""
    if not force or not target.exists():
        made.rename(target)  # takes the place of an empty folder, of nothing else
        return
    old = _beside(target)
    try:
        target.rename(old)
        made.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:  # Ctrl-C, too, wherever it comes
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        raise
