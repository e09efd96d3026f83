"""Models against PyTorch and Hugging Face: tiny trained or random ones under golden/models (made by its make.py)."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn.models.marian import sinusoids

GOLDEN = Path(__file__).parent / "golden" / "models"
RECURRENT = sorted(path.name for path in GOLDEN.glob("rnn-*"))
RUNS: dict[str, Any] = json.loads(gzip.decompress((GOLDEN / "marian" / "runs.json.gz").read_bytes()))


def rows_of(data: Any) -> list[list[int]]:
    return [row[:n].tolist() for row, n in zip(data["sources"], data["lengths"], strict=True)]


def check_logits(model: fastattn.Model, data: Any) -> None:
    """The bound of docs/numerics.md: at most twice what plain float32 (here PyTorch's) errs against float64."""
    logits = model.logits(rows_of(data), data["targets"])
    exact = data["exact"]
    theirs = np.abs(data["logits"] - exact).max()
    floor = 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(logits - exact).max() <= 2 * max(theirs, floor)


@pytest.mark.parametrize("isa", fastattn.isa.available())
@pytest.mark.parametrize("name", [*RECURRENT, "marian"])
def test_logits_equal_pytorchs(name: str, isa: str) -> None:
    with fastattn.isa.use(isa):
        check_logits(fastattn.load(GOLDEN / name), np.load(GOLDEN / name / "logits.npz"))


@pytest.mark.parametrize("name", [*RECURRENT, "marian"])
def test_the_reference_backend_equals_pytorch_too(name: str) -> None:
    check_logits(fastattn.load(GOLDEN / name, backend="reference"), np.load(GOLDEN / name / "logits.npz"))


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_attention_equals_pytorchs(name: str) -> None:
    data = np.load(GOLDEN / name / "logits.npz")
    model = fastattn.load(GOLDEN / name)
    for source, target, cross in zip(rows_of(data), data["targets"], data["cross"], strict=True):
        ours = model._attention(model._source(source), target[:1], target[1:].tolist()).cross
        assert ours is not None
        assert np.abs(ours[0, 0] - cross[: len(target) - 1, : len(source)]).max() < 1e-5


def test_attention_of_every_layer_and_head_equals_hugging_faces() -> None:
    data = np.load(GOLDEN / "marian" / "logits.npz")
    model = fastattn.load(GOLDEN / "marian")
    for i, (source, target) in enumerate(zip(rows_of(data), data["targets"], strict=True)):
        found = model._attention(model._source(source), target[:1], target[1:].tolist())
        t, s = len(target) - 1, len(source)
        for ours, theirs in (
            (found.cross, data["cross"][:, i, :, :t, :s]),
            (found.self, data["own"][:, i, :, :t, :t]),
            (found.encoder, data["encoder"][:, i, :, :s, :s]),
        ):
            assert ours is not None and ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < 1e-5


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("run", RUNS["runs"], ids=lambda run: "-".join(f"{k}={v}" for k, v in run["options"].items()))
def test_ids_equal_hugging_faces(run: dict[str, Any], backend: str) -> None:
    model = fastattn.load(GOLDEN / "marian", backend=backend)
    results = model.generate(RUNS["sources"], max_new_tokens=RUNS["max_new_tokens"], **run["options"])
    hypotheses = [h for result in results for h in result.hypotheses]
    assert [h.token_ids for h in hypotheses] == run["ids"]
    if run["scores"]:
        assert np.allclose([h.score for h in hypotheses], run["scores"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 4, "num_return_sequences": 2}])
@pytest.mark.parametrize("name", ["marian", RECURRENT[0], RECURRENT[-1]])
def test_batch_threads_and_attention_change_nothing(name: str, options: dict[str, Any]) -> None:
    sources = RUNS["sources"] if name == "marian" else rows_of(np.load(GOLDEN / name / "logits.npz"))
    options = {**options, "max_new_tokens": 12}
    one = fastattn.load(GOLDEN / name, num_threads=1)
    two = fastattn.load(GOLDEN / name, num_threads=2)
    batch = two.generate(sources, **options)
    for given, result in zip(sources, batch, strict=True):
        alone = one.generate(given, **options, return_attention=True)
        assert [(h.token_ids, h.score) for h in alone.hypotheses] == [(h.token_ids, h.score) for h in result.hypotheses]
    assert [r.score for r in two.generate(sources, batch_size=3, **options)] == [r.score for r in batch]


