"""Every shape an ONNX export comes in loads, under the names and with the values of the PyTorch state_dict."""

from __future__ import annotations

import json
import mmap
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastattn
from fastattn.errors import LoadError
from fastattn.loaders import Checkpoint, describe, open_checkpoint
from fastattn.loaders.onnx_constants import Payloads
from fastattn.loaders.onnx_format import read_onnx
from fastattn.weights import bind_weights

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

EXPORTS = Path(__file__).parent / "golden" / "exports"
MANIFEST: dict[str, str] = json.loads((EXPORTS / "manifest.json").read_text())
TIED = {
    "model.shared.weight",
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "lm_head.weight",
}
POSITIONS = {"model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"}  # folded at a fixed length
CALL_PATHS = {"rnn-reaching", "rnn-whole-torchscript"}  # the exporter wrote call paths, not module paths


def state_dict(export: str) -> dict[str, np.ndarray]:
    with np.load(EXPORTS / "states" / f"{MANIFEST[export]}.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if arrays[name].dtype.kind == "f"}


def shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


@pytest.mark.parametrize("export", sorted(set(MANIFEST) - CALL_PATHS))
def test_names_and_values_are_those_of_the_state_dict(export: str) -> None:
    expected, checkpoint = state_dict(export), open_checkpoint(EXPORTS / export)
    found = {name: checkpoint.tensors[name] for name in checkpoint.tensors if name not in checkpoint.constants}
    assert found.keys() <= expected.keys()
    assert expected.keys() - found.keys() - checkpoint.aliases.keys() <= TIED | POSITIONS
    assert found.keys() & TIED if expected.keys() >= TIED else expected.keys() == found.keys()
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    for alias, name in checkpoint.aliases.items():
        if alias in expected:
            np.testing.assert_array_equal(found[name], expected[alias], err_msg=alias)


@pytest.mark.parametrize("export", sorted(MANIFEST))
def test_every_parameter_is_bound(export: str) -> None:
    expected = state_dict(export)
    names = TIED if expected.keys() >= TIED else set()
    tied = [(f"^{name}$".replace(".", r"\."), "model.shared.weight") for name in sorted(names)]
    wanted = {name: array for name, array in expected.items() if name not in names or name == "model.shared.weight"}
    bound = bind_weights(shapes(wanted), open_checkpoint(EXPORTS / export), tied, optional=POSITIONS)
    assert wanted.keys() - bound.keys() <= POSITIONS
    for name, array in bound.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)


@pytest.mark.parametrize("export", ["marian-equal-dynamo", "marian-equal-merged", "marian-equal-torchscript"])
def test_equal_tensors_are_found_under_every_module(export: str) -> None:
    tensors = open_checkpoint(EXPORTS / export).tensors
    for layer in ("model.encoder.layers.0", "model.encoder.layers.1", "model.decoder.layers.0"):
        assert not tensors[f"{layer}.fc2.bias"].any()
        assert not tensors[f"{layer}.final_layer_norm.bias"].any()
        assert (tensors[f"{layer}.final_layer_norm.weight"] == 1).all()


@pytest.mark.parametrize("export", sorted(MANIFEST))
def test_the_reader_agrees_with_the_onnx_package(export: str) -> None:
    for path in sorted((EXPORTS / export).glob("*.onnx")):
        ours, theirs = read_onnx(path), onnx.load(path)
        payloads = Payloads(ours)
        assert [n.op for n in ours.graph.nodes] == [n.op_type for n in theirs.graph.node]
        assert [n.inputs for n in ours.graph.nodes] == [list(n.input) for n in theirs.graph.node]
        assert [t.name for t in ours.graph.initializers] == [t.name for t in theirs.graph.initializer]
        for mine, other in zip(ours.graph.initializers, theirs.graph.initializer, strict=True):
            np.testing.assert_array_equal(payloads.array(mine, mine.name), numpy_helper.to_array(other))


