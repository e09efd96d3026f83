"""measure this machine: native against the NumPy reference, or op by op where a model's time goes"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastattn.cli.console import Progress, at_least, columns, print_json
from fastattn.cli.loading import bar
from fastattn.packing import COMPUTE_TYPES
from fastattn.runtime import CACHE_TYPES

if TYPE_CHECKING:
    from fastattn.profile import Profile

SENTENCES = [
    "I am eating an apple.",
    "The little girl is drinking water in the garden.",
    "He does not like the old red cars.",
    "Are your friends reading a book today?",
]
NEW_TOKENS = 32
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One thing to measure, done by both. flops: what it must at least compute, 0 where not counted."""

    name: str
    shape: str
    native: Callable[[], object]
    reference: Callable[[], object]
    flops: float = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, small shapes, one model")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")
    parser.add_argument(
        "--profile",
        metavar="MODEL",
        help="instead: time, traffic and share of the machine's limit of each op of a model",
    )
    parser.add_argument("--beams", type=at_least(1), default=1, metavar="N", help="beams for --profile (default: 1)")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="threads to use (default: the CPUs available)")
    parser.add_argument("--compute-type", choices=COMPUTE_TYPES, help="how the models' matrices are kept")
    parser.add_argument("--cache-type", choices=CACHE_TYPES, default="float32", help="keys and values, with --profile")


def run(arguments: argparse.Namespace) -> None:
    """Both take turns case by case, so that what else the machine does falls on both."""
    import fastattn

    if arguments.threads:
        fastattn.set_num_threads(arguments.threads)
    if arguments.profile:
        with bar(f"loading {arguments.profile}") as packing:
            options = {"compute_type": arguments.compute_type, "cache_type": arguments.cache_type}
            model = fastattn.load(arguments.profile, progress=packing, **options)
        profile = model.profile(num_beams=arguments.beams)
        if arguments.json:
            print_json(as_json(profile))
        else:
            print(profile)
        return
    limits = fastattn.roofline()
    rows = []
    cases = [*op_cases(arguments.quick), *decoding_cases(arguments.quick, arguments.compute_type)]
    progress = Progress("measurements", len(cases), few=0)
    try:
        for done, case in enumerate(cases):
            progress.update(done)
            rows.append(measure(case, limits, arguments.quick))
    finally:
        progress.close()
    report = {"machine": machine(limits), "results": rows}
    if arguments.json:
        print_json(report)
    else:
        print(as_text(report))


def as_json(profile: Profile) -> dict[str, Any]:
    """The profile as plain values; times in seconds."""
    outside, python = profile.outside_kernels, profile.in_python
    return {**asdict(profile), "outside_kernels_per_step": outside, "python_per_step": python}


def machine(limits: dict[str, Any]) -> dict[str, Any]:
    """What the figures depend on."""
    import fastattn

    return {
        "cpu": _cpu_name(),
        "isa": fastattn.isa.active(),
        "threads": int(limits["threads"]),
        "fma_gflops": float(limits["fma_gflops"]),
        "read_gbs": float(limits["read_gbs"]),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fastattn": fastattn.__version__,
    }


