"""Figures out of raw results: rates, paired ratios with their spread, shares of the limit, errors."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from peers_harness import limits
from peers_harness.cases import Case, Participant

Entry = dict[str, Any]
DISTURBED = 0.12  # share of the processors that other programs took during a turn
QUIET = 0.3  # turns with more noise than this do not count where there are three quieter ones


@dataclass(frozen=True)
class Ratio:
    """How many times faster ours is: median and quartiles of the ratios within a round. Fewer than three rounds have no
    quartiles to speak of: then the median alone is shown."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        text = number(self.median)
        if self.rounds >= 3:
            text += f" ({number(self.low)}–{number(self.high)})"
        return f"**{text}**" if self.median < 1 else text


def number(x: float) -> str:
    """Three digits where they say something."""
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def case_of(entry: Entry) -> Case:
    return Case(**entry["case"])


def turns(entry: Entry, name: str) -> list[list[Any]]:
    found = [turns[name] for sitting in entry["sittings"] for turns in sitting if name in turns]
    quiet = [turn for turn in found if turn[2] <= QUIET]
    return quiet if len(quiet) >= 3 else found


def participants(entry: Entry) -> list[str]:
    """Names of all that were measured."""
    return list(dict.fromkeys(name for sitting in entry["sittings"] for turns in sitting for name in turns))


def ratio(entry: Entry, ours: str, peer: str) -> Ratio | None:
    """Their seconds over ours, round by round; None where they never took turns."""
    pairs = [(t[ours], t[peer]) for sitting in entry["sittings"] for t in sitting if ours in t and peer in t]
    quiet = [(a, b) for a, b in pairs if max(a[2], b[2]) <= QUIET]
    found = [b[0] / a[0] for a, b in (quiet if len(quiet) >= 3 else pairs)]
    if not found:
        return None
    low, _, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else (found[0],) * 3
    return Ratio(statistics.median(found), low, high, len(found))


def disturbed(entries: list[Entry]) -> tuple[int, int]:
    """How many of the turns that count had other programs on the processors, and of how many."""
    noises = [turn[2] for entry in entries for name in participants(entry) for turn in turns(entry, name)]
    return sum(noise > DISTURBED for noise in noises), len(noises)


def tokens_per_second(entry: Entry, name: str) -> float | None:
    """Of all sequences together, the whole call: encoder or prompt, steps, and the Python around them."""
    found, case = turns(entry, name), case_of(entry)
    return case.batch * case.new / statistics.median(t[0] for t in found) if found else None


def seconds_per_step(entry: Entry, name: str) -> float | None:
    """Of a call for many tokens less a call for one, over the steps between: decoding without encoder or prompt."""
    found, case = turns(entry, name), case_of(entry)
    firsts = [t[1] for t in found if t[1] is not None]
    if not firsts:
        return None
    seconds = statistics.median(t[0] for t in found) - statistics.median(firsts)
    return seconds / (case.new - 1) if seconds > 0 else None


def first_seconds(entry: Entry, name: str) -> float | None:
    """Until the first token: encoder or prompt, and one step."""
    firsts = [t[1] for t in turns(entry, name) if t[1] is not None]
    return statistics.median(firsts) if firsts else None


def share(results: dict[str, Any], entry: Entry, name: str, cached: bool = False) -> float | None:
    """What the bandwidth would need for a step over what the step takes: the bandwidth measured beside each turn, median of the
    turns. cached: the run's best bandwidth of as many bytes as the step reads, which a large cache makes higher than that
    of the memory."""
    case, step = case_of(entry), seconds_per_step(entry, name)
    if step is None:
        return None
    held = limits.held_as(case.model, Participant.parse(name))
    size = limits.step_bytes(case.model, held, case.batch, case.beams, case.context, case.new)
    first = first_seconds(entry, name) or 0.0
    beside = [(turn[0], turn[3]) for turn in turns(entry, name) if len(turn) > 3 and turn[0] > first]
    if beside and not cached:
        return statistics.median(size * (case.new - 1) / (1e9 * gbs * (seconds - first)) for seconds, gbs in beside)
    megabytes = size / 1e6 if cached else limits.MEMORY
    return size / limits.bandwidth(results, case.threads, megabytes) / step


def largest_error(results: dict[str, Any], model: str, name: str) -> float | None:
    """Largest difference of a token's log-probability from float32 PyTorch."""
    truth = results["engines"].get(f"{model} torch/float32", {}).get("log_probs")
    found = results["engines"].get(f"{model} {name}", {}).get("log_probs")
    if not truth or not found:
        return None
    return max(abs(a - b) for x, y in zip(found, truth, strict=True) for a, b in zip(x, y, strict=True))


def agreement(entries: list[Entry], name: str) -> float | None:
    """Share of a model's generated tokens that come before the first one that differs from float32 PyTorch's, all cases."""
    same = total = 0
    for entry in entries:
        truth, found = entry["ids"].get("torch/float32"), entry["ids"].get(name)
        for x, y in zip(found or [], truth or [], strict=False):
            differs = next((i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(y))
            same, total = same + differs, total + len(y)
    return same / total if total else None