def test_origins_tell_how_a_name_was_found() -> None:
    rows = {
        name: (shape, dtype, origin)
        for name, shape, dtype, origin in describe(open_checkpoint(EXPORTS / "marian-optimum"))
    }
    shape, dtype, origin = rows["model.encoder.layers.0.fc1.weight"]
    assert (shape, dtype) == ((32, 16), "float32")
    assert origin.startswith("encoder_model.onnx: 'onnx::MatMul_")
    assert "transposed" in origin and origin.endswith("consumer /layers.0/fc1/MatMul")
    assert rows["model.shared.weight"][2] == "decoder_model.onnx: initializer 'model.shared.weight'"


def test_configuration_comes_along() -> None:
    checkpoint = open_checkpoint(EXPORTS / "marian-optimum")
    assert checkpoint.path == EXPORTS / "marian-optimum"
    assert checkpoint.config["model_type"] == "marian"
    assert checkpoint.generation_config["decoder_start_token_id"] == 59


def test_opening_imports_no_onnx() -> None:
    code = "import sys; from fastattn.loaders import open_checkpoint as o; o(sys.argv[1]); print('onnx' in sys.modules)"
    path = EXPORTS / "marian-optimum"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- choosing files ---------------------------------------------------------------------------------------------------


def test_the_merged_decoder_is_enough(tmp_path: Path) -> None:
    shutil.copytree(EXPORTS / "marian-optimum-merged", tmp_path / "m")
    shutil.copy(EXPORTS / "marian-equal-torchscript" / "model.onnx", tmp_path / "m" / "decoder_model.onnx")  # not read
    open_checkpoint(tmp_path / "m")


def test_files_in_an_onnx_subfolder(tmp_path: Path) -> None:
    source = EXPORTS / "marian-optimum"
    shutil.copytree(source, tmp_path / "onnx")
    shutil.copy(source / "config.json", tmp_path)
    assert open_checkpoint(tmp_path).config["model_type"] == "marian"


