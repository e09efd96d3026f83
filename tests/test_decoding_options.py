"""GenerationOptions: where values come from, and what is said about bad ones; the samplers against Hugging Face's."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import random_table

from fastattn.decoding import GenerationOptions
from fastattn.decoding.options import DEFAULT_NEW_TOKENS
from fastattn.decoding.result import length_normalised
from fastattn.decoding.sampling import draw, warp
from fastattn.errors import FastattnError, OptionError

MARIAN = {
    "vocab_size": 58101,
    "max_position_embeddings": 512,
    "is_encoder_decoder": True,
    "eos_token_id": 0,
    "pad_token_id": 58100,
    "decoder_start_token_id": 58100,
    "num_beams": 6,
    "max_length": 512,
    "bad_words_ids": [[58100]],
    "transformers_version": "4.22.0",
}


def test_defaults_are_those_of_hugging_face() -> None:
    options = GenerationOptions.resolve({}, {})
    assert (options.num_beams, options.length_penalty, options.early_stopping, options.top_k) == (1, 1.0, False, 50)
    assert options == GenerationOptions()


def test_the_caller_comes_before_the_files() -> None:
    generation = {"num_beams": 4, "eos_token_id": [0, 7], "forced_eos_token_id": 0, "max_length": 100, "top_p": None}
    options = GenerationOptions.resolve(MARIAN, generation, num_beams=2, forced_eos_token_id=None)
    assert (options.num_beams, options.eos, options.forced_eos) == (2, (0, 7), ())
    assert (options.decoder_start_token_id, options.new_tokens(1)) == (58100, (0, 99))


def test_config_decides_only_without_a_generation_config() -> None:
    assert GenerationOptions.resolve(MARIAN, {}).num_beams == 6
    assert GenerationOptions.resolve(MARIAN).bad_words_ids == ((58100,),)
    assert GenerationOptions.resolve(MARIAN, {"num_beams": 4}).bad_words_ids is None
    assert GenerationOptions.resolve(MARIAN, {"num_beams": 4}).eos == (0,)


@pytest.mark.parametrize(
    ("files", "given", "prompt", "expected"),
    [
        ({}, {}, 1, (0, DEFAULT_NEW_TOKENS)),
        ({"n_positions": 32}, {}, 5, (0, 28)),  # the last token is not fed
        ({"max_length": 20}, {}, 5, (0, 20)),  # Hugging Face's default, which counts new tokens
        ({"max_length": 20}, {"max_length": 20}, 5, (0, 15)),
        ({"max_length": 20}, {"max_length": 40}, 5, (0, 35)),
        ({"max_length": 64}, {"max_length": None}, 4, (0, 60)),
        ({"max_length": 64, "max_new_tokens": 7}, {}, 4, (0, 7)),
        ({"max_new_tokens": 7}, {"max_length": 50, "max_new_tokens": None}, 4, (0, 46)),
        ({"max_new_tokens": 7}, {"max_length": 50, "max_new_tokens": 8}, 4, (0, 8)),
        ({"max_new_tokens": 7}, {"max_length": None}, 4, (0, 7)),
        ({"min_new_tokens": 2}, {"min_length": 9, "min_new_tokens": None, "max_new_tokens": 20}, 4, (5, 20)),
        ({"min_length": 10}, {"max_new_tokens": 30}, 4, (6, 30)),
        ({"min_length": 10}, {"max_new_tokens": 30, "min_new_tokens": 3}, 4, (3, 30)),
        ({"min_length": 2}, {"max_new_tokens": 3}, 4, (0, 3)),
    ],
)
def test_limits(files: dict[str, Any], given: dict[str, Any], prompt: int, expected: tuple[int, int]) -> None:
    assert GenerationOptions.resolve(files, {}, **given).new_tokens(prompt) == expected


@pytest.mark.parametrize(("name", "first"), [("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")])
def test_a_length_that_the_files_would_undo_is_refused(name: str, first: str) -> None:
    message = (
        f"^{name}: found 50, but the model's files set {first} to 7, which goes before it; expected {first} instead, "
        f"or {first}=None too$"
    )
    for config, generation in (({first: 7}, {}), ({}, {first: 7})):
        with pytest.raises(OptionError, match=message):
            GenerationOptions.resolve(config, generation, **{name: 50})


def test_bos_stands_in_for_the_decoder_start() -> None:
    assert GenerationOptions.resolve({"is_encoder_decoder": True, "bos_token_id": 3}).decoder_start_token_id == 3
    assert GenerationOptions.resolve({"bos_token_id": 3}).decoder_start_token_id is None


BAD = [
    ({"num_beam": 4}, "num_beam: unknown option; did you mean num_beams?"),
    ({"beams_number_x": 4}, "beams_number_x: unknown option; expected one of num_beams, length_penalty"),
    ({"position_limit": 4}, "position_limit: unknown option"),
    ({"num_beams": 0}, "num_beams: found 0, expected an integer from 1 to 1048576"),
    ({"num_beams": 2**30}, "num_beams: found 1073741824, expected an integer from 1 to 1048576"),
    ({"num_beams": True}, "num_beams: found True, expected an integer"),
    ({"num_beams": np.True_}, "num_beams: found"),
    ({"num_beams": 2.0}, "num_beams: found 2.0, expected an integer"),
    ({"num_beams": "4"}, "num_beams: found '4', expected an integer"),
    ({"length_penalty": "1"}, "length_penalty: found '1', expected a number from -10 to 10"),
    ({"length_penalty": 1000.0}, "length_penalty: found 1000.0, expected a number from -10 to 10"),
    ({"length_penalty": -1000.0}, "length_penalty: found -1000.0, expected a number from -10 to 10"),
    ({"length_penalty": 10**400}, "length_penalty: found 1000"),
    ({"max_new_tokens": 10**5000}, "max_new_tokens: found a very large int, expected an integer from 1 to 2147483647"),
    ({"length_penalty": float("inf")}, "length_penalty: found inf"),
    ({"length_penalty": float("nan")}, "length_penalty: found nan"),
    ({"length_penalty": False}, "length_penalty: found False"),
    ({"early_stopping": "always"}, "early_stopping: found 'always', expected True, False or \"never\""),
    ({"early_stopping": 1}, "early_stopping: found 1"),
    ({"do_sample": 1}, "do_sample: found 1, expected True or False"),
    ({"do_sample": True, "temperature": 0.0}, "temperature: found 0, expected a number > 0"),
    ({"temperature": 1e-310}, "temperature: found 1e-310, expected a number from 1e-30 to 1e+30"),
    ({"temperature": 1e31}, "temperature: found 1e+31"),
    ({"do_sample": True, "temperature": 1e-8}, "temperature: found 1e-08, expected at least 1e-05 with beams"),
    ({"temperature": -1}, "temperature: found -1"),
    ({"top_p": 1.5}, "top_p: found 1.5"),
    ({"min_p": -0.1}, "min_p: found -0.1"),
    ({"top_k": -1}, "top_k: found -1"),
    ({"repetition_penalty": 0}, "repetition_penalty: found 0, expected a number from 1e-30 to 1e+30"),
    ({"repetition_penalty": 1e-300}, "repetition_penalty: found 1e-300, expected a number from 1e-30 to 1e+30"),
    ({"repetition_penalty": 1e31}, "repetition_penalty: found 1e+31"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size: found -1"),
    ({"max_new_tokens": 0}, "max_new_tokens: found 0"),
    ({"max_new_tokens": 2**31}, "max_new_tokens: found 2147483648, expected an integer from 1 to 2147483647"),
    ({"eos_token_id": []}, "eos_token_id: found [], expected a token id or a non-empty list"),
    ({"eos_token_id": [1, -2]}, "eos_token_id: found [1, -2]"),
    ({"eos_token_id": 58101}, "eos_token_id: found token id 58101, expected less than the vocabulary size 58101"),
    ({"bad_words_ids": [[5, 99999]]}, "bad_words_ids: found token id 99999"),
    ({"bad_words_ids": [5]}, "bad_words_ids: found [5], expected a list of non-empty lists"),
    ({"bad_words_ids": [[]]}, "bad_words_ids: found [[]]"),
    ({"suppress_tokens": 5}, "suppress_tokens: found 5, expected a list of token ids"),
    ({"suppress_tokens": [5], "forced_bos_token_id": 5}, "suppress_tokens: found 5, expected no forced token"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences: found 3, expected at most num_beams (2)"),
    ({"num_beams": 1, "num_return_sequences": 2}, "num_return_sequences: found 2, expected 1 for greedy decoding"),
    ({"num_beam_groups": 2}, "num_beam_groups: found 2, expected 1 (others are not supported)"),
    ({"stop_strings": ["."]}, "stop_strings: found ['.'], expected None"),
    ({"seed": -1}, "seed: found -1, expected an integer >= 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message.split(",")[0] for _, message in BAD])
def test_a_bad_option_is_named_with_what_was_found_and_expected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        GenerationOptions.resolve(MARIAN, {}, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert isinstance(error.value, FastattnError)


def test_a_bad_value_in_a_file_is_found_there() -> None:
    with pytest.raises(OptionError, match=r"^generation_config\.json: num_beams: found 'four', expected an integer"):
        GenerationOptions.resolve({}, {"num_beams": "four"})
    with pytest.raises(OptionError, match=r"^config\.json: diversity_penalty: found 0\.5, expected 0\.0"):
        GenerationOptions.resolve({"diversity_penalty": 0.5}, {})


def test_what_changes_nothing_is_accepted() -> None:
    files = {"diversity_penalty": 0.0, "typical_p": 1.0, "use_cache": True, "num_beam_groups": 4, "temperature": 0}
    assert GenerationOptions.resolve({"pad_token_id": -1}, files, num_beam_groups=1).pad_token_id is None


def test_numpy_numbers_become_plain_ones() -> None:
    options = GenerationOptions(num_beams=np.int64(3), length_penalty=np.float32(2), eos_token_id=np.array([1, 2]))  # type: ignore[arg-type]
    assert type(options.num_beams) is int and type(options.length_penalty) is float and options.eos == (1, 2)


def test_every_integer_is_a_seed() -> None:
    for seed in (0, 2**32 - 1, 2**100, np.uint64(2**63)):
        assert GenerationOptions(seed=seed).seed == int(seed)  # type: ignore[arg-type]


def test_normalising_by_the_length_never_raises() -> None:
    for penalty in (-10, 10):
        for length in (1, 2**31 - 1):
            assert length_normalised(-1e9, length, GenerationOptions(length_penalty=penalty).length_penalty) < 0


WARPS = json.loads(gzip.decompress((Path(__file__).parent / "golden/decoding/warps.json.gz").read_bytes()))


def in_order(scores: np.ndarray, top_p: float, keep: int) -> np.ndarray:
    """The nucleus by its definition: all tokens in order, the least likely first."""
    order = np.argsort(scores, kind="stable")
    weights = np.exp(scores[order] - scores.max())
    removed = np.cumsum(weights) <= (1 - top_p) * weights.sum()
    removed[max(len(scores) - keep, 0) :] = False
    return np.sort(order[~removed])


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("ties", [False, True])
def test_the_nucleus_is_that_of_all_tokens_in_order(spread: float, ties: bool) -> None:
    rng = np.random.default_rng(3)
    for top_p in (0.0, 1e-9, 0.01, 0.5, 0.9, 0.99, 1 - 1e-9):
        for size in (1, 2, 50, 3000):
            scores = rng.standard_normal(size) * spread
            if ties:
                scores = np.round(scores, 1 - int(np.log10(spread)))
            scores[rng.random(size) < 0.2] = -np.inf
            scores[size // 2] = 0.5
            for keep in (1, 3):
                options = GenerationOptions(do_sample=True, top_k=0, top_p=top_p)
                left = np.flatnonzero(warp(scores, options, keep) > -np.inf)
                assert left.tolist() == [i for i in in_order(scores, top_p, keep) if scores[i] > -np.inf]


@pytest.mark.parametrize("best", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_do_not_stop_sampling(best: float) -> None:
    scores = np.full(40, -np.inf)
    scores[7] = best
    for options in ({"top_p": 0.5, "top_k": 0}, {"top_p": 0.5, "min_p": 0.1}, {}):
        warped = warp(scores.copy(), GenerationOptions(do_sample=True, **options))  # type: ignore[arg-type]
        with np.errstate(invalid="ignore"):
            assert draw(warped, np.random.default_rng(0)) == (0 if best == -np.inf else 7)


def test_samplers_leave_the_tokens_hugging_face_leaves() -> None:
    for case in WARPS:
        options = GenerationOptions(do_sample=True, eos_token_id=[0, 1], **case["options"])
        keep = 3 if options.num_beams > 1 else 1
        left = warp(random_table(case["seed"], 1, 40, 3.0)[0].astype(np.float64), options, keep)
        assert np.flatnonzero(left > -np.inf).tolist() == case["left"], case
