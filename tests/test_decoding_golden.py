"""Decoding against Hugging Face: cases.json.gz holds what `generate` of transformers 4.57.6 returned (see
golden/decoding/make.py)."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import TableSession, random_table

from fastattn.decoding import GenerationOptions, Hypothesis, generate

CASES = json.loads(gzip.decompress((Path(__file__).parent / "golden/decoding/cases.json.gz").read_bytes()))


def decode(case: dict[str, Any], rows: slice = slice(None)) -> list[list[Hypothesis]]:
    model, inputs = case["model"], case["inputs"][rows]
    table = random_table(
        model["seed"], model["rows"], model["vocabulary"], model["sharpness"], tuple(model["eos"]), model["boost"]
    )
    session = TableSession(table)
    arrays = [np.array(ids, np.int32) for ids in inputs]
    if model["encoder"]:
        session.encode(arrays)
        arrays = [np.array([model["start"]], np.int32) for _ in inputs]
    else:
        session.start(len(inputs))
    options = GenerationOptions(
        **case["options"],
        eos_token_id=model["eos"] or None,
        vocab_size=model["vocabulary"],
        pad_token_id=model["vocabulary"] - 1,
    )
    return generate(session, arrays, options)


def ids(hypothesis: Hypothesis) -> list[int]:
    """As in the file: with the end token."""
    return hypothesis.token_ids + ([] if hypothesis.end_token is None else [hypothesis.end_token])


def exists(score: float) -> bool:
    """Where fewer sequences could end than were asked for, Hugging Face gives leftovers scored -1e9; we give empty
    ones."""
    return score > -1e8


@pytest.mark.parametrize("part", range(8))
def test_ids_and_scores_equal_hugging_face(part: int) -> None:
    for case in CASES[part::8]:
        found = [h for group in decode(case) for h in group]
        scores = case["scores"] or [0.0] * len(found)
        assert len(found) == len(scores)
        for hypothesis, expected, score in zip(found, case["ids"], scores, strict=True):
            assert ids(hypothesis) == (expected if exists(score) else []), case
        if case["scores"] is not None:
            np.testing.assert_allclose([h.score for h in found], scores, rtol=2e-5, atol=2e-5, err_msg=str(case))


def test_an_input_alone_gives_the_same_as_in_the_batch() -> None:
    for case in CASES[::7]:
        batch = decode(case)
        for i in range(len(batch)):
            assert decode(case, slice(i, i + 1)) == [batch[i]]


def test_cases_cover_what_they_should() -> None:
    used = Counter(name for case in CASES for name in case["options"])
    assert min(used.values()) > 10, used
    assert {case["options"]["num_beams"] for case in CASES} == {1, 2, 4, 5}
    assert {len(case["model"]["eos"]) for case in CASES} == {0, 1, 2, 3}
    assert sum(not exists(score) for case in CASES for score in case["scores"] or []) < 100