def test_one_file_is_a_model(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(EXPORTS / "assorted-dynamo" / "model.onnx")
    assert checkpoint.path == EXPORTS / "assorted-dynamo" and "plain.weight" in checkpoint.tensors
    shutil.copy(EXPORTS / "assorted-dynamo" / "model.onnx", tmp_path / "any name.onnx")
    assert "plain.weight" in open_checkpoint(tmp_path).tensors


@pytest.mark.parametrize("differs", [False, True])
def test_parts_must_agree_on_a_tensor_they_share(tmp_path: Path, differs: bool) -> None:
    for role, value in (("encoder", 1), ("decoder", 2 if differs else 1)):
        arrays = {f"{role}.norm.weight": 0, "shared.weight": value}
        tensors = [numpy_helper.from_array(np.full(3, v, np.float32), n) for n, v in arrays.items()]
        save(tmp_path, [], tensors).rename(tmp_path / f"{role}_model.onnx")
    if differs:
        with pytest.raises(LoadError, match=r"'shared\.weight' differs from encoder_model\.onnx"):
            open_checkpoint(tmp_path)
    else:
        names = ["decoder.norm.weight", "encoder.norm.weight", "shared.weight"]
        assert sorted(open_checkpoint(tmp_path).tensors) == names


def test_bare_encoder_and_decoder_get_their_role(tmp_path: Path) -> None:
    for role in ("encoder", "decoder"):
        names = ["norm.weight"] + ["lm_head.weight"] * (role == "decoder")
        tensors = [numpy_helper.from_array(np.full(3, ord(role[0]), np.float32), n) for n in names]
        save(tmp_path, [], tensors).rename(tmp_path / f"{role}_model.onnx")
    tensors = open_checkpoint(tmp_path).tensors
    assert sorted(tensors) == ["decoder.norm.weight", "encoder.norm.weight", "lm_head.weight"]
    assert tensors["encoder.norm.weight"][0] == ord("e")


@pytest.mark.parametrize("variant", ["_fp16", "_optimized"])
def test_all_parts_of_one_variant_are_a_model(tmp_path: Path, variant: str) -> None:
    for name in ("encoder_model", "decoder_model", "decoder_with_past_model"):
        shutil.copy(EXPORTS / "marian-optimum" / f"{name}.onnx", tmp_path / f"{name}{variant}.onnx")
    (tmp_path / "decoder_model_merged_q4.onnx").write_bytes(b"not read")
    assert "model.shared.weight" in open_checkpoint(tmp_path).tensors
    shutil.copy(EXPORTS / "assorted-dynamo" / "model.onnx", tmp_path / "model.onnx")
    assert "plain.weight" in open_checkpoint(tmp_path).tensors  # the plain name comes first


@pytest.mark.parametrize("named", ["", "model_fp16.onnx"])
def test_a_folder_onnx_has_its_configuration_above_it(tmp_path: Path, named: str) -> None:
    (tmp_path / "onnx").mkdir()
    shutil.copy(EXPORTS / "assorted-dynamo" / "model.onnx", tmp_path / "onnx" / (named or "model.onnx"))
    (tmp_path / "config.json").write_text('{"a": 1}')
    found = open_checkpoint(tmp_path / "onnx" / named)
    assert found.config == {"a": 1} and found.path == tmp_path
    (tmp_path / "onnx" / "config.json").write_text('{"a": 2}')
    assert open_checkpoint(tmp_path / "onnx" / named).config == {"a": 2}


def test_a_model_in_the_folder_onnx_comes_before_a_stray_file(tmp_path: Path) -> None:
    shutil.copytree(EXPORTS / "assorted-dynamo", tmp_path / "onnx")
    (tmp_path / "stray.onnx").write_bytes(b"not read")
    assert "plain.weight" in open_checkpoint(tmp_path).tensors


@pytest.mark.parametrize(
    ("present", "said"),
    [
        (
            ["encoder_model.onnx"],
            r"which of encoder_model\.onnx is the model\? expected encoder_model\.onnx and decoder_",
        ),
        (["encoder_model.onnx", "decoder_model_q4.onnx"], r"which of decoder_model_q4\.onnx, encoder_model\.onnx"),
        (["encoder_model.onnx", "decoder_with_past_model.onnx"], r"decoder_with_past_model\.onnx lacks the cross-att"),
        (["decoder_model.onnx"], r"decoder_model\.onnx is a model's decoder alone: .*open the folder"),
    ],
)
def test_a_part_that_is_missing_is_named(tmp_path: Path, present: list[str], said: str) -> None:
    for name in ("config.json", *present):
        shutil.copy(EXPORTS / "marian-optimum" / name.replace("_q4", ""), tmp_path / name)
    with pytest.raises(LoadError, match=said):
        fastattn.load(tmp_path)


def test_unclear_choice_names_the_files(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        shutil.copy(EXPORTS / "assorted-dynamo" / "model.onnx", tmp_path / name)
    with pytest.raises(LoadError, match=r"which of a\.onnx, b\.onnx"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no model"),
        (["notes.txt"], "holds no model"),
    ],
)
def test_folders_without_a_model(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).write_text("x")
    with pytest.raises(LoadError, match=message):
        open_checkpoint(tmp_path)
    with pytest.raises(LoadError, match="no such file"):
        open_checkpoint(tmp_path / "absent")
    if files:
        with pytest.raises(LoadError, match="not a model file"):
            open_checkpoint(tmp_path / files[0])


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "\xff", '{"a": 1, "a": 2}'])
def test_bad_configuration_is_named(tmp_path: Path, text: str) -> None:
    shutil.copy(EXPORTS / "assorted-dynamo" / "model.onnx", tmp_path / "model.onnx")
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(LoadError, match=r"config\.json"):
        open_checkpoint(tmp_path)


# -- tensors ----------------------------------------------------------------------------------------------------------


def save(tmp_path: Path, nodes: list, tensors: list, external: str = "", **options: object) -> Path:
    graph = helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], tensors)
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(graph), path, save_as_external_data=bool(external), location=external or None, **options
    )
    return path


def linear(weight: str = "onnx::MatMul_1", name: str = "/fc/MatMul") -> object:
    return helper.make_node("MatMul", ["x", weight], ["y"], name)


