"""The op tables: benchmarks/linear.py and attention.py print Markdown; here it is run, read, and held against the targets."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from peers_harness import pool
from peers_harness.targets import Verdict

SCRIPTS = {  # name -> its command line, and the heading of its tables
    "linear": (["linear.py"], "Linear layers"),
    "attention": (["attention.py", "prefill", "decode", "--rounds", "5"], "Attention"),
}
Table = list[dict[str, str]]


def run(results: dict[str, Any], timeout: float, again: bool = False) -> None:
    """Runs what is not there yet; what goes wrong is kept as one line instead."""
    for name, (command, _) in SCRIPTS.items():
        if not again and results["ops"].get(name, "").startswith("|"):
            continue
        if not (pool.FOLDER / command[0]).exists():
            results["ops"][name] = f"benchmarks/{command[0]} is not there"
            continue
        results["ops"][name] = _output(command, timeout)


def _output(command: list[str], timeout: float) -> str:
    full = [sys.executable, str(pool.FOLDER / command[0]), *command[1:]]
    kept = {k: v for k, v in os.environ.items() if k not in ("FASTATTN_ISA", "OMP_NUM_THREADS")}
    try:
        done = subprocess.run(
            full, cwd=pool.FOLDER, env=kept | {"PYTHONPATH": pool.path()}, capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        output, fault = done.stdout, done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout.decode() if isinstance(stopped.stdout, bytes) else stopped.stdout or ""
        fault = [f"stopped after {timeout:.0f} s"]
    start = re.search(r"^\|", output, re.MULTILINE)
    return "\n".join([output[start.start() :] if start else "", *fault]).strip() or "nothing was printed"


def tables(text: str) -> list[Table]:
    """The Markdown tables of a text, row by row: head -> cell."""
    found: list[Table] = []
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not head:
            head = cells
            found.append([])
        elif not set(line) <= set("|-: "):
            found[-1].append(dict(zip(head, cells, strict=False)))
    return [table for table in found if table]


def figure(cell: str) -> float | None:
    """The number a cell begins with; percents as a share."""
    match = re.match(r"\**\s*(-?[\d.,]+)\s*(%?)", cell)
    if not match:
        return None
    try:
        value = float(match[1].replace(",", ""))
    except ValueError:
        return None
    return value / 100 if match[2] else value


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The tables for the page, ratios below one in bold."""
    for name, (command, title) in SCRIPTS.items():
        text = results["ops"].get(name)
        if text is None:
            continue
        yield from (f"### {title}", "", f"By `python benchmarks/{' '.join(command)}`.", "")
        for line in text.splitlines():
            yield _bold(line) if line.startswith("|") else line
        yield ""


def _bold(line: str) -> str:
    """Lost ratios: cells like 0.93 or 0.93 x; shares have a percent sign and are left alone."""
    return re.sub(r"\|\s*(0\.\d+(?: ?[x×])?)\s*(?=\|)", r"| **\1** ", line)


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """Attention's targets; linear's script states its own in rows that begin with "target"."""
    found = []
    for table in tables(results["ops"].get("attention", "")):
        decode = any("bandwidth" in head for head in table[0])
        found += list(_decode(table) if decode else _prefill(table))
    for table in tables(results["ops"].get("linear", "")):
        found += list(_stated(table))
    return found


def _prefill(table: Table) -> Iterator[Verdict]:
    for threads in sorted({row["threads"] for row in table}):
        rows = [row for row in table if row["threads"] == threads and not row["shape"].startswith("geometric")]
        ratios = [ratio for row in rows if (ratio := figure(row["ratio"])) is not None]
        if not ratios:
            continue
        mean = statistics.geometric_mean(ratios)
        text = f"attention, prefill, {threads} thread{'s' * (threads != '1')}, against PyTorch"
        yield Verdict(f"{text}: geometric mean", "1.5 ×", f"{mean:.2f} ×", mean >= 1.5)
        yield Verdict(f"{text}: worst shape", "1.05 ×", f"{min(ratios):.2f} ×", min(ratios) >= 1.05)
        long = [row for row in rows if (figure(row["shape"].split(" x ")[2]) or 0) >= 1024]  # B x H x T x D
        shares = [share for row in long if (share := figure(row.get("of multiply-add peak", ""))) is not None]
        if shares:
            share = min(shares)
            text = (
                f"attention, prefill, length 1,024 and more, {threads} threads: share of the multiply-add peak, worst"
            )
            yield Verdict(text.replace("1 threads", "1 thread"), "75 %", f"{100 * share:.0f} %", share >= 0.75)


def _decode(table: Table) -> Iterator[Verdict]:
    for threads in sorted({row["threads"] for row in table}):
        rows = [row for row in table if row["threads"] == threads]
        shares = [share for row in rows if (share := figure(row.get("of read bandwidth", ""))) is not None]
        if shares:
            text = f"attention, decode, {threads} thread{'s' * (threads != '1')}: share of the read bandwidth, worst"
            yield Verdict(text, "85 %", f"{100 * min(shares):.0f} %", min(shares) >= 0.85)


def _stated(table: Table) -> Iterator[Verdict]:
    """A table of verdicts: target, wanted, measured, met."""
    if not {"target", "wanted", "measured", "met"} <= set(table[0]):
        return
    for row in table:
        yield Verdict(f"linear: {row['target']}", row["wanted"], row["measured"], "no" not in row["met"])
