"""safetensors: what is read, and what is refused before memory is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import entry, packed, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattn.errors import LoadError
from fastattn.loaders import Checkpoint, describe, open_checkpoint
from fastattn.loaders.safetensors import ELEMENT_TYPES, read_safetensors
from fastattn.packing import as_float32
from fastattn.weights import bind_weights


def refused(path: Path, message: str) -> None:
    with pytest.raises(LoadError) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert message in text and "\n" not in text and len(text) < 1000 and str(path.parent.name) in text


# -- what is read -----------------------------------------------------------------------------------------------------


def test_every_type_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, (3, 5)).astype(t) for name, t in ELEMENT_TYPES.items() if name != "BF16"}
    arrays |= {"scalar": np.array(3.0, np.float32), "empty": np.zeros((0, 4), np.float32)}
    arrays["BF16"] = np.array([[0x3F80, 0xC000]], np.uint16)
    found = open_checkpoint(write_safetensors(tmp_path / "model.safetensors", arrays, ("BF16",))).tensors
    for name, array in arrays.items():
        if name != "BF16":
            assert found[name].shape == array.shape and (found[name] == array).all()
    assert found["F64"].dtype == found["F16"].dtype == np.float32
    assert found["BF16"].tolist() == [[1.0, -2.0]]


def test_it_equals_the_safetensors_package(tmp_path: Path) -> None:
    theirs = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed: pip install safetensors")
    arrays = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(3, dtype=np.float16)}
    theirs.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "np"})
    found = read_safetensors(tmp_path / "model.safetensors")
    assert found.metadata == {"format": "np"}
    assert all((found.tensors[name].read() == array).all() for name, array in arrays.items())
    ours = write_safetensors(tmp_path / "ours.safetensors", arrays)
    assert all((array == arrays[name]).all() for name, array in theirs.load_file(ours).items())


def test_nothing_is_copied_and_16_bits_stay_16_bits(tmp_path: Path) -> None:
    bits = np.arange(0x3F80, 0x3F86, dtype=np.uint16).reshape(2, 3)
    arrays = {"a": bits, "b": np.arange(6, dtype=np.float16).reshape(2, 3), "c": np.arange(6, dtype=np.float32)}
    arrays["d"] = np.arange(6, dtype=np.float64)
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "model.safetensors", arrays, ("a",)))
    bound = bind_weights({n: a.shape for n, a in arrays.items()}, checkpoint)
    for name in "abc":
        raw = bound[name]
        assert raw.dtype == arrays[name].dtype and not raw.flags.owndata and not raw.flags.writeable
        np.testing.assert_array_equal(raw.view(np.ndarray), arrays[name])
    assert bound["d"].dtype == np.float32
    assert [row[2] for row in describe(checkpoint)] == ["bfloat16", "float16", "float32", "float64"]


def test_odd_offsets_are_read(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(3, dtype=np.uint8),
        "b": np.arange(4, dtype=np.float32),
        "c": np.arange(4, dtype=np.float16),
    }
    arrays["d"] = np.arange(0x3F80, 0x3F84, dtype=np.uint16)
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "model.safetensors", arrays, ("d",)))
    bound = bind_weights({"b": (4,), "c": (4,), "d": (4,)}, checkpoint)
    for name in "bcd":
        found = as_float32(bound[name])
        assert found.flags.aligned and (found == checkpoint.tensors[name]).all()


def sharded(folder: Path) -> Path:
    write_safetensors(
        folder / "model-00001-of-00002.safetensors", {"a": np.ones(2, np.float32), "both": np.ones(1, np.float32)}
    )
    write_safetensors(
        folder / "model-00002-of-00002.safetensors", {"b": np.ones(3, np.float32), "both": np.zeros(1, np.float32)}
    )
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    files["both"] = files["b"]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def test_shards_are_joined_and_the_index_decides(tmp_path: Path) -> None:
    for path in (sharded(tmp_path), tmp_path / "model.safetensors.index.json"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.format == "safetensors"
        assert {name: array.tolist() for name, array in checkpoint.tensors.items()} == {
            "a": [1, 1], "b": [1, 1, 1], "both": [0]}  # fmt: skip
        assert "model-00002-of-00002.safetensors: byte" in checkpoint.origin["b"]
        assert ("b", (3,), "float32") in [row[:3] for row in describe(checkpoint)]


def test_the_layout_of_the_hubs_cache_is_read(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1f0c"
    snapshot.mkdir(parents=True)
    sharded(blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert set(open_checkpoint(snapshot).tensors) == {"a", "b", "both"}


def test_safetensors_come_before_onnx(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a": np.ones(2, np.float32)})
    (tmp_path / "model.onnx").write_bytes(b"not read")
    assert open_checkpoint(tmp_path).format == "safetensors"


def test_which_file_is_not_guessed(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "one.safetensors", {"a": np.ones(2, np.float32)})
    assert set(open_checkpoint(tmp_path).tensors) == {"a"}
    write_safetensors(tmp_path / "two.safetensors", {"a": np.ones(2, np.float32)})
    refused(tmp_path, "which of one.safetensors, two.safetensors is the model?")


# -- what is refused --------------------------------------------------------------------------------------------------

F = entry("F32", [2], 0, 8)
DEEP = b"[" * 100_000
HEADERS: list[tuple[bytes, str]] = [
    (b"", "the file is empty"),
    (b"\x01\x02", "2 bytes"),
    (packed({"a": F}, bytes(8), length=1 << 63), "at most"),
    (packed({"a": F}, bytes(8), length=99_999_999), "follow"),
    (packed({"a": F}, bytes(4)), "ends at offset 8, but there are 4 bytes"),
    (packed({"a": F}, bytes(12)), "12 bytes of data, but the tensors end at 8"),
    (packed(b"{"), "not JSON"),
    (packed(b"\xff\xfe{}"), "not JSON"),
    (packed(DEEP), "not JSON"),
    (packed(b'{"a": {"x": ' + b"9" * 5000 + b"}}"), "not JSON"),
    (packed(b"[1, 2]"), "not a JSON object"),
    (packed(b'{"a": 1, "a": 2}'), "'a' occurs twice"),
    (packed(b'{"a": {"dtype": "F32", "dtype": "F16"}}'), "'dtype' occurs twice"),
    (packed({"\ud800x": F}, bytes(8)), "found half a surrogate pair"),
    (packed({"a": 3}), "expected an object"),
    (packed({"a": {}}), "element type None"),
    (packed({"__metadata__": {"x": 1}}), "__metadata__"),
    (packed({"__metadata__": [1]}), "__metadata__"),
    (packed({"a": entry("F8_E4M3", [8], 0, 8)}, bytes(8)), "element type 'F8_E4M3' is not supported"),
    (packed({"a": entry(["F32"], [2], 0, 8)}, bytes(8)), "element type"),  # type: ignore[arg-type]
    (packed({"a": entry("F32", [-2], 0, 8)}, bytes(8)), "shape [-2] is not possible"),
    (packed({"a": entry("F32", [2.0], 0, 8)}, bytes(8)), "shape"),
    (packed({"a": entry("F32", [True, 2], 0, 8)}, bytes(8)), "shape"),
    (packed({"a": entry("F32", [1] * 17, 0, 4)}, bytes(4)), "shape"),
    (packed({"a": entry("F32", [1 << 62, 4], 0, 8)}, bytes(8)), "shape"),
    (packed({"a": entry("F32", [1 << 39, 1 << 39], 0, 8)}, bytes(8)), "needs"),
    (packed({"a": entry("F32", [0, 1 << 40, 1 << 40], 0, 0)}), "is not possible"),
    (packed({"a": entry("F32", [3], 0, 8)}, bytes(8)), "needs 12 bytes, data_offsets give 8"),
    (packed({"a": entry("F32", [2], 8, 0)}, bytes(8)), "expected [begin, end]"),
    (packed({"a": entry("F32", [2], -8, 0)}, bytes(8)), "expected [begin, end]"),
    (packed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}, bytes(8)), "expected [begin, end]"),
    (packed({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "expected [begin, end]"),
    (packed({"a": F, "b": entry("F32", [2], 4, 12)}, bytes(12)), "'b' at offset 4 overlaps"),
    (packed({"a": F, "b": F}, bytes(8)), "overlaps"),
    (packed({"a": F, "b": entry("F32", [2], 12, 20)}, bytes(20)), "'b' at offset 12 leaves 4 bytes"),
    (packed({"a": entry("F32", [2], 4, 12)}, bytes(12)), "leaves 4 bytes"),
    (packed({"a\nb": entry("F32", [3], 0, 8)}, bytes(8)), "needs 12 bytes"),
]


@pytest.mark.parametrize(("content", "message"), HEADERS, ids=range(len(HEADERS)))
def test_hostile_headers(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, message)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_a_load_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(packed({"a": F, "b": entry("BF16", [2, 3], 8, 20)}, bytes(20)))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3)):
        if at < len(content):
            content[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(path)
        assert all(array.nbytes <= 40 for array in checkpoint.tensors.values())
    except LoadError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../secret.safetensors"}, "expected the plain name"),
        ({"a": "/etc/passwd"}, "expected the plain name"),
        ({"a": "sub/x.safetensors"}, "expected the plain name"),
        ({"a": ".."}, "expected the plain name"),
        ({"a": "x.bin"}, "expected the plain name"),
        ({"a": 3}, "expected the plain name"),
        ({"a": "..\\x.safetensors"}, "not a relative path"),
        ({"a": "absent.safetensors"}, "'absent.safetensors' is missing"),
        ({"a": "x\0.safetensors"}, "not a relative path"),
        ({"a": "x" * 5000 + ".safetensors"}, " "),
        ({"a": "loop.safetensors"}, "loop.safetensors"),
        ({"a": "pipe.safetensors"}, "not a regular file"),
        ({"a": "folder.safetensors"}, "not a regular file"),
        ({"b": "x.safetensors"}, "tensor 'b' is not in x.safetensors"),
        ({}, "weight_map"),
        ([], "weight_map"),
        (None, "weight_map"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_hostile_indexes(tmp_path: Path, weight_map: Any, message: str) -> None:
    folder = tmp_path / "model"
    write_safetensors(folder / "x.safetensors", {"a": np.ones(2, np.float32)})
    write_safetensors(tmp_path / "secret.safetensors", {"a": np.ones(2, np.float32)})
    (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(LoadError) as caught:
        open_checkpoint(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_tensor_in_two_shards_needs_the_index(tmp_path: Path) -> None:
    index = sharded(tmp_path) / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    del found["weight_map"]["both"]
    index.write_text(json.dumps(found))
    refused(index, "'both' is in model-00001-of-00002.safetensors and model-00002-of-00002.safetensors")


@pytest.mark.parametrize("kind", ["pipe", "device", "dangling", "loop", "large"])
def test_a_config_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a": np.ones(2, np.float32)})
    config = tmp_path / "config.json"
    if kind == "pipe":
        os.mkfifo(config)
    elif kind == "large":
        with open(config, "wb") as file:
            file.truncate(200_000_000)  # sparse
    else:
        config.symlink_to({"device": "/dev/zero", "dangling": "nowhere", "loop": "config.json"}[kind])
    refused(tmp_path, "config.json")


@pytest.mark.parametrize("path", ["/dev/null", "x" * 300])
def test_what_is_no_model_is_refused(path: str) -> None:
    with pytest.raises(LoadError, match=path[:9]):
        open_checkpoint(path)


def test_pickles_are_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path, "pytorch_model.bin is a pickle")


def test_a_huge_header_is_refused_by_its_length(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.write((150_000_000).to_bytes(8, "little"))
        file.truncate(200_000_000)  # sparse
    refused(path, "100000000 at most")


def test_a_checkpoint_says_its_format(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path, {}, {}, {}, {}).format == ""