VALUES = np.array([[1.5, -2.0, 0.25], [3.0, 0.0, -0.5]])


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("kind", "label"),
    [
        (TensorProto.FLOAT, "float32"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.BFLOAT16, "bfloat16"),
        (TensorProto.DOUBLE, "float64"),
    ],
)
def test_floating_types_become_float32(tmp_path: Path, kind: int, label: str, raw: bool) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    array = VALUES.T.astype(dtype)
    tensor = helper.make_tensor("onnx::MatMul_1", kind, array.shape, array.tobytes() if raw else array.ravel(), raw)
    checkpoint = open_checkpoint(save(tmp_path, [linear()], [tensor]))
    assert checkpoint.tensors["fc.weight"].dtype == np.float32
    np.testing.assert_array_equal(checkpoint.tensors["fc.weight"], VALUES)
    assert describe(checkpoint)[0][2] == label


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64", "bool"])
def test_integers_are_kept(tmp_path: Path, dtype: str, raw: bool) -> None:
    array = np.array([0, 1, 100, 127]).astype(dtype)
    array = -array if dtype.startswith("int") else array
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensor = helper.make_tensor("m.ids", kind, array.shape, array.tobytes() if raw else array, raw)
    found = open_checkpoint(save(tmp_path, [], [tensor])).tensors["m.ids"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_weights_in_constant_nodes(tmp_path: Path) -> None:
    """Both as parameters by name and as anonymous ones named by their consumer."""
    model = onnx.load(EXPORTS / "assorted-torchscript" / "model.onnx")
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    nodes = constants + list(model.graph.node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "model.onnx")
    expected = state_dict("assorted-torchscript")
    bound = bind_weights(shapes(expected), open_checkpoint(tmp_path))
    for name, array in expected.items():
        np.testing.assert_array_equal(bound[name], array, err_msg=name)


def test_a_product_with_a_factor_keeps_its_onnx_name(tmp_path: Path) -> None:
    """alpha·x·W: the constant is not the parameter, so calling it that would be wrong."""
    node = helper.make_node("Gemm", ["x", "onnx::Gemm_1"], ["y"], "/fc/Gemm", alpha=0.5)
    path = save(tmp_path, [node], [numpy_helper.from_array(VALUES.astype(np.float32), "onnx::Gemm_1")])
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["onnx::Gemm_1"]
    with pytest.raises(
        LoadError, match=r"fc\.weight \[2, 3\] \(nearest: onnx::Gemm_1 \[2, 3\]\).*unexpected: onnx::Gemm_1"
    ):
        bind_weights({"fc.weight": (2, 3)}, checkpoint)


def test_two_anonymous_weights_of_one_module_are_not_guessed(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", f"onnx::MatMul_{i}"], [f"y{i}"], "/fc/MatMul") for i in (1, 2)]
    arrays = [numpy_helper.from_array(np.full((2, 3), i, np.float32), f"onnx::MatMul_{i}") for i in (1, 2)]
    assert sorted(open_checkpoint(save(tmp_path, nodes, arrays)).tensors) == ["onnx::MatMul_1", "onnx::MatMul_2"]


def test_a_bias_names_a_weight_without_a_path(tmp_path: Path) -> None:
    """Exporters before PyTorch 1.13 wrote no paths."""
    nodes = [
        helper.make_node("MatMul", ["x", "17"], ["h"], "MatMul_3"),
        helper.make_node("Add", ["m.fc.bias", "h"], ["y"], "Add_4"),
    ]
    arrays = [numpy_helper.from_array(VALUES.astype(np.float32), "17")]
    arrays.append(numpy_helper.from_array(np.ones(3, np.float32), "m.fc.bias"))
    checkpoint = open_checkpoint(save(tmp_path, nodes, arrays))
    np.testing.assert_array_equal(checkpoint.tensors["m.fc.weight"], VALUES.T)


@pytest.mark.parametrize(
    ("path", "shape", "output", "name"),
    [
        ("/", (1, 3), "y", "final_logits_bias"),
        ("/m/", (1, 3), "y", "m.final_logits_bias"),  # the model inside another module
        ("/", (1, 1), "y", ""),  # of another width
        ("/", (3,), "y", ""),  # that of a layer
        ("/", (1, 3), "inner", "final_logits_bias"),  # a cast, a softmax or a choice of rows follows
        ("/", (1, 1, 3), "inner", "final_logits_bias"),
    ],
)
def test_a_nameless_bias_of_the_logits_is_known_by_its_shape(
    tmp_path: Path, path: str, shape: tuple[int, ...], output: str, name: str
) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["h"], f"{path}lm_head/MatMul"),
        helper.make_node("Add", ["h", "onnx::Add_2"], [output], f"{path}Add"),
    ]
    bias = np.arange(shape[-1], dtype=np.float32).reshape(shape)
    arrays = [
        numpy_helper.from_array(VALUES.astype(np.float32), "onnx::MatMul_1"),
        numpy_helper.from_array(bias, "onnx::Add_2"),
    ]
    tensors = open_checkpoint(save(tmp_path, nodes, arrays)).tensors
    assert {n for n in tensors if "logits_bias" in n} == ({name} if name else set())
    if name:
        np.testing.assert_array_equal(tensors[name], bias.reshape(1, 3))


