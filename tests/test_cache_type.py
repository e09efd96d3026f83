"""The types of the key/value cache, from `load` down: rounding, equal ids batched or not, and what they cost in memory."""

from __future__ import annotations

import numpy as np
import pytest
from toys import VOCABULARY, transformer

import fastattn
from fastattn.errors import OptionError
from fastattn.reference.stateful import round_cached
from fastattn.runtime import CACHE_TYPES, Capture, NativeSession, Select


def test_load_takes_a_cache_type() -> None:
    texts = ["I am eating an apple", "she is singing", "the small dogs do not run"]
    expected = [g.text for g in fastattn.load("en-fr-transformer").generate(texts)]
    for kind in CACHE_TYPES:
        model = fastattn.load("en-fr-transformer", cache_type=kind)
        together = model.generate(texts, num_beams=3)
        assert model.cache_type == kind
        assert [g.token_ids for g in together] == [model.generate(t, num_beams=3).token_ids for t in texts]
        assert [g.text for g in model.generate(texts)] == expected
    with pytest.raises(OptionError, match="cache_type: found 'int4', expected one of float32, bfloat16, int8"):
        fastattn.load("en-fr-transformer", cache_type="int4")


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_smaller_cache_errs_as_its_rounding(kind: str) -> None:
    """Against the float32 cache: not zero, and no more than what the reference finds for the same rounding."""
    tokens, logits = np.arange(30, dtype=np.int32), {}
    for cache_type in ("float32", kind):
        toy = transformer(4, cache_type, memory=False, heads=2, head=32, kv_heads=2)
        session = NativeSession(toy.graphs, toy.weights, cache_type=cache_type)
        session.start(1)
        logits[cache_type] = session.step([tokens], Select(logits=True)).logits
    distance = np.abs(logits[kind] - logits["float32"]).max()
    assert 0 < distance < 0.05 * np.abs(logits["float32"]).max()


def test_rounding_of_the_reference() -> None:
    x = np.random.default_rng(0).standard_normal((5, 33)).astype(np.float32)
    assert round_cached(x, "float32") is x
    assert np.abs(round_cached(x, "bfloat16") - x).max() <= np.abs(x).max() / 256
    steps = np.abs(round_cached(x, "int8") - x) / (np.abs(x).max(-1, keepdims=True) / 127)
    assert 0.3 < steps.max() <= 0.5001
    x[2, 3] = np.inf
    assert np.isnan(round_cached(x, "int8")[2]).all() and not np.isnan(np.delete(round_cached(x, "int8"), 2, 0)).any()
    assert not round_cached(np.full((1, 4), 1e-38, np.float32), "int8").any()


@pytest.mark.parametrize("kind", CACHE_TYPES)
@pytest.mark.parametrize("kv_heads", [1, 3])
@pytest.mark.parametrize("window", [-1, 140])
def test_threads_share_one_long_context(kind: str, kv_heads: int, window: int) -> None:
    """Fewer key/value heads than threads, or not a multiple: ranges of blocks go to the threads, and the bits stay."""
    sizes = {"memory": False, "heads": 6, "head": 64, "kv_heads": kv_heads, "ffn": 3000, "layers": 1, "window": window}
    toy, found = transformer(11, kind, **sizes), []
    rng = np.random.default_rng(0)
    prompt, then = (rng.integers(0, VOCABULARY, n).astype(np.int32) for n in (270, 3))
    for threads in (1, 2):
        session = NativeSession(toy.graphs, toy.weights, num_threads=threads, cache_type=kind)
        session.start(1)
        session.step([prompt])
        session.capture = Capture.ATTENTION
        results = [session.step(np.array([token], np.int32), Select(logits=True)) for token in then]
        found.append([r.logits for r in results] + [a.weights for r in results for a in r.attention])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
