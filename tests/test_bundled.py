"""The bundled models: native ids against PyTorch's on 2,000 held-out sentences each, and what their attention shows.

golden/make_bundled.py made the files with PyTorch; examples/train/ made the models.
"""

from __future__ import annotations

import gzip
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn

ROOT = Path(__file__).parents[1]
NAMES = ["en-fr-bahdanau", "en-fr-luong", "en-fr-transformer"]


@pytest.fixture(scope="module", params=NAMES)
def held_out(request: pytest.FixtureRequest) -> tuple[fastattn.Model, dict[str, Any]]:
    golden = Path(__file__).parent / "golden" / "bundled" / f"{request.param}.json.gz"
    return fastattn.load(request.param), json.loads(gzip.decompress(golden.read_bytes()))


def test_the_three_are_bundled_and_small() -> None:
    assert fastattn.bundled_models() == NAMES
    for name in NAMES:
        folder = Path(fastattn.__file__).parent / "bundled" / name
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 4_000_000
        assert "held-out" in (folder / "README.md").read_text().lower()


def test_greedy_ids_equal_pytorchs_and_are_right(held_out: tuple[fastattn.Model, dict[str, Any]]) -> None:
    model, golden = held_out
    english, french, ids = (list(column) for column in zip(*golden["sentences"], strict=True))
    assert len(english) == 2000
    results = model.generate(english, num_beams=1, batch_size=64)
    assert [g.token_ids for g in results] == ids
    exact = sum(g.text == text for g, text in zip(results, french, strict=True))
    assert exact >= 0.98 * len(english)
    beams = model.generate(english, num_beams=4, batch_size=64)
    assert sum(g.text == text for g, text in zip(beams, french, strict=True)) >= exact


@pytest.mark.parametrize("isa", fastattn.isa.available())
def test_every_instruction_set_and_the_reference_give_the_same_ids(
    held_out: tuple[fastattn.Model, dict[str, Any]], isa: str
) -> None:
    model, golden = held_out
    sample = golden["sentences"][::40]
    with fastattn.isa.use(isa):
        assert [g.token_ids for g in model.generate([s[0] for s in sample])] == [s[2] for s in sample]


def test_the_reference_backend_gives_the_same_ids(held_out: tuple[fastattn.Model, dict[str, Any]]) -> None:
    model, golden = held_out
    sample = golden["sentences"][::100]
    reference = fastattn.load(model.name, backend="reference")
    assert [g.token_ids for g in reference.generate([s[0] for s in sample])] == [s[2] for s in sample]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beams", [1, 4])
def test_the_first_sentence(name: str, beams: int) -> None:
    model = fastattn.load(name)
    assert model.generate("I am eating an apple", num_beams=beams).text == "je mange une pomme"
    assert "".join(model.stream("I am eating an apple")) == "je mange une pomme"


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_what_bahdanaus_model_attends_to(backend: str) -> None:
    g = fastattn.load("en-fr-bahdanau", backend=backend).generate("I am eating an apple", return_attention=True)
    assert g.attention is not None and g.attention.cross is not None
    source, target = list(g.attention.source_tokens), list(g.attention.target_tokens)
    assert target == g.tokens == ["je", "mange", "une", "pomme"] and g.attention.cross.shape == (1, 1, 4, len(source))
    weights = g.attention.to_numpy()
    assert np.abs(weights.sum(axis=1) - 1).max() < 1e-5
    une, pomme = weights[target.index("une")], weights[target.index("pomme")]
    an, apple = source.index("an"), source.index("apple")
    assert set(np.argsort(une)[-2:]) == {an, apple} and une[an] + une[apple] >= 0.7
    assert pomme.argmax() == apple


def test_unknown_words_are_named() -> None:
    g = fastattn.load("en-fr-luong").generate("I see a zyzzyva and a Quokka")
    assert g.unknown_words == ["zyzzyva", "Quokka"]
    assert fastattn.load("en-fr-luong").generate("I see a dog").unknown_words == []


def test_explain_adds_up() -> None:
    model = fastattn.load("en-fr-bahdanau")
    steps = model.explain("I am eating an apple")
    assert [step.token for step in steps[:-1]] == ["je", "mange", "une", "pomme"]
    for step in steps:
        exponentials = np.exp(step.scores - step.scores.max())
        assert np.abs(exponentials / exponentials.sum() - step.weights).max() < 1e-5
        assert step.top[0][0] == step.token and 0.2 < step.top[0][1] <= 1
        assert [p for _, p in step.top] == sorted((p for _, p in step.top), reverse=True) and len(step.top) == 5
        assert np.abs(step.attentional_state).max() <= 1


def test_over_long_text_is_refused() -> None:
    with pytest.raises(fastattn.InputError, match="the text is too long: 301 tokens found, the limit is 128"):
        fastattn.load("en-fr-bahdanau").generate("apple " * 300)


def test_a_fresh_held_out_set_is_translated_too() -> None:
    """The grammar is at hand, so that anyone can draw sentences that no model was trained on."""
    if not (ROOT / "examples").is_dir():
        pytest.skip("examples/ is not beside the tests")
    sys.path.insert(0, str(ROOT))
    try:
        from examples.train.grammar import french_text, held_out_pairs
    finally:
        sys.path.remove(str(ROOT))
    pairs = list(itertools.islice(held_out_pairs(seed=777), 400))
    results = fastattn.load("en-fr-luong").generate([" ".join(pair.source) for pair in pairs], batch_size=64)
    exact = sum(g.text == french_text(pair.target) for g, pair in zip(results, pairs, strict=True))
    assert exact >= 0.97 * len(pairs)
