"""T5 and its kin against PyTorch and transformers, on the tiny models under golden/t5 (made by its make.py)."""

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

import fastattn
from fastattn.loaders import open_checkpoint

GOLDEN = Path(__file__).parent / "golden" / "t5"
KINDS = ("relu", "gated", "mt5", "umt5", "silu")
EXPORTS = ("relu/optimum", "gated/optimum", "relu/separate", "relu/whole", "gated/whole")
TRAINED = ("relu", "gated")
PAD, EOS = 0, 1


@functools.cache
def runs(kind: str) -> Any:
    return json.loads(gzip.decompress((GOLDEN / kind / "runs.json.gz").read_bytes()))


def logits_of(kind: str) -> Any:
    return np.load(GOLDEN / kind / "logits.npz")


def rows_of(data: Any) -> list[list[int]]:
    return [row[:n].tolist() for row, n in zip(data["sources"], data["lengths"], strict=True)]


def bounded(ours: np.ndarray, theirs: np.ndarray, exact: np.ndarray) -> None:
    """The bound of docs/numerics.md: at most twice what plain float32 (here PyTorch's) errs against float64."""
    floor = 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(ours - exact).max() <= 2 * max(np.abs(theirs - exact).max(), floor)


def check(model: fastattn.Model, data: Any) -> None:
    bounded(model.logits(rows_of(data), data["targets"]), data["logits"], data["exact"])
    there = np.arange(data["states"].shape[1]) < data["lengths"][:, None]
    bounded(np.concatenate(model.encode(rows_of(data))), data["states"][there], data["exact_states"][there])


