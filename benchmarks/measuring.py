"""How a native call and its NumPy counterpart are compared: in turns, so that other work falls on both."""

from __future__ import annotations

import ctypes
import os
import statistics
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

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
    if fastattn.get_num_threads() == 1:
        native, reference = calls_for(case.native, least), calls_for(case.reference, least)
        turns = [(seconds_of(case.native, native), seconds_of(case.reference, reference)) for _ in range(rounds)]
    else:
        turns = _turns_apart(case, rounds, least)
    return _timing(turns)


def compare_here(case: Case, rounds: int = 7, least: float = 0.01) -> Timing:
    """The same, in this process with any number of threads: PyTorch brings an OpenMP pool that does not survive a fork."""
    native, reference = calls_for(case.native, least), calls_for(case.reference, least)
    turns = []
    for _ in range(rounds):
        time.sleep(CALM)
        first = _warm(case.native, native)
        time.sleep(CALM)
        turns.append((first, _warm(case.reference, reference)))
    return _timing(turns)


def _warm(work: Work, calls: int) -> float:
    work()
    return seconds_of(work, calls)


def _timing(turns: list[tuple[float, float]]) -> Timing:
    ratios = [b / a for a, b in turns]
    return Timing(*(statistics.median(side) for side in zip(*turns, strict=True)), statistics.median(ratios))


CALM = 0.06  # seconds until the threads of BLAS, which spin for a while after their work, are asleep


def wait_for_calm(patience: float = 20.0) -> None:
    """Sleeps until the machine has been idle for a moment: one more busy process stalls all that wait for each other."""
    end = time.monotonic() + patience
    while True:
        before = _idle()
        time.sleep(CALM)
        if _idle() - before >= 0.8 * CALM * (os.cpu_count() or 1) or time.monotonic() > end:
            return


def _idle() -> float:
    """Seconds all CPUs together have been idle; where the system does not say, always."""
    if sys.platform != "linux":
        return time.monotonic() * (os.cpu_count() or 1)
    return int(Path("/proc/stat").read_text().split(maxsplit=5)[4]) / os.sysconf("SC_CLK_TCK")


def _turns_apart(case: Case, rounds: int, least: float) -> list[tuple[float, float]]:
    """With several threads the reference has a process of its own: one library's spinning threads are in the other's way."""
    ask, asked = os.pipe()
    answer, answered = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(asked)
        os.close(answer)
        _answer_questions(case.reference, least, ask, answered)
    os.close(ask)
    os.close(answered)

    def reference() -> float:
        found = _question(asked, answer)
        if len(found) < 8:
            raise RuntimeError(f"{case.label}: the process of the reference has died, see the standard error")
        return float(struct.unpack("d", found)[0])

    try:
        wait_for_calm()
        native = calls_for(case.native, least)
        reference()  # counts its calls
        turns = []
        for _ in range(rounds):
            wait_for_calm(1.0)
            first = seconds_of(case.native, native)
            wait_for_calm(1.0)
            turns.append((first, reference()))
    finally:
        os.close(asked)  # ends the child
        os.close(answer)
        os.waitpid(child, 0)
    return turns


def _answer_questions(work: Work, least: float, ask: int, answered: int) -> NoReturn:
    """The child: a time for every question. Whatever happens it ends here, and does not go on as a copy of its parent."""
    status = 1
    try:
        calls = 0
        while os.read(ask, 1) == b"?":
            calls = calls or calls_for(work, least)
            os.write(answered, struct.pack("d", seconds_of(work, calls)))
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _question(asked: int, answer: int) -> bytes:
    """The child's answer, nothing if it has died."""
    try:
        os.write(asked, b"?")
    except BrokenPipeError:
        return b""
    return os.read(answer, 8)


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
