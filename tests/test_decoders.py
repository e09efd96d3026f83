"""Decoder-only models against Hugging Face: tiny trained and random ones under golden/decoders (made by its make.py)."""

from __future__ import annotations

import gzip
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn.api import Model
from fastattn.loaders import open_checkpoint

GOLDEN = Path(__file__).parent / "golden" / "decoders"
ALL = sorted(path.parent.name for path in GOLDEN.glob("*/logits.npz"))
TRAINED = [name for name in ALL if (GOLDEN / name / "runs.json.gz").is_file()]
RUNS: dict[str, Any] = {
    name: json.loads(gzip.decompress((GOLDEN / name / "runs.json.gz").read_bytes())) for name in TRAINED
}
PROMPTS: list[list[int]] = RUNS["gpt2"]["prompts"]  # the same for all


def load(name: str, **options: Any) -> Model:
    return fastattn.load(GOLDEN / name, **options)


def rows_of(data: Any) -> list[list[int]]:
    return [row[:n].tolist() for row, n in zip(data["inputs"], data["lengths"], strict=True)]


def check_logits(model: Model, data: Any) -> None:
    """The bound of docs/numerics.md: at most twice what plain float32 (here PyTorch's) errs against float64."""
    rows = rows_of(data)
    logits = np.concatenate([row[: len(ids)] for row, ids in zip(model.logits(rows), rows, strict=True)])
    theirs = np.abs(data["logits"] - data["exact"]).max()
    floor = 4 * np.finfo(np.float32).eps * np.abs(data["exact"]).max()
    assert np.abs(logits - data["exact"]).max() <= 2 * max(theirs, floor)


@pytest.mark.parametrize("isa", fastattn.isa.available())
@pytest.mark.parametrize("name", ALL)
def test_logits_equal_pytorchs(name: str, isa: str) -> None:
    with fastattn.isa.use(isa):
        check_logits(load(name), np.load(GOLDEN / name / "logits.npz"))


@pytest.mark.parametrize("name", ALL)
def test_the_reference_backend_equals_pytorch_too(name: str) -> None:
    check_logits(load(name, backend="reference"), np.load(GOLDEN / name / "logits.npz"))


@pytest.mark.parametrize("name", TRAINED)
def test_onnx_holds_the_tensors_of_safetensors(name: str) -> None:
    data = np.load(GOLDEN / name / "logits.npz")
    (export,) = (GOLDEN / name).glob("*.onnx")
    ours, other = load(name), fastattn.load(export)
    assert (other.checkpoint.format, ours.checkpoint.format) == ("ONNX", "safetensors")
    assert (ours.logits(rows_of(data)) == other.logits(rows_of(data))).all()
    assert ours.num_parameters == other.num_parameters


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_exports_of_onnxruntime_genai_hold_them_too(name: str, tmp_path: Path) -> None:
    """One product for queries, keys and values (qwen2: with biases), and names of its own."""
    for file in (GOLDEN / name / "config.json", *(GOLDEN / name / "genai").iterdir()):
        shutil.copy(file, tmp_path)
    data = np.load(GOLDEN / name / "logits.npz")
    assert (load(name).logits(rows_of(data)) == fastattn.load(tmp_path).logits(rows_of(data))).all()


@pytest.mark.parametrize("name", ["decoder_model.onnx", "decoder_with_past_model.onnx", "decoder_model_merged.onnx"])
def test_older_names_of_exports_are_found(name: str, tmp_path: Path) -> None:
    for file in ("config.json", "generation_config.json"):
        shutil.copy(GOLDEN / "gpt2" / file, tmp_path / file)
    shutil.copy(GOLDEN / "gpt2" / "decoder_model_merged.onnx", tmp_path / name)
    assert fastattn.load(tmp_path).generate(PROMPTS[5]).token_ids == load("gpt2").generate(PROMPTS[5]).token_ids


