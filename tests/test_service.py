"""What a Python service needs: many threads on one model, forks, steady memory, clear errors, quick imports."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import _native
from fastattn.api import Model
from fastattn.graph import tracing
from fastattn.nn import Embedding
from fastattn.runtime import NativePrograms, NativeSession, Select

GOLDEN = Path(__file__).parent / "golden" / "models"
SOURCES = [[3 + (7 * i + j * j) % 90 for j in range(1 + i % 13)] + [0] for i in range(24)]


@pytest.fixture(scope="module")
def model() -> Model:
    return fastattn.load(GOLDEN / "marian", num_threads=2)


def test_eight_threads_give_what_one_gives(model: Model) -> None:
    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 10, "return_attention": True}
    expected = [model.generate(source, **options) for source in SOURCES]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda source: model.generate(source, **options), SOURCES * 2))
    for result, one in zip(found, expected * 2, strict=True):
        assert (result.token_ids, result.score) == (one.token_ids, one.score)
        assert result.attention is not None and one.attention is not None
        assert (result.attention.cross == one.attention.cross).all()


def _in_child(queue: Any, model: Model, big: np.ndarray[Any, Any]) -> None:
    attention = fastattn.ops.scaled_dot_product_attention(big, big, big)
    queue.put(([g.token_ids for g in model.generate(SOURCES, max_new_tokens=6)], float(attention.sum())))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_after_use_does_not_hang(model: Model) -> None:
    """Pre-forking servers load and warm up, then fork: the child has no OpenMP pool of its own."""
    before = fastattn.get_num_threads()
    fastattn.set_num_threads(2)
    try:
        big = np.random.default_rng(0).standard_normal((1, 4, 256, 64)).astype(np.float32)
        attention = float(fastattn.ops.scaled_dot_product_attention(big, big, big).sum())
        expected = [g.token_ids for g in model.generate(SOURCES, max_new_tokens=6)]
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        children = [context.Process(target=_in_child, args=(queue, model, big)) for _ in range(2)]
        for child in children:
            child.start()
        results = [queue.get(timeout=60) for _ in children]
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        assert results == [(expected, attention)] * 2
        assert float(fastattn.ops.scaled_dot_product_attention(big, big, big).sum()) == attention
    finally:
        fastattn.set_num_threads(before)


def _borrow(model: Model) -> None:
    with model._session():
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_other_threads_take_sessions_does_not_hang(model: Model) -> None:
    _borrow(model)
    over, interval = threading.Event(), sys.getswitchinterval()

    def loop() -> None:
        while not over.is_set():
            _borrow(model)

    threads = [threading.Thread(target=loop) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(20):
            child = multiprocessing.get_context("fork").Process(target=_borrow, args=(model,))
            child.start()
            child.join(20)
            child.kill()
            child.join()
            assert child.exitcode == 0
    finally:
        over.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()


def test_sessions_of_another_number_of_threads_are_thrown_away(model: Model) -> None:
    several = fastattn.load(GOLDEN / "marian")
    before = fastattn.get_num_threads()
    try:
        for threads in (1, 2, 1):
            fastattn.set_num_threads(threads)
            _borrow(several)
            _borrow(several)
            assert [found for found, _, _ in several._pool] == [threads]
    finally:
        fastattn.set_num_threads(before)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_models_are_not_copied(model: Model, duplicate: Callable[[Model], object]) -> None:
    with pytest.raises(
        TypeError, match="a Model cannot be copied or pickled: share it between threads, load it in each"
    ):
        duplicate(model)


@pytest.mark.parametrize("beams", [1, 4])
def test_a_steady_decode_step_allocates_nothing(model: Model, beams: int) -> None:
    programs = NativePrograms(model._architecture.graphs, model_weights(model), 2)
    session = NativeSession(programs)
    select = Select(k=2 * beams, log_probs=True)
    parents = np.array([0, *range(beams - 1)], np.int32)

    def run(steps: int) -> int:
        session.encode([np.array(SOURCES[5], np.int32)])
        session.reorder(np.zeros(beams, np.int32))
        session.step(np.full(beams, 100, np.int32), select)
        before = int(_native.allocation_count())
        for _ in range(steps):
            session.step(np.full(beams, 7, np.int32), select)
            session.reorder(parents)
        return int(_native.allocation_count()) - before

    run(40)
    assert run(40) == 0


def model_weights(model: Model) -> dict[str, Any]:
    from fastattn.weights import bind_weights

    a = model._architecture
    return a.prepare(bind_weights(a.params, model.checkpoint, a.rename, a.optional, a.ignore))


def test_pages_are_given_back(model: Model) -> None:
    session = NativeSession(model._architecture.graphs, model_weights(model))
    session.encode([np.array(s, np.int32) for s in SOURCES[:4]])
    for _ in range(20):
        session.step(np.full(4, 9, np.int32))
    session.reorder(np.array([2, 2, 2], np.int32))
    assert session._native.pages_in_use == 2  # 20 tokens of one sequence, shared
    session.step(np.full(3, 9, np.int32))
    assert session._native.pages_in_use == 4  # the last page is copied when it is written
    session.reorder(np.zeros(0, np.int32))
    assert session._native.pages_in_use == 0


def test_num_threads_is_checked_and_used() -> None:
    before = fastattn.get_num_threads()
    assert before >= 1
    for bad in (0, -1, True, 1.5, "2", 5000):
        with pytest.raises(fastattn.OptionError, match="num_threads: found"):
            fastattn.set_num_threads(bad)  # type: ignore[arg-type]
        with pytest.raises(fastattn.OptionError, match="num_threads: found"):
            fastattn.load(GOLDEN / "marian", num_threads=bad)  # type: ignore[arg-type]
    fastattn.set_num_threads(1)
    assert fastattn.get_num_threads() == 1
    fastattn.set_num_threads(before)


def test_integers_of_numpy_are_taken(model: Model) -> None:
    two: Any = np.int64(2)
    assert fastattn.load(GOLDEN / "marian", num_threads=two).num_threads == 2
    found = model.generate([[5, 0]] * 3, batch_size=two, num_beams=two, max_new_tokens=3)
    assert [g.token_ids for g in found] == [model.generate([5, 0], num_beams=2, max_new_tokens=3).token_ids] * 3


def test_threads_are_those_the_process_may_use() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "import fastattn; print(fastattn.get_num_threads())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = "import fastattn; print(fastattn.get_num_threads())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == "1\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("some text", "found text, expected token ids"),
        ([3, 101, 0], "token id 101 is outside the vocabulary of 101"),
        ([3, -1], "token id -1 is outside the vocabulary"),
        ([], None),
        ([[]], "expected at least one token id"),
        ([1] * 65, "the input is too long: 65 tokens found, the limit is 64"),
        ([[1, 2], "x"], "expected token ids"),
        ([[5, 0]] * 3 + [[5, 101]], r"^inputs\[3\]: token id 101 is outside the vocabulary of 101$"),
        ([[5, 0], []], r"^inputs\[1\]: expected at least one token id, found none$"),
        ([[5, 0], [1] * 65], r"^inputs\[1\]: the input is too long: 65 tokens found, the limit is 64$"),
        ([[5, 101]], "^input: token id 101 is outside the vocabulary of 101$"),
        ([[1.5, 2.0]], "expected text or a row of token ids, found float64"),
        (7, "found int, expected text"),
        (np.array(5), "found int, expected text"),
        (np.array("I am"), "found text, expected token ids"),
        ([np.array(5)], "expected text or a row of token ids"),
        ([None], "found NoneType"),
        ([[[1]]], "expected text or a row of token ids"),
    ],
)
def test_bad_inputs_are_named(model: Model, given: Any, message: str | None) -> None:
    if message is None:
        assert model.generate(given) == []
        return
    with pytest.raises(fastattn.InputError, match=message) as caught:
        model.generate(given)
    assert "\n" not in str(caught.value)
    assert model.generate([5, 0], max_new_tokens=3).token_ids == model.generate([[5, 0]], max_new_tokens=3)[0].token_ids


def test_one_input_and_none_are_named(model: Model) -> None:
    with pytest.raises(fastattn.InputError, match=r"^input: expected one text or row of token ids, found a list of 2$"):
        model.explain(["a", "b"])
    with pytest.raises(fastattn.InputError, match=r"^inputs: found none, expected one at least$"):
        model.profile([])


def test_explaining_records_no_attention_of_the_encoder(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows with the square of the source, and nobody reads it."""
    recorded: list[int] = []
    begin = Model._begin

    def watched(self: Model, *given: Any) -> Any:
        found = begin(self, *given)
        recorded.append(len(found.attention) if found else 0)
        return found

    monkeypatch.setattr(Model, "_begin", watched)
    steps = model.explain([5, 6, 0], max_new_tokens=3)
    assert recorded and not any(recorded)
    g = model.generate([5, 6, 0], max_new_tokens=3, return_attention=True)
    assert any(recorded) and g.attention is not None
    assert g == model.generate([5, 6, 0], max_new_tokens=3, return_attention=True), "arrays take no part"
    assert steps[0] == steps[0]
    assert all((steps[t].weights == g.attention.cross[-1].mean(axis=0)[t]).all() for t in range(len(g.token_ids)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beam": 3}, "did you mean num_beams"),
        ({"num_beams": 0}, "num_beams: found 0"),
        ({"batch_size": 0}, "batch_size: found 0, expected an integer from 1 to 2147483647"),
        ({"batch_size": True}, "batch_size: found True, expected an integer"),
        ({"max_new_tokens": -2}, "max_new_tokens: found -2"),
        ({"suppress_tokens": [500]}, "token id 500"),
    ],
)
def test_bad_options_are_named(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(fastattn.OptionError, match=message):
        model.generate([5, 0], **options)


def test_bad_inputs_are_found_before_any_is_decoded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = fastattn.load(GOLDEN.parent / "decoders" / "gpt2")
    for used in (model, writer):
        monkeypatch.setattr(used, "_generate", None)
    with pytest.raises(fastattn.InputError, match=r"^inputs\[1\]: token id 500 is outside the vocabulary of 101$"):
        model.generate([[5, 0], [5, 6, 500]], batch_size=1)
    with pytest.raises(fastattn.OptionError, match="after a prompt of 60 tokens, expected at most 5"):
        writer.generate([[5], [5] * 60], batch_size=1, max_new_tokens=6)


def test_bad_arguments_of_load_and_the_rest_are_named(model: Model, tmp_path: Path) -> None:
    for path, message in (
        ("no/such", "no/such: no such file or directory"),
        ("en-fr-bahdana", "did you mean 'en-fr-bahdanau'"),
        ("x" * 5000, "xxx: File name too long"),
    ):
        with pytest.raises(fastattn.LoadError, match=message):
            fastattn.load(path)
    with pytest.raises(fastattn.LoadError, match=str(tmp_path)):
        fastattn.load(tmp_path)
    with pytest.raises(fastattn.OptionError, match="backend: found 'cuda', expected one of native, reference"):
        fastattn.load(GOLDEN / "marian", backend="cuda")
    with pytest.raises(fastattn.OptionError, match="compute_type: found 'int3'"):
        fastattn.load(GOLDEN / "marian", compute_type="int3")
    with pytest.raises(fastattn.InputError, match="decoder_input_ids: found 1 rows, expected 2"):
        model.logits([[1, 0], [2, 0]], [[100]])
    with pytest.raises(fastattn.InputError, match="targets: found 2, expected 1"):
        model.score([5, 0], [[1, 0], [2, 0]])
    with pytest.raises(fastattn.InputError, match="attention_mask: row 1 must be ones, then zeros"):
        model.logits([[1, 0], [2, 0]], attention_mask=[[1, 1], [0, 1]])
    with pytest.raises(fastattn.InputError, match="no tokenizer"):
        model.stream([5, 0])
    assert model.score([], []) == [] and model.embed([]).shape[0] == 0
    assert model.logits(np.zeros((0, 3), np.int64)).shape[0] == 0
    assert "marian" in repr(model)


def test_a_session_that_raised_is_not_used_again(model: Model) -> None:
    expected = model.generate([5, 0], max_new_tokens=5).token_ids
    with pytest.raises(fastattn.InputError):
        model.logits([[5, 0]], [[100, 999]])
    assert model.generate([5, 0], max_new_tokens=5).token_ids == expected


def test_a_session_that_captured_attention_is_not_kept(model: Model) -> None:
    model.generate([5, 0], max_new_tokens=5, return_attention=True)
    model.encode([[5, 0], [6, 0]])
    writer = fastattn.load(GOLDEN.parent / "decoders" / "gpt2")
    writer.explain([5, 6, 7], max_new_tokens=3)
    for used in (model, writer):
        assert used._pool and not any(session.capture for *_, session in used._pool)


def test_a_session_that_grew_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = fastattn.load(GOLDEN.parent / "decoders" / "llama")

    def held(prompt_length: int) -> list[int]:
        writer.generate(list(range(2, 2 + prompt_length)) * 4, max_new_tokens=2, eos_token_id=None)
        assert all(size == session.nbytes for _, size, session in writer._pool)
        return [size for _, size, _ in writer._pool]

    (small,), (large,) = held(1), held(60)
    assert 0 < small < large
    monkeypatch.setattr("fastattn.api._POOLED_BYTES", large - 1)
    assert held(60) == [] and held(1) == [small] and held(1) == [small]
    monkeypatch.setattr("fastattn.api._POOLED_BYTES", small + large - 1)
    with writer._session():  # as if in use elsewhere
        assert held(60) == [large]
    assert [size for _, size, _ in writer._pool] == [large]  # together they would hold too much


def test_idle_threads_sleep_soon_and_the_environment_is_left_alone() -> None:
    code = "import os, fastattn; print(os.environ.get('GOMP_SPINCOUNT'))"
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    for given, used in ((None, "3000"), ("77", "77")):
        extra = {"OMP_DISPLAY_ENV": "VERBOSE"} | ({"GOMP_SPINCOUNT": given} if given else {})
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**environment, **extra}
        )
        assert run.stdout.strip() == str(given)
        assert f"GOMP_SPINCOUNT = '{used}'" in run.stderr


