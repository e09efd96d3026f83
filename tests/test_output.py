"""The output op over vocabularies of many chunks: best tokens, log-probabilities, penalties and bans, projected or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toys import Toy, backends

from fastattn import graph as g
from fastattn import nn, runtime
from fastattn.runtime import Select

NATIVE = [backend for backend in backends() if backend.exact]
CHUNK = 512  # columns whose sums are taken together
VOCABULARIES = (31, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 3)
ROWS = 5


class Head(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        self.embed, self.head = nn.Embedding(64, 8), nn.Linear(8, vocabulary)

    def __call__(self) -> g.Graph:
        with g.tracing("decoder") as (graph, ids):
            g.apply("output", [self.head(g.apply("select_rows", [self.embed(ids)])[0])])
        return graph


def head(vocabulary: int) -> Toy:
    """Logits with many ties, also across chunks, and a few infinite ones."""
    model, rng = Head(vocabulary), np.random.default_rng(vocabulary)
    shapes = model.finalise()
    weights = {name: np.round(rng.normal(0, 2, shape)).astype(np.float32) / 2 for name, shape in shapes.items()}
    weights["head.bias"][:: vocabulary // 7] = -np.inf
    return Toy({"decoder": model()}, weights)


def lists(rng: np.random.Generator, vocabulary: int, rows: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    counts = rng.integers(0, most, rows)
    counts[0] = 0  # a row that nothing is done to
    ids = [rng.permutation(vocabulary)[:n] for n in counts]
    return np.append(0, np.cumsum(counts)).astype(np.int32), np.concatenate(ids).astype(np.int32)


def logits_of(toy: Toy, tokens: np.ndarray) -> np.ndarray:
    w = toy.weights  # exact: small multiples of 1/4
    return w["embed.weight"][tokens] @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("log_probs", [False, True])
def test_choices_equal_those_made_from_whole_rows(vocabulary: int, log_probs: bool) -> None:
    toy, rng = head(vocabulary), np.random.default_rng(1)
    tokens = rng.integers(0, 64, ROWS).astype(np.int32)
    raw = logits_of(toy, tokens)
    lse = np.log(np.exp(raw.astype(np.float64)).sum(-1))
    cases: list[dict[str, Any]] = [{}, {"penalty": 1.3, "penalised": lists(rng, vocabulary, ROWS, 20)}]
    cases += [{"banned": lists(rng, vocabulary, ROWS, 25)}, {**cases[1], "banned": lists(rng, vocabulary, ROWS, 9)}]
    for backend in NATIVE:
        with backend.active():
            session = backend.session(toy)
            for case in cases:
                for k in (1, 2, 8, min(vocabulary, CHUNK + 9)):
                    found = []
                    for logits in (True, False):
                        session.start(ROWS)
                        found.append(session.step(tokens, Select(k=k, log_probs=log_probs, logits=logits, **case)))
                    whole, part = found
                    np.testing.assert_allclose(whole.log_sum_exp, lse, rtol=1e-6)
                    expected = raw - lse[:, None] if log_probs else raw.copy()
                    for row in range(ROWS):
                        expected[row] = changed(expected[row], row, **case)
                    np.testing.assert_allclose(whole.logits, expected, rtol=1e-5, atol=1e-6)
                    order = np.argsort(-whole.logits, axis=-1, kind="stable")[:, :k]
                    for result in found:
                        np.testing.assert_array_equal(result.tokens, order)
                        np.testing.assert_array_equal(result.scores, np.take_along_axis(whole.logits, order, -1))
                    np.testing.assert_array_equal(part.log_sum_exp, whole.log_sum_exp)


def changed(row: np.ndarray, i: int, penalty: float = 1.0, penalised: Any = None, banned: Any = None) -> np.ndarray:
    row = row.copy()
    if penalised is not None:
        ids = penalised[1][penalised[0][i] : penalised[0][i + 1]]
        row[ids] = np.where(row[ids] < 0, row[ids] * np.float32(penalty), row[ids] / np.float32(penalty))
    if banned is not None:
        row[banned[1][banned[0][i] : banned[0][i + 1]]] = -np.inf
    return row


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_bits_depend_on_neither_batch_nor_threads_nor_fusion(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, rng = head(vocabulary), np.random.default_rng(2)
    toy.weights = {name: rng.normal(0, 1, w.shape).astype(np.float32) for name, w in toy.weights.items()}
    tokens, select = rng.integers(0, 64, 70).astype(np.int32), Select(k=4, log_probs=True)
    for isa in {backend.isa for backend in NATIVE}:
        results = []
        for backend in (b for b in NATIVE if b.isa == isa):
            for fused in (True, False):
                with backend.active(), monkeypatch.context() as m:
                    if not fused:
                        m.setattr(runtime, "optimise", lambda graph: graph)
                    session = backend.session(toy)
                    session.start(len(tokens))
                    results.append(session.step(tokens, select))
                    session.start(1)
                    alone = session.step(tokens[3:4], select)
                for name in ("scores", "tokens", "log_sum_exp"):
                    np.testing.assert_array_equal(getattr(alone, name), getattr(results[-1], name)[3:4])
        for other in results[1:]:
            for name in ("scores", "tokens", "log_sum_exp"):
                np.testing.assert_array_equal(getattr(results[0], name), getattr(other, name))


def test_not_a_number_ranks_last_and_an_infinite_logit_takes_all() -> None:
    vocabulary = 2 * CHUNK + 5
    for backend in NATIVE:
        for value, at in ((np.nan, 3), (np.inf, CHUNK + 1), (-np.inf, slice(None))):
            toy = head(vocabulary)
            toy.weights["head.bias"][:] = 0
            toy.weights["head.bias"][at] = value
            with backend.active(), np.errstate(invalid="ignore"):
                session = backend.session(toy)
                session.start(1)
                token = np.array([7], np.int32)
                result = session.step(token, Select(k=vocabulary))
                logits = logits_of(toy, token)[0]
                order = np.argsort(np.where(np.isnan(logits), np.inf, -logits), kind="stable")
                np.testing.assert_array_equal(result.tokens[0], order)
                expected = {3: np.nan, CHUNK + 1: np.inf}.get(at if isinstance(at, int) else -1, -np.inf)
                np.testing.assert_array_equal(result.log_sum_exp, [expected])