@pytest.mark.parametrize("op", ["MatMulInteger", "MatMulNBits", "DequantizeLinear"])
def test_quantised_weights_are_refused(tmp_path: Path, op: str) -> None:
    """Also one matrix among many: what is left may look like a whole model."""
    nodes = [linear(), helper.make_node(op, ["onnx::quantized", "scale"], ["z"], "/lm_head/MatMul")]
    arrays = [numpy_helper.from_array(VALUES.astype(np.float32), "onnx::MatMul_1")]
    arrays.append(numpy_helper.from_array(np.ones((3, 2), np.int8), "onnx::quantized"))
    with pytest.raises(
        LoadError, match=rf"model\.onnx: its weights are quantised \({op}, 1 node\), .*compute_type='int8'"
    ):
        open_checkpoint(save(tmp_path, nodes, arrays))


def test_activations_may_be_quantised(tmp_path: Path) -> None:
    nodes = [linear(), helper.make_node("DequantizeLinear", ["y", "scale"], ["z"], "/fc/Dequantize")]
    arrays = [numpy_helper.from_array(VALUES.astype(np.float32), "onnx::MatMul_1")]
    arrays.append(numpy_helper.from_array(np.float32(0.5), "scale"))
    assert "fc.weight" in open_checkpoint(save(tmp_path, nodes, arrays)).tensors


@pytest.mark.parametrize(
    ("op", "inputs", "fused"),
    [
        ("GroupQueryAttention", ["k", "v"], True),
        ("Attention", ["layers.0.attn.qkv_proj.MatMul.weight"], True),
        ("Attention", ["k", "v"], False),  # ONNX's own, of opset 23
    ],
)
def test_missing_tensors_of_a_fused_export_are_explained(
    tmp_path: Path, op: str, inputs: list[str], fused: bool
) -> None:
    nodes = [helper.make_node(op, [name, *inputs], [f"y{name}"]) for name in ("x", "y")]
    arrays = [numpy_helper.from_array(VALUES.astype(np.float32), "layers.0.attn.qkv_proj.MatMul.weight")]
    checkpoint = open_checkpoint(save(tmp_path, nodes, arrays))
    with pytest.raises(LoadError, match="; 1 missing: q" if fused else ": 1 missing: q") as refused:
        bind_weights({"q": (3, 3)}, checkpoint)
    assert (f"fused for one runtime ({op}, 2 nodes)" in str(refused.value)) == fused


@pytest.mark.parametrize(
    ("width", "options", "told_apart"),
    [(8, {}, True), (6, {}, False), (8, {"rotary_interleaved": 1}, False), (8, {"num_heads": 0}, False)],
)
def test_projections_packed_for_one_node_are_told_apart(
    tmp_path: Path, width: int, options: dict, told_apart: bool
) -> None:
    """Where it is known how: as many rows as its heads take, and turned by rotary positions as PyTorch's models are."""
    path = "/layers.0/attn/qkv_proj"
    nodes = [
        helper.make_node("MatMul", ["x", "layers.0.attn.qkv_proj.MatMul.weight"], ["h"], f"{path}/MatMul"),
        helper.make_node("Add", ["h", "layers.0.attn.qkv_proj.Add.bias"], ["i"], f"{path}/Add"),
        helper.make_node("GroupQueryAttention", ["i", "", ""], ["y"], **{"num_heads": 2, "kv_num_heads": 1, **options}),
    ]
    weight = np.arange(3 * width, dtype=np.float32).reshape(3, width)
    arrays = [
        numpy_helper.from_array(array, f"layers.0.attn.qkv_proj.{name}")
        for name, array in (("MatMul.weight", weight), ("Add.bias", weight[0]))
    ]
    found = open_checkpoint(save(tmp_path, nodes, arrays)).tensors
    if not told_apart:
        assert set(found) == {"layers.0.attn.qkv_proj.weight", "layers.0.attn.qkv_proj.bias"}
        return
    for kind, rows in (("q", slice(0, 4)), ("k", slice(4, 6)), ("v", slice(6, 8))):
        np.testing.assert_array_equal(found[f"layers.0.attn.{kind}_proj.weight"], weight.T[rows])
        np.testing.assert_array_equal(found[f"layers.0.attn.{kind}_proj.bias"], weight[0][rows])
    assert len(found) == 6