def test_logits_of_a_graph_without_output_are_refused() -> None:
    table = Embedding(5, 4)
    shapes = table.finalise()
    with tracing("decoder") as (graph, ids):
        table(ids)
    session = NativeSession({"decoder": graph}, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    session.start(1)
    with pytest.raises(fastattn.InputError, match="the graph decoder has no output"):
        session.step(np.array([2], np.int32), Select(logits=True))
    assert session.step(np.array([2], np.int32)).logits is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.score([5, 0], 5), "targets: found int, expected text"),
        (lambda m: m.logits([[5, 6]], 5), "decoder_input_ids: found int"),
        (lambda m: m.logits(5), "input_ids: found int"),
        (lambda m: m.embed(5), "texts: found int"),
        (lambda m: fastattn.load(None), "path: found NoneType, expected a string or a path"),
        (lambda m: fastattn.load(b"x"), "path: found bytes"),
        (lambda m: fastattn.convert("en-fr-luong", None), "out: found NoneType"),
        (lambda m: fastattn.load("en-fr-luong", compute_type=np.array("int8")), "compute_type: found array"),
        (lambda m: fastattn.load("en-fr-luong", backend=np.array(["a", "b"])), "backend: found array"),
        (lambda m: fastattn.AttentionMap(cross=[[[[1.0]]]]), "cross: found list, expected an array"),
    ],
)
def test_a_wrong_argument_is_called_by_its_name(model: Model, call: Callable[[Model], object], message: str) -> None:
    with pytest.raises(fastattn.FastattnError, match=re.escape(message)):
        call(model)
