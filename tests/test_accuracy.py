"""Accuracy beside speed: what benchmarks/accuracy.py measures, and the bounds it must stay in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import fastattn

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="benchmarks/ is not beside the tests")

# of the range of logits, and changed translations of a hundred; a bound of twice what is found leaves room for other machines
BOUNDS = {"float32": (0.0, 0.0), "bfloat16": (0.01, 0.2), "int8": (0.03, 1.0), "int4": (0.2, 2.0)}


@pytest.mark.parametrize("name", fastattn.bundled_models())
def test_small_types_change_few_translations(name: str) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import accuracy
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    rows = list(accuracy.rows(name))
    assert [row.compute_type for row in rows] == list(BOUNDS)
    for row in rows:
        error, changed = BOUNDS[row.compute_type]
        assert row.sentences == 2000 and row.tokens >= 1000
        assert row.logit_error <= error * row.logit_range
        assert row.changed <= changed / 100 * row.sentences
        assert row.agreed >= 0.99 * row.tokens and row.right >= 0.97 * row.sentences
    assert [row.megabytes for row in rows] == sorted((row.megabytes for row in rows), reverse=True)
    table = list(accuracy.table(rows))
    assert len(table) == 6 and all(line.count("|") == 9 for line in table)


def test_the_page_holds_every_model_and_type() -> None:
    page = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    for name in fastattn.bundled_models():
        assert all(f"| {name} | {kind} |" in page for kind in BOUNDS)
