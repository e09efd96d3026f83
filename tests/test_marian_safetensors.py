"""Marian from safetensors, as transformers saves it, against the ONNX route and against transformers' ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import bfloat16_bits, rounded, write_safetensors
from test_models import GOLDEN, RUNS

import fastattn
from fastattn.loaders import open_checkpoint
from fastattn.models.marian import sinusoids

SAVED = GOLDEN / "marian-safetensors"
OPTIONS = [{"num_beams": 1}, {"num_beams": 4, "early_stopping": False, "length_penalty": 1.0}]


def ids(model: fastattn.Model, **options: Any) -> list[list[int]]:
    results = model.generate(RUNS["sources"], max_new_tokens=RUNS["max_new_tokens"], **options)
    return [h.token_ids for result in results for h in result.hypotheses]


def copy(folder: Path, tensors: dict[str, np.ndarray], drop: tuple[str, ...] = (), **config: Any) -> Path:
    """A folder like the golden one with other tensors and changes to config.json (None: removed)."""
    folder.mkdir()
    for name in ("config.json", "generation_config.json"):
        if name not in drop:
            shutil.copy(SAVED / name, folder / name)
    found = {**json.loads((folder / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in open_checkpoint(SAVED).tensors.items()}


def test_ids_equal_hugging_faces() -> None:
    model = fastattn.load(SAVED)
    assert model.checkpoint.format == "safetensors"
    for run in RUNS["runs"]:
        assert ids(model, **run["options"]) == run["ids"], run["options"]


def test_both_formats_give_the_same_bits() -> None:
    data = np.load(GOLDEN / "marian" / "logits.npz")
    rows = [row[:n].tolist() for row, n in zip(data["sources"], data["lengths"], strict=True)]
    first, second = (fastattn.load(path).logits(rows, data["targets"]) for path in (SAVED, GOLDEN / "marian"))
    assert (first == second).all()


def test_what_may_be_there_or_not(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A tied head saved beside the embedding, embeddings saved for each side, positions saved too."""
    expected = [run["ids"] for run in RUNS["runs"] if run["options"] in OPTIONS]
    shared = tensors["model.shared.weight"]
    more = dict.fromkeys(("lm_head.weight", "model.encoder.embed_tokens.weight"), shared)
    assert not any("embed_positions" in name for name in tensors)
    more |= {f"model.{side}.embed_positions.weight": sinusoids(64, 32) for side in ("encoder", "decoder")}
    for i, name in enumerate(more):
        model = fastattn.load(copy(tmp_path / str(i), {**tensors, name: more[name]}))
        assert [ids(model, **options) for options in OPTIONS] == expected
    with pytest.raises(fastattn.LoadError, match="has different values in"):
        fastattn.load(copy(tmp_path / "untied", {**tensors, "lm_head.weight": shared + 1}))


def test_an_absent_bias_is_zero(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    zero = {**tensors, "final_logits_bias": np.zeros_like(tensors["final_logits_bias"])}
    absent = {name: array for name, array in tensors.items() if name != "final_logits_bias"}
    first, second = (fastattn.load(copy(tmp_path / str(i), t)) for i, t in enumerate((zero, absent)))
    assert (first.logits([[5, 6, 0]]) == second.logits([[5, 6, 0]])).all()


def test_without_generation_config_the_class_defaults_hold(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    expected = [run["ids"] for run in RUNS["runs"] if run["options"] in OPTIONS]
    absent = ("generation_config.json",)
    ban = {"bad_words_ids": [[100]]}
    model = fastattn.load(copy(tmp_path / "config", tensors, absent))
    assert [ids(model, **options, **ban) for options in OPTIONS] == expected
    defaults = dict.fromkeys(("eos_token_id", "forced_eos_token_id"))
    model = fastattn.load(copy(tmp_path / "defaults", tensors, absent, **defaults))
    options = model._options({})
    assert (options.eos, options.forced_eos, options.decoder_start_token_id) == ((0,), (0,), 100)
    assert [ids(model, **options, **ban) for options in OPTIONS] == expected
    model = fastattn.load(copy(tmp_path / "start", tensors, absent, decoder_start_token_id=None))
    with pytest.raises(fastattn.OptionError, match="decoder_start_token_id: found token id 58100"):
        model.generate([5, 6, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_weights_are_their_values(tmp_path: Path, tensors: dict[str, np.ndarray], dtype: str) -> None:
    small = {n: a.astype(np.float16) if dtype == "float16" else bfloat16_bits(a) for n, a in tensors.items()}
    folder = copy(tmp_path / "small", small)
    write_safetensors(folder / "model.safetensors", small, tuple(small) if dtype == "bfloat16" else ())
    wide = copy(tmp_path / "wide", {name: rounded(array, dtype) for name, array in tensors.items()})
    first, second = (fastattn.load(path).logits([[5, 6, 7, 0]], [[100, 9, 8]]) for path in (folder, wide))
    assert (first == second).all()
