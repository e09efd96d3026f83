"""How a native call and its NumPy counterpart are compared: in turns, so that other work falls on both."""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastattn

Work = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One thing that both do.

    truth: the same in float64, where there is one. flops, nbytes(): what it must at least compute, and read or write;
    0 where that says nothing.
    """

    name: str
    shape: str
    native: Work
    reference: Work
    truth: Work | None = None
    flops: float = 0.0
    nbytes: Callable[[], float] = float

    @property
    def label(self) -> str:
        return f"{self.name}[{self.shape}]"


@dataclass(frozen=True)
class Timing:
    """Medians in seconds per call; ratio is the median over the rounds of reference / native."""

    native: float
    reference: float
    ratio: float


def seconds_of(work: Work, calls: int) -> float:
    """Seconds per call of `calls` in a row.

    On one thread the time that the processor was really given, so that waiting for it on a busy machine does not count.
    """
    clock = time.thread_time if fastattn.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    for _ in range(calls):
        work()
    return (clock() - begin) / calls


def calls_for(work: Work, least: float) -> int:
    """How many calls in a row take at least so many seconds; warms up on the way."""
    work()
    calls = 1
    while (took := seconds_of(work, calls) * calls) < least:
        calls = max(calls + 1, int(calls * min(1.2 * least / max(took, 1e-7), 10)))
    return calls


def compare(case: Case, rounds: int = 7, least: float = 0.01) -> Timing:
    """Native, reference, native, reference …; every turn lasts at least `least` seconds."""
    native, reference = calls_for(case.native, least), calls_for(case.reference, least)
    turns = [(seconds_of(case.native, native), seconds_of(case.reference, reference)) for _ in range(rounds)]
    ratios = [b / a for a, b in turns]
    return Timing(*(statistics.median(side) for side in zip(*turns, strict=True)), statistics.median(ratios))


def errors(case: Case) -> tuple[float, float] | None:
    """Largest absolute difference from float64, of native and of the float32 reference."""
    if case.truth is None:
        return None
    truth = case.truth()
    return _distance(case.native(), truth), _distance(case.reference(), truth)


def _distance(found: Any, truth: Any) -> float:
    pairs = zip(_arrays(found), _arrays(truth), strict=True)
    return max((float(np.max(np.abs(a - b), initial=0.0)) for a, b in pairs), default=0.0)


def _arrays(result: Any) -> Iterator[Any]:
    if isinstance(result, (tuple, list)):
        for part in result:
            yield from _arrays(part)
    else:
        yield result


def peak_bytes(work: Work) -> int | None:
    """By how much one call raises the memory this process holds, at its highest; to the page. None where not Linux."""
    if sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark, see proc(5)
    before = _status("VmRSS")
    work()
    return max(_status("VmHWM") - before, 0)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))
