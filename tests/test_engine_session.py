"""Whole sessions on every backend: what a sequence yields depends on its own tokens alone.

Not on its batch, on how its tokens were cut into steps, on threads, on beams beside it, nor on whether attention is
recorded. The native engine is held to equal bits (`==`), the float64 reference to rounding.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
import pytest
from toys import POSITIONS, TOYS, VOCABULARY, Backend, Toy, backends, transformer

from fastattn import _native
from fastattn.errors import InputError
from fastattn.runtime import Capture, Select

BACKENDS = backends()
CACHING = [
    "transformer",
    "grouped",
    "decoder-only",
    "wide",
    "wide-grouped",
    "buckets",
    "slopes",
    "bfloat16 cache",
    "int8 cache",
]
LOGITS = Select(logits=True)
NO_IDS = np.zeros(0, np.int32)


@pytest.fixture(params=BACKENDS, ids=lambda b: b.name)
def backend(request: pytest.FixtureRequest) -> Any:
    with request.param.active():
        yield request.param


@pytest.fixture(scope="module")
def toys() -> dict[str, Toy]:
    return {name: make() for name, make in TOYS.items()}


def ids(rng: np.random.Generator, length: int) -> np.ndarray:
    return rng.integers(0, VOCABULARY, length).astype(np.int32)


def begin(session: Any, toy: Toy, sources: list[np.ndarray]) -> Any:
    if toy.has_encoder:
        return session.encode(sources)
    return session.start(len(sources))


def fresh(backend: Backend, toy: Toy, sources: list[np.ndarray], capture: Capture = Capture.NOTHING) -> Any:
    session = backend.session(toy)
    session.capture = capture
    begin(session, toy, sources)
    return session


def feed(session: Any, toy: Toy, history: list[np.ndarray]) -> np.ndarray:
    """Logits after each sequence's whole history (of equal length where the decoder takes one token a step)."""
    if not toy.sequential:
        return session.step(history, LOGITS).logits
    for column in np.stack(history, 1):
        result = session.step(column, LOGITS)
    return result.logits


