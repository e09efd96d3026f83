"""bind_weights: every parameter its tensor, or one line that says all that is wrong."""

from __future__ import annotations

import math
import mmap
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fastattn.errors import FastattnError, LoadError
from fastattn.loaders import Checkpoint
from fastattn.loaders.tensors import TensorMap, Weight
from fastattn.models import build
from fastattn.packing import as_float32, drop_pages
from fastattn.weights import bind_weights


def checkpoint(tensors: dict[str, np.ndarray], **fields: object) -> Checkpoint:
    return Checkpoint(Path("model"), {}, {}, tensors, {}, **fields)


def ones(*shape: int, value: float = 1.0) -> np.ndarray:
    return np.full(shape, value, np.float32)


def test_all_faults_in_one_line() -> None:
    tensors = {"a.weight": ones(2, 3), "b.wieght": ones(4), "c.weight": ones(5), "position_ids": np.arange(3)}
    expected = {"a.weight": (3, 2), "b.weight": (4,), "c.weight": (5,), "d.bias": (7,)}
    with pytest.raises(LoadError) as caught:
        bind_weights(expected, checkpoint(tensors))
    error, message = caught.value, str(caught.value)
    assert isinstance(error, FastattnError) and isinstance(error, ValueError)
    assert "\n" not in message and message.startswith("model: ")
    assert (error.missing, error.misshapen, error.unexpected) == (("b.weight", "d.bias"), ("a.weight",), ("b.wieght",))
    assert "2 missing: b.weight [4] (nearest: b.wieght [4]), d.bias [7]" in message
    assert "1 misshapen: a.weight is [2, 3], expected [3, 2]" in message
    assert "1 unexpected: b.wieght [4]" in message


def test_the_only_tensor_of_a_shape_is_a_candidate() -> None:
    with pytest.raises(LoadError, match=r"decoder\.W\.weight \[2, 9\] \(nearest: onnx::MatMul_7 \[9, 2\]\)"):
        bind_weights({"decoder.W.weight": (2, 9)}, checkpoint({"onnx::MatMul_7": ones(9, 2), "val_3": ones(4)}))


def test_long_lists_are_cut_but_kept_in_the_error() -> None:
    expected = {f"layer.{i}.weight": (1,) for i in range(100)}
    with pytest.raises(LoadError, match=r"100 missing: .* and 88 more") as caught:
        bind_weights(expected, checkpoint({}))
    assert len(caught.value.missing) == 100


def test_renaming_and_tied_tensors() -> None:
    rename = [(r"^lm_head\.weight$", "shared.weight"), (r"embed_tokens", "shared"), (r"^encoder\.shared", "shared")]
    tensors = {"encoder.embed_tokens.weight": ones(3, 2), "lm_head.weight": ones(3, 2)}
    assert (bind_weights({"shared.weight": (3, 2)}, checkpoint(tensors), rename)["shared.weight"] == 1).all()
    tensors["lm_head.weight"] = ones(3, 2, value=2)
    with pytest.raises(
        LoadError, match=r"shared\.weight has different values in encoder\.embed_tokens\.weight and lm_head"
    ):
        bind_weights({"shared.weight": (3, 2)}, checkpoint(tensors), rename)


def test_optional_and_ignored() -> None:
    tensors = {"w": ones(2), "mask": ones(4, 4), "extra.bias": ones(3)}
    bound = bind_weights({"w": (2,), "b": (2,)}, checkpoint(tensors), optional={"b"}, ignore=[r"^mask$", r"^extra\."])
    assert list(bound) == ["w"]
    bound = bind_weights({"w": (2,)}, checkpoint(tensors, constants=frozenset({"mask"})), ignore=["extra"])
    assert list(bound) == ["w"]


def test_integers_are_no_parameters() -> None:
    with pytest.raises(LoadError, match="w in w holds no floating-point values"):
        bind_weights({"w": (3,)}, checkpoint({"w": np.arange(3)}))


def test_aliases_fill_in() -> None:
    tensors = {"shared.weight": ones(3, 2)}
    found = bind_weights(
        {"shared.weight": (3, 2), "lm_head.weight": (3, 2)},
        checkpoint(tensors, aliases={"lm_head.weight": "shared.weight", "other.weight": "shared.weight"}),
    )
    assert found.keys() == {"shared.weight", "lm_head.weight"}


def test_the_attribute_of_a_wrapper_is_dropped() -> None:
    tensors = {"wrapper.net.a.weight": ones(2), "wrapper.net.b.weight": ones(3), "onnx::Add_3": ones(9)}
    found = bind_weights(
        {"a.weight": (2,), "b.weight": (3,)}, checkpoint(tensors, constants=frozenset({"onnx::Add_3"}))
    )
    assert {name: array.shape for name, array in found.items()} == {"a.weight": (2,), "b.weight": (3,)}