def test_padding_behind_a_mask_changes_nothing() -> None:
    model = fastattn.load(GOLDEN / "marian")
    data = np.load(GOLDEN / "marian" / "logits.npz")
    mask = np.arange(data["sources"].shape[1]) < data["lengths"][:, None]
    padded = model.logits(data["sources"], data["targets"], attention_mask=mask)
    assert (padded == model.logits(rows_of(data), data["targets"])).all()


def test_a_mask_may_be_as_ragged_as_its_input() -> None:
    model = fastattn.load(GOLDEN / "marian")
    found = model.logits([[5, 6, 3], [5, 3]], attention_mask=[[1, 1, 1], [1, 1]])
    assert (found == model.logits([[5, 6, 3], [5, 3]])).all()
    found = model.logits([[5, 6, -100], [5, 3]], attention_mask=[[1, 1, 0], np.array([True, True])])
    assert (found == model.logits([[5, 6], [5, 3]])).all()


@pytest.mark.parametrize(
    ("rows", "mask", "message"),
    [
        ([[5, 6, 3], [5, 3]], [[1, 1, 1], [1, 1, 0]], "attention_mask: row 1 must be ones, then zeros, 2 in all"),
        ([[5, 6, 3], [5, 3]], [[1, 1, 1]], "attention_mask: found 1 rows, expected one per input .2."),
        ([[5, 6, 3], [5, 3]], 1, "attention_mask: found 1 rows"),
        ([[5, 6, 3], [5, 3]], [1, 1], "attention_mask: row 0 must be ones, then zeros, found int64"),
        ([[5, 6, 3], [5, 3]], [[1, [1, 1], 1], [1, 1]], "attention_mask: row 0: found rows of different lengths"),
        ([[5, 3]], [["a", "b"]], "attention_mask: row 0 must be ones, then zeros, found <U1"),
        ([[5, 6, 3], 7], [[1, 1, 1], [1]], "input_ids: row 1: expected a row of token ids, found int"),
    ],
)
def test_masks_of_another_form_are_named(rows: Any, mask: Any, message: str) -> None:
    with pytest.raises(fastattn.InputError, match=message):
        fastattn.load(GOLDEN / "marian").logits(rows, attention_mask=mask)


def test_scores_are_the_log_softmax_of_the_logits() -> None:
    model = fastattn.load(GOLDEN / "marian")
    source, target = RUNS["sources"][5], [4, 9, 33, 0]
    logits = model.logits([source], [[model.config["pad_token_id"], *target[:-1]]])[0].astype(np.float64)
    expected = (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(4), target]
    assert np.abs(model.score(source, target) - expected).max() < 1e-5
    assert [len(s) for s in model.score([source, source], [target, target[:2]])] == [4, 2]


@pytest.mark.parametrize("name", ["models/marian", "decoders/gpt2", f"models/{RECURRENT[0]}"])
def test_scores_are_computed_batch_by_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fastattn.load(GOLDEN.parent / name)
    sources = [[3 + i % 20] * (1 + i % 5) for i in range(70)]
    targets = [[2 + i % 30] * (1 + i % 3) for i in range(70)]
    alone = [model.score(source, target) for source, target in zip(sources, targets, strict=True)]
    step = "_teach" if model.has_encoder else "_follow"
    sizes, real = [], getattr(model, step)

    def counted(*given: Any) -> Any:
        sizes.append(len(given[0]))
        return real(*given)

    monkeypatch.setattr(model, step, counted)
    together = model.score(sources, targets)
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))
    assert max(sizes) <= 32 and sum(sizes) == 70


def test_a_target_outside_the_vocabulary_is_named() -> None:
    for name, largest in (("models/marian", 101), ("decoders/gpt2", 101)):
        model = fastattn.load(GOLDEN.parent / name)
        with pytest.raises(fastattn.InputError, match=f"token id 5000 is outside the vocabulary of {largest}"):
            model.score([5, 6, 7], [4, 5000])
        with pytest.raises(fastattn.InputError, match=f"token id {largest} is outside the vocabulary of {largest}"):
            model.score([[5, 6, 7], [5]], [[4], [largest, 4]])


