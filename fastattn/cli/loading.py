"""How commands load a model: the options they share, and a bar while a large one is packed."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastattn.cli.console import BAR, at_least
from fastattn.packing import COMPUTE_TYPES, Progress
from fastattn.runtime import CACHE_TYPES

if TYPE_CHECKING:
    from fastattn.api import Model

SOON = 0.3  # seconds without a bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options that say how a model runs."""
    parser.add_argument("--compute-type", choices=COMPUTE_TYPES, help="how matrices are kept (default: float32)")
    parser.add_argument("--cache-type", choices=CACHE_TYPES, help="how keys and values are kept (default: float32)")
    parser.add_argument(
        "--threads",
        type=at_least(1),
        metavar="N",
        help="threads (default: the CPUs available, or OMP_NUM_THREADS)",
    )
    parser.add_argument("--backend", choices=["native", "reference"], default="native", help="reference: plain NumPy")


def load(arguments: argparse.Namespace) -> Model:
    """The model `arguments.model` as these options want it."""
    import fastattn

    options: dict[str, Any] = {"num_threads": arguments.threads, "backend": arguments.backend}
    given = {"compute_type": arguments.compute_type, "cache_type": arguments.cache_type}
    options |= {name: value for name, value in given.items() if value}
    with bar(f"loading {arguments.model}") as progress:
        return fastattn.load(arguments.model, progress=progress, **options)


@contextmanager
def bar(what: str) -> Iterator[Progress | None]:
    """What to give as `progress`: draws on standard error where that is a terminal and loading takes a while."""
    if not sys.stderr.isatty():
        yield None
        return
    begin, drawn = time.monotonic(), False

    def progress(done: int, total: int) -> None:
        nonlocal drawn
        seconds = time.monotonic() - begin
        if seconds < SOON or not total:
            return
        full, left = round(BAR * done / total), (total - done) * seconds / max(done, 1)
        text = f"{what} {'█' * full}{'░' * (BAR - full)} {100 * done // total} %, {left:.0f} s left"
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()
        drawn = True

    try:
        yield progress
    finally:
        if drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
