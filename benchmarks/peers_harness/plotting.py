"""The plots of the peers' section: speed against batch, against context length, and against what memory allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plots  # the style of the other plots of docs/performance.md
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from peers_harness import limits, ratios, slope
from peers_harness.cases import Participant
from peers_harness.models import SHAPES
from peers_harness.targets import NAMES

SHOWN = {  # participant -> colour, line
    "fastattn/float32": ("#1f4e79", "-"),
    "fastattn/int8": ("#1f4e79", "--"),
    "fastattn/int4": ("#1f4e79", ":"),
    "ctranslate2/float32": ("#b5651d", "-"),
    "ctranslate2/int8": ("#b5651d", "--"),
    "torch/float32": ("#4f9d69", "-"),
    "ort/float32": ("#777777", "-"),
    "llamacpp/float32": ("#8e4585", "-"),
    "llamacpp/int8": ("#8e4585", "--"),
    "llamacpp/int4": ("#8e4585", ":"),
    "numpy/float32": ("#bbbbbb", "-"),
}
VARIANTS = {
    "ctranslate2-AVX512": "#c090c0",
    "ctranslate2-MKL": "#d4a017",
    "llamacpp-Q4_K_M": "#c71585",
}  # shown only under the limit of memory


def draw(results: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Writes what there are results for; gives title and file name of each."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for title, name, make in (
        ("tokens per second against batch", "peers-batch.svg", by_batch),
        ("tokens per second against context length", "peers-context.svg", by_context),
        ("time per token against context length", "peers-slope.svg", by_slope),
        ("steps per second under the limit of memory", "peers-limit.svg", by_limit),
    ):
        figure = make(results)
        if figure is not None:
            plots._save(figure, folder / name)
            found.append((title, name))
    return found


def _lines(axes: Any, results: dict[str, Any], entries: list[dict[str, Any]], key: str) -> None:
    for name, (colour, line) in SHOWN.items():
        points = [(e["case"][key], ratios.tokens_per_second(e, name)) for e in entries]
        known = sorted((x, y) for x, y in points if y is not None)
        if known:
            axes.plot(*zip(*known, strict=True), line, marker="o", markersize=3, color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({e["case"][key] for e in entries})
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xlabel({"batch": "sequences at once", "context": "tokens of source or prompt"}[key])


def _panels(results: dict[str, Any], key: str, fits: Any, ylabel: str) -> Any:
    """One panel per model that has at least two points."""
    entries = {m: [e for e in results["cases"].values() if e["case"]["model"] == m and fits(e["case"])] for m in NAMES}
    entries = {m: es for m, es in entries.items() if len({e["case"][key] for e in es}) > 1}
    if not entries:
        return None
    figure, panels = plt.subplots(1, len(entries), figsize=(3.2 * len(entries) + 0.6, 3.2), squeeze=False)
    for axes, (model, found) in zip(panels[0], entries.items(), strict=True):
        _lines(axes, results, found, key)
        axes.set_title(NAMES[model])
    panels[0][0].set_ylabel(ylabel)
    panels[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def by_batch(results: dict[str, Any]) -> Any:
    return _panels(results, "batch", lambda case: case["beams"] == 1 and case["context"] == 32, "tokens per second")


def by_context(results: dict[str, Any]) -> Any:
    return _panels(results, "context", lambda case: case["beams"] == 1 and case["batch"] == 1, "tokens per second")


def by_slope(results: dict[str, Any]) -> Any:
    found = {m: {n: p for n, p in t.items() if not isinstance(p, str)} for m, t in results["slopes"].items()}
    found = {m: types for m, types in found.items() if types}
    if not found:
        return None
    figure, panels = plt.subplots(1, len(found), figsize=(3.2 * len(found) + 0.6, 3.2), squeeze=False)
    for axes, (model, types) in zip(panels[0], found.items(), strict=True):
        for i, (name, points) in enumerate(types.items()):
            colour = plots.COLOURS[i % len(plots.COLOURS)]
            start, each, _ = slope.fit(points, 2)
            xs = [x for x, *_ in points]
            axes.plot(xs, [y / 1e6 for *_, y in points], "o", markersize=3, color=colour, label=name)
            axes.plot(xs, [(start + each * x) / 1e6 for x in xs], "-", linewidth=0.8, color=colour)
        axes.set_title(NAMES[model])
        axes.set_xlabel("tokens in the cache")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
    panels[0][0].set_ylabel("time per token × bandwidth beside it, MB")
    return figure


def _ticks(axes: Any) -> None:
    """Both axes logarithmic, with plain numbers 1, 2, 5, 10 …"""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def by_limit(results: dict[str, Any]) -> Any:
    """Every engine's steps per second at batch 1 over the bytes of a step; the line is the memory's bandwidth."""
    points: dict[str, list[tuple[float, float]]] = {}
    for entry in results["cases"].values():
        case = ratios.case_of(entry)
        if (case.batch, case.beams, case.context) != (1, 1, 32):
            continue
        for name in ratios.participants(entry):
            step = ratios.seconds_per_step(entry, name)
            if step is not None:
                held = limits.held_as(case.model, Participant.parse(name))
                size = limits.step_bytes(case.model, held, 1, 1, 32, case.new)
                points.setdefault(name.partition("/")[0], []).append((size / 1e6, 1 / step))
    if not points:
        return None
    figure, axes = plt.subplots(figsize=(5.5, 3.6))
    span = [
        min(x for found in points.values() for x, _ in found),
        max(x for found in points.values() for x, _ in found),
    ]
    read = limits.bandwidth(results, results["threads"]) / 1e6
    axes.plot(
        span, [read / x for x in span], "-", color="#444444", linewidth=0.8, label=f"memory, {read / 1e3:.0f} GB/s"
    )
    for engine, found in points.items():
        colour = VARIANTS.get(engine) or SHOWN[f"{engine}/float32"][0]
        axes.plot(*zip(*found, strict=True), "o", markersize=4, color=colour, label=engine)
    _ticks(axes)
    axes.set_xlabel("MB a step must read (batch 1)")
    axes.set_ylabel("steps per second")
    axes.legend(fontsize=7)
    return figure


assert set(NAMES) == set(SHAPES)