@pytest.mark.parametrize("name", TOYS)
def test_a_batch_gives_what_each_sequence_gives_alone(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    toy, rng = toys[name], np.random.default_rng(0)
    sources = [ids(rng, n) for n in (5, 1, 33, 16)]
    prefixes = [ids(rng, 4 if toy.sequential else n) for n in (3, 17, 1, 16)]
    together = fresh(backend, toy, sources)
    first, then = feed(together, toy, prefixes), together.step(np.array([3, 1, 4, 1], np.int32), LOGITS).logits
    for i in range(4):
        alone = fresh(backend, toy, [sources[i]])
        backend.assert_same(feed(alone, toy, [prefixes[i]])[0], first[i], f"sequence {i}")
        token = np.array([[3, 1, 4, 1][i]], np.int32)
        backend.assert_same(alone.step(token, LOGITS).logits[0], then[i], f"sequence {i}, the step after")


@pytest.mark.parametrize("name", TOYS)
def test_captured_attention_and_taps_do_not_depend_on_the_batch(
    backend: Backend, toys: dict[str, Toy], name: str
) -> None:
    toy, rng = toys[name], np.random.default_rng(1)
    sources, history = [ids(rng, n) for n in (7, 19, 1)], [ids(rng, 1) for _ in range(3)]
    together = backend.session(toy)
    together.capture = Capture.ATTENTION
    encoded = begin(together, toy, sources)
    result = together.step(history, LOGITS)
    start = 0
    for i, source in enumerate(sources):
        alone = backend.session(toy)
        alone.capture = Capture.ATTENTION
        encoded_alone, one = begin(alone, toy, [source]), alone.step([history[i]], LOGITS)
        pairs = [(slice(i, i + 1), result, one)]
        if encoded is not None:
            pairs.append((slice(start, start + len(source)), encoded, encoded_alone))
        for rows, many, single in pairs:
            for a, b in zip(many.attention, single.attention, strict=True):
                keys = b.weights.shape[-1]
                assert (a.kind, a.layer) == (b.kind, b.layer)
                backend.assert_same(a.weights[rows, :, :keys], b.weights)
                assert not a.weights[rows, :, keys:].any()
            for tap, value in single.taps.items():
                backend.assert_same(many.taps[tap][rows, : value.shape[1]], value, tap)
        start += len(source)


@pytest.mark.parametrize("name", CACHING)
@pytest.mark.parametrize("cuts", [[1] * 35, [35], [16, 16, 3], [15, 2, 18], [1, 33, 1]], ids=str)
def test_cached_equals_uncached(backend: Backend, toys: dict[str, Toy], name: str, cuts: list[int]) -> None:
    toy, rng = toys[name], np.random.default_rng(2)
    sources, tokens = [ids(rng, 9), ids(rng, 4)], [ids(rng, 35), ids(rng, 35)]
    whole = fresh(backend, toy, sources).step(tokens, LOGITS, all_rows=True).logits.reshape(2, 35, VOCABULARY)
    session, at = fresh(backend, toy, sources), 0
    for cut in cuts:
        part = session.step([t[at : at + cut] for t in tokens], LOGITS, all_rows=True).logits
        backend.assert_same(part.reshape(2, cut, VOCABULARY), whole[:, at : at + cut], f"tokens from {at}")
        at += cut


@pytest.mark.parametrize("name", CACHING)
def test_long_sequences_cross_the_blocks_of_the_softmax(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    """Keys are summed up in blocks of 256: neither the cuts nor the neighbours may move their borders."""
    toy, rng = toys[name], np.random.default_rng(12)
    sources, tokens = [ids(rng, 130), ids(rng, 257)], [ids(rng, 560), ids(rng, 560)]
    whole = fresh(backend, toy, sources).step(tokens, LOGITS, all_rows=True).logits.reshape(2, 560, VOCABULARY)
    alone = fresh(backend, toy, sources[1:]).step(tokens[1:], LOGITS, all_rows=True).logits
    backend.assert_same(alone, whole[1], "alone")
    for first in (0, 1):  # both, and the second alone, whose blocks threads may share
        session, at = fresh(backend, toy, sources[first:]), 0
        for cut in (255, 1, 1, 254, 1, 1, 47):
            part = session.step([t[at : at + cut] for t in tokens[first:]], LOGITS, all_rows=True).logits
            backend.assert_same(part.reshape(2 - first, cut, VOCABULARY), whole[first:, at : at + cut], f"from {at}")
            at += cut


@pytest.mark.parametrize("name", CACHING)
def test_prompts_of_many_rows_are_fed_in_pieces(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    """More than 1,024 rows at once: what a sequence gives is what it gives alone, and where nothing can be cut, nothing is."""
    toy, rng = toys[name], np.random.default_rng(13)
    for lengths in ([290, 290, 290, 290, 1], [290, 250, 100, 7, 290, 290, 31, 290]):
        sources, tokens = [ids(rng, 5) for _ in lengths], [ids(rng, n) for n in lengths]
        together = fresh(backend, toy, sources)
        first, then = feed(together, toy, tokens), together.step(np.arange(len(lengths), dtype=np.int32), LOGITS).logits
        for i in (0, 1, len(lengths) - 1):
            alone = fresh(backend, toy, [sources[i]])
            backend.assert_same(feed(alone, toy, [tokens[i]])[0], first[i], f"sequence {i}")
            backend.assert_same(alone.step(np.array([i], np.int32), LOGITS).logits[0], then[i], f"{i}, the step after")


def test_a_refused_step_of_many_rows_feeds_nothing(backend: Backend, toys: dict[str, Toy]) -> None:
    toy, rng = toys["decoder-only"], np.random.default_rng(14)
    tokens = [ids(rng, 280) for _ in range(5)]
    session = fresh(backend, toy, tokens)
    bad = [*tokens[:4], np.append(tokens[4], VOCABULARY).astype(np.int32)]
    with pytest.raises(InputError, match="outside the vocabulary"):
        session.step(bad, LOGITS)
    if not backend.name.startswith("reference"):
        with pytest.raises(InputError, match="best tokens of a vocabulary"):
            session.step(tokens, Select(k=VOCABULARY + 1))
    backend.assert_same(session.step(tokens, LOGITS).logits, feed(fresh(backend, toy, tokens), toy, tokens))


@pytest.mark.parametrize("name", ["transformer", "decoder-only"])
def test_what_fails_half_way_ends_the_batch(toys: dict[str, Toy], name: str) -> None:
    """A batch whose sequences no memory holds: nothing of the one before may be used, and the next begins as if new."""
    toy, rng = toys[name], np.random.default_rng(15)
    sources, tokens = [ids(rng, 7), ids(rng, 3)], [ids(rng, 40), ids(rng, 18)]
    native = next(b for b in BACKENDS if not b.name.startswith("reference"))
    session = fresh(native, toy, sources, capture=Capture.ATTENTION)
    expected = feed(session, toy, tokens)
    with pytest.raises(MemoryError):
        session.start(2**58)
    assert (session.batch, session._native.captured()) == (0, ([], {}))
    with pytest.raises(InputError, match="before encode" if toy.has_encoder else "batch of 0"):
        session.step(tokens, LOGITS)
    begin(session, toy, sources)
    native.assert_same(feed(session, toy, tokens), expected)


def test_ids_and_lengths_that_do_not_fit(toys: dict[str, Toy]) -> None:
    native = next(b for b in BACKENDS if not b.name.startswith("reference"))
    session = native.session(toys["transformer"])._native
    for lengths in ([4], [-1, 2], [2**62, 2**62, 2**62, 2**62 + 1]):
        with pytest.raises(ValueError, match="lengths and token ids do not fit"):
            session.encode(np.zeros(1, np.int32), np.array(lengths, np.int64), False)


def test_a_table_without_rows_is_refused() -> None:
    program = _native.Program("toy", False)
    for cols in (1, 4, 4):
        program.add_value("tokens", cols)
    table = _native.Weight(np.zeros((2, 4), np.float32), False, 1)
    program.add_node("position_embedding", [1], [2], [table], {"offset": 2})
    with pytest.raises(ValueError, match="expected one row at least"):
        program.finish()


@pytest.mark.parametrize("name", CACHING)
def test_sequences_of_different_ages_step_together(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    toy, rng = toys[name], np.random.default_rng(3)
    sources, tokens = [ids(rng, 6) for _ in range(3)], [ids(rng, n) for n in (20, 9, 35)]
    session = fresh(backend, toy, sources)
    session.step([tokens[0][:17], tokens[1][:1], tokens[2][:31]])
    result = session.step([tokens[0][17:], tokens[1][1:], tokens[2][31:]], LOGITS, all_rows=True).logits
    start = 0
    for i, (fed, count) in enumerate(zip(tokens, (3, 8, 4), strict=True)):
        whole = fresh(backend, toy, [sources[i]]).step([fed], LOGITS, all_rows=True).logits
        backend.assert_same(result[start : start + count], whole[-count:], f"sequence {i}")
        start += count


@pytest.mark.parametrize("name", TOYS)
def test_capturing_changes_nothing_and_gives_what_was_asked_for(
    backend: Backend, toys: dict[str, Toy], name: str
) -> None:
    toy, rng = toys[name], np.random.default_rng(4)
    sources, history = [ids(rng, 3), ids(rng, 21)], [ids(rng, 18), ids(rng, 18)]
    plain, tapped, recorded = (fresh(backend, toy, sources, capture) for capture in Capture)
    fed = feed(plain, toy, history)
    token, select = np.array([1, 2], np.int32), Select(k=5, log_probs=True)
    a = plain.step(token, select)
    assert not a.attention and not a.taps
    for session in (tapped, recorded):
        backend.assert_same(fed, feed(session, toy, history))
        b = session.step(token, select)
        backend.assert_same(a.scores, b.scores)
        backend.assert_same(a.tokens, b.tokens)
        backend.assert_same(a.log_sum_exp, b.log_sum_exp)
        assert bool(b.attention) == (session is recorded)
        assert set(toy.graphs["decoder"].taps) <= set(b.taps)


def test_an_unknown_capture_is_refused() -> None:
    native = next(b for b in BACKENDS if not b.name.startswith("reference"))
    session = native.session(transformer())
    session.capture = 3
    with pytest.raises(InputError, match="capture is 0, 1 or 2, not 3"):
        session.encode([np.arange(3, dtype=np.int32)])


@pytest.mark.parametrize("name", TOYS)
def test_attention_records_are_distributions_over_the_keys(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    toy, rng = toys[name], np.random.default_rng(5)
    sources = [ids(rng, 3), ids(rng, 20)]
    session = backend.session(toy)
    session.capture = Capture.ATTENTION
    encoded = begin(session, toy, sources)
    session.step([ids(rng, 1), ids(rng, 1)])
    result = session.step([ids(rng, 1), ids(rng, 1)])
    kinds = {
        "decoder-only": {"self"},
        "slopes": {"self"},
        "llama": {"self"},
        "mistral": {"self"},
        "gru": {"cross"},
        "lstm": {"cross"},
        "wide-gru": {"cross"},
    }.get(name, {"self", "cross"})
    assert {record.kind for record in result.attention} == kinds
    for record in result.attention:
        keys = [2, 2] if record.kind == "self" else [3, 20]
        assert record.weights.shape[0] == 2 and record.weights.shape[2] == max(keys)
        for row, count in zip(record.weights, keys, strict=True):
            np.testing.assert_allclose(row.sum(-1), 1, rtol=1e-6)
            assert not row[:, count:].any()
    if toy.has_encoder and not toy.sequential:
        assert [record.layer for record in encoded.attention] == [0, 1]
        assert all(record.kind == "encoder" and record.weights.shape[0] == 23 for record in encoded.attention)
        assert encoded.taps["hidden"].shape[0] == 23
    if toy.sequential:
        assert result.taps["scores"].shape == (2, 20)


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("seed", range(3))
def test_reordered_beams_equal_a_run_from_scratch(backend: Backend, toys: dict[str, Toy], name: str, seed: int) -> None:
    """A random walk of a beam search: prefixes grow, are copied, swapped and dropped, across the pages of the cache."""
    toy, rng = toys[name], np.random.default_rng(seed)
    sources = [ids(rng, n) for n in (6, 18)]
    session = fresh(backend, toy, sources)
    owners, histories = [0, 1], [ids(rng, 14), ids(rng, 14)]  # two tokens short of a page
    logits = feed(session, toy, histories)
    for _ in range(8):
        parents = rng.integers(0, len(owners), rng.integers(1, 6)).astype(np.int32)
        session.reorder(parents)
        assert session.batch == len(parents)
        owners, histories = [owners[p] for p in parents], [histories[p] for p in parents]
        tokens = ids(rng, len(parents))
        histories = [np.append(h, t).astype(np.int32) for h, t in zip(histories, tokens, strict=True)]
        logits = session.step(tokens, LOGITS).logits
    scratch = fresh(backend, toy, [sources[owner] for owner in owners])
    backend.assert_same(logits, feed(scratch, toy, histories))


@pytest.mark.parametrize("name", CACHING)
def test_beams_of_a_long_prompt_read_its_blocks_together(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    """Beams that share whole blocks of pages, beside a sequence of its own, are what each is from scratch."""
    toy, rng = toys[name], np.random.default_rng(13)
    sources, histories = [ids(rng, 5), ids(rng, 9)], [ids(rng, 530), ids(rng, 260)]
    session, owners = fresh(backend, toy, sources, capture=Capture.ATTENTION), [0, 1]
    feed(session, toy, histories)
    for parents in ([0, 0, 1, 0, 1], [3, 1, 0, 2, 4, 2]):
        session.reorder(np.array(parents, np.int32))
        owners, histories = [owners[p] for p in parents], [histories[p] for p in parents]
        for count in (1, 2):
            new = [ids(rng, count) for _ in parents]
            histories = [np.append(h, t).astype(np.int32) for h, t in zip(histories, new, strict=True)]
            result = session.step(new, LOGITS)
    for i, (owner, history) in enumerate(zip(owners, histories, strict=True)):
        scratch = fresh(backend, toy, [sources[owner]], capture=Capture.ATTENTION)
        scratch.step([history[:-2]])
        alone = scratch.step([history[-2:]], LOGITS)
        backend.assert_same(result.logits[i], alone.logits[0], f"beam {i}")
        for a, b in zip(result.attention, alone.attention, strict=True):
            rows = a.weights[2 * i : 2 * i + 2]
            backend.assert_same(rows[..., : b.weights.shape[-1]], b.weights, f"attention of beam {i}")
            assert not rows[..., b.weights.shape[-1] :].any()


@pytest.mark.parametrize("name", TOYS)
def test_a_session_starts_again_as_new(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    toy, rng = toys[name], np.random.default_rng(6)
    session = fresh(backend, toy, [ids(rng, 30), ids(rng, 2), ids(rng, 40)])
    feed(session, toy, [ids(rng, 20)] * 3)
    session.reorder(np.array([2, 2, 0, 1, 1], np.int32))
    session.step(ids(rng, 5))
    sources, history = [ids(rng, 5)], [ids(rng, 6)]
    begin(session, toy, sources)
    backend.assert_same(feed(session, toy, history), feed(fresh(backend, toy, sources), toy, history))


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_select(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    """Best tokens, log-probabilities, penalties and bans, recomputed here from the raw logits."""
    toy, rng = toys[name], np.random.default_rng(7)
    sources, token = [ids(rng, 4), ids(rng, 6)], np.array([1, 5], np.int32)

    def step(**options: Any) -> Any:
        return fresh(backend, toy, sources).step(token, Select(**options))

    raw = step(logits=True)
    lse = np.log(np.exp(raw.logits.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(raw.log_sum_exp, lse, rtol=1e-6)
    best = step(k=4)
    order = np.argsort(-raw.logits, axis=-1, kind="stable")[:, :4]
    assert best.logits is None and best.tokens.dtype == np.int32
    np.testing.assert_array_equal(best.tokens, order)
    np.testing.assert_array_equal(best.scores, np.take_along_axis(raw.logits, order, -1))

    penalised = (np.array([0, 2, 3], np.int32), np.array([order[0, 0], order[0, 3], order[1, 1]], np.int32))
    banned = (np.array([0, 1, 1], np.int32), np.array([order[0, 1]], np.int32))
    full = step(k=VOCABULARY, log_probs=True, logits=True, penalty=1.7, penalised=penalised, banned=banned)
    expected = raw.logits - lse[:, None]
    for row, token_id in ((0, order[0, 0]), (0, order[0, 3]), (1, order[1, 1])):
        value = expected[row, token_id]
        expected[row, token_id] = value * 1.7 if value < 0 else value / 1.7
    expected[0, order[0, 1]] = -np.inf
    np.testing.assert_allclose(full.logits, expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(full.tokens, np.argsort(-full.logits, axis=-1, kind="stable"))
    np.testing.assert_array_equal(full.log_sum_exp, raw.log_sum_exp)

    raw_penalty = step(logits=True, penalty=2.0, penalised=penalised)
    positive = raw.logits[0, order[0, 0]]
    assert raw_penalty.logits[0, order[0, 0]] == (positive / 2 if positive > 0 else positive * 2)
    idle = step()
    assert idle.logits is None and idle.scores.shape == (2, 0) and idle.log_sum_exp.size == 0


@pytest.mark.parametrize("name", TOYS)
def test_greedy_steps_are_those_taken_singly(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    toy, rng = toys[name], np.random.default_rng(14)
    sources, first = [ids(rng, 4), ids(rng, 16)], ids(rng, 2)
    single, many = fresh(backend, toy, sources), fresh(backend, toy, sources)
    tokens, chosen, scores = first, [], []
    for _ in range(20):
        result = single.step(tokens, Select(k=1))
        tokens = result.tokens[:, 0].copy()
        chosen.append(tokens)
        scores.append(result.scores[:, 0] - result.log_sum_exp)
    stop = np.array([chosen[6][1]], np.int32)
    until = next(i for i, row in enumerate(chosen) if stop[0] in row) + 1
    done = 0
    feed = first
    while done < 20:
        stops = stop if done < until else NO_IDS
        found = many.greedy(feed, 20 - done, stops)
        steps = len(found[0])
        assert 1 <= steps <= 20 - done and (done >= until or done + steps <= until)
        np.testing.assert_array_equal(found[0], chosen[done : done + steps])
        backend.assert_same(found[1], np.array(scores[done : done + steps]))
        done, feed = done + steps, np.ascontiguousarray(found[0][-1])


def test_equal_scores_go_to_the_lower_id(backend: Backend) -> None:
    toy = transformer(8, memory=False, layers=1)
    toy.weights["embed.weight"][:] = 0
    toy.weights["bias"][:] = np.repeat([1, 3, 2, 3], [10, 10, 10, 7])
    session = backend.session(toy)
    session.start(1)
    result = session.step(np.array([0], np.int32), Select(k=20))
    assert result.tokens[0].tolist() == [*range(10, 20), *range(30, 37), 20, 21, 22]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.step(np.array([1, 97, 2], np.int32)), "token id 97 is outside the vocabulary of 37"),
        (lambda s: s.step(np.array([1, -1, 2], np.int32)), "token id -1 is outside the vocabulary of 37"),
        (lambda s: s.step(np.array([1, 2], np.int32)), "one token array per sequence: got 2 for a batch of 3"),
        (lambda s: s.step([np.ones(1, np.int32)] * 4), "one token array per sequence: got 4 for a batch of 3"),
        (lambda s: s.step([np.ones(2, np.int32), np.ones(POSITIONS, np.int32), np.ones(1, np.int32)]),
         f"position {POSITIONS + 4} is past the table of {POSITIONS} positions"),
        (lambda s: s.step([np.ones(1, np.int32), np.ones(0, np.int32), np.ones(1, np.int32)]), "sequence 1"),
        (lambda s: s.reorder(np.array([0, 5], np.int32)), r"parents\[1\] = 5 is outside the batch of 3"),
        (lambda s: s.reorder(np.array([-1], np.int32)), r"parents\[0\] = -1 is outside the batch of 3"),
        (lambda s: s.step(np.array([1, 2, 3], np.int32), Select(k=VOCABULARY + 1)), "k = 38 .* vocabulary of 37"),
        (lambda s: s.step(np.ones(3, np.int32), Select(k=1, banned=(np.zeros(3, np.int32), NO_IDS))), "banned"),
        (lambda s: s.encode([]), "at least one"),
        (lambda s: s.encode([np.array([3, 40], np.int32)]), "token id 40 is outside the vocabulary of 37"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_changes_nothing(backend: Backend, toys: dict[str, Toy], act: Any, message: str) -> None:
    toy = toys["transformer"]
    sources, prefix = [np.arange(n, dtype=np.int32) for n in (3, 4, 5)], [np.arange(5, dtype=np.int32)] * 3
    session, untouched = fresh(backend, toy, sources), fresh(backend, toy, sources)
    for s in (session, untouched):
        s.step(prefix)
        s.reorder(np.array([0, 0, 2], np.int32))  # pages are shared now: a step that fails must leave them so
    with pytest.raises(InputError, match=message) as error:
        act(session)
    assert "\n" not in str(error.value)
    token = np.array([7, 8, 9], np.int32)
    backend.assert_same(session.step(token, LOGITS).logits, untouched.step(token, LOGITS).logits)


def test_a_step_needs_a_batch(backend: Backend, toys: dict[str, Toy]) -> None:
    with pytest.raises(InputError, match="before"):
        backend.session(toys["transformer"]).step(np.array([1], np.int32))
    with pytest.raises(InputError, match="one token"):
        fresh(backend, toys["gru"], [np.arange(3, dtype=np.int32)]).step([np.array([1, 2], np.int32)])


def test_tensors_are_checked_against_the_graph(backend: Backend, toys: dict[str, Toy]) -> None:
    toy = toys["transformer"]
    for weights, message in (
        ({**toy.weights, "bias": np.ones(3, np.float32)}, r"tensor 'bias' is \[3\], expected \[37\]"),
        ({k: v for k, v in toy.weights.items() if k != "bias"}, "tensor 'bias' is missing"),
    ):
        with pytest.raises(InputError, match=message):
            backend.session(Toy(toy.graphs, weights))


engine_only = pytest.mark.parametrize("backend", [b for b in BACKENDS if b.exact], indirect=True, ids=lambda b: b.name)


@pytest.mark.parametrize("name", TOYS)
def test_threads_do_not_change_results(toys: dict[str, Toy], name: str) -> None:
    toy, rng = toys[name], np.random.default_rng(9)
    sources, history = [ids(rng, n) for n in (62, 2, 49, 60)], [ids(rng, 19) for _ in range(4)]
    for one in (b for b in BACKENDS if b.threads == 1 and b.exact):
        with one.active():
            results = [feed(fresh(Backend("", one.isa, n), toy, sources), toy, history) for n in (1, 2, 3)]
        for other in results[1:]:
            np.testing.assert_array_equal(results[0], other, one.name)


@engine_only
@pytest.mark.parametrize("name", TOYS)
def test_native_errs_at_most_twice_what_numpy_errs(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    """DESIGN section 5: against float64, plus a floor of a few roundings of the largest logit."""
    toy, rng = toys[name], np.random.default_rng(10)
    sources, history = [ids(rng, n) for n in (31, 5, 16)], [ids(rng, 20) for _ in range(3)]
    logits = {"native": feed(fresh(backend, toy, sources), toy, history)}
    for dtype in (np.float32, np.float64):
        logits[dtype.__name__] = feed(fresh(Backend("reference", dtype=dtype), toy, sources), toy, history)
    truth = logits["float64"]
    error = {key: np.abs(value - truth).max() for key, value in logits.items()}
    assert error["native"] <= 2 * error["float32"] + 4 * np.finfo(np.float32).eps * np.abs(truth).max()


@engine_only
@pytest.mark.parametrize("name", TOYS)
def test_a_steady_step_allocates_nothing(backend: Backend, toys: dict[str, Toy], name: str) -> None:
    """What a sentence needed once is there for the next one of its size, beams and page copies included."""
    toy, rng = toys[name], np.random.default_rng(13)
    session, sources = backend.session(toy), [ids(rng, 30), ids(rng, 12)]
    select = Select(k=8, log_probs=True)

    def sentence() -> int:
        begin(session, toy, sources)
        session.step(ids(rng, 2), select)
        session.reorder(np.array([0, 0, 1, 1], np.int32))
        before = _native.allocation_count()
        for _ in range(40):
            session.step(ids(rng, 4), select)
            session.reorder(np.array([1, 0, 2, 2], np.int32))
        return _native.allocation_count() - before

    sentence()
    assert sentence() == 0


@engine_only
def test_sessions_of_several_threads(backend: Backend, toys: dict[str, Toy]) -> None:
    toy = toys["transformer"]
    rng = np.random.default_rng(11)
    jobs = [([ids(rng, 12)], [ids(rng, 20)]) for _ in range(8)]
    expected = [feed(fresh(backend, toy, sources), toy, history) for sources, history in jobs]
    found: list[Any] = [None] * len(jobs)

    def run(i: int) -> None:
        sources, history = jobs[i]
        found[i] = feed(fresh(backend, toy, sources), toy, history)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


@engine_only
def test_two_threads_in_one_session_are_refused(backend: Backend, toys: dict[str, Toy]) -> None:
    toy, rng = toys["transformer"], np.random.default_rng(12)
    sources, history = [ids(rng, 12)], [ids(rng, POSITIONS - 1)]
    session, refused = fresh(backend, toy, sources), []
    deadline = time.monotonic() + 20

    def run() -> None:
        while not refused and time.monotonic() < deadline:
            try:
                begin(session, toy, sources)
                feed(session, toy, history)
            except RuntimeError as error:
                refused.append(str(error))
            except InputError:
                pass  # the other thread has begun anew in between

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused and "one call at a time" in refused[0]
    begin(session, toy, sources)
    expected = feed(fresh(backend, toy, sources), toy, history)
    np.testing.assert_array_equal(feed(session, toy, history), expected)


@engine_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_after_use_works_and_agrees(backend: Backend, toys: dict[str, Toy]) -> None:
    """A pre-forking server: the parent has used its threads, the child steps the session it inherited."""
    toy, sources, history = toys["transformer"], [np.arange(20, dtype=np.int32)], [np.arange(30, dtype=np.int32)]
    session = fresh(backend, toy, sources)
    expected = feed(fresh(backend, toy, sources), toy, history)
    child = os.fork()
    if child == 0:
        same = np.array_equal(feed(session, toy, history), expected)
        os._exit(0 if same else 3)
    deadline = threading.Timer(30, os.kill, (child, 9))
    deadline.start()
    _, status = os.waitpid(child, 0)
    deadline.cancel()
    assert os.waitstatus_to_exitcode(status) == 0