@pytest.mark.parametrize("name", ALL)
def test_hidden_states_and_attention_equal_hugging_faces(name: str) -> None:
    data = np.load(GOLDEN / name / "logits.npz")
    model = load(name)
    states = np.concatenate(model.encode(rows_of(data)))
    assert np.abs(states - data["hidden"]).max() < 3e-5 * np.abs(data["hidden"]).max()
    for i, row in enumerate(rows_of(data)[:3]):
        row = row[:20]
        prompt = np.array(row[:2], np.int32)
        found = model._attention(model._source(row[:2]), prompt, row[2:])
        assert found.cross is None and found.encoder is None and found.self is not None
        assert found.self.shape[2:] == (len(row) - 2, len(row) - 1)
        theirs = data["own"][:, i, :, 1 : len(row) - 1, : len(row) - 1]
        assert np.abs(found.self - theirs).max() < 1e-5
        assert found.decoder_tokens == tuple(map(str, row[:-1])) and found.target_tokens == tuple(map(str, row[2:]))


def test_states_of_a_long_text_take_no_memory_for_attention(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "llama", tmp_path / "long")
    config = tmp_path / "long" / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 64', '"max_position_embeddings": 4096'))
    model = fastattn.load(tmp_path / "long")
    tracemalloc.start()
    try:
        states = model.encode(np.arange(1500) % 50)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * states.nbytes + (1 << 20)  # the weights of a single head would be 9 MB
    short = model.encode(np.arange(600) % 50)
    assert (states[:600] == short).all()


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", TRAINED)
def test_ids_equal_hugging_faces(name: str, backend: str) -> None:
    model = load(name, backend=backend)
    for run in RUNS[name]["runs"]:
        results = model.generate(PROMPTS, **run["options"])
        hypotheses = [h for result in results for h in result.hypotheses]
        assert [h.token_ids for h in hypotheses] == run["ids"], run["options"]
        if run["scores"]:
            assert np.allclose([h.score for h in hypotheses], run["scores"], rtol=1e-5, atol=1e-5), run["options"]


