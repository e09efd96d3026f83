"""Runs the benchmarks and writes docs/performance.md and its plots; takes some ten minutes.

python benchmarks/report.py [--results FILE]   FILE: keep the raw results there, or reuse them where it exists
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plots
import roofline
from peers_harness import page as peers_page

import fastattn

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"
Result = dict[str, Any]
Key = tuple[str, int]  # instruction set, threads
LEGEND = """Speed: GFLOP/s and GB/s that the op must at least
compute and move, and the share of the limits above; what stays in a cache may pass that of the memory. Error: largest
absolute difference from the same in float64, native / NumPy. Memory: by how much one call raises the process at its
highest, result included, native / NumPy. The last columns are ratios, by instruction set and threads."""


def main() -> None:
    parser = argparse.ArgumentParser(description="runs the benchmarks and writes docs/performance.md")
    parser.add_argument("--results", type=Path, help="keep the raw results there, or reuse them where it exists")
    arguments = parser.parse_args()
    if arguments.results and arguments.results.exists():
        data = json.loads(arguments.results.read_text())
    else:
        data = {"machine": machine(), "roofline": roofline.table(), "results": run_all()}
        if arguments.results:
            arguments.results.write_text(json.dumps(data))
    (DOCS / "img").mkdir(exist_ok=True)
    plots.speedups(data, DOCS / "img" / "speedup.svg")
    plots.roof(data, DOCS / "img" / "roofline.svg")
    path = DOCS / "performance.md"
    peers = peers_page.kept(path)  # written by peers.py, between marks
    path.write_text("\n".join(page(data)) + "\n", encoding="utf-8")
    if peers:
        peers_page.replace(path, peers)


def run_all() -> list[Result]:
    """One process per number of threads, as NumPy's BLAS takes it from the environment when it is loaded."""
    results = []
    for threads in sorted({1, fastattn.get_num_threads()}):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "results.json"
            command = [sys.executable, "-m", "pytest", str(FOLDER), "--benchmark-enable", f"--benchmark-json={file}"]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            environment.pop("FASTATTN_ISA", None)
            subprocess.run([*command, "--benchmark-columns=median"], env=environment, check=True)
            results += [run["extra_info"] for run in json.loads(file.read_text())["benchmarks"]]
    return results


def machine() -> dict[str, str]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    cpu = about.get("model name", platform.processor())
    if "cpu family" in about:  # the name does not tell one generation from the next
        cpu += f" (family {about['cpu family']}, model {about['model']})"
    core = os.environ.get("OPENBLAS_CORETYPE")  # NumPy's kernels are then of that one, whatever the CPU
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index, call-overload]
    return {
        "CPU": f"{cpu}, {fastattn.get_num_threads()} usable",
        "instruction sets": ", ".join(fastattn.isa.available()),
        "system": platform.system() + " " + platform.machine(),
        "Python": platform.python_version(),
        "NumPy": f"{np.__version__} with {blas['name']} {blas['version']}"
        + (f", OPENBLAS_CORETYPE={core}" if core else ""),
        "fastattn": fastattn.__version__,
    }


# --- the page --------------------------------------------------------------------------------------------------------


def page(data: dict[str, Any]) -> Iterator[str]:
    keys = sorted({(r["isa"], r["threads"]) for r in data["results"]}, key=lambda key: (_rank(data, key[0]), key[1]))
    yield "# Performance"
    yield ""
    yield "Written by `python benchmarks/report.py`; every shape that is measured stands here, the lost ones in bold."
    yield ""
    yield from (f"* {name}: {value}" for name, value in data["machine"].items())
    yield ""
    yield "## The machine's limits"
    yield ""
    yield from _table(
        ["instruction set", "threads", "multiply-adds, GFLOP/s", "reading, GB/s"],
        [[r["isa"], r["threads"], f"{r['fma_gflops']:.0f}", f"{r['read_gbs']:.1f}"] for r in data["roofline"]],
    )
    yield ""
    yield "## Native against NumPy"
    yield ""
    yield "How many times native's time NumPy takes: native, NumPy, native, NumPy …, the median of the rounds' ratios."
    yield "NumPy and its BLAS use whatever the CPU has, also where native is held to an older instruction set."
    yield ""
    yield from _summary(data, keys)
    yield ""
    yield "![speed-up by op](img/speedup.svg)"
    yield ""
    yield "![native and NumPy under the roofline](img/roofline.svg)"
    yield ""
    yield from _details(data, keys)


def _rank(data: dict[str, Any], isa: str) -> int:
    return next(i for i, row in enumerate(data["roofline"]) if row["isa"] == isa)


def _table(head: list[str], rows: list[list[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


def _summary(data: dict[str, Any], keys: list[Key]) -> Iterator[str]:
    rows = []
    for isa, threads in keys:
        ratios = [r["ratio"] for r in data["results"] if (r["isa"], r["threads"]) == (isa, threads)]
        faster = sum(ratio > 1 for ratio in ratios)
        middle = f"{np.median(ratios):.1f} × ({min(ratios):.2f} to {max(ratios):.0f})"
        rows.append([isa, threads, f"{faster} of {len(ratios)}", middle])
    yield from _table(["instruction set", "threads", "native faster", "median ratio (range)"], rows)


def _details(data: dict[str, Any], keys: list[Key]) -> Iterator[str]:
    best, threads = keys[0]
    limits = next(r for r in data["roofline"] if (r["isa"], r["threads"]) == (best, threads))
    yield "## Every shape"
    yield ""
    yield f"Time, speed, error and memory: {best}, {threads} thread{'s' * (threads > 1)}. {LEGEND}"
    others = [f"{isa} {n}" for isa, n in keys]
    for op, shapes in _by_op(data["results"]).items():
        yield ""
        yield f"### {op}"
        yield ""
        head = ["shape", "native", "NumPy", "speed", "error", "memory", *others]
        rows = []
        for shape, runs in shapes.items():
            first = runs[(best, threads)]
            ratios = [_ratio(runs[key]["ratio"]) if key in runs else "" for key in keys]
            figures = [_time(first["native"]), _time(first["reference"]), _speed(first, limits), _errors(first)]
            rows.append([shape, *figures, _memory(first), *ratios])
        yield from _table(head, rows)


def _by_op(results: list[Result]) -> dict[str, dict[str, dict[Key, Result]]]:
    found: dict[str, dict[str, dict[Key, Result]]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        found[result["op"]][result["shape"]][(result["isa"], result["threads"])] = result
    return found


def _ratio(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 1.05 else f"**{ratio:.2f}**" if ratio < 1 else f"{ratio:.2f}"


def _time(seconds: float) -> str:
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def _speed(run: Result, limits: Result) -> str:
    parts = []
    if run["flops"]:
        rate = run["flops"] / run["native"] / 1e9
        parts.append(f"{rate:.3g} GFLOP/s ({100 * rate / limits['fma_gflops']:.0f} %)")
    if run["nbytes"]:
        rate = run["nbytes"] / run["native"] / 1e9
        parts.append(f"{rate:.3g} GB/s ({100 * rate / limits['read_gbs']:.0f} %)")
    return ", ".join(parts)


def _errors(run: Result) -> str:
    return " / ".join(f"{error:.1e}" for error in run["errors"]) if run["errors"] else ""


def _memory(run: Result) -> str:
    if None in run["memory"]:
        return ""
    return " / ".join(f"{size / 1e6:.1f}" for size in run["memory"]) + " MB"


if __name__ == "__main__":
    main()
