"""BART, mBART and Pegasus against PyTorch and transformers, on the tiny models under golden/bart (made by its make.py)."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import bfloat16_bits, rounded, write_safetensors
from test_t5 import check, rows_of

import fastattn
from fastattn.loaders import open_checkpoint
from fastattn.models.marian import sinusoids

GOLDEN = Path(__file__).parent / "golden" / "bart"
FAMILIES = ("bart", "mbart", "pegasus")


@functools.cache
def runs(family: str) -> Any:
    return json.loads(gzip.decompress((GOLDEN / family / "runs.json.gz").read_bytes()))


@pytest.mark.parametrize("isa", fastattn.isa.available())
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_states_equal_pytorchs(family: str, isa: str) -> None:
    with fastattn.isa.use(isa):
        check(fastattn.load(GOLDEN / family), np.load(GOLDEN / family / "logits.npz"))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_equal_hugging_faces(family: str, backend: str) -> None:
    model = fastattn.load(GOLDEN / family, backend=backend)
    for run in runs(family)["runs"]:
        results = model.generate(
            runs(family)["sources"], max_new_tokens=runs(family)["max_new_tokens"], **run["options"]
        )
        hypotheses = [h for result in results for h in result.hypotheses]
        assert [h.token_ids for h in hypotheses] == run["ids"], run["options"]
        if run["scores"]:
            assert np.allclose([h.score for h in hypotheses], run["scores"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_export_gives_the_same_bits(family: str) -> None:
    data = np.load(GOLDEN / family / "logits.npz")
    saved, exported = fastattn.load(GOLDEN / family), fastattn.load(GOLDEN / family / "optimum")
    assert (saved.checkpoint.format, exported.checkpoint.format) == ("safetensors", "ONNX")
    assert "final_logits_bias" in exported.checkpoint.tensors  # nameless in BART's export
    assert (saved.logits(rows_of(data), data["targets"]) == exported.logits(rows_of(data), data["targets"])).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_every_layer_and_head_equals_hugging_faces(family: str) -> None:
    data = np.load(GOLDEN / family / "logits.npz")
    model = fastattn.load(GOLDEN / family)
    pairs = list(zip(rows_of(data), data["targets"], strict=True))[::3]
    for i, (source, target) in enumerate(pairs):
        found = model._attention(model._source(source), target[:1], target[1:].tolist())
        t, s = len(target) - 1, len(source)
        for ours, theirs in (
            (found.cross, data["cross"][:, i, :, :t, :s]),
            (found.self, data["own"][:, i, :, :t, :t]),
            (found.encoder, data["encoder"][:, i, :, :s, :s]),
        ):
            assert ours is not None and ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_threads_and_attention_change_nothing(family: str) -> None:
    options = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 12}
    sources = runs(family)["sources"]
    one, two = (fastattn.load(GOLDEN / family, num_threads=n) for n in (1, 2))
    batch = two.generate(sources, **options)
    for given, result in zip(sources, batch, strict=True):
        alone = one.generate(given, **options, return_attention=True)
        assert [(h.token_ids, h.score) for h in alone.hypotheses] == [(h.token_ids, h.score) for h in result.hypotheses]


def copy(folder: Path, family: str, tensors: dict[str, np.ndarray], bfloat16: bool = False, **config: Any) -> Path:
    """A folder like a golden one, without generation_config.json, with other tensors and changes to config.json."""
    folder.mkdir()
    found = {**json.loads((GOLDEN / family / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
    write_safetensors(folder / "model.safetensors", tensors, tuple(tensors) if bfloat16 else ())
    return folder


def tensors_of(family: str) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in open_checkpoint(GOLDEN / family).tensors.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_generation_config_the_class_defaults_hold(tmp_path: Path, family: str) -> None:
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "forced_eos_token_id")
    gone = dict.fromkeys(names if family == "mbart" else (*names, "decoder_start_token_id"))
    more = {"forced_bos_token_id": 0} if family == "bart" else {}  # saved in generation_config.json only
    model = fastattn.load(copy(tmp_path / "m", family, tensors_of(family), **gone, **more))
    run = runs(family)["runs"][0]
    results = model.generate(runs(family)["sources"], max_new_tokens=runs(family)["max_new_tokens"], **run["options"])
    assert [r.token_ids for r in results] == run["ids"]


def test_the_old_way_to_force_the_first_token(tmp_path: Path) -> None:
    old = {"forced_bos_token_id": None, "force_bos_token_to_be_generated": True}
    model = fastattn.load(copy(tmp_path / "m", "bart", tensors_of("bart"), **old))
    assert model._options({}).forced_bos_token_id == 0


def test_names_that_vary(tmp_path: Path) -> None:
    given = [[5, 6, 7, 1]]
    for family in FAMILIES:
        tensors, expected = tensors_of(family), fastattn.load(GOLDEN / family).logits(given)
        bare = {name.removeprefix("model."): array for name, array in tensors.items()}
        more = {**tensors, "lm_head.weight": tensors["model.shared.weight"]}
        if family == "pegasus":  # saved, and no different from what is computed without
            assert (more.pop("model.encoder.embed_positions.weight") == sinusoids(64, 32)).all()
        for i, changed in enumerate((bare, more)):
            model = fastattn.load(copy(tmp_path / f"{family}{i}", family, changed))
            assert (model.logits(given) == expected).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_weights_are_their_values(tmp_path: Path, dtype: str) -> None:
    tensors = tensors_of("mbart")
    small = {n: a.astype(np.float16) if dtype == "float16" else bfloat16_bits(a) for n, a in tensors.items()}
    first = fastattn.load(copy(tmp_path / "small", "mbart", small, dtype == "bfloat16"))
    second = fastattn.load(copy(tmp_path / "wide", "mbart", {n: rounded(a, dtype) for n, a in tensors.items()}))
    assert (first.logits([[5, 6, 7, 1]], [[2, 9, 8]]) == second.logits([[5, 6, 7, 1]], [[2, 9, 8]])).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_end(family: str) -> None:
    model = fastattn.load(GOLDEN / family)
    assert len(model.generate([*range(3, 66), 2], max_new_tokens=3, min_new_tokens=3).token_ids) <= 3
    with pytest.raises(fastattn.InputError, match="65 tokens found, the limit is 64"):
        model.generate([*range(3, 67), 2])
    with pytest.raises(fastattn.InputError, match="position"):
        model.logits([[5, 2]], [list(range(3, 68))])


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("bart", {"tie_word_embeddings": False}, "'tie_word_embeddings' is False, expected True"),
        ("bart", {"activation_function": "mish"}, "'activation_function' is 'mish', expected one of"),
        ("bart", {"encoder_attention_heads": 5}, "'encoder_attention_heads' is 5, expected a divisor"),
        ("bart", {"max_position_embeddings": 32}, "embed_positions.weight is .66, 32., expected .34, 32."),
        ("bart", {"model_type": "mbart"}, "missing: model.decoder.layer_norm.bias"),
        ("mbart", {"model_type": "bart"}, "unexpected: model.decoder.layer_norm.bias"),
        (
            "pegasus",
            {"model_type": "mbart"},
            "misshapen: model.decoder.embed_positions.weight is .64, 32., expected .66, 32.",
        ),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_named(tmp_path: Path, family: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(fastattn.LoadError, match=message) as caught:
        fastattn.load(copy(tmp_path / "model", family, tensors_of(family), **change))
    assert "\n" not in str(caught.value)


def test_a_folder_of_both_formats_runs_the_safetensors(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "bart" / "optimum", tmp_path / "m")
    shutil.copy(GOLDEN / "bart" / "model.safetensors", tmp_path / "m")
    assert fastattn.load(tmp_path / "m").checkpoint.format == "safetensors"