@pytest.mark.parametrize("isa", fastattn.isa.available())
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_states_equal_pytorchs(kind: str, isa: str) -> None:
    with fastattn.isa.use(isa):
        check(fastattn.load(GOLDEN / kind), logits_of(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_backend_equals_pytorch_too(kind: str) -> None:
    check(fastattn.load(GOLDEN / kind, backend="reference"), logits_of(kind))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("kind", TRAINED)
def test_ids_equal_hugging_faces(kind: str, backend: str) -> None:
    model = fastattn.load(GOLDEN / kind, backend=backend)
    for run in runs(kind)["runs"]:
        results = model.generate(runs(kind)["sources"], max_new_tokens=runs(kind)["max_new_tokens"], **run["options"])
        hypotheses = [h for result in results for h in result.hypotheses]
        assert [h.token_ids for h in hypotheses] == run["ids"], run["options"]
        if run["scores"]:
            assert np.allclose([h.score for h in hypotheses], run["scores"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("export", EXPORTS)
def test_every_export_gives_the_same_bits(export: str) -> None:
    kind = export.split("/")[0]
    data = logits_of(kind)
    saved, exported = fastattn.load(GOLDEN / kind), fastattn.load(GOLDEN / export)
    assert (saved.checkpoint.format, exported.checkpoint.format) == ("safetensors", "ONNX")
    assert (saved.logits(rows_of(data), data["targets"]) == exported.logits(rows_of(data), data["targets"])).all()


@pytest.mark.parametrize("kind", TRAINED)
def test_attention_of_every_layer_and_head_equals_hugging_faces(kind: str) -> None:
    data = logits_of(kind)
    model = fastattn.load(GOLDEN / kind)
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


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 4, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("kind", ["relu", "gated", "umt5"])
def test_batch_threads_and_attention_change_nothing(kind: str, options: dict[str, Any]) -> None:
    sources = runs("relu")["sources"]
    options = {**options, "max_new_tokens": 12}
    one = fastattn.load(GOLDEN / kind, num_threads=1)
    two = fastattn.load(GOLDEN / kind, num_threads=2)
    batch = two.generate(sources, **options)
    for given, result in zip(sources, batch, strict=True):
        alone = one.generate(given, **options, return_attention=True)
        assert [(h.token_ids, h.score) for h in alone.hypotheses] == [(h.token_ids, h.score) for h in result.hypotheses]
    assert [r.score for r in two.generate(sources, batch_size=3, **options)] == [r.score for r in batch]


@pytest.mark.parametrize("kind", ["relu", "umt5"])
def test_cached_equals_uncached(kind: str) -> None:
    """Every prefix fed at once gives the bits of the last step fed token by token."""
    model = fastattn.load(GOLDEN / kind)
    source, target = runs("relu")["sources"][-1], [PAD, *range(5, 60)]
    with model._session() as session:
        session.encode([np.array(source, np.int32)])
        select = fastattn.runtime.Select(logits=True)
        steps = [session.step(np.array([token], np.int32), select).logits for token in target]
    whole = model.logits([source], [target])[0]
    assert all((step == row).all() for step, row in zip(steps, whole, strict=True))


def test_padding_behind_a_mask_changes_nothing() -> None:
    model, data = fastattn.load(GOLDEN / "relu"), logits_of("relu")
    mask = np.arange(data["sources"].shape[1]) < data["lengths"][:, None]
    padded = model.logits(data["sources"], data["targets"], attention_mask=mask)
    assert (padded == model.logits(rows_of(data), data["targets"])).all()


def test_lengths_have_no_limit() -> None:
    model = fastattn.load(GOLDEN / "relu")
    source = [*np.random.default_rng(0).integers(2, 101, 1500).tolist(), EOS]
    result = model.generate(source, max_new_tokens=700, min_new_tokens=700)
    assert len(result.token_ids) == 700 and np.isfinite(result.score)


def copy(folder: Path, kind: str, tensors: dict[str, np.ndarray], bfloat16: bool = False, **config: Any) -> Path:
    """A folder like a golden one with other tensors and changes to config.json."""
    folder.mkdir()
    shutil.copy(GOLDEN / kind / "generation_config.json", folder)
    found = {**json.loads((GOLDEN / kind / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps(found))
    write_safetensors(folder / "model.safetensors", tensors, tuple(tensors) if bfloat16 else ())
    return folder


def tensors_of(kind: str) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in open_checkpoint(GOLDEN / kind).tensors.items()}


@pytest.mark.parametrize("compute_type", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("kind", ["relu", "gated", "umt5"])
def test_small_weights_keep_the_equalities(tmp_path: Path, kind: str, compute_type: str) -> None:
    """Batch = single, one = two threads, cached = uncached, converted = packed at load."""
    one, two = (fastattn.load(GOLDEN / kind, compute_type=compute_type, num_threads=n) for n in (1, 2))
    sources, options = runs("relu")["sources"][::3], {"num_beams": 4, "max_new_tokens": 8}
    batch = two.generate(sources, **options)
    for given, result in zip(sources, batch, strict=True):
        alone = one.generate(given, **options, return_attention=True)
        assert (alone.token_ids, alone.score) == (result.token_ids, result.score)
    target = [PAD, *range(5, 40)]
    with two._session() as session:
        session.encode([np.array(sources[-1], np.int32)])
        select = fastattn.runtime.Select(logits=True)
        steps = [session.step(np.array([token], np.int32), select).logits for token in target]
    whole = one.logits([sources[-1]], [target])
    assert all((step == row).all() for step, row in zip(steps, whole[0], strict=True))
    converted = fastattn.load(fastattn.convert(GOLDEN / kind, tmp_path / "m", compute_type=compute_type))
    assert (converted.logits([sources[-1]], [target]) == whole).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", TRAINED)
def test_16_bit_weights_are_their_values(tmp_path: Path, kind: str, dtype: str) -> None:
    tensors = tensors_of(kind)
    small = {n: a.astype(np.float16) if dtype == "float16" else bfloat16_bits(a) for n, a in tensors.items()}
    first = fastattn.load(copy(tmp_path / "small", kind, small, dtype == "bfloat16"))
    second = fastattn.load(copy(tmp_path / "wide", kind, {n: rounded(a, dtype) for n, a in tensors.items()}))
    assert (first.logits([[5, 6, 7, 1]], [[0, 9, 8]]) == second.logits([[5, 6, 7, 1]], [[0, 9, 8]])).all()


def test_names_that_vary(tmp_path: Path) -> None:
    """Embeddings saved for each side and for the head; a table in the cross-attention that nothing reads."""
    tensors = tensors_of("relu")
    expected = fastattn.load(GOLDEN / "relu").logits([[5, 6, 7, 1]])
    more = dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"))
    tensors |= dict.fromkeys(more, tensors["shared.weight"])
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = np.ones((16, 4), np.float32)
    assert (fastattn.load(copy(tmp_path / "more", "relu", tensors)).logits([[5, 6, 7, 1]]) == expected).all()


def test_the_activation_is_what_transformers_takes(tmp_path: Path) -> None:
    tensors, given = tensors_of("gated"), [[5, 6, 7, 1]]
    base = fastattn.load(GOLDEN / "gated").logits(given)
    for i, (change, same) in enumerate(
        (
            ({"dense_act_fn": "gelu_new", "is_gated_act": True, "feed_forward_proj": "gated-silu"}, True),
            ({"dense_act_fn": "silu"}, False),
            ({"feed_forward_proj": "gated-silu", "dense_act_fn": None, "is_gated_act": None}, False),
        )
    ):
        found = fastattn.load(copy(tmp_path / str(i), "gated", tensors, **change)).logits(given)
        assert (found == base).all() == same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward_proj": "gated-mish"}, "'feed_forward_proj' is 'gated-mish', expected one of"),
        ({"dense_act_fn": "mish"}, "'dense_act_fn' is 'mish', expected one of"),
        ({"pruned_heads": {"1": [0]}}, "'pruned_heads' is"),
        ({"tie_encoder_decoder": True}, "'tie_encoder_decoder' is True, expected False"),
        ({"is_encoder_decoder": False}, "'is_encoder_decoder' is False, expected True"),
        ({"relative_attention_max_distance": 8}, "'relative_attention_max_distance' is 8, expected more than"),
        ({"relative_attention_num_buckets": 15}, "'relative_attention_num_buckets' is 15, expected a multiple of 4"),
        ({"relative_attention_num_buckets": 2}, "'relative_attention_num_buckets' is 2, expected an integer"),
        ({"layer_norm_epsilon": 0}, "'layer_norm_epsilon' is 0, expected a finite number above 0"),
        ({"d_kv": 7}, "misshapen: .*SelfAttention.q.weight is .24, 32., expected .28, 32."),
        ({"num_decoder_layers": 3}, "missing: decoder.block.2"),
        ({"num_decoder_layers": 1}, "unexpected: decoder.block.1"),
        ({"tie_word_embeddings": False}, "missing: lm_head.weight"),
        ({"model_type": "umt5", "tie_word_embeddings": True}, "missing: decoder.block.1.*relative_attention_bias"),
        ({"model_type": "t6"}, "model_type 't6' is not supported"),
    ],
    ids=lambda v: str(v)[:50],
)
def test_a_config_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(fastattn.LoadError, match=message) as caught:
        fastattn.load(copy(tmp_path / "model", "relu", tensors_of("relu"), **change))
    assert "\n" not in str(caught.value)


def test_task_specific_params_are_not_applied(tmp_path: Path) -> None:
    params = {"summarization": {"num_beams": 4, "min_length": 30, "prefix": "summarize: "}}
    model = fastattn.load(copy(tmp_path / "model", "relu", tensors_of("relu"), task_specific_params=params))
    run = runs("relu")["runs"][0]
    assert run["options"] == {"num_beams": 1}
    results = model.generate(runs("relu")["sources"], max_new_tokens=runs("relu")["max_new_tokens"])
    assert [r.token_ids for r in results] == run["ids"]
