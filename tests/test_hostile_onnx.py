"""Files are untrusted: whatever is in one, opening it ends in tensors or in a LoadError of one line, never a crash."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastattn.errors import LoadError
from fastattn.loaders import Checkpoint, onnx_constants, open_checkpoint

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

EXPORTS = Path(__file__).parent / "golden" / "exports"
SMALL = (EXPORTS / "rnn-gru-additive-1-torchscript" / "decoder_model.onnx").read_bytes()
MERGED = (EXPORTS / "marian-optimum-merged" / "decoder_model_merged.onnx").read_bytes()
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def opens_or_fails(path: Path) -> Checkpoint | None:
    """Open and read everything; the only way to fail is a LoadError of one line."""
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.tensors:
            checkpoint.tensors[name].tobytes()
        return checkpoint
    except LoadError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000, error
        return None


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(LoadError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    for part in parts:
        assert part in message, message


# -- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 64, b"not a model", b"PK\x03\x04" + bytes(100), SMALL[:40]])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(path)


def test_truncated_anywhere(tmp_path: Path) -> None:
    """A file cut short never opens: the graph's length no longer fits."""
    path = tmp_path / "model.onnx"
    for size in range(1, len(SMALL) - 100, 97):
        path.write_bytes(SMALL[:size])
        refused(path)


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    content = bytearray(SMALL)
    for at, value in flips:
        content[at] = value
    (tmp_path / "model.onnx").write_bytes(content)
    opens_or_fails(tmp_path / "model.onnx")


@settings(parent=FUZZ, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, len(MERGED) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_inside_branches(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    content = bytearray(MERGED)
    for at, value in flips:
        content[at] = value
    (tmp_path / "model.onnx").write_bytes(content)
    opens_or_fails(tmp_path / "model.onnx")


@FUZZ
@given(st.binary(max_size=200))
def test_random_bytes_as_a_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + bytes([len(content) & 127 | 128, len(content) >> 7]) + content)
    opens_or_fails(tmp_path / "model.onnx")


def test_a_folder_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(LoadError, match="not a regular file"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.onnx").rmdir()
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(LoadError, match="not a regular file"):
        open_checkpoint(tmp_path)


# -- lying tensors ----------------------------------------------------------------------------------------------------


def write(tmp_path: Path, tensor: TensorProto, nodes: list | None = None) -> Path:
    graph = helper.make_graph(nodes or [], "g", [], [], [tensor])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def floats(dims: list[int], raw: bytes = b"", **fields: object) -> TensorProto:
    return TensorProto(name="a.weight", data_type=TensorProto.FLOAT, dims=dims, raw_data=raw, **fields)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (floats([2, 2], bytes(15)), "needs 16 bytes, found 15"),
        (floats([-1], bytes(4)), "[-1] is not possible"),
        (floats([-1, -4], bytes(16)), "not possible"),
        (floats([1 << 62, 4], b""), "larger than any tensor"),
        (floats([1 << 32, 1 << 32], b""), "larger than any tensor"),
        (floats([0, 1 << 62], b""), "larger than any tensor"),
        (floats([0] + [1 << 38] * 3, b""), "not possible"),
        (floats([1] * 65, bytes(4)), "not possible"),
        (
            TensorProto(name="a.weight", data_type=TensorProto.FLOAT, dims=[3], float_data=[1, 2]),
            "needs 3 values, found 2",
        ),
        (TensorProto(name="a.weight", data_type=TensorProto.FLOAT, dims=[1 << 30]), "found 0"),
        (TensorProto(name="a.weight", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"]), "string"),
        (TensorProto(name="a.weight", data_type=TensorProto.FLOAT8E4M3FN, dims=[1], raw_data=b"x"), "float8e4m3fn"),
        (TensorProto(name="a.weight", data_type=99, dims=[1], raw_data=b"x"), "number 99"),
        (TensorProto(name="a.weight", data_type=0, dims=[1], raw_data=b"x"), "undefined"),
    ],
    ids=str,
)
def test_shapes_and_types_are_checked(tmp_path: Path, tensor: TensorProto, message: str) -> None:
    refused(write(tmp_path, tensor), "a.weight", message)


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    arrays = [numpy_helper.from_array(np.full(3, i, np.float32), "a.weight_merged_0") for i in range(2)]
    arrays[1].name = "a.weight_merged_1"
    graph = helper.make_graph([], "g", [], [], arrays)
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    refused(tmp_path / "model.onnx", "two different tensors are called 'a.weight'")


@pytest.mark.parametrize("twice", ["initializers", "node and initializer", "nodes"])
def test_two_values_of_one_name(tmp_path: Path, twice: str) -> None:
    a = numpy_helper.from_array(np.ones(3, np.float32), "a.weight")
    nodes = [helper.make_node("Relu", ["x"], ["a.weight" if twice == "node and initializer" else "y"], "relu")]
    nodes += [helper.make_node("Tanh", ["x"], ["y"], "tanh")] * (twice == "nodes")
    graph = helper.make_graph(nodes, "g", [], [], [a, a] if twice == "initializers" else [a])
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    refused(tmp_path / "model.onnx", "occurs twice", "'y'" if twice == "nodes" else "'a.weight'")


def test_too_little_memory_names_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setitem(onnx_constants.OPERATORS, "Concat", full)
    node = helper.make_node("Concat", ["a.weight", "a.weight"], ["y"], "joined", axis=0)
    refused(write(tmp_path, floats([2, 2], bytes(16)), [node]), "node 'joined'", "not enough memory")


def test_sparse_initializers(tmp_path: Path) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1]), "i"), [4])
    model = helper.make_model(helper.make_graph([], "g", [], [], sparse_initializer=[sparse]))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "model.onnx", "sparse")


