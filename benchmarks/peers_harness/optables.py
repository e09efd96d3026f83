"""The op tables: benchmarks/linear.py and attention.py print Markdown; here it is run, read, and held against the targets."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from peers_harness import pool
from peers_harness.targets import Verdict

SCRIPTS = {  # name -> its command line, and the heading of its tables
    "linear": (["linear.py", "--threads", "2", "--rounds", "3"], "Linear layers"),
    "attention": (["attention.py", "prefill", "decode", "--rounds", "5"], "Attention"),
}
Table = list[dict[str, str]]


def run(results: dict[str, Any], timeout: float, again: bool = False) -> None:
    """Runs what is not there yet; what goes wrong is kept as one line instead."""
    for name, (command, _) in SCRIPTS.items():
        if not again and finished(results["ops"].get(name, "")):
            continue
        if not (pool.FOLDER / command[0]).exists():
            results["ops"][name] = f"benchmarks/{command[0]} is not there"
            continue
        results["ops"][name] = _output(command, timeout)


def finished(text: str) -> bool:
    """Whether a script printed all its tables: what stopped it early stands in the last line."""
    return text.startswith("|") and text.splitlines()[-1].startswith("|")


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
        yield from _pivoted(text) if name == "linear" else _bold(text)
        yield ""


def _pivoted(text: str) -> Iterator[str]:
    """linear's products with a column per number of rows, or the page would be as long as everything else; the rest as it is."""
    found = tables(text)
    products = [row for table in found for row in table if "M" in row]
    if not products:
        yield from text.splitlines()
        return
    counts = list(dict.fromkeys(row["M"] for row in products))
    yield "GFLOP/s, and how many times PyTorch's time is ours (float32), or our float32's time is ours (the other types)."
    yield ""
    yield "| O x I | type | threads | " + " | ".join(f"M = {count}" for count in counts) + " |"
    yield "|---|---|---|" + "---:|" * len(counts)
    keys = list(dict.fromkeys((row["O x I"], row["type"], row["threads"]) for row in products))
    for key in keys:
        mine = {row["M"]: row for row in products if (row["O x I"], row["type"], row["threads"]) == key}
        yield "| " + " | ".join([*key, *(_cell(mine[count]) if count in mine else "" for count in counts)]) + " |"
    for table in found:
        if "M" not in table[0]:
            yield from ("", "| " + " | ".join(table[0]) + " |", "|" + "---|" * len(table[0]))
            yield from ("| " + " | ".join(row.values()) + " |" for row in table)
    yield from (line for line in text.splitlines()[-1:] if not line.startswith("|"))  # why it stopped early


def _cell(row: dict[str, str]) -> str:
    ratio = row["PyTorch / ours"] or row["our float32 / ours"]
    lost = (figure(ratio) or 1.0) < 1.0
    return f"{row['GFLOP/s']}, " + (f"**{ratio}**" if lost else ratio)


def _bold(text: str) -> Iterator[str]:
    """Tables with lost ratios in bold."""
    column: int | None = None
    for line in text.splitlines():
        cells = line.split("|")
        if " ratio " in cells:
            column = cells.index(" ratio ")
        elif len(cells) < 3:  # no row of a table
            column = None
        elif column and column < len(cells) and (figure(cells[column]) or 1.0) < 1.0:
            cells[column] = f" **{cells[column].strip()}** "
        yield "|".join(cells)


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """The targets of attention and of linear layers. Tables cut short cannot say that one is met."""
    found = []
    for name, judge in (("attention", _attention), ("linear", _linear)):
        text = results["ops"].get(name, "")
        judged = [verdict for table in tables(text) for verdict in judge(table)]
        found += judged if finished(text) else [_so_far(verdict) for verdict in judged]
    return found


def _so_far(verdict: Verdict) -> Verdict:
    return replace(verdict, measured=f"{verdict.measured} so far", met=None if verdict.met else verdict.met)


def _attention(table: Table) -> Iterator[Verdict]:
    return _decode(table) if any("bandwidth" in head for head in table[0]) else _prefill(table)


def _linear(table: Table) -> Iterator[Verdict]:
    return _products(table) if "M" in table[0] else _stream(table)


def _products(table: Table) -> Iterator[Verdict]:
    for title, head, type_, least, unit, fits in (
        ("float32 against PyTorch, worst shape", "PyTorch / ours", "float32", 0.95, "×", lambda m: True),
        (
            "float32, 64 rows and more: share of the multiply-add peak, worst",
            "of the peak",
            "float32",
            0.8,
            "%",
            lambda m: m >= 64,
        ),
        ("int8 at 64 rows against our float32, worst shape", "our float32 / ours", "int8", 1.2, "×", lambda m: m == 64),
    ):
        values = [figure(row.get(head, "")) for row in table if row["type"] == type_ and fits(int(row["M"]))]
        yield from _worst(f"linear: {title}", values, least, unit)


def _stream(table: Table) -> Iterator[Verdict]:
    for types, least in ((("float32", "bfloat16", "int8"), 0.85), (("int4",), 0.75)):
        values = [figure(row.get("of the read bandwidth", "")) for row in table if row["type"] in types]
        yield from _worst(
            f"linear: one row, {', '.join(types)}: share of the read bandwidth, worst", values, least, "%"
        )


def _worst(text: str, values: list[float | None], least: float, unit: str) -> Iterator[Verdict]:
    known = [value for value in values if value is not None]
    if known:
        wanted, measured = ((f"{100 * x:.0f} %" if unit == "%" else f"{x:.2f} ×") for x in (least, min(known)))
        yield Verdict(text, wanted, measured, min(known) >= least)


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
