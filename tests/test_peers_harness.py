"""The peers' harness itself: turns, ratios, faults, resuming, the page. No peer is needed: workers are played by a script."""

from __future__ import annotations

import io
import json
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from families import GOLDEN

import fastattn

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

import peers  # noqa: E402
import peers_harness.cases  # noqa: E402
from peers_harness import (  # noqa: E402
    engines,
    gguf_form,
    limits,
    models,
    optables,
    page,
    pool,
    ratios,
    runner,
    slope,
    targets,
    worker,
)
from peers_harness.cases import PARTICIPANTS, Case, Participant, cases, takes_part  # noqa: E402
from peers_harness.pool import compared  # noqa: E402

OURS, THEIRS = Participant("fastattn", "float32"), Participant("ctranslate2", "float32")
CASE = Case("marian-base", 1, 1, 32, 8)
SCRIPT = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    do = request["do"]
    if do == "run":
        seconds = {seconds} * request["new"]
        answer = {{"seconds": seconds, "ids": [[1] * request["new"]] * request["batch"]}}
        {extra}
    elif do == "load":
        answer = {{"seconds": 0.1, "from": "hf", "rss": 10, "anonymous": 5, "peak": 20}}
    elif do == "score":
        answer = {{"log_probs": [[-1.0, {score}]]}}
    else:
        answer = {{"rss": 10, "anonymous": 5, "peak": 30}}
    print(json.dumps(answer), flush=True)
"""


def play(tmp_path: Path, seconds: float, score: float = -2.0, extra: str = "") -> pool.Engine:
    script = SCRIPT.format(seconds=seconds, score=score, extra=extra)
    return pool.Engine([sys.executable, "-c", script], {}, tmp_path / "log")


@pytest.fixture
def seated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A pool whose two engines are played, on a machine that does nothing else: theirs takes 1.5 times as long as ours."""
    monkeypatch.setattr(runner, "busy_seconds", lambda: 0.0)
    made = pool.Pool(tmp_path, threads=2, memory=1e12)
    for participant, seconds in ((OURS, 0.001), (THEIRS, 0.0015)):
        key = (CASE.model, participant)
        made.engines[key] = play(tmp_path, seconds, score=-2.0 - seconds)
        made.loaded[key] = {"seconds": 0.1, "from": "hf", "rss": 10, "anonymous": 5, "peak": 20}
    yield made
    made.close()


def empty() -> dict[str, Any]:
    limit = {"read_gbs": dict.fromkeys(map(str, limits.SIZES), 20.0), "fma_gflops": 100.0}
    return {
        "cases": {}, "engines": {}, "slopes": {}, "limits": {"2": [limit]}, "ops": {}, "threads": 2,
        "machine": {"CPU": "one"}, "peers": {"ctranslate2": "4", "torch": None},
    }  # fmt: skip


def measured(made: pool.Pool, results: dict[str, Any], seconds: float = 0.5) -> dict[str, Any]:
    player = runner.Runner(made, results, time.monotonic() + 60, 2)
    player.measure({CASE: [OURS, THEIRS]}, seconds, rounds=4, done=lambda case: None)
    return player.entry(CASE)


def test_turns_give_ratios_rates_and_errors(seated: pool.Pool) -> None:
    results = empty()
    entry = measured(seated, results)
    assert [set(turns) for turns in entry["sittings"][0]] == [{OURS.name, THEIRS.name}] * 4
    ratio = ratios.ratio(entry, OURS.name, THEIRS.name)
    assert ratio is not None and (ratio.rounds, str(ratio)) == (4, "1.50 (1.50–1.50)")
    assert str(ratios.ratio(entry, THEIRS.name, OURS.name)) == "**0.67 (0.67–0.67)**"
    assert ratios.tokens_per_second(entry, OURS.name) == pytest.approx(1000)
    assert ratios.seconds_per_step(entry, OURS.name) == pytest.approx(0.001)
    assert results["engines"]["marian-base fastattn/float32"]["peak"] == 30
    results["engines"]["marian-base torch/float32"] = {"log_probs": [[-1.0, -2.0]]}
    assert ratios.largest_error(results, "marian-base", THEIRS.name) == pytest.approx(0.0015)


