"""The plots of docs/performance.md: small SVGs, the same for the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "fastattn", "svg.fonttype": "none", "font.size": 9})

from matplotlib import pyplot as plt  # noqa: E402

COLOURS = ["#1f4e79", "#4f9d69", "#b5651d", "#777777"]


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def speedups(data: dict[str, Any], path: Path) -> None:
    """One line of dots per op: a dot is a shape, a colour an instruction set; one thread."""
    results = [r for r in data["results"] if r["threads"] == 1]
    ops = list(dict.fromkeys(r["op"] for r in results))
    figure, axes = plt.subplots(figsize=(7, 0.21 * len(ops) + 0.8))
    isas = list(dict.fromkeys(row["isa"] for row in data["roofline"]))
    for i, isa in enumerate(isas):
        mine = [r for r in results if r["isa"] == isa]
        heights = [ops.index(r["op"]) + 0.22 * (i - (len(isas) - 1) / 2) for r in mine]
        axes.scatter([r["ratio"] for r in mine], heights, s=9, color=COLOURS[i], label=isa, linewidths=0)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="times as fast as NumPy, one thread", yticks=range(len(ops)), yticklabels=ops)
    axes.set_ylim(len(ops) - 0.5, -0.5)
    axes.grid(axis="x", linewidth=0.3)
    axes.legend(loc="lower right", fontsize=8)
    _save(figure, path)


def roof(data: dict[str, Any], path: Path) -> None:
    """Williams et al. 2009: operations per byte across, operations per second up, under what the machine can do."""
    limits = next(row for row in data["roofline"] if row["threads"] == 1)
    runs = [
        r for r in data["results"] if r["threads"] == 1 and r["isa"] == limits["isa"] and r["flops"] and r["nbytes"]
    ]
    figure, axes = plt.subplots(figsize=(7, 3.6))
    reach = [r["flops"] / r["nbytes"] for r in runs]
    ends = [min(reach) / 1.5, limits["fma_gflops"] / limits["read_gbs"], max(reach) * 1.5]
    axes.plot(ends, [min(limits["fma_gflops"], x * limits["read_gbs"]) for x in ends], color="black", linewidth=1)
    for side, colour, name in (("reference", COLOURS[3], "NumPy"), ("native", COLOURS[0], f"native, {limits['isa']}")):
        axes.scatter(reach, [r["flops"] / r[side] / 1e9 for r in runs], s=11, color=colour, label=name, linewidths=0)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte that must be moved", ylabel="GFLOP/s, one thread")
    axes.grid(linewidth=0.3)
    axes.legend(loc="lower right", fontsize=8)
    _save(figure, path)