OPTIONS: list[dict[str, Any]] = [
    {"num_beams": 1},
    {"num_beams": 4, "num_return_sequences": 2},
    {"do_sample": True, "num_return_sequences": 3, "seed": 5},
    {"num_beams": 2, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", TRAINED)
def test_batch_threads_and_attention_change_nothing(name: str, options: dict[str, Any]) -> None:
    options = {**options, "max_new_tokens": 12, "eos_token_id": None}
    one, two = load(name, num_threads=1), load(name, num_threads=2)
    batch = two.generate(PROMPTS, **options)
    for given, result in zip(PROMPTS, batch, strict=True):
        alone = one.generate(given, **options, return_attention=True)
        assert [(h.token_ids, h.score) for h in alone.hypotheses] == [(h.token_ids, h.score) for h in result.hypotheses]
    assert [r.score for r in two.generate(PROMPTS, batch_size=3, **options)] == [r.score for r in batch]


@pytest.mark.parametrize("name", ALL)
def test_cached_steps_give_the_bits_of_uncached_ones(name: str) -> None:
    model = load(name)
    ids = PROMPTS[-1]
    whole = model.logits([ids])[0]
    with model._session() as session:
        for split in (1, 5, 16, 33):
            session.start(1)
            first = session.step([np.array(ids[:split], np.int32)], fastattn.runtime.Select(logits=True), all_rows=True)
            assert first.logits is not None and (first.logits == whole[:split]).all()
            for t in range(split, len(ids)):
                row = session.step(np.array([ids[t]], np.int32), fastattn.runtime.Select(logits=True)).logits
                assert row is not None and (row[0] == whole[t]).all()


@pytest.mark.parametrize("name", TRAINED)
def test_scores_are_those_of_the_logits(name: str) -> None:
    model = load(name)
    targets = [[4, 9, 33, 0], [7], [9, 9]]
    for prompt, target, scores in zip(PROMPTS[3:6], targets, model.score(PROMPTS[3:6], targets), strict=True):
        logits = model.logits([prompt + target[:-1]])[0, len(prompt) - 1 :].astype(np.float64)
        expected = (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(len(target)), target]
        assert np.abs(scores - expected).max() < 1e-5
        assert (scores == model.score(prompt, target)).all()


def test_the_sum_of_the_greedy_tokens_scores_is_the_score_of_the_text() -> None:
    model = load("gpt2")
    g = model.generate(PROMPTS[6], max_new_tokens=30)
    assert g.finish_reason == "eos" and len(g.token_ids) > 2
    target = [*g.token_ids, 0]
    assert model.score(PROMPTS[6], target).sum() == pytest.approx(g.score * len(target), rel=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_is_explained_by_what_it_looked_back_on(name: str) -> None:
    model = load(name)
    prompt = PROMPTS[5]
    g = model.generate(prompt, max_new_tokens=20, return_attention=True)
    steps = model.explain(prompt, max_new_tokens=20)
    assert [step.token_id for step in steps] == [*g.token_ids, 0]
    assert g.attention is not None and g.attention.self is not None
    for t, step in enumerate(steps):
        assert step.source_tokens == [str(i) for i in [*prompt, *g.token_ids[:t]]]
        assert len(step.weights) == len(step.source_tokens) and step.weights.sum() == pytest.approx(1, abs=1e-5)
        assert step.top[0][0] == step.token
    last = g.attention.self[-1].mean(0)
    assert (steps[2].weights == last[2, : len(prompt) + 2]).all()


def test_embeddings_are_unit_vectors_that_do_not_depend_on_the_batch() -> None:
    model = load("gpt2")
    many = model.embed(PROMPTS)
    assert np.allclose(np.linalg.norm(many, axis=1), 1, atol=1e-6)
    assert (many[4] == model.embed(PROMPTS[4])).all()
    mean = model.encode(PROMPTS[4]).mean(axis=0)
    assert np.allclose(many[4], mean / np.linalg.norm(mean), atol=1e-6)


def test_long_inputs_are_encoded_in_pieces() -> None:
    model = load("gpt2")
    ids = [2 + (5 * i) % 90 for i in range(64)]
    longest = model.encode(ids)
    assert (longest[:10] == model.encode(ids[:10])).all() and longest.shape == (64, 32)


def test_positions_are_bounded() -> None:
    model = load("gpt2")
    ids = [2 + i for i in range(60)]
    assert len(model.generate(ids, max_new_tokens=5, eos_token_id=None).token_ids) == 5  # the last is not fed
    assert len(model.generate(ids, eos_token_id=None).token_ids) == 5
    assert len(model.generate([2 + i for i in range(64)], eos_token_id=None).token_ids) == 1
    for change, error, message in (
        (
            {"max_new_tokens": 6},
            fastattn.OptionError,
            "6 after a prompt of 60 tokens, expected at most 5: .* 64 positions",
        ),
        ({"max_length": 60}, fastattn.OptionError, "max_length: found 60, expected more than the 60 tokens"),
    ):
        with pytest.raises(error, match=message):
            model.generate(ids, **change)
    with pytest.raises(fastattn.InputError, match="the input is too long: 65 tokens found, the limit is 64"):
        model.generate([3] * 65)
    assert len(model.score(ids, [5] * 5)) == 5
    with pytest.raises(fastattn.InputError, match="prompt and target are too long: 65 tokens to feed, the limit is 64"):
        model.score(ids, [5] * 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.logits([[1, 2]], [[3]]), "decoder_input_ids: gpt2 has no encoder"),
        (lambda m: m.generate("text"), "gpt2: found text, expected token ids: the model's folder has no tokenizer"),
        (lambda m: m.generate([]), ""),
        (lambda m: m.generate([101]), "token id 101 is outside the vocabulary of 101"),
        (lambda m: m.generate([[5], []]), "inputs.1.: expected at least one token id"),
        (lambda m: m.score([5], []), "targets"),
    ],
)
def test_what_a_model_cannot_take_is_named(call: Any, message: str) -> None:
    model = load("gpt2")
    if not message:
        assert call(model) == []
        return
    with pytest.raises(fastattn.InputError, match=message):
        call(model)


def changed(folder: Path, name: str, change: dict[str, Any]) -> Path:
    shutil.copytree(GOLDEN / name, folder / "model")
    config = {**json.loads((GOLDEN / name / "config.json").read_text()), **change}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return folder / "model"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": 5}, "'n_head' is 5, expected a divisor of n_embd 32"),
        ({"n_layer": 3}, "missing: h.2.attn.c_attn.bias .96."),
        ({"n_layer": 1}, "unexpected: transformer.h.1.attn.c_attn.bias"),
        ({"n_inner": 100}, "h.0.mlp.c_fc.weight is .32, 128. in transformer.h.0.mlp.c_fc.weight, expected .32, 100."),
        ({"tie_word_embeddings": False}, "missing: lm_head.weight"),
        ({"activation_function": "quick_gelu"}, "'activation_function' is 'quick_gelu', expected one of"),
        ({"layer_norm_epsilon": "small"}, "'layer_norm_epsilon' is 'small', expected a finite number above 0"),
        ({"scale_attn_weights": 1}, "'scale_attn_weights' is 1, expected true or false"),
        ({"add_cross_attention": True}, "'add_cross_attention' is true, expected false"),
    ],
)
def test_a_gpt2_config_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(fastattn.LoadError, match=message) as caught:
        fastattn.load(changed(tmp_path, "gpt2", change))
    assert "\n" not in str(caught.value)