def test_a_number_without_a_module_is_no_parameter(tmp_path: Path) -> None:
    """onnxruntime leaves the zero of an inlined Relu so."""
    names = ("_inlfunc_Relu_Zero", "fc.scale")
    arrays = [numpy_helper.from_array(np.float32(0), name) for name in names]
    arrays.append(numpy_helper.from_array(VALUES.astype(np.float32), "onnx::MatMul_1"))
    assert set(open_checkpoint(save(tmp_path, [linear()], arrays)).tensors) == {"fc.scale", "fc.weight"}


def test_tied_weights_of_two_types_are_told_apart(tmp_path: Path) -> None:
    arrays = [
        numpy_helper.from_array(VALUES.astype(t), n) for t, n in ((np.float32, "a.weight"), (np.float16, "b.weight"))
    ]
    arrays[0].CopyFrom(numpy_helper.from_array((VALUES + 1e-5).astype(np.float32), "a.weight"))
    with pytest.raises(LoadError, match=r"different values in a\.weight \(float32\) and b\.weight \(float16\)"):
        bind_weights({"a.weight": (2, 3)}, open_checkpoint(save(tmp_path, [], arrays)), rename=[("^b", "a")])


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_a_git_lfs_pointer_is_called_one(tmp_path: Path, name: str) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(LoadError, match=rf"{name}: only the Git LFS pointer to the file; .*`git lfs pull`"):
        open_checkpoint(tmp_path)


def test_a_nameless_bias_of_the_logits_behind_a_fused_product(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("FusedMatMul", ["x", "lm_head.weight"], ["h"], "/lm_head/MatMul", transB=1),
        helper.make_node("Add", ["h", "onnx::Add_2"], ["y"], "/Add"),
    ]
    arrays = [numpy_helper.from_array(VALUES.T.astype(np.float32), "lm_head.weight")]  # [3, 2]
    arrays.append(numpy_helper.from_array(np.ones((1, 3), np.float32), "onnx::Add_2"))
    assert "final_logits_bias" in open_checkpoint(save(tmp_path, nodes, arrays)).tensors


def test_a_nameless_bias_of_the_logits_in_a_gemm(tmp_path: Path) -> None:
    node = helper.make_node("Gemm", ["x", "lm_head.weight", "onnx::Gemm_2"], ["y"], "/lm_head/Gemm", transB=1)
    arrays = [numpy_helper.from_array(VALUES.T.astype(np.float32), "lm_head.weight")]
    arrays.append(numpy_helper.from_array(np.ones((1, 3), np.float32), "onnx::Gemm_2"))
    assert any("final_logits_bias" in n for n in open_checkpoint(save(tmp_path, [node], arrays)).tensors)


def test_a_gemm_of_a_number_is_no_product_with_a_head(tmp_path: Path) -> None:
    node = helper.make_node("Gemm", ["x", "onnx::Gemm_1", "onnx::Gemm_2"], ["y"], "/lm_head/Gemm", transB=1)
    arrays = [numpy_helper.from_array(np.float32(2), "onnx::Gemm_1")]
    arrays.append(numpy_helper.from_array(np.ones((1, 3), np.float32), "onnx::Gemm_2"))
    assert not any("logits_bias" in n for n in open_checkpoint(save(tmp_path, [node], arrays)).tensors)


