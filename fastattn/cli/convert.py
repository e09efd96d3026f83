"""write a model with its weights packed, to be mapped at once and shared by processes"""

from __future__ import annotations

import argparse
from pathlib import Path

from fastattn.cli.console import at_least, note
from fastattn.cli.loading import bar
from fastattn.packing import COMPUTE_TYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("model", metavar="MODEL", help="a folder, a file, or the name of a bundled model")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--compute-type", choices=COMPUTE_TYPES, default="int8", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace OUT where it is a converted model")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="threads to use (default: the CPUs available)")


def run(arguments: argparse.Namespace) -> None:
    """Converts, then says how large the result is; prints the folder."""
    import fastattn

    options = {"compute_type": arguments.compute_type, "force": arguments.force, "num_threads": arguments.threads}
    with bar(f"converting {arguments.model}") as progress:
        folder = fastattn.convert(arguments.model, arguments.out, progress=progress, **options)
    size = sum(path.stat().st_size for path in folder.iterdir())
    note(f"{arguments.model} as {arguments.compute_type}: {size / 1e6:.1f} MB")
    print(folder)