def test_a_target_says_which_it_is_and_what_it_may_be_long() -> None:
    model = fastattn.load(GOLDEN / "marian")
    assert len(model.score([5, 6], [4] * 64)) == 64
    with pytest.raises(fastattn.InputError, match=r"^the target is too long: 65 tokens to feed, the limit is 64$"):
        model.score([5, 6], [4] * 65)
    for bad, message in (
        ([4] * 65, "the target is too long: 65 tokens to feed, the limit is 64"),
        ([4, 101], "token id 101 is outside the vocabulary of 101"),
        ([], "expected at least one token id, found none"),
    ):
        with pytest.raises(fastattn.InputError, match=rf"^targets\[2\]: {message}$"):
            model.score([[5, 6]] * 3, [[4], [4], bad])
    writer = fastattn.load(GOLDEN.parent / "decoders" / "gpt2")
    with pytest.raises(fastattn.InputError, match=r"^targets\[1\]: prompt and target are too long: 65 tokens to feed"):
        writer.score([[5, 6]] * 2, [[4], [4] * 64])


def test_rows_of_logits_say_which_they_are() -> None:
    model = fastattn.load(GOLDEN / "marian")
    with pytest.raises(fastattn.InputError, match=r"^input_ids\[1\]: token id 101 is outside the vocabulary of 101$"):
        model.logits([[5], [101]])
    with pytest.raises(fastattn.InputError, match=r"^decoder_input_ids\[1\]: expected at least one token id"):
        model.logits([[5], [6]], [[100], []])


def test_an_input_that_cannot_be_embedded_says_which_it_is() -> None:
    with pytest.raises(fastattn.InputError, match=r"^inputs\[1\]: token id 101 is outside the vocabulary of 101$"):
        fastattn.load(GOLDEN / "marian").embed([[5], [101]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_new_tokens": 65},
            "max_new_tokens: 65 after a prompt of 1 token, expected at most 64: the model has 64",
        ),
        ({"max_length": 66}, "max_length: 66 after a prompt of 1 token, expected at most 65: the model has 64"),
    ],
)
def test_more_tokens_than_there_are_positions_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    model = fastattn.load(GOLDEN / "marian")
    for beams in (1, 2):
        with pytest.raises(fastattn.OptionError, match=message):
            model.generate(RUNS["sources"][0], num_beams=beams, **options)
        fitting = {name: value - 1 for name, value in options.items()}
        g = model.generate(RUNS["sources"][0], num_beams=beams, eos_token_id=None, **fitting)
        assert len(g.token_ids) == 64


def test_a_maximal_length_is_not_passed_over() -> None:
    model = fastattn.load("en-fr-bahdanau")
    with pytest.raises(
        fastattn.OptionError, match="max_length: found 3, but the model's files set max_new_tokens to 64"
    ):
        model.generate([5, 6, 1], max_length=3)
    assert len(model.generate([5, 6, 1], max_length=3, max_new_tokens=None, eos_token_id=None).token_ids) == 2


def test_streams_of_beams_are_refused_at_the_call() -> None:
    with pytest.raises(fastattn.OptionError, match="num_beams: found 2, expected 1 for streaming"):
        fastattn.load("en-fr-bahdanau").stream("I am", num_beams=2)


def test_the_sum_of_the_greedy_tokens_scores_is_the_score_of_the_text() -> None:
    model = fastattn.load(GOLDEN / "marian")
    g = model.generate(RUNS["sources"][7], num_beams=1, max_new_tokens=30)
    target = [*g.token_ids, 0] if g.finish_reason == "eos" else g.token_ids
    assert model.score(RUNS["sources"][7], target).sum() == pytest.approx(g.score * len(target), rel=1e-5)