def test_share_of_the_limit_is_bytes_over_bandwidth_and_time(seated: pool.Pool) -> None:
    results = empty()
    entry = measured(seated, results)
    assert [limits.held_as("llama-1b", p) for p in (OURS, THEIRS)] == ["bfloat16", "float32"]
    size = limits.step_bytes("marian-base", "float32", 1, 1, 32, 8)
    assert size == pytest.approx(
        207e6, rel=0.01
    )  # 22 million of the decoder's layers, 29.7 of the projection; some keys
    ours = [turns[OURS.name] for turns in entry["sittings"][0]]
    assert all(len(turn) == 4 and turn[3] > 0 for turn in ours), "the bandwidth beside each of our turns"
    for turn, gbs in zip(ours, (10.0, 25.0, 25.0, 40.0), strict=True):
        turn[3] = gbs
    assert ratios.share(results, entry, OURS.name) == pytest.approx(size / 25e9 / 0.001)
    assert ratios.share(results, entry, OURS.name, cached=True) == pytest.approx(size / 20e9 / 0.001)
    for turn in ours:
        del turn[3]  # as older results have it: then the run's best counts
    assert ratios.share(results, entry, OURS.name) == pytest.approx(size / 20e9 / 0.001)


def test_a_worker_that_dies_or_hangs_or_refuses_is_a_note_and_the_rest_goes_on(tmp_path: Path) -> None:
    faults = {
        "dies": ("raise SystemExit(3)", "ended with status 3"),
        "refuses": ('answer = {{"error": "no beams"}}', "no beams"),
        "cannot": ('answer = {{"unsupported": "int4"}}', "not supported: int4"),
    }
    for extra, expected in faults.values():
        made = pool.Pool(tmp_path, threads=2, memory=1e12)
        made.engines[CASE.model, OURS] = play(tmp_path, 0.001)
        made.engines[CASE.model, THEIRS] = play(tmp_path, 0.001, extra=extra.replace("{{", "{").replace("}}", "}"))
        entry = measured(made, empty())
        assert expected in entry["faults"][THEIRS.name]
        assert ratios.participants(entry) == [OURS.name]
        made.close()
    slow = play(tmp_path, 0.001, extra="time.sleep(30)")
    with pytest.raises(pool.Fault, match="no answer within 0 s"):
        slow.ask("run", 0.3, batch=1, context=2, beams=1, new=1)
    assert not slow.alive


def test_resuming_measures_only_what_is_missing(seated: pool.Pool) -> None:
    results = empty()
    for turns in measured(seated, results)["sittings"][0]:
        for turn in turns.values():
            turn[2] = 0.0
    other = Participant("torch", "float32")
    assert peers.missing(results, CASE, [OURS, THEIRS], again=False) == []
    assert peers.missing(results, CASE, [OURS, THEIRS, other], again=False) == [OURS, other]
    assert peers.missing(results, CASE, [OURS, THEIRS], again=True) == [OURS, THEIRS]
    for turns in results["cases"][CASE.label]["sittings"][0]:
        for turn in turns.values():
            turn[2] = 0.5
    assert peers.missing(results, CASE, [OURS, THEIRS], again=False) == [OURS, THEIRS], "the machine was busy"


def test_results_are_saved_whole(tmp_path: Path, seated: pool.Pool) -> None:
    file = tmp_path / "results.json"
    results = empty()
    measured(seated, results)
    peers.save(peers.arguments(["--results", str(file)]), results)
    opened = peers.opened(peers.arguments(["--results", str(file)]))
    assert opened["cases"] == json.loads(json.dumps(results["cases"]))


