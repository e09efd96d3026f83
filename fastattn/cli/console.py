"""What commands share: notes and progress on standard error, and text laid out in columns."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

BAR = 24  # columns
RAISING = ("strict", "surrogateescape", "surrogatepass")  # what a stream does with characters it lacks


def one_line(message: str) -> str:
    """A message without line breaks and control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(message.split()))


def note(message: str) -> None:
    """A remark for the person, beside the results."""
    print(f"fastattn: {one_line(message)}", file=sys.stderr, flush=True)


def open_streams() -> None:
    """Streams that were closed before the program began read nothing and write nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as the process lives


def set_encoding() -> None:
    """Results are UTF-8 whatever the locale, as the input is; a terminal and PYTHONIOENCODING know better.

    Characters the encoding lacks are escaped: an output with a hole is worth more than a traceback.
    """
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        return
    told = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    encoding = stream.encoding if told or stream.isatty() else "utf-8"
    stream.reconfigure(encoding=encoding, errors="backslashreplace" if stream.errors in RAISING else stream.errors)


def print_json(value: Any) -> None:
    """One object on a line. What the output's encoding lacks is escaped as JSON does it: a stream's escapes are not JSON."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    print(text)


def terminal_width() -> int:
    """Columns to fill; 100 where there is no terminal to ask."""
    return shutil.get_terminal_size((100, 24)).columns


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows in aligned columns, two spaces apart; those numbered in `right` are aligned to the right."""
    widths = [
        max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(max(map(len, rows), default=0))
    ]
    return "\n".join(
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    )


def at_least(low: int) -> Callable[[str], int]:
    """An argparse type: an integer from `low` on."""

    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} on, found {text!r}")
        return value

    return integer


class Progress:
    """A bar on standard error for long input; silent unless that is a terminal and results go elsewhere.

    total: how many units there are, None where nobody knows yet.
    """

    def __init__(self, unit: str, total: int | None, few: int) -> None:
        """few: up to so many units no bar is worth its place."""
        self.unit, self.total, self.few = unit, total, few
        self.shown = sys.stderr.isatty() and not sys.stdout.isatty()
        self.begin = time.monotonic()
        self.drawn = False

    def update(self, done: int) -> None:
        """Redraws with so many units done."""
        if not self.shown or (self.total if self.total is not None else done) <= self.few:
            return
        seconds = max(time.monotonic() - self.begin, 1e-9)
        text = f"{done} {self.unit}, {done / seconds:.1f} a second"
        if self.total:
            full = round(BAR * min(done / self.total, 1.0))
            left = (self.total - done) * seconds / max(done, 1)
            text = f"{'█' * full}{'░' * (BAR - full)} {done} of {self.total} {text.split(' ', 1)[1]}, {left:.0f} s left"
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()
        self.drawn = True

    def close(self) -> None:
        """Takes the bar away."""
        if self.drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self.drawn = False