def test_embeddings_are_unit_vectors_that_do_not_depend_on_the_batch() -> None:
    model = fastattn.load(GOLDEN / "marian")
    many = model.embed(RUNS["sources"][:4])
    assert np.allclose(np.linalg.norm(many, axis=1), 1, atol=1e-6)
    assert (many[2] == model.embed(RUNS["sources"][2])).all()
    assert model.encode(RUNS["sources"][:2])[1].shape == (2, 32)


def test_positions_are_those_of_the_paper() -> None:
    table = sinusoids(40, 8).astype(np.float64)
    position, i = 17, 2
    assert table[position, i] == pytest.approx(np.sin(position / 10000 ** (2 * i / 8)), abs=1e-7)
    assert table[position, 4 + i] == pytest.approx(np.cos(position / 10000 ** (2 * i / 8)), abs=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "marina"}, "model_type 'marina' is not supported.*did you mean 'marian'"),
        ({"model_type": None}, "model_type"),
        ({"d_model": 30}, "'encoder_attention_heads' is 4, expected a divisor of d_model 30"),
        ({"d_model": 48}, "misshapen"),
        ({"decoder_layers": 3}, "missing.*model.decoder.layers.2"),
        ({"encoder_layers": 2}, "unexpected.*model.encoder.layers.2"),
        ({"activation_function": "mish"}, "'activation_function' is 'mish', expected one of"),
        ({"vocab_size": -3}, "'vocab_size' is -3, expected an integer"),
        ({"scale_embedding": "yes"}, "'scale_embedding' is 'yes', expected true or false"),
    ],
)
def test_a_config_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "marian", folder)
    config = {**json.loads((folder / "config.json").read_text()), **change}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(fastattn.LoadError, match=message) as caught:
        fastattn.load(folder)
    assert "\n" not in str(caught.value)


def test_recurrent_configs_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "rnn-gru-dot-3", folder)
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"decoder_hidden_size": 13}, "score 'dot' needs"),
        ({"score": "additive"}, "'score' is 'additive', expected one of"),
        ({"cell": "rnn"}, "'cell' is 'rnn'"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(fastattn.LoadError, match=message):
            fastattn.load(folder)


@pytest.mark.parametrize("family", ["marian", "decoders/gpt2"])
@pytest.mark.parametrize("limit", [{"max_length": 512}, {"max_new_tokens": 500}])
def test_the_last_position_ends_an_output_whose_limit_comes_from_the_files(
    family: str, limit: dict[str, int], tmp_path: Path
) -> None:
    folder = GOLDEN.parent / family if "/" in family else GOLDEN / family
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    for name in ("max_length", "max_new_tokens"):
        content.pop(name, None)
    file.write_text(json.dumps({**content, **limit}))
    model = fastattn.load(tmp_path / "model")
    expected = 64 if family == "marian" else 62  # of 64 positions; the last token is not fed
    for beams in (1, 2):
        g = model.generate([5, 6, 7], num_beams=beams, min_new_tokens=150, forced_eos_token_id=None)
        assert len(g.token_ids) == expected and g.finish_reason == "length"


def test_special_tokens_of_the_files_outside_the_vocabulary_are_passed_over(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN.parent / "decoders" / "gpt2", tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    content = json.loads(file.read_text())
    eos = content["eos_token_id"]
    expected = fastattn.load(tmp_path / "model").generate([5, 6, 7], num_beams=2).token_ids
    file.write_text(json.dumps({**content, "pad_token_id": 5000, "bos_token_id": 5000, "eos_token_id": [eos, 5000]}))
    model = fastattn.load(tmp_path / "model")
    assert model.generate([5, 6, 7], num_beams=2).token_ids == expected
    with pytest.raises(fastattn.OptionError, match="eos_token_id: found token id 5000, expected less than the vocab"):
        model.generate([5, 6, 7], eos_token_id=5000)


def test_files_that_return_several_sequences_can_be_streamed_and_profiled(tmp_path: Path) -> None:
    bundled = fastattn.load("en-fr-bahdanau")
    shutil.copytree(bundled.checkpoint.path, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, "num_beams": 4, "num_return_sequences": 2}))
    model = fastattn.load(tmp_path / "model")
    assert "".join(model.stream("she sees a dog")) == bundled.generate("she sees a dog", num_beams=1).text
    assert model.profile("she sees a dog").rows