def test_checkpoints_of_the_bare_gpt2_load(tmp_path: Path) -> None:
    """As the first ones on the hub: without the prefix `transformer.`, with the causal mask among the tensors."""
    folder = changed(tmp_path, "gpt2", {})
    (folder / "decoder_model_merged.onnx").unlink()
    tensors = open_checkpoint(folder).tensors
    bare = {name.removeprefix("transformer."): np.array(tensors[name]) for name in tensors}
    bare["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.float32)
    bare["h.0.attn.masked_bias"] = np.array(-1e4, np.float32)
    write_safetensors(folder / "model.safetensors", bare)
    assert fastattn.load(folder).generate(PROMPTS[4]).token_ids == load("gpt2").generate(PROMPTS[4]).token_ids


def write_safetensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at := at + array.nbytes]}
    text = json.dumps(header).encode()
    parts = [len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in tensors.values())]
    file.write_bytes(b"".join(parts))


@pytest.mark.parametrize("name", TRAINED)
def test_a_profile_names_the_ops(name: str) -> None:
    assert "attention" in str(load(name).profile(PROMPTS[:3], max_new_tokens=4)) and "attention" in str(
        load(name).profile(max_new_tokens=2)
    )


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 5}, "'num_key_value_heads' is 2, expected a divisor of 5 heads"),
        (
            {"head_dim": None, "num_attention_heads": 10, "num_key_value_heads": 1},
            "'num_attention_heads' is 10, expected a",
        ),
        ({"head_dim": 7}, "heads of 7 columns, expected an even number"),
        ({"head_dim": 1 << 30}, "heads of 1073741824 columns, expected an even number up to 65536"),
        ({"head_dim": 16}, "misshapen: layers.0.self_attn.k_proj.weight is .16, 32. in .*, expected .32, 32."),
        ({"num_hidden_layers": 3}, "missing: layers.2.input_layernorm.weight"),
        ({"attention_bias": True}, "missing: layers.0.self_attn.k_proj.bias"),
        ({"mlp_bias": True}, "missing: layers.0.mlp.down_proj.bias"),
        (
            {"tie_word_embeddings": True},
            "different values in lm_head.weight and model.embed_tokens.weight|different values",
        ),
        ({"hidden_act": "quick_gelu"}, "'hidden_act' is 'quick_gelu', expected one of"),
        ({"rms_norm_eps": 0}, "'rms_norm_eps' is 0, expected a finite number above 0"),
        ({"rope_theta": -1.0}, "'rope_theta' is -1.0, expected a finite number above 0"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is not 1"),
        (
            {"rope_scaling": DYNAMIC},
            "'rope_scaling' of type 'dynamic' is not supported, expected one of .'default', 'linear'",
        ),
        ({"rope_scaling": {"factor": 2.0}}, "'rope_scaling' of type None is not supported"),
        (
            {"rope_scaling": {"type": "default", "rope_type": "linear", "factor": 2.0}},
            "'rope_scaling' has type 'default' and rope_type 'linear'",
        ),
        ({"rope_scaling": "linear"}, "'rope_scaling' is 'linear', expected an object or null"),
        ({"rope_scaling": {"type": "linear"}}, "config.json, rope_scaling: 'factor' is missing"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
            "config.json, rope_scaling: 'low_freq_factor' is missing",
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": "4"}},
            "rope_scaling: 'factor' is '4', expected a finite number",
        ),
        ({"model_type": "mistral", "sliding_window": 0}, "'sliding_window' is 0, expected an integer from 1"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "layer_types": ["full_attention"]},
            "'layer_types' is .*, expected 2 of",
        ),
    ],
)
def test_a_llama_config_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(fastattn.LoadError, match=message) as caught:
        fastattn.load(changed(tmp_path, "llama", change))
    assert "\n" not in str(caught.value)