def test_nothing_is_copied_before_it_is_packed() -> None:
    stored, half = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(6, dtype=np.float16)
    bound = bind_weights({"a": (2, 3), "b": (3, 2), "c": (6,)}, checkpoint({"a": stored, "b": stored.T, "c": half}))
    assert np.shares_memory(bound["a"], stored) and np.shares_memory(bound["b"], stored) and bound["c"] is half
    assert as_float32(bound["a"]) is stored
    for name in bound:
        array = as_float32(bound[name])
        assert array.dtype == np.float32 and array.flags.c_contiguous
        np.testing.assert_array_equal(array, bound[name])


def test_bfloat16_is_viewed_by_its_bits_and_computed_with_as_float32() -> None:
    values = np.array([[1.0, -2.5, np.inf], [0.0, 2**-130, 3.0]], np.float32)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16)
    tensors = TensorMap({"w": Weight(stored, "here", bfloat16=True)})
    bound = bind_weights({"w": (2, 3)}, checkpoint(tensors))
    assert np.shares_memory(bound["w"], stored) and np.shares_memory(bound["w"].T[1:], stored)
    np.testing.assert_array_equal(as_float32(bound["w"].T), values.T)
    np.testing.assert_array_equal(bound["w"] + 1, values + 1)
    np.testing.assert_array_equal(1 + np.multiply(bound["w"].T, np.float32(2)), 1 + 2 * values.T)


def test_what_is_set_replaces_what_the_file_has() -> None:
    bound = bind_weights({"a": (2,), "b": (2,)}, checkpoint({"a": ones(2), "b": ones(2)}))
    bound["a"], bound["c"] = ones(2, value=3), ones(1)
    del bound["b"]
    assert sorted(bound) == ["a", "c"] and len(bound) == 2 and "b" not in bound and bound["a"][0] == 3


def test_pages_of_a_mapped_file_are_given_back(tmp_path: Path) -> None:
    rows, cols = 512, 2048
    np.arange(rows * cols, dtype=np.float32).tofile(tmp_path / "data")

    def resident() -> int:
        fields = re.findall(rf"{tmp_path / 'data'}\n(?:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
        return sum(map(int, fields)) * 1024

    with open(tmp_path / "data", "rb") as handle:
        whole = np.frombuffer(memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)), np.float32)
    matrix = whole.reshape(rows, cols)
    assert matrix.sum(dtype=np.float64) > 0 and resident() == whole.nbytes
    drop_pages(matrix.T[:, : rows // 2])
    assert resident() == whole.nbytes // 2
    drop_pages(matrix[::-1])
    assert resident() == 0
    np.testing.assert_array_equal(matrix[-1, -3:], np.arange(rows * cols - 3, rows * cols))
    ours = np.ones(4096, np.float32)
    drop_pages(ours)
    assert ours.all()


# -- call paths -------------------------------------------------------------------------------------------------------


def test_call_paths_are_settled_by_module_and_shape() -> None:
    tensors = {"rnn.w": ones(2), "rnn_1.w": ones(3), "attention.W_q.weight": ones(4), "fc.weight": ones(5)}
    expected = {"encoder.rnn.w": (2,), "decoder.rnn.w": (3,), "decoder.attention.W_q.weight": (4,), "fc.weight": (5,)}
    found = bind_weights(expected, checkpoint(tensors, call_paths=dict.fromkeys(tensors, "model")))
    assert {name: array.shape for name, array in found.items()} == expected


def test_the_role_decides_between_modules_of_one_shape() -> None:
    tensors = {"encoder:rnn.w": ones(2, value=1), "decoder:rnn.w": ones(2, value=2)}
    roles = {"encoder:rnn.w": "encoder", "decoder:rnn.w": "decoder"}
    found = bind_weights({"encoder.rnn.w": (2,), "decoder.rnn.w": (2,)}, checkpoint(tensors, call_paths=roles))
    assert found["encoder.rnn.w"][0] == 1 and found["decoder.rnn.w"][0] == 2


def test_a_choice_is_never_guessed() -> None:
    tensors = {"rnn.w": ones(2, value=1), "rnn_1.w": ones(2, value=2)}
    with pytest.raises(LoadError, match=r"2 missing: decoder\.rnn\.w"):
        bind_weights(
            {"encoder.rnn.w": (2,), "decoder.rnn.w": (2,)},
            checkpoint(tensors, call_paths=dict.fromkeys(tensors, "model")),
        )


# -- config.json ------------------------------------------------------------------------------------------------------

LLAMA = {
    "model_type": "llama", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0}
MARIAN = {
    "model_type": "marian", "d_model": 8, "vocab_size": 9, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": []}, "model_type"),
        ({"model_type": {}}, "model_type"),
        ({**LLAMA, "hidden_size": None}, "folder/config.json: 'hidden_size' is null"),
        ({**LLAMA, "rms_norm_eps": 10**400}, "'rms_norm_eps' is an integer beyond 64 bits"),
        ({**LLAMA, "rope_theta": 1e-300}, "not finite"),
        ({**LLAMA, "rope_scaling": {"type": "linear", "factor": 1e-300}}, "not finite"),
        ({**LLAMA, "rope_scaling": {**YARN, "factor": 1e-300}}, "not finite"),
        ({**LLAMA, "rope_scaling": {"type": ["linear"]}}, "of type .'linear'. is not supported"),
        ({**LLAMA, "rope_scaling": {**YARN, "beta_fast": 1e-320}}, "rope_scaling"),
        ({**LLAMA, "rope_scaling": {**YARN, "beta_slow": 1e308}}, "rope_scaling"),
        ({**LLAMA, "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": -10 / math.log(4.0)}}, "rope_scaling"),
        ({"model_type": "gpt2", "n_embd": 8, "hidden_size": 16}, "'n_embd' is 8, but 'hidden_size'"),
        ({**MARIAN, "max_position_embeddings": 1 << 30}, "'max_position_embeddings' is 1073741824, expected"),
    ],
    ids=lambda v: str(v)[-60:],
)
def test_a_config_with_nonsense_is_named(config: dict[str, object], message: str) -> None:
    with pytest.raises(LoadError, match=message) as caught:
        build(config, "folder")
    assert str(caught.value).startswith("folder")


