"""Whole models on every instruction set, against the same graphs in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from decoding_cases import cases
from measuring import Case


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.label)
def bench_decoding(case: Case, measured: Callable[[Case], None]) -> None:
    measured(case)
