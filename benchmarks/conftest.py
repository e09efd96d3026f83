"""`pytest benchmarks` runs every case once; `pytest benchmarks --benchmark-enable` measures.

Threads of both sides: OMP_NUM_THREADS. The figures of a run: --benchmark-json FILE, read by report.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from measuring import Case, compare, errors, peak_bytes
from roofline import isas

import fastattn


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")


@pytest.fixture(params=isas())
def isa(request: pytest.FixtureRequest) -> Any:
    with fastattn.isa.use(request.param):
        yield request.param


@pytest.fixture
def measured(benchmark: Any, isa: str) -> Callable[[Case], None]:
    """Measures a case: native by pytest-benchmark, and native and reference in turns for the ratio."""

    def measure(case: Case) -> None:
        if benchmark.disabled:
            case.reference()
            benchmark(case.native)
            return
        error = errors(case)
        memory = [peak_bytes(case.native), peak_bytes(case.reference)]
        timing = compare(case)
        benchmark.extra_info.update(
            op=case.name,
            shape=case.shape,
            isa=isa,
            threads=fastattn.get_num_threads(),
            native=timing.native,
            reference=timing.reference,
            ratio=timing.ratio,
            flops=case.flops,
            nbytes=case.nbytes(),
            errors=error,
            memory=memory,
        )
        calls = max(1, int(0.01 / timing.native))
        benchmark.pedantic(case.native, rounds=3, iterations=calls)

    return measure
