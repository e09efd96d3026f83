"""What must hold for every model and every option: properties of decoding, on random table language models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import TableSession, hash_prefix, random_table
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattn.decoding import GenerationOptions, Hypothesis, generate, stream
from fastattn.decoding._beam import BeamState
from fastattn.decoding.beam import BeamSearch
from fastattn.decoding.greedy import RowDecoder, decode_rows
from fastattn.decoding.sampling import draw_beams
from fastattn.errors import InputError, OptionError

V = 30
SEEDS = st.integers(0, 10_000)
EOS = st.sampled_from([(0,), (1, 2), ()])
PROMPTS = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=5), min_size=1, max_size=5)
quick = settings(max_examples=150, deadline=None, derandomize=True)


def session(seed: int, eos: tuple[int, ...] = (0,), batch: int = 1) -> TableSession:
    made = TableSession(random_table(seed, 97, V, 2.0, eos, 1.5))
    made.start(batch)
    return made


def run(model: int, eos: tuple[int, ...], prompts: list[list[int]], **options: Any) -> list[list[Hypothesis]]:
    chosen = GenerationOptions(eos_token_id=eos or None, vocab_size=V, **options)
    return generate(session(model, eos, len(prompts)), [np.array(p, np.int32) for p in prompts], chosen)


BANS = st.fixed_dictionaries(
    {},
    optional={
        "no_repeat_ngram_size": st.sampled_from([1, 2, 3]),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "suppress_tokens": st.lists(st.integers(4, V - 1), max_size=3),
        "begin_suppress_tokens": st.lists(st.integers(0, V - 1), max_size=3),
        "min_new_tokens": st.integers(0, 6),
        "forced_eos_token_id": st.just(0),
        "bad_words_ids": st.lists(st.lists(st.integers(3, V - 1), min_size=1, max_size=3), max_size=4),
    },
)
STRATEGIES = st.sampled_from(
    [
        {"num_beams": 1},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 4, "early_stopping": True, "length_penalty": 0.6},
        {"num_beams": 2, "early_stopping": "never", "length_penalty": 2.0},
        {"do_sample": True, "seed": 5, "num_return_sequences": 2},
        {"do_sample": True, "seed": 5, "top_k": 0, "top_p": 0.8},
        {"do_sample": True, "seed": 5, "num_beams": 3, "temperature": 0.7},
    ]
)


@quick
@given(SEEDS, EOS, PROMPTS, STRATEGIES, BANS)
def test_results_do_not_depend_on_the_batch(
    seed: int, eos: tuple[int, ...], prompts: list[list[int]], strategy: dict[str, Any], bans: dict[str, Any]
) -> None:
    options = {"max_new_tokens": 9, **strategy, **bans}
    batch = run(seed, eos, prompts, **options)
    assert batch == [run(seed, eos, [prompt], **options)[0] for prompt in prompts]


@quick
@given(SEEDS, EOS, PROMPTS, STRATEGIES, BANS)
def test_limits_bans_and_order_hold(
    seed: int, eos: tuple[int, ...], prompts: list[list[int]], strategy: dict[str, Any], bans: dict[str, Any]
) -> None:
    options = {"max_new_tokens": 9, **strategy, **bans}
    for prompt, group in zip(prompts, run(seed, eos, prompts, **options), strict=True):
        assert len(group) == options.get("num_return_sequences", 1)
        assert [h.score for h in group] == sorted((h.score for h in group), reverse=True)
        for found in group:
            if found.score > -1e8:
                check(found, prompt, eos, options)


def check(found: Hypothesis, prompt: list[int], eos: tuple[int, ...], options: dict[str, Any]) -> None:
    most, ids = options["max_new_tokens"], found.token_ids
    generated = [*ids] if found.end_token is None else [*ids, found.end_token]
    assert not set(ids) & set(eos)
    assert found.end_token in eos if found.finish_reason == "eos" else len(generated) == most
    assert min(options.get("min_new_tokens", 0), most - 1) < len(generated) <= most
    assert len(found.token_scores) == len(generated)
    total = np.sum(found.token_scores, dtype=np.float64)
    expected = total / len(generated) ** options.get("length_penalty", 1.0)
    np.testing.assert_allclose(found.score, expected, rtol=1e-4, atol=1e-4)
    if "forced_eos_token_id" in options and len(generated) == most:
        assert generated.pop() == 0  # bans do not apply to it
    assert not set(options.get("suppress_tokens", ())) & set(generated)
    assert not set(generated[:1]) & set(options.get("begin_suppress_tokens", ()))
    for at in range(len(prompt), len(prompt) + len(generated)):
        check_history((prompt + generated)[: at + 1], options, eos)


def check_history(seen: list[int], options: dict[str, Any], eos: tuple[int, ...]) -> None:
    """The last token of `seen` completes neither an n-gram that was there before nor a bad word."""
    if n := options.get("no_repeat_ngram_size"):
        assert seen[-n:] not in [seen[i : i + n] for i in range(len(seen) - n)] or len(seen) < n
    for word in options.get("bad_words_ids", ()):
        # Hugging Face looks for a longer word only from its length on, and never forbids an end token alone
        if (len(word) == 1 and word[0] not in eos) or len(seen) > len(word) > 1:
            assert seen[-len(word) :] != word


@quick
@given(SEEDS, EOS, PROMPTS, BANS)
def test_one_beam_that_stops_early_is_greedy(
    seed: int, eos: tuple[int, ...], prompts: list[list[int]], bans: dict[str, Any]
) -> None:
    bans.pop("repetition_penalty", None)  # greedily it acts on logits, with beams on log-probabilities
    options = GenerationOptions(eos_token_id=eos or None, max_new_tokens=9, early_stopping=True, vocab_size=V, **bans)
    arrays = [np.array(p, np.int32) for p in prompts]
    greedy = generate(session(seed, eos, len(prompts)), arrays, options)
    beams = BeamSearch(session(seed, eos, len(prompts)), arrays, options).run()
    assert [g[0].token_ids for g in greedy] == [b[0].token_ids for b in beams]
    np.testing.assert_allclose([g[0].score for g in greedy], [b[0].score for b in beams], rtol=1e-4, atol=1e-5)


@quick
@given(SEEDS, EOS, PROMPTS, st.sampled_from([{}, {"do_sample": True, "top_k": 0, "seed": 5}]), BANS)
def test_scores_are_what_the_model_gave_the_tokens(
    seed: int, eos: tuple[int, ...], prompts: list[list[int]], strategy: dict[str, Any], bans: dict[str, Any]
) -> None:
    """Log-probabilities before penalties and bans; a token that was forced has 0."""
    table = session(seed, eos).table.astype(np.float64)
    for prompt, [found] in zip(prompts, run(seed, eos, prompts, max_new_tokens=9, **strategy, **bans), strict=True):
        generated = [*found.token_ids] if found.end_token is None else [*found.token_ids, found.end_token]
        rows = [table[hash_prefix(prompt + generated[:at]) % len(table)] for at in range(len(generated))]
        expected = [row[token] - np.log(np.exp(row).sum()) for row, token in zip(rows, generated, strict=True)]
        if "forced_eos_token_id" in bans and len(generated) == 9:
            expected[-1] = 0.0
        np.testing.assert_allclose(found.token_scores, expected, rtol=1e-5, atol=1e-5)


@quick
@given(SEEDS, EOS, PROMPTS, BANS, st.booleans())
def test_streaming_gives_the_same_tokens(
    seed: int, eos: tuple[int, ...], prompts: list[list[int]], bans: dict[str, Any], sample: bool
) -> None:
    options = GenerationOptions(eos_token_id=eos or None, max_new_tokens=9, do_sample=sample, seed=3, top_k=7, **bans)
    prompt = np.array(prompts[0], np.int32)
    [[whole]] = generate(session(seed, eos), [prompt], options)
    assert list(stream(session(seed, eos), prompt, options)) == whole.token_ids


@pytest.mark.parametrize("num_beams", [1, 4])
def test_finished_inputs_leave_the_batch(num_beams: int) -> None:
    table = random_table(1, 97, V, 2.0, (0,), 3.0)
    prompts = [np.array([i], np.int32) for i in range(1, 9)]
    options = GenerationOptions(
        eos_token_id=0, max_new_tokens=40, num_beams=num_beams, early_stopping=True, vocab_size=V
    )
    together = TableSession(table)
    together.start(8)
    generate(together, prompts, options)
    alone = 0
    for prompt in prompts:
        one = TableSession(table)
        one.start(1)
        generate(one, [prompt], options)
        alone += one.rows_computed
    assert together.rows_computed == alone


def test_a_stream_takes_no_step_ahead() -> None:
    made = session(3, ())
    tokens = stream(made, np.array([4], np.int32), GenerationOptions(max_new_tokens=5))
    for step in range(1, 6):
        next(tokens)
        assert made.rows_computed == step
    assert list(tokens) == []


def test_every_position_of_the_model_can_be_used() -> None:
    made = TableSession(random_table(2, 97, V), max_positions=16)
    made.start(1)
    options = GenerationOptions.resolve({"max_position_embeddings": 16, "vocab_size": V})
    [[found]] = generate(made, [np.array([4, 5], np.int32)], options)
    assert len(found.token_ids) == 15 and found.finish_reason == "length"


def test_long_outputs_outgrow_the_first_buffers() -> None:
    prompts = [[3] * 40, [4]]
    for options in ({"num_beams": 3}, {"num_beams": 1}):
        found = run(5, (), prompts, max_new_tokens=150, no_repeat_ngram_size=2, **options)
        assert [len(group[0].token_ids) for group in found] == [150, 150]
        assert found == [run(5, (), [p], max_new_tokens=150, no_repeat_ngram_size=2, **options)[0] for p in prompts]


def test_sampling_draws_in_proportion() -> None:
    table = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    counts = {"all": np.zeros(4), "beams": np.zeros(4)}
    for seed in range(600):
        for name, options in (("all", {"top_k": 0}), ("beams", {"num_beams": 2, "vocab_size": 4})):
            made = TableSession(table)
            made.start(1)
            chosen = GenerationOptions(do_sample=True, seed=seed, max_new_tokens=1, **options)
            [[found]] = generate(made, [np.array([0], np.int32)], chosen)
            counts[name][found.token_ids[0]] += 1
    np.testing.assert_allclose(counts["all"] / 600, [0.5, 0.3, 0.15, 0.05], atol=0.06)
    assert counts["beams"][0] > counts["all"][0]  # the better of two different draws is returned


def test_samples_of_one_input_differ_and_repeat_with_the_seed() -> None:
    options = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": 12}
    [first], [again], [other] = (run(1, (), [[3]], seed=seed, **options) for seed in (1, 1, 2))
    assert first == again != other
    assert len({tuple(h.token_ids) for h in first}) == 4


def test_bad_prompts_and_streams_are_refused() -> None:
    options = GenerationOptions(max_length=3)
    with pytest.raises(InputError, match=r"prompt 1: .*shape \(0,\)"):
        generate(session(1, batch=2), [np.array([1]), np.array([], np.int32)], options)
    with pytest.raises(InputError, match=r"prompt 0: .*float"):
        generate(session(1), [np.array([1.5])], options)  # type: ignore[list-item]
    with pytest.raises(OptionError, match="max_length: found 3, expected more than the 3 tokens of the decoder prompt"):
        generate(session(1), [np.array([1, 2, 3], np.int32)], options)
    with pytest.raises(OptionError, match="num_beams: found 4, expected 1"):
        stream(session(1), np.array([1], np.int32), GenerationOptions(num_beams=4))
    assert generate(session(1), [], options) == []


def test_the_beam_refuses_rows_it_did_not_ask_for() -> None:
    state = BeamState([np.array([1], np.int32)], [5], [0], 2, 4, 1.0, 0)
    with pytest.raises(ValueError, match="found 2 rows, expected 1"):
        state.advance(np.zeros((2, 4), np.float32), np.zeros((2, 4), np.int32))


@pytest.mark.parametrize("eos", [(), (0,), (0, 1, 2)])
def test_each_sampled_beam_keeps_a_token_beside_the_end_tokens(eos: tuple[int, ...]) -> None:
    left = max(len(eos), 1) + 1  # of each beam, however few top_k and the others would leave
    options = GenerationOptions(num_beams=2, do_sample=True, top_k=1, top_p=0.01, min_p=0.9, eos_token_id=eos or None)
    scores = session(7).table[:2]
    found, beams, tokens = draw_beams(scores, np.zeros(2, np.float32), options, 2 * left + 1, np.random.default_rng(0))
    assert np.isfinite(found).tolist() == [True] * (2 * left) + [False]
    best = {(beam, token) for beam in range(2) for token in np.argsort(-scores[beam])[:left]}
    assert set(zip(beams[:-1].tolist(), tokens[:-1].tolist(), strict=True)) == best


@pytest.mark.parametrize("sample", [False, True])
def test_more_beams_than_words(sample: bool) -> None:
    made = TableSession(random_table(4, 97, 3, 1.0))
    made.start(1)
    options = GenerationOptions(num_beams=5, num_return_sequences=5, max_new_tokens=4, vocab_size=3, do_sample=sample)
    [found] = generate(made, [np.array([1], np.int32)], options)
    assert len({tuple(h.token_ids) for h in found}) == 5 and all(len(h.token_ids) == 4 for h in found)


@pytest.mark.parametrize("sample", [False, True])
def test_beams_where_every_token_ends(sample: bool) -> None:
    made = TableSession(random_table(4, 97, 3, 1.0))
    made.start(1)
    warped: dict[str, Any] = {"do_sample": True, "top_k": 2, "top_p": 0.5, "min_p": 0.5} if sample else {}
    options = GenerationOptions(num_beams=2, max_new_tokens=4, vocab_size=3, eos_token_id=[0, 1, 2], **warped)
    [[found]] = generate(made, [np.array([1], np.int32)], options)
    assert found.finish_reason == "eos" and found.token_ids == []


@quick
@given(SEEDS, EOS, PROMPTS, BANS)
def test_many_steps_to_a_call_are_the_steps_one_by_one(
    model: int, eos: tuple[int, ...], prompts: list[list[int]], bans: dict[str, Any]
) -> None:
    """What bans or forces between two steps ends a call; a decoder taken one step at a time looks at every step."""
    options = GenerationOptions(eos_token_id=eos or None, vocab_size=V, max_new_tokens=12, **bans)
    fed = [np.array(prompt, np.int32) for prompt in prompts]
    decoder = RowDecoder(session(model, eos, len(prompts)), fed, options)
    while decoder.live:
        decoder.advance()
    one_by_one = [[row.hypothesis(options.length_penalty)] for row in decoder.rows]
    assert decode_rows(session(model, eos, len(prompts)), fed, options) == one_by_one