def test_rope_as_transformers_5_writes_it(tmp_path: Path) -> None:
    config = json.loads((GOLDEN / "llama" / "config.json").read_text())
    moved = {"rope_parameters": {**config["rope_scaling"], "rope_theta": config["rope_theta"]}, "rope_theta": None}
    folder = changed(tmp_path, "llama", {**moved, "rope_scaling": None})
    assert (fastattn.load(folder).logits([PROMPTS[-1]]) == load("llama").logits([PROMPTS[-1]])).all()


def test_layer_types_name_the_layers_with_a_window(tmp_path: Path) -> None:
    listed = {"layer_types": ["full_attention", "sliding_attention"], "max_window_layers": 28}
    folder = changed(tmp_path, "qwen2-windows", listed)
    assert (fastattn.load(folder).logits([PROMPTS[-1]]) == load("qwen2-windows").logits([PROMPTS[-1]])).all()


def test_rotary_models_go_beyond_the_positions_they_were_made_for() -> None:
    model = load("llama")
    ids = [2 + i for i in range(60)]
    assert len(model.generate(ids, eos_token_id=None).token_ids) == 5  # nobody said how many
    assert len(model.generate(ids, eos_token_id=None, max_new_tokens=20).token_ids) == 20
    with pytest.raises(
        fastattn.OptionError,
        match=r"max_new_tokens: found None, .* a prompt of 70 tokens is longer than the 64 positions",
    ):
        model.generate([3] * 70)


@pytest.mark.parametrize("isa", fastattn.isa.available())
def test_cosines_and_sines_are_the_nearest_floats_at_every_position(isa: str) -> None:
    """Up to position 131,072, for the angles that float32 gives (docs/numerics.md)."""
    from fastattn.graph import tracing
    from fastattn.models.rope import read_rope
    from fastattn.nn import Rotary
    from fastattn.runtime import Capture, NativeSession

    inv_freq, scale = read_rope({"rope_theta": 500000.0}, 8, 131072)
    rotary = Rotary(8, scale)
    rotary.finalise()
    with tracing("decoder") as (graph, ids):
        graph.tap(rotary(ids), "turns")
    positions = 131_073
    with fastattn.isa.use(isa):
        session = NativeSession({"decoder": graph}, {"inv_freq": inv_freq}, num_threads=2)
        session.start(1)
        session.capture = Capture.ATTENTION
        turns = session.step([np.zeros(positions, np.int32)]).taps["turns"]
    angles = (np.arange(positions, dtype=np.float32)[:, None] * inv_freq).astype(np.float64)
    exact = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    assert (turns == exact.astype(np.float32)).all()


