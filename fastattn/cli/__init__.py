"""The command line: `fastattn translate | generate | convert | inspect | bench | models`.

A subcommand is one row of `COMMANDS` and one module with `add_arguments(parser)` and `run(arguments)`. Results go to
standard output, everything else to standard error. Exit codes: 0; 1 bad input or files; 2 bad usage or options;
130 Ctrl-C; 141 when the reader of a pipe has gone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fastattn.cli import bench, convert, generate, inspect, models, translate
from fastattn.cli.console import one_line, open_streams, set_encoding
from fastattn.errors import FastattnError, OptionError

COMMANDS = {
    "translate": translate,
    "generate": generate,
    "convert": convert,
    "inspect": inspect,
    "bench": bench,
    "models": models,
}

BAD_INPUT, BAD_USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


class Parser(argparse.ArgumentParser):
    """argparse with errors on one line. intermixed: options may stand between the positional arguments."""

    intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Called for a command by the parser of the program."""
        if not self.intermixed:
            return super().parse_known_args(args, namespace)
        self.intermixed = False  # argparse comes back here
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.intermixed = True

    def error(self, message: str) -> NoReturn:
        """Called by argparse for bad usage."""
        self.exit(BAD_USAGE, f"fastattn: error: {one_line(message)} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code; `argv` without the program's name, by default the process's."""
    open_streams()
    set_encoding()
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except OptionError as error:
        return _fail(BAD_USAGE, error)
    except BrokenPipeError:  # the reader has seen enough; nothing is left to say, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (FastattnError, OSError, MemoryError) as error:
        return _fail(BAD_INPUT, error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:  # argparse, after --help, --version or an error
        return stop.code if isinstance(stop.code, int) else 0


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    arguments.run(arguments)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="fastattn", description="Attention models on the CPU, with their attention in view.")
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and the instruction set in use")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").split("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.intermixed = name == "generate"
        command.set_defaults(run=module.run, command=name)
    return parser


class Version(argparse.Action):
    """`--version`, with the instruction set in use."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        """Prints and ends, as argparse's own version action does."""
        import fastattn

        print(f"fastattn {fastattn.__version__} ({fastattn.isa.active()})")
        parser.exit()


def _fail(code: int, error: BaseException) -> int:
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        message = str(error) or type(error).__name__
    print(f"fastattn: error: {one_line(message)}", file=sys.stderr)
    return code
