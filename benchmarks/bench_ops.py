"""Every public op, in several shapes, on every instruction set, against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from measuring import Case
from op_cases import cases


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.label)
def bench_op(case: Case, measured: Callable[[Case], None]) -> None:
    measured(case)