def test_other_names_of_sizes_count() -> None:
    names = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3, "max_position_embeddings": 16}
    found = build({"model_type": "gpt2", "vocab_size": 9, **names}, "folder").params
    assert found["wpe.weight"] == (16, 8) and "h.2.ln_1.weight" in found and "h.3.ln_1.weight" not in found
    small = {"vocab_size": 9, "encoder_layers": 1, "decoder_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
    found = build({"model_type": "bart", "decoder_attention_heads": 2, **small}, "folder").params
    assert found["model.shared.weight"] == (9, 8)


@pytest.mark.parametrize("dtype", [np.float16, np.uint16])
def test_two_tensors_of_a_parameter_are_compared_without_copies_of_them(dtype: type) -> None:
    bits = np.random.default_rng(0).integers(0, 0x7C00, (4000, 256), np.uint16)  # finite in both types
    stored, other = bits.view(dtype), bits.T.copy().view(dtype).T
    bfloat16 = dtype is np.uint16
    tensors = {"a": Weight(stored, "", bfloat16), "b": Weight(other, "", bfloat16)}
    tracemalloc.start()
    try:
        bind_weights({"a": stored.shape}, checkpoint(TensorMap(tensors)), rename=[("^b$", "a")])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < stored.nbytes
    changed = bits.copy()
    changed[3999, 255] ^= 1
    tensors["b"] = Weight(changed.view(dtype), "", bfloat16)
    with pytest.raises(LoadError, match="1 contradictory: a has different values in a and b"):
        bind_weights({"a": stored.shape}, checkpoint(TensorMap(tensors)), rename=[("^b$", "a")])


def test_a_checkpoint_quantised_elsewhere_is_named() -> None:
    found = Checkpoint(Path("model"), {"quantization_config": {"quant_method": "gptq"}}, {}, {"a.qweight": ones(2)}, {})
    with pytest.raises(LoadError, match=r"1 missing: a.weight .*quantization_config \(gptq\), which is not read"):
        bind_weights({"a.weight": (2, 3)}, found)
    found = checkpoint({"a.weight": np.ones((2, 3), np.int8)})
    with pytest.raises(LoadError, match=r"1 of another type: a.weight in a.weight holds no floating-point values"):
        bind_weights({"a.weight": (2, 3)}, found)


@pytest.mark.parametrize(
    ("family", "heads", "expected"), [("llama", 6, 6), ("mistral", 16, 8), ("qwen2", 64, 32), ("qwen2", 32, 32)]
)
def test_sizes_that_a_config_leaves_out_are_those_of_transformers(family: str, heads: int, expected: int) -> None:
    given = {
        name: value for name, value in LLAMA.items() if name not in ("num_key_value_heads", "max_position_embeddings")
    }
    sizes = {"hidden_size": 4 * heads, "num_attention_heads": heads, "head_dim": 4}
    shapes = build({**given, **sizes, "model_type": family}, "folder").params
    assert shapes["layers.0.self_attn.k_proj.weight"] == (4 * expected, 4 * heads)
    shapes = build({**given, **sizes, "model_type": family, "num_key_value_heads": None}, "folder").params
    assert shapes["layers.0.self_attn.k_proj.weight"] == (4 * heads, 4 * heads)


@pytest.mark.parametrize(("change", "window"), [({}, 4095), ({"sliding_window": None}, -1), ({"sliding_window": 5}, 4)])
@pytest.mark.parametrize("family", [{"model_type": "mistral"}, {"model_type": "qwen2", "use_sliding_window": True}])
def test_windows_are_those_of_transformers(family: dict[str, object], change: dict[str, object], window: int) -> None:
    graph = build({**LLAMA, "max_window_layers": 0, **family, **change}, "folder").graphs["decoder"]
    assert {node.attrs["window_left"] for node in graph.nodes if node.op == "attention"} == {window}