TEXT: list[dict[str, Any]] = json.loads((GOLDEN / "gpt2-text" / "text.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def writer() -> Model:
    pytest.importorskip("tokenizers")
    return load("gpt2-text")


@pytest.mark.parametrize("case", TEXT, ids=lambda case: f"{case['prompt']!r}-{case['num_beams']}")
def test_text_is_what_transformers_writes(writer: Model, case: dict[str, Any]) -> None:
    options = {"num_beams": case["num_beams"], "max_new_tokens": 24}
    g = writer.generate(case["prompt"], **options, return_attention=True)
    assert (g.token_ids, g.text) == (case["ids"], case["text"])
    assert len(g.tokens) == len(g.token_ids) and g.attention is not None
    assert g.attention.decoder_tokens[: len(g.source_tokens)] == tuple(g.source_tokens)
    if case["num_beams"] == 1:
        assert "".join(writer.stream(case["prompt"], **options)) == case["text"]


def test_prompts_of_one_batch_give_what_they_give_alone(writer: Model) -> None:
    prompts = [case["prompt"] for case in TEXT[::2]]
    assert [g.text for g in writer.generate(prompts, max_new_tokens=24)] == [case["text"] for case in TEXT[::2]]


def test_a_text_is_scored_behind_its_prompt(writer: Model) -> None:
    case = TEXT[0]
    scores = writer.score(case["prompt"], case["text"])
    assert len(scores) == len(case["ids"])
    assert (scores == writer.score(case["prompt"], case["ids"])).all()
    ids = writer._source(case["prompt"]).ids.tolist()
    assert (scores == writer.score(ids, case["text"])).all()
    assert scores.sum() > writer.score(case["prompt"], " a small garden.").sum()
    assert writer.embed([case["prompt"], "a"]).shape == (2, 32)


def test_an_empty_prompt_is_refused(writer: Model) -> None:
    with pytest.raises(fastattn.InputError, match="the prompt is empty"):
        writer.generate("")


@pytest.mark.parametrize("compute_type", fastattn.packing.COMPUTE_TYPES)
@pytest.mark.parametrize("name", TRAINED)
def test_small_weights_and_converted_models_keep_the_equalities(name: str, compute_type: str, tmp_path: Path) -> None:
    model = load(name, compute_type=compute_type, num_threads=2)
    fastattn.convert(GOLDEN / name, tmp_path / "converted", compute_type=compute_type)
    mapped = fastattn.load(tmp_path / "converted", num_threads=1)
    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 8, "eos_token_id": None}
    batch = model.generate(PROMPTS, **options)
    for prompt, result in zip(PROMPTS, batch, strict=True):
        alone = mapped.generate(prompt, **options)
        assert (alone.token_ids, alone.score) == (result.token_ids, result.score)
    exact = load(name, compute_type=compute_type, backend="reference").logits(PROMPTS[-2:])
    error = np.abs(model.logits(PROMPTS[-2:]) - exact) / np.abs(exact).max()
    # an activation half-way between two steps of its int8, or two bfloat16, may fall to either
    most = {"float32": 1e-4, "bfloat16": 5e-3}.get(compute_type, 2e-2)
    assert error.max() < most and np.median(error) < 1e-6


def test_a_window_leaves_minus_infinity_out_of_json(tmp_path: Path) -> None:
    from fastattn.cli import explain

    steps = explain.as_json(load("mistral").explain(PROMPTS[-1], max_new_tokens=2))
    assert None in steps[0]["scores"] and json.loads(json.dumps(steps, allow_nan=False)) == steps


def test_many_threads_share_a_model() -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = load("llama", num_threads=2)
    expected = [g.token_ids for g in model.generate(PROMPTS, num_beams=2, max_new_tokens=10)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda p: model.generate(p, num_beams=2, max_new_tokens=10).token_ids, PROMPTS * 2))
    assert found == expected * 2


def test_a_prompt_is_fed_once_and_shared_by_its_beams(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("gpt2")
    with model._session() as session:
        fed: list[int] = []
        whole = type(session).step

        def step(self: Any, tokens: Any, *rest: Any, **named: Any) -> Any:
            fed.append(sum(np.size(t) for t in tokens))
            return whole(self, tokens, *rest, **named)

        monkeypatch.setattr(type(session), "step", step)
    model.generate(PROMPTS, num_beams=4, max_new_tokens=5, eos_token_id=None)
    assert fed == [sum(map(len, PROMPTS)), *[4 * len(PROMPTS)] * 4]


def test_long_prompts_are_taken_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastattn import inputs

    model = load("qwen2")
    expected = [(g.token_ids, g.score) for g in model.generate(PROMPTS, num_beams=2, max_new_tokens=6)]
    assert [len(batch) for batch in inputs.batches([len(p) for p in PROMPTS], 32)] == [len(PROMPTS)]
    monkeypatch.setattr(inputs, "TOGETHER", 30)
    assert [len(batch) for batch in inputs.batches([len(p) for p in PROMPTS], 32)] == [6, 2, 1, 1]
    assert [(g.token_ids, g.score) for g in model.generate(PROMPTS, num_beams=2, max_new_tokens=6)] == expected