def test_a_constant_that_is_an_output_is_no_parameter(tmp_path: Path) -> None:
    """onnxruntime folds the empty memories of a merged decoder so."""
    node = helper.make_node("MatMul", ["x", "fc.weight"], ["y"], "/fc/MatMul")
    arrays = [numpy_helper.from_array(VALUES.astype(np.float32), "fc.weight")]
    arrays.append(numpy_helper.from_array(np.zeros((0, 4), np.float32), "present.0.key"))
    path = save(tmp_path, [node], arrays)
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, [0, 4]))
    onnx.save(model, path)
    assert list(open_checkpoint(path).tensors) == ["fc.weight"]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ["fc.weight", "onnx::MatMul_1"])
def test_a_square_matrix_that_is_multiplied_the_other_way_is_refused(tmp_path: Path, name: str, turned: bool) -> None:
    """Its shape does not tell; a nameless one is turned to [out, in] as it is named."""
    array, nodes = np.arange(9, dtype=np.float32).reshape(3, 3), []
    if turned:
        nodes.append(helper.make_node("Transpose", [name], ["t"], "/fc/Transpose", perm=[1, 0]))
    nodes.append(helper.make_node("MatMul", ["x", "t" if turned else name], ["y"], "/fc/MatMul"))
    checkpoint = open_checkpoint(save(tmp_path, nodes, [numpy_helper.from_array(array, name)]))
    for columns in ((), ["fc"]):
        if bool(columns) == (name == "fc.weight" and not turned):
            np.testing.assert_array_equal(
                bind_weights({"fc.weight": (3, 3)}, checkpoint, columns=columns)["fc.weight"],
                array if turned or columns else array.T,
            )
        else:
            with pytest.raises(LoadError, match=r"1 turned: fc.weight gives an output with each of its"):
                bind_weights({"fc.weight": (3, 3)}, checkpoint, columns=columns)
    assert bind_weights({"fc.weight": (3, 3)}, checkpoint)["fc.weight"].shape == (3, 3)


def test_a_second_claim_on_a_name_does_not_hide_how_it_is_multiplied(tmp_path: Path) -> None:
    """Beside the named matrix the module multiplies by an equal one without a name."""
    array = np.arange(9, dtype=np.float32).reshape(3, 3)
    nodes = [
        helper.make_node("MatMul", ["x", name], [f"y{i}"], "/fc/MatMul") for i, name in enumerate(("fc.weight", "7"))
    ]
    arrays = [numpy_helper.from_array(array, "fc.weight"), numpy_helper.from_array(array.T.copy(), "7")]
    with pytest.raises(LoadError, match=r"1 turned: fc\.weight"):
        bind_weights({"fc.weight": (3, 3)}, open_checkpoint(save(tmp_path, nodes, arrays)), columns=())


def gru(tmp_path: Path, op: str = "GRU", hidden: int = 2, bad: str = "", **attributes: object) -> Path:
    gates = {"GRU": 3, "LSTM": 4}[op]
    dims = {"W": (1, gates * hidden, 5), "R": (1, gates * hidden, hidden), "B": (1, 2 * gates * hidden)}
    if bad:
        dims[bad] = (*dims[bad][:-1], dims[bad][-1] + 1)
    arrays = [numpy_helper.from_array(np.zeros(d, np.float32), f"onnx::{op}_{n}") for n, d in dims.items()]
    inputs = ["x", *(a.name for a in arrays)]
    if op == "LSTM" and attributes.pop("peepholes", False):
        inputs += ["", "", "", "x"]
    if (begins := attributes.pop("begins_at", None)) is not None:
        arrays.append(numpy_helper.from_array(np.full((1, 1, hidden), begins, np.float32), f"onnx::{op}_h"))
        inputs += ["", arrays[-1].name]
    node = helper.make_node(op, inputs, ["y"], f"/rnn/{op}", hidden_size=hidden, **attributes)
    return save(tmp_path, [node], arrays)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "linear_before_reset"),
        ({"linear_before_reset": 1, "clip": 2.0}, "clipped"),
        ({"linear_before_reset": 1, "activations": ["Sigmoid", "Relu"]}, "activations"),
        ({"linear_before_reset": 1, "direction": "bidirectional"}, "bidirectional"),
        ({"linear_before_reset": 1, "direction": "sideways"}, "direction 'sideways', expected 'forward'"),
        ({"linear_before_reset": 1, "bad": "R"}, "shapes"),
        ({"linear_before_reset": 1, "bad": "B"}, "shapes"),
        ({"linear_before_reset": 1, "begins_at": 0.9}, "GRU '/rnn/GRU': initial_h is a constant other than zero"),
        ({"op": "LSTM", "begins_at": -1.0}, "initial_h is a constant other than zero"),
        ({"op": "LSTM", "peepholes": True}, "peepholes"),
        ({"op": "LSTM", "input_forget": 1}, "coupled"),
    ],
)
def test_cells_pytorch_does_not_have_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        open_checkpoint(gru(tmp_path, **options))


