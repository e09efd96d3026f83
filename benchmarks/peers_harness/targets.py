"""What the engine is to reach against the peers and against the limit, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from peers_harness import ratios, slope
from peers_harness.cases import Case

CTRANSLATE2 = ("ctranslate2", "ctranslate2-AVX512", "ctranslate2-MKL")
NAMES = {
    "marian-base": "Marian base",
    "t5-small": "T5-small",
    "gpt2-small": "GPT-2 small",
    "llama-1b": "Llama shape, 1 billion",
}


@dataclass(frozen=True)
class Verdict:
    """One row: measured is None where nothing was measured."""

    text: str
    target: str
    measured: str | None
    met: bool | None


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    return [*_against_ctranslate2(results), *_everywhere(results), *_shares(results), *_lines(results)]


def _entry(results: dict[str, Any], model: str, batch: int, beams: int) -> Any:
    return results["cases"].get(Case(model, batch, beams, 32, 0, threads=results["threads"]).label)


def _against_ctranslate2(results: dict[str, Any]) -> Iterator[Verdict]:
    """The best of CTranslate2's three variants is who counts."""
    for model, batch, beams, dtype, least in (
        ("marian-base", 1, 1, "float32", 1.25), ("marian-base", 1, 1, "int8", 2.0),
        ("marian-base", 16, 1, "float32", 2.0), ("marian-base", 16, 1, "int8", 1.5),
        ("marian-base", 1, 4, "float32", 1.6), ("marian-base", 1, 4, "int8", 2.0),
        ("t5-small", 1, 1, "float32", 1.25), ("t5-small", 1, 1, "int8", 1.9),
        ("gpt2-small", 1, 1, "float32", 1.05), ("gpt2-small", 1, 1, "int8", 1.4),
    ):  # fmt: skip
        entry = _entry(results, model, batch, beams)
        found = [ratios.ratio(entry, f"fastattn/{dtype}", f"{peer}/{dtype}") for peer in CTRANSLATE2] if entry else []
        known = [ratio for ratio in found if ratio]
        text = f"{NAMES[model]}, batch {batch}{', beam 4' if beams > 1 else ''}, {dtype}, against CTranslate2"
        if not known:
            yield Verdict(text, f"{least} ×", None, None)
            continue
        worst = min(known, key=lambda ratio: ratio.median)
        yield Verdict(text, f"{least} ×", f"{worst} ×", worst.median >= least)


def _everywhere(results: dict[str, Any]) -> Iterator[Verdict]:
    """The worst case of all is who counts."""
    against = [
        (dtype, f"{peer}/float32", f"{title} float32", least)
        for peer, title in (("torch", "PyTorch"), ("ort", "ONNX Runtime"))
        for dtype, least in (("float32", 1.5), ("int8", 3.0))
    ]
    against += [
        (dtype, peer, f"llama.cpp {name}", 1.0)
        for dtype, peer, name in (
            ("float32", "llamacpp/float32", "float32"), ("bfloat16", "llamacpp/bfloat16", "bfloat16"),
            ("int8", "llamacpp/int8", "Q8_0"), ("int4", "llamacpp/int4", "Q4_0"),
            ("int4", "llamacpp-Q4_K_M/int4", "Q4_K_M"),
        )
    ]  # fmt: skip
    for dtype, peer, title, least in against:
        pairs = [(ratios.ratio(entry, f"fastattn/{dtype}", peer), label) for label, entry in results["cases"].items()]
        found = sorted(((ratio.median, label) for ratio, label in pairs if ratio))
        text = f"every case, {dtype}, against {title}"
        if not found:
            yield Verdict(text, f"{least} ×", None, None)
            continue
        reached = sum(median >= least for median, _ in found)
        worst = f"{reached} of {len(found)}; worst {ratios.number(found[0][0])} × ({found[0][1]})"
        yield Verdict(text, f"{least} ×", worst, reached == len(found))


def _shares(results: dict[str, Any]) -> Iterator[Verdict]:
    for model in NAMES:
        for dtype, least in (("float32", 0.80), ("int8", 0.65)):
            entry = _entry(results, model, 1, 1)
            share = ratios.share(results, entry, f"fastattn/{dtype}") if entry else None
            text = f"{NAMES[model]}, batch 1, {dtype}: share of the memory's limit"
            measured = None if share is None else f"{share:.0%}".replace("%", " %")
            yield Verdict(text, f"{least:.0%}".replace("%", " %"), measured, None if share is None else share >= least)


def _lines(results: dict[str, Any]) -> Iterator[Verdict]:
    for model, types in results["slopes"].items():
        for name, points in types.items():
            if isinstance(points, str) or len(points) < 3:
                continue
            straight = slope.fit(points, 2)[2]
            text = f"{NAMES[model]}, {name.partition('/')[2]}: time per token, in bytes of weights, is a line in the context"
            yield Verdict(text, "R² ≥ 0.98", f"R² = {straight:.3f}", straight >= 0.98)


def rows(results: dict[str, Any], also: Callable[[dict[str, Any]], list[Verdict]] | None = None) -> list[list[str]]:
    """The table: target, measured, met or not; what is not met, or was not measured, in bold."""
    found = []
    for verdict in [*verdicts(results), *(also(results) if also else [])]:
        measured = verdict.measured or "not measured"
        met = "yes" if verdict.met else "**no**" if verdict.met is not None else "**?**"
        found.append([verdict.text, verdict.target, measured, met])
    return found