def measure(case: Case, limits: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Medians in seconds of native and reference, in turns."""
    rounds, least = (3, 0.002) if quick else (9, 0.01)
    calls = [(work, repetitions(work, least)) for work in (case.native, case.reference)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for (work, times), kept in zip(calls, seconds, strict=True):
            kept.append(timed(work, times))
    native, reference = map(statistics.median, seconds)
    peak = float(limits["fma_gflops"]) * 1e9
    return {
        "name": case.name,
        "shape": case.shape,
        "native_s": native,
        "reference_s": reference,
        "speedup": reference / native,
        "of_peak": case.flops / native / peak if case.flops and peak else None,
    }


def repetitions(work: Callable[[], object], least: float) -> int:
    """How many calls in a row take at least so many seconds; also warms up."""
    work()
    times = 1
    while (seconds := timed(work, times) * times) < least:
        times = max(times + 1, round(times * min(least / max(seconds, 1e-9), 8.0) * 1.1))
    return times


def timed(work: Callable[[], object], times: int) -> float:
    """Seconds per call."""
    begin = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begin) / times


def op_cases(quick: bool) -> Iterator[Case]:
    """The public attention ops in the shapes of a translator: a step of decoding and a whole sentence."""
    from fastattn import ops, reference

    rng = np.random.default_rng(0)

    def floats(*shape: int) -> Floats:
        return rng.standard_normal(shape, np.float32)

    def case(name: str, shape: str, flops: float, *inputs: Any, kind: str = "", **options: Any) -> Case:
        native, plain = getattr(ops, name), getattr(reference, name)
        if kind:
            options["score"] = kind
        label = f"{name}, {kind}" if kind else name
        return Case(label, shape, lambda: native(*inputs, **options), lambda: plain(*inputs, **options), flops)

    H, D = 8, 64
    C = H * D
    for T, S in [(1, 128), (64, 64)] if quick else [(1, 128), (1, 2048), (64, 64), (512, 512)]:
        qkv = (floats(1, H, T, D), floats(1, H, S, D), floats(1, H, S, D))
        yield case("scaled_dot_product_attention", f"H={H} T={T} S={S} D={D}", 4.0 * H * T * S * D, *qkv)
    T = 32 if quick else 128
    x, weights = floats(1, T, C), (floats(3 * C, C) / 16, floats(3 * C), floats(C, C) / 16, floats(C), H)
    yield case("multi_head_attention", f"T=S={T} C={C} H={H}", 8.0 * T * C * C + 4.0 * T * T * C, x, x, x, *weights)
    B, S, C = (4, 32, 256) if quick else (16, 64, 512)
    query, keys, W, v, shape = floats(B, C), floats(B, S, C), floats(C, C) / 16, floats(C), f"B={B} S={S} C={C}"
    sums, maps = 4.0 * B * S * C, 2.0 * B * C * C
    yield case("additive_attention", shape, maps * (S + 1) + sums, query, keys, W, W, v)
    yield case("luong_attention", shape, sums, query, keys, kind="dot")
    yield case("luong_attention", shape, maps + sums, query, keys, kind="general", W=W)
    yield case(
        "luong_attention", shape, maps * (S + 1) + sums, query, keys, kind="concat", W=floats(C, 2 * C) / 16, v=v
    )
    yield case("attentional_state", f"B={B} C={C}", 2 * maps, query, floats(B, C), floats(C, 2 * C) / 16)
    yield case("softmax", "4 × 8000" if quick else "4 × 58101", 0.0, floats(4, 8000 if quick else 58101))


def decoding_cases(quick: bool, compute_type: str | None = None) -> Iterator[Case]:
    """The bundled models, whole sentences from text to text."""
    import fastattn

    for name in fastattn.bundled_models()[: 1 if quick else None]:
        native = fastattn.load(name, compute_type=compute_type)
        plain = fastattn.load(name, compute_type=compute_type, backend="reference")
        for sentences, beams in [(1, 1), (4, 4)] if quick else [(1, 1), (1, 4), (4, 1), (4, 4)]:
            texts = SENTENCES[:sentences]

            def work(model: Any, texts: list[str] = texts, beams: int = beams) -> Callable[[], object]:
                return lambda: model.generate(texts, num_beams=beams, max_new_tokens=NEW_TOKENS)

            yield Case(name, f"{sentences} texts, {beams} beams", work(native), work(plain))


def as_text(report: dict[str, Any]) -> str:
    """The machine, then a table; the last column is the share of the machine's multiply-adds."""
    m = report["machine"]
    head = (
        f"{m['cpu']}, {m['threads']} threads, {m['isa']}; Python {m['python']}, NumPy {m['numpy']}\n"
        f"multiply-adds: {m['fma_gflops']:.0f} GFLOP/s; reading memory: {m['read_gbs']:.1f} GB/s\n"
        "median of several turns each; NumPy with the threads its own libraries take"
    )
    rows = [["", "shape", "native", "NumPy", "faster", "of peak"]]
    for r in report["results"]:
        share = "" if r["of_peak"] is None else f"{100 * r['of_peak']:.0f} %"
        times = [_time(r["native_s"]), _time(r["reference_s"])]
        rows.append([r["name"], r["shape"], *times, f"{r['speedup']:.1f} ×", share])
    return f"{head}\n\n{columns(rows, right=[2, 3, 4, 5])}"


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _cpu_name() -> str:
    """The processor's marketing name where the system tells it."""
    if sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if line.startswith("model name"):
                        return " ".join(line.split(":", 1)[1].split())
        except OSError:
            pass
    return platform.processor() or platform.machine()
