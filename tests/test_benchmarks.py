"""A light guard on speed: a few shapes with a wide margin, in turns and more than once, as a machine may be busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastattn
from fastattn import ops

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

import measuring  # noqa: E402
import op_cases  # noqa: E402

CASES = {case.label: case for case in op_cases.cases()}
GUARDED = [
    "scaled_dot_product_attention[B=1 H=8 T=512 S=512 D=64 causal]",
    "scaled_dot_product_attention[B=2 H=8/2 T=64 S=256 D=64 every option]",
    "additive_attention[B=4 T=32 S=32 C=256]",
    "gelu[32 × 2048]",
    "layer_norm[1024 × 768]",
    "log_softmax[4 × 58101]",
    "top_k[16 × 8000 k=8]",
    "gru[B=8 T=32 I=H=256]",
]
TRIES, MARGIN = 6, 1.2


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other are what a busy machine slows down most."""
    before = fastattn.get_num_threads()
    fastattn.set_num_threads(1)
    yield
    fastattn.set_num_threads(before)


def test_every_public_op_is_measured() -> None:
    measured = {case.name.split()[0] for case in CASES.values()}
    functions = {name for name in ops.__all__ if name[0].islower()}
    assert functions - measured <= {"swish", "pack"}, "swish is silu by another name; pack is no computation"


def ratios(isa: str, label: str) -> list[float]:
    """NumPy's time over native's, in turns, until one passes the margin."""
    fastattn.set_num_threads(1)
    found: list[float] = []
    with fastattn.isa.use(isa):
        while len(found) < TRIES and (not found or max(found) <= MARGIN):
            found.append(measuring.compare(CASES[label], rounds=3, least=0.002).ratio)
    return found


def ratios_held_to_avx2(label: str) -> list[float]:
    """The same in a process whose NumPy, too, is held to AVX2: its loops else use the widest vectors of the CPU."""
    names = np.show_config(mode="dicts")["SIMD Extensions"]["found"]  # type: ignore[index, call-overload]
    wider = " ".join(name for name in names if name.startswith("AVX512") or name == "X86_V4")
    held = {"NPY_DISABLE_CPU_FEATURES": wider, "OPENBLAS_CORETYPE": "Haswell"}
    code = f"import test_benchmarks; print(*test_benchmarks.ratios('avx2', {label!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=os.environ | held, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [float(ratio) for ratio in done.stdout.split()]


@pytest.mark.parametrize("label", GUARDED)
@pytest.mark.parametrize("isa", [name for name in fastattn.isa.available() if name != "generic"])
def test_native_is_faster_than_numpy(isa: str, label: str) -> None:
    held = isa == "avx2" and fastattn.isa.available()[0] != isa
    found = ratios_held_to_avx2(label) if held else ratios(isa, label)
    assert max(found) > MARGIN, f"{label} on {isa}: {found}"


def test_a_bundled_model_is_faster_than_numpy() -> None:
    native, reference = (fastattn.load("en-fr-bahdanau", backend=name) for name in ("native", "reference"))
    calls = [lambda model=model: model.generate("I am eating an apple") for model in (native, reference)]
    case = measuring.Case("generate", "one text", *calls)
    assert max(measuring.compare(case, rounds=3, least=0.002).ratio for _ in range(3)) > 1.2


def test_errors_are_those_of_the_results() -> None:
    native, reference, truth = np.float32([1, 2]), np.float32([1, 3]), np.array([1.0, 2.5])
    case = measuring.Case("x", "", lambda: (native,), lambda: (reference,), lambda: (truth,))
    assert measuring.errors(case) == (0.5, 0.5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_reference_that_fails_in_its_own_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "wait_for_calm", lambda patience=0.0: None)  # nothing is measured here
    case = measuring.Case("x", "", lambda: None, lambda: 1 / 0)
    fastattn.set_num_threads(2)
    with pytest.raises(RuntimeError, match="the process of the reference has died"):
        measuring.compare(case, rounds=1, least=0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_bytes_counts_what_a_call_takes() -> None:
    grown = measuring.peak_bytes(lambda: np.ones(4_000_000, np.float32).sum())
    assert grown is not None and 12e6 < grown < 40e6


def test_roofline() -> None:
    for threads in (1, 2):
        limits = fastattn.roofline(threads, seconds=0.01, megabytes=4)
        assert limits["threads"] == threads
        assert limits["fma_gflops"] > 0.1 and limits["read_gbs"] > 0.1
    with pytest.raises(fastattn.OptionError, match="num_threads: expected a positive number, got 0"):
        fastattn.roofline(0)