def test_a_cell_may_begin_at_a_constant_zero(tmp_path: Path) -> None:
    assert "rnn.weight_hh_l0" in open_checkpoint(gru(tmp_path, linear_before_reset=1, begins_at=0.0)).tensors


def test_a_backward_only_cell(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(gru(tmp_path, linear_before_reset=1, direction="reverse"))
    assert "rnn.weight_ih_l0_reverse" in checkpoint.tensors


# -- laziness ---------------------------------------------------------------------------------------------------------


def mapped(array: np.ndarray) -> bool:
    """Whether the array's memory is a mapped file."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, memoryview) and isinstance(base.obj, mmap.mmap)


@pytest.mark.parametrize("external", ["", "model.onnx_data", "model.onnx.data"])
def test_tensors_are_views_of_the_file(tmp_path: Path, external: str) -> None:
    weight = np.arange(4096, dtype=np.float32).reshape(64, 64)
    path = save(
        tmp_path, [linear()], [numpy_helper.from_array(weight, n) for n in ("onnx::MatMul_1", "a.weight")], external
    )
    checkpoint = open_checkpoint(path)
    assert all(mapped(checkpoint.tensors[name]) for name in ("fc.weight", "a.weight"))
    np.testing.assert_array_equal(checkpoint.tensors["fc.weight"], weight.T)
    bound = bind_weights({"fc.weight": (64, 64), "a.weight": (64, 64)}, checkpoint)
    assert all(mapped(bound[name]) and not bound[name].flags.writeable for name in bound)


def test_opening_touches_no_weights(tmp_path: Path) -> None:
    """A sparse file of 8 GiB opens at once and takes no memory."""
    rows = 1 << 15
    tensor = TensorProto(name="onnx::MatMul_1", data_type=TensorProto.FLOAT, dims=[rows, 1 << 16])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "big.data"), ("offset", "0"), ("length", str(4 * rows << 16))):
        tensor.external_data.add(key=key, value=value)
    with open(tmp_path / "big.data", "wb") as handle:
        handle.truncate(4 * rows << 16)
    before = resident()
    checkpoint: Checkpoint = open_checkpoint(save(tmp_path, [linear()], [tensor]))
    assert checkpoint.tensors["fc.weight"].shape == (1 << 16, rows)
    assert checkpoint.tensors["fc.weight"][7, 11] == 0
    assert resident() - before < 64 << 20


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    return 0


# -- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("export", ["marian-equal-dynamo", "rnn-whole-dynamo", "assorted-dynamo"])
def test_dynamo_files_without_notes_on_values(tmp_path: Path, export: str) -> None:
    """Earlier PyTorch wrote the module path of each node only."""
    model = onnx.load(EXPORTS / export / "model.onnx")
    for value in model.graph.value_info:
        del value.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    checkpoint, expected = open_checkpoint(tmp_path), state_dict(export)
    found = checkpoint.tensors.keys() - checkpoint.constants
    assert found <= expected.keys() <= found | TIED | POSITIONS
    for name in found:
        np.testing.assert_array_equal(checkpoint.tensors[name], expected[name], err_msg=name)


@pytest.mark.parametrize("state", sorted(set(MANIFEST.values()) - {"assorted"}))
def test_every_shape_of_a_model_computes_the_same(state: str) -> None:
    """Through `fastattn.load`, so with the configuration and the family's own renaming."""
    logits = {}
    for export in (name for name, its_state in MANIFEST.items() if its_state == state):
        model = fastattn.load(EXPORTS / export)
        logits[export] = np.asarray(model.logits([[3, 4, 5, 1]], [[2, 7, 8]]))
    first = next(iter(logits.values()))
    assert np.isfinite(first).all()
    for export, found in logits.items():
        np.testing.assert_array_equal(found, first, err_msg=export)
