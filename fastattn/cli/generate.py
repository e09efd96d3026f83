"""continue a prompt with your own model"""

from __future__ import annotations

import argparse

from fastattn.cli import loading, translate
from fastattn.cli.console import at_least
from fastattn.cli.translate import Option
from fastattn.errors import OptionError

GENERATION: dict[str, Option] = {
    **translate.GENERATION,
    "min_new_tokens": (at_least(0), "no end before so many tokens"),
    "max_length": (at_least(1), "end an output after so many tokens, those of the prompt counted"),
    "temperature": (float, "with --do-sample: below 1 keeps to likely tokens"),
    "top_k": (at_least(0), "with --do-sample: draw from the N likeliest tokens, 0 from all"),
    "top_p": (float, "with --do-sample: draw from the likeliest tokens that together have probability N"),
    "seed": (at_least(0), "with --do-sample: the same output every time"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("model", metavar="MODEL", help="a folder, a file, or the name of a bundled model")
    parser.add_argument("text", nargs="*", metavar="TEXT", help="a prompt, or what an encoder reads")
    parser.add_argument("--do-sample", action="store_true", default=None, help="draw tokens instead of taking the best")
    parser.add_argument("--stream", action="store_true", help="print the output as it comes; one TEXT, no beams")
    translate.add_shared_arguments(parser, GENERATION)


def run(arguments: argparse.Namespace) -> None:
    """Prints what follows each prompt; the order of the output is that of the input."""
    if arguments.stream:
        _stream(arguments)
    else:
        translate.work_through(arguments, [*GENERATION, "do_sample"], whole=True)


def _stream(arguments: argparse.Namespace) -> None:
    if len(arguments.text) != 1 or arguments.file:
        raise OptionError("--stream: takes one TEXT")
    for name in ("attention", "plot", "explain", "layer", "head", "early_stopping", "batch_size"):
        if (found := getattr(arguments, name)) is not None and found is not False:
            raise OptionError(f"--stream: gives the text only, without --{name.replace('_', '-')}")
    if arguments.output_format != "text":
        raise OptionError(f"--stream: gives text, not {arguments.output_format}")
    options = {name: v for name in [*GENERATION, "do_sample"] if (v := getattr(arguments, name)) is not None}
    for piece in loading.load(arguments).stream(arguments.text[0], **options):
        print(piece, end="", flush=True)
    print()