def test_those_that_do_not_fit_in_memory_are_measured_in_pairs(tmp_path: Path) -> None:
    wanted = [Participant.parse(f"{e}/float32") for e in ("fastattn", "ctranslate2", "torch", "ort")]
    made = pool.Pool(tmp_path, threads=2, memory=1e12)
    assert made.sittings("llama-1b", wanted, wanted[:1]) == [wanted]
    made.memory = 17e9
    assert [[p.engine for p in table] for table in made.sittings("llama-1b", wanted, wanted[:1])] == [
        ["fastattn", "ctranslate2"], ["fastattn", "torch"], ["fastattn", "ort"],
    ]  # fmt: skip
    made.memory = 1e9
    assert made.sittings("llama-1b", wanted, wanted[:1]) == []
    assert made.faults["llama-1b", wanted[0]] == "needs 6 GB, there are 1"


def test_page_has_every_case_what_is_lost_in_bold_and_what_is_missing(seated: pool.Pool, tmp_path: Path) -> None:
    results = empty()
    entry = measured(seated, results)
    for turns in entry["sittings"][0]:
        turns["torch/float32"] = [turns[OURS.name][0] / 2, None, 0.0]
    text = page.section(results, ["### Linear"], [("batch", "img/x.svg")])
    row = next(line for line in text.splitlines() if line.startswith("| 1 × 32, beam 1 | float32"))
    assert "| 1.50 (1.50–1.50) |" in row and "| **0.50 (0.50–0.50)** |" in row
    assert 'PyTorch, transformers: **missing**; to have it measured: `pip install torch "transformers==4.57.*"`' in text
    assert "against CTranslate2 | 1.25 × | 1.50 (1.50–1.50) × | yes |" in text
    assert "T5-small, batch 1, int8, against CTranslate2 | 1.9 × | not measured | **?** |" in text
    file = tmp_path / "performance.md"
    file.write_text("# Performance\n\n## Every shape\n\nx\n")
    page.replace(file, text)
    page.replace(file, text)
    assert file.read_text().count(page.BEGIN) == 1 and page.kept(file) == text
    assert file.read_text().index("## Against the peers") < file.read_text().index("## Every shape")


def test_targets_take_the_better_of_the_peers_variants(seated: pool.Pool) -> None:
    results = empty()
    entry = measured(seated, results)
    for turns in entry["sittings"][0]:
        turns["ctranslate2-AVX512/float32"] = [turns[OURS.name][0] * 1.2, None, 0.0]
        turns["ctranslate2-MKL/float32"] = [turns[OURS.name][0] * 1.1, None, 0.0]
    first = targets.verdicts(results)[0]
    assert (first.measured, first.met) == ("1.10 (1.10–1.10) ×", False)
    row = next(line for line in page.section(results, [], []).splitlines() if line.startswith("| 1 × 32, beam 1"))
    assert "| 1.50 (1.50–1.50) | 1.20 (1.20–1.20) | 1.10 (1.10–1.10) |" in row


def test_mkl_is_turned_on_where_it_is_off_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    mkl = Participant.parse("ctranslate2-MKL/int8")
    variables = engines.environment(mkl.engine, mkl.variant, 2)
    assert variables["CT2_USE_MKL"] == "1" and "CT2_FORCE_CPU_ISA" not in variables
    assert engines.environment("ctranslate2", "AVX512", 2)["CT2_FORCE_CPU_ISA"] == "AVX512"
    for is_intel in (False, True):
        monkeypatch.setattr(peers_harness.cases, "intel", lambda is_intel=is_intel: is_intel)
        assert takes_part(mkl, CASE) is not is_intel
        assert not takes_part(mkl, Case("t5-small", 1, 1, 2048, 8))


def test_llama_cpp_is_set_against_the_same_types() -> None:
    """In the decoder-only models, without beams; of four bits in both of its usual forms."""
    theirs = [p for p in PARTICIPANTS if p.engine == "llamacpp"]
    assert all(takes_part(p, Case("llama-1b", 4, 1, 32, 8)) for p in theirs)
    assert not any(takes_part(p, Case(m, 1, b, 32, 8)) for p in theirs for m, b in (("t5-small", 1), ("gpt2-small", 4)))
    forms = {models.form_of(p.engine, p.weights) for p in theirs}
    assert forms == {"gguf-float32", "gguf-bfloat16", "gguf-Q8_0", "gguf-Q4_0", "gguf-Q4_K_M"} <= models.FORMS.keys()
    for dtype in ("float32", "bfloat16", "int8", "int4"):
        assert page.opponent(dtype, "llamacpp") == f"llamacpp/{dtype}"
        assert [p.dtype for p in theirs if compared(Participant("fastattn", dtype), p)] == [dtype] * (
            1 + (dtype == "int4")
        )
    assert "FASTATTN_ISA" not in engines.environment("llamacpp", "Q4_K_M", 2)