# -- external data ----------------------------------------------------------------------------------------------------


def external(tmp_path: Path, **entries: str) -> Path:
    tensor = floats([4])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return write(tmp_path, tensor)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret.bin"}, "leaves the model's folder"),
        ({"location": "sub/../../secret.bin"}, "leaves the model's folder"),
        ({"location": "/etc/passwd"}, "not a relative path"),
        ({"location": ""}, "not a relative path"),
        ({"location": "a\0b"}, "not a relative path"),
        ({"location": "..\\secret.bin"}, "not a relative path"),
        ({"location": "absent.bin"}, "'absent.bin' is missing"),
        ({"location": "loop.bin"}, "'loop.bin' "),
        ({"location": "data.bin", "offset": "8"}, "has 16 bytes"),
        ({"location": "data.bin", "offset": str(1 << 62)}, "has 16 bytes"),
        ({"location": "data.bin", "offset": "-4"}, "offset '-4'"),
        ({"location": "data.bin", "offset": "9" * 5000}, "expected a number of bytes"),
        ({"location": "data.bin", "offset": "٣"}, "expected a number of bytes"),
        ({"location": "data.bin", "length": "12"}, "gives 12"),
        ({"location": "data.bin", "length": str(1 << 63)}, "gives"),
        ({"location": "empty.bin"}, "empty"),
        ({"location": "."}, "not a regular file"),
        ({"location": "pipe"}, "not a regular file"),
        ({}, "not a relative path"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_external_data_stays_inside(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (folder / "data.bin").write_bytes(bytes(16))
    (folder / "empty.bin").write_bytes(b"")
    (folder / "loop.bin").symlink_to(folder / "loop.bin")
    os.mkfifo(folder / "pipe")
    with pytest.raises(LoadError) as caught:
        open_checkpoint(external(folder, **entries))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_external_data_inside_is_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data.bin").write_bytes(struct.pack("<6f", *range(6)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "sub")
    (tmp_path / "model" / "far.bin").symlink_to(tmp_path / "sub" / "data.bin")
    for location in ("sub/data.bin", "far.bin", "./sub/data.bin"):  # links lead where they like, as in a hub's cache
        path = external(tmp_path / "model", location=location, offset="8", length="16")
        np.testing.assert_array_equal(open_checkpoint(path).tensors["a.weight"], [2, 3, 4, 5])


# -- bombs ------------------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    """An If whose branch is an If whose branch …, written without the library, which has a limit of its own."""
    graph = b""
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, attribute))
    return field(7, graph)


def field(number: int, payload: bytes) -> bytes:
    size, head = len(payload), bytes([number << 3 | 2])
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + payload


@pytest.mark.parametrize("depth", [17, 200, 5000])
def test_graphs_inside_graphs(tmp_path: Path, depth: int) -> None:
    (tmp_path / "model.onnx").write_bytes(nested(depth))
    refused(tmp_path / "model.onnx", "nested more than 16 deep")


def chain(op: str, count: int, inputs: Callable[[str], list[str]], **attributes: object) -> list:
    names = ["a.weight", *(f"t{i}" for i in range(count))]
    return [helper.make_node(op, inputs(a), [b], **attributes) for a, b in pairwise(names)]


@pytest.mark.parametrize(
    "nodes",
    [
        chain("Concat", 60, lambda a: [a, a], axis=0),
        chain("Concat", 30, lambda a: [a] * 60, axis=0),
    ],
)
def test_growing_constants(tmp_path: Path, nodes: list) -> None:
    refused(write(tmp_path, floats([1 << 16], bytes(4 << 16)), nodes), "grow beyond")


@pytest.mark.parametrize("op", ["Identity", "Transpose", "Squeeze"])
def test_long_chains(tmp_path: Path, op: str) -> None:
    path = write(tmp_path, floats([2, 2], bytes(16)), chain(op, 20_000, lambda a: [a]))
    assert list(open_checkpoint(path).tensors) == ["a.weight"]


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Transpose", {"perm": [0, 0]}),
        ("Transpose", {"perm": [5, 1 << 40]}),
        ("Concat", {"axis": 9}),
        ("Unsqueeze", {"axes": [1 << 50]}),
        ("Unsqueeze", {"axes": list(range(1000))}),
        ("Squeeze", {"axes": [0]}),
        ("Slice", {"starts": [1 << 62], "ends": [-(1 << 62)], "axes": [7]}),
        ("Split", {"axis": 3}),
        ("Split", {"split": [-1, 3]}),
        ("Cast", {"to": 77}),
        ("Reshape", {}),
        ("MatMul", {}),
        ("Gemm", {"transB": 1}),
        ("Gather", {}),
        ("Constant", {}),
    ],
)
def test_nonsense_operators_are_ignored(tmp_path: Path, op: str, attributes: dict) -> None:
    node = helper.make_node(op, ["a.weight"] * (op != "Constant"), ["y"], "/fc/x", **attributes)
    assert "a.weight" in open_checkpoint(write(tmp_path, floats([2, 2], bytes(16)), [node])).tensors


@pytest.mark.parametrize("op", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_recurrent_nodes_without_sense(tmp_path: Path, op: str, count: int) -> None:
    node = helper.make_node(op, ["a.weight"] * count, ["y"], "/rnn/x", linear_before_reset=1)
    opens_or_fails(write(tmp_path, floats([2, 2], bytes(16)), [node]))