def test_llama_cpp_is_fed_position_by_position() -> None:
    """So that the last tokens of all rows, whose logits are wanted, are in the last of several calls."""
    calls = []

    class Api:
        def llama_decode(self, context: None, batch: SimpleNamespace) -> int:
            fields = (batch.token, batch.pos, [row[0] for row in batch.seq_id], batch.logits)
            calls.append(list(zip(*(field[: batch.n_tokens] for field in fields), strict=True)))
            return 0

    fed = object.__new__(engines.LlamaCpp)
    fed.api, fed.context, fed.most = Api(), None, 4
    fed.batch = SimpleNamespace(
        **{name: [0] * 4 for name in ("token", "pos", "n_seq_id", "logits")}, seq_id=[[0] for _ in "four"]
    )
    fed._feed([[1, 2, 3], [4, 5, 6]], 7, 1)
    assert calls == [
        [(1, 7, 0, False), (4, 7, 1, False), (2, 8, 0, False), (5, 8, 1, False)], [(3, 9, 0, True), (6, 9, 1, True)],
    ]  # fmt: skip


def test_rotary_positions_in_gguf() -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 512}  # fmt: skip
    config = SimpleNamespace(rope_theta=10000.0, head_dim=64, max_position_embeddings=4096, rope_scaling=scaling)
    turns = 512 * 10000.0 ** -(np.arange(0, 64, 2) / 64) / (2 * np.pi)  # within the original context
    plain = np.clip((turns - 1.0) / (4.0 - 1.0), 0.0, 1.0)  # share of the frequency that stays as it is
    np.testing.assert_allclose(1.0 / gguf_form.rope_factors(config), plain + (1.0 - plain) / 8.0, rtol=1e-5)
    weight = np.arange(2 * 6 * 3).reshape(12, 3)  # two heads of six rows
    turned = gguf_form.neighbours(weight, 2)
    np.testing.assert_array_equal(turned[:, 0] // 3, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11])


def test_two_rounds_have_no_quartiles() -> None:
    assert str(ratios.Ratio(1.5, 1.0, 2.0, 2)) == "1.50"
    assert str(ratios.Ratio(0.5, 0.4, 0.6, 1)) == "**0.50**"
    assert str(ratios.Ratio(1.5, 1.0, 2.0, 3)) == "1.50 (1.00–2.00)"


def test_bandwidths_are_the_best_of_the_run() -> None:
    results = empty()
    first = results["limits"]["2"][0]
    results["limits"]["2"] = [first | {"read_gbs": dict.fromkeys(first["read_gbs"], 30.0)}, first]
    assert "| 2 |" + " 30.0 |" * len(limits.SIZES) + " 100 |" in page.section(results, [], [])


def test_slopes_that_failed_are_tried_again() -> None:
    asked = []

    class Played:
        results = empty() | {"slopes": {"gpt2-small": {"fastattn/float32": [[1, 1, 1]], "fastattn/int8": "died"}}}

        def slopes(self, model: str, participants: list[Participant], contexts: list[int]) -> None:
            asked.append((model, [p.dtype for p in participants]))

    peers.slopes(peers.arguments([]), Played(), list(PARTICIPANTS))  # type: ignore[arg-type]
    assert asked == [("gpt2-small", ["int8"]), ("llama-1b", ["float32", "int8"])]


def test_cases_cover_what_was_asked_for() -> None:
    found = cases()
    assert {c.model for c in found} == set(models.SHAPES)
    assert {c.batch for c in found} == {1, 4, 16} and {c.beams for c in found} == {1, 4}
    assert min(c.context for c in found) == 32 and max(c.context + 64 for c in found) >= 8192
    for case in found:
        positions = models.SHAPES[case.model].positions
        needed = case.context + (case.new if models.SHAPES[case.model].kind == "decoder" else 0)
        assert not positions or needed <= positions
    assert {p.dtype for p in PARTICIPANTS if p.engine == "fastattn"} == {"float32", "bfloat16", "int8", "int4"}
    assert [Participant.parse(p.name) for p in PARTICIPANTS] == list(PARTICIPANTS)
    long = [c for c in found if c.context > 8000]
    assert all(
        any(takes_part(p, c) for p in PARTICIPANTS if p.engine == e)
        for c in long
        for e in ("fastattn", "ctranslate2", "torch")
    )
    assert all(takes_part(p, CASE) for p in PARTICIPANTS if p.variant != "MKL" and p.engine != "llamacpp")
    assert len({c.label for c in found}) == len(found)
    assert all(c.priority == 0 for c in cases(quick=True))


def test_inputs_are_the_same_for_everybody() -> None:
    rows = models.inputs("marian-base", 2, 5)
    assert rows == models.inputs("marian-base", 2, 5) and rows[0] != rows[1]
    assert [row[-1] for row in rows] == [0, 0] and len(rows[0]) == 5
    assert models.inputs("gpt2-small", 1, 5)[0][-1] != models.SHAPES["gpt2-small"].eos
    names = models.MadeUpTokenizer("t5-small").names
    assert len(set(names)) == models.SHAPES["t5-small"].vocabulary and names[1] == "</s>"


def test_a_worker_answers_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Played:
        loaded_from = "hf"

        def __init__(self, root: Path, model: str, dtype: str, threads: int) -> None:
            if dtype != "float32":
                raise engines.Unsupported("only float32")

        def generate(self, rows: Any, beams: int, new: int) -> Any:
            return [[7] * min(new, 3) for _ in rows]

    monkeypatch.setitem(engines.ENGINES, "torch", Played)
    lines = [{"do": "load"}] + [{"do": "run", "batch": 2, "context": 4, "beams": 1, "new": new} for new in (3, 4)]
    answers = io.StringIO()
    worker.serve(
        worker.Worker(Path(), "t5-small", "torch", "float32", 1),
        io.StringIO("\n".join(map(json.dumps, lines))),
        answers,
    )
    first, second, third = map(json.loads, answers.getvalue().splitlines())
    assert first["from"] == "hf" and second["ids"] == [[7, 7, 7]] * 2
    assert third == {"error": "RuntimeError: 2 rows of [3] tokens generated, expected 2 of 4"}
    answers = io.StringIO()
    worker.serve(worker.Worker(Path(), "t5-small", "torch", "int8", 1), io.StringIO('{"do": "load"}'), answers)
    assert json.loads(answers.getvalue()) == {"unsupported": "only float32"}


def test_the_line_through_time_per_token() -> None:
    start, each, straight = slope.fit([[100, 2e-3 + 100e-6], [200, 2e-3 + 200e-6], [400, 2e-3 + 400e-6]])
    assert (start, each, straight) == (pytest.approx(2e-3), pytest.approx(1e-6), pytest.approx(1))
    bent = [[float(x), float(np.sqrt(x))] for x in (1, 100, 1000, 10000)]
    assert slope.fit(bent)[2] < 0.97
    assert slope.fit([[1, 7, 3], [2, 1, 5], [3, 9, 7]], 2) == (pytest.approx(1), pytest.approx(2), pytest.approx(1))


def test_a_step_is_held_against_its_own_weights() -> None:
    def op(seconds: float, waiting: float, weights: float, kept: float) -> types.SimpleNamespace:
        return types.SimpleNamespace(seconds=seconds, waiting=waiting, weight_bytes=weights, kept_bytes=kept)

    ops = [op(1.5, 0.5, 100, 0), op(0.5, 0.5, 0, 30), op(2.0, 0.0, 300, 0)]
    assert slope.weights_meanwhile(ops) == pytest.approx(400 * 5 / 4)


def test_steps_at_growing_lengths() -> None:
    model = fastattn.load(GOLDEN / "decoders" / "gpt2")
    found = slope.points(model, models.SHAPES["gpt2-small"], [5, 20], 2)
    profile = model.profile([[3]], max_new_tokens=4)
    weights = profile.total.weight_bytes / profile.steps
    assert [point[0] for point in found] == [6, 21]
    assert all(seconds > 0 and weights < size for _, seconds, size in found), "a step takes longer than its weights"


def test_plots_are_drawn_from_results(seated: pool.Pool, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install matplotlib")
    from peers_harness import plotting

    results = empty()
    entry = measured(seated, results)
    label = Case("marian-base", 4, 1, 32, 8).label
    results["cases"][label] = entry | {"case": entry["case"] | {"batch": 4}}
    results["slopes"] = {
        "gpt2-small": {"fastattn/float32": [[1, 1e-3, 9], [2, 2e-3, 8], [3, 3e-3, 7]], "fastattn/int8": "died"}
    }
    names = [name for _, name in plotting.draw(results, tmp_path)]
    assert names == ["peers-batch.svg", "peers-slope.svg", "peers-limit.svg"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)


PRINTED = """| shape | threads | fastattn ms | torch 2 ms | ratio | of multiply-add peak |
|---|---|---|---|---|---|
| 1 x 8 x 512 x 64 | 2 | 1.0 | 2.0 | 2.00 | 60% |
| 1 x 16 x 1024 x 64 causal | 2 | 1.0 | 0.5 | 0.50 | 70% |
| geometric mean, at least 0.50 | 2 | | | 1.00 | |

| shape | threads | fastattn ms | torch 2 ms | ratio | of read bandwidth |
|---|---|---|---|---|---|
| 1 x 8 x 1 of 2048 x 64 | 2 | 1.0 | 2.0 | 2.00 | 86% |
"""


LINEAR = """| O x I | M | type | threads | ms | GFLOP/s | of the peak | PyTorch / ours | our float32 / ours |
|---|---|---|---|---|---|---|---|---|
| 8 x 4 | 1 | float32 | 2 | 0.1 | 10 | 5% | 0.90 | |
| 8 x 4 | 64 | float32 | 2 | 0.1 | 90 | 81% | 1.10 | |
| 8 x 4 | 64 | int8 | 2 | 0.1 | 100 | 90% | | 1.30 |

| O x I | type | threads | GB/s | of the read bandwidth |
|---|---|---|---|---|
| 8 x 4 | int8 | 2 | 20.0 | 84% |
stopped after 9 s"""


def test_op_tables_are_read_from_what_the_scripts_print() -> None:
    results = empty()
    results["ops"] = {"attention": PRINTED, "linear": LINEAR}
    found = [(v.measured, v.met) for v in optables.verdicts(results)]
    assert found[:4] == [("1.00 ×", False), ("0.50 ×", False), ("70 %", False), ("86 %", True)]
    so_far = [("0.90 × so far", False), ("81 % so far", None), ("1.30 × so far", None), ("84 % so far", False)]
    assert found[4:] == so_far, "it was stopped"
    text = "\n".join(optables.lines(results))
    assert "| 1.0 | 0.5 | **0.50** | 70% |" in text, "ratios, not milliseconds"
    assert "| 8 x 4 | float32 | 2 | 10, **0.90** | 90, 1.10 |" in text and "| 8 x 4 | int8 | 2 |  | 100, 1.30 |" in text
    assert "| 8 x 4 | int8 | 2 | 20.0 | 84% |" in text and "stopped after 9 s" in text


def test_op_tables_cut_short_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    results = empty()
    results["ops"] = {"attention": PRINTED, "linear": LINEAR}
    monkeypatch.setattr(optables, "_output", lambda command, timeout: f"| {command[0]} |")
    optables.run(results, 1.0)
    assert results["ops"]["linear"] == "| linear.py |" and "| shape |" in results["ops"]["attention"]
