"""`ops.scaled_dot_product_attention` means what the ONNX operator `Attention` means, as `onnx.reference` runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ops_support import attention_bounds

from fastattn import ops

onnx = pytest.importorskip("onnx", minversion="1.19")
from onnx.reference import ReferenceEvaluator  # noqa: E402

RNG = np.random.default_rng(2)
FEEDS = ("Q", "K", "V", "mask", "past_key", "past_value", "nonpad")
TYPES = {"float64": onnx.TensorProto.DOUBLE, "bool": onnx.TensorProto.BOOL, "int64": onnx.TensorProto.INT64}


def run_onnx(feeds: dict[str, np.ndarray], opset: int, **attributes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Y and the softmax weights."""
    names = [name if name in feeds else "" for name in FEEDS]
    while not names[-1]:
        names.pop()
    present = "past_key" in feeds
    outputs = ["Y", "present_key" if present else "", "present_value" if present else "", "weights"]
    node = onnx.helper.make_node("Attention", names, outputs, qk_matmul_output_mode=3, **attributes)
    infos = [onnx.helper.make_tensor_value_info(n, TYPES[str(x.dtype)], list(x.shape)) for n, x in feeds.items()]
    results = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, None) for n in ("Y", "weights")]
    graph = onnx.helper.make_graph([node], "attention", infos, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    y, weights = ReferenceEvaluator(model).run(None, feeds)
    return y, weights


def normal(*shape: int) -> np.ndarray:
    """Values of float32 in float64, so that both sides are given the same numbers."""
    return RNG.standard_normal(shape, np.float32).astype(np.float64)


def compare(expected: tuple[np.ndarray, np.ndarray], q: Any, k: Any, v: Any, mask: Any = None, **options: Any) -> None:
    ours = ops.scaled_dot_product_attention(q, k, v, mask, return_weights=True, **options)
    bias = 0.0 if mask is None or mask.dtype == bool else float(np.abs(mask[np.isfinite(mask)]).max())
    scale = options.get("scale") or 1 / np.sqrt(q.shape[-1])
    bounds = attention_bounds(q, k, v, expected[1], scale=scale, softcap=options.get("softcap", 0.0), bias=bias)
    for found, truth, bound in zip(ours, expected, bounds, strict=True):
        assert found.shape == truth.shape and (np.abs(found - truth) <= bound).all()


MASKS = {
    "2d": (6, 9),
    "3d": (4, 6, 9),
    "4d": (2, 4, 6, 9),
    "4d_per_batch": (2, 1, 1, 9),
    "4d_per_head": (1, 4, 6, 1),
}


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("kind", ["none", "bool", "float"])
@pytest.mark.parametrize("mask_shape", MASKS.values(), ids=MASKS)
def test_masks_and_heads(kv_heads: int, causal: int, kind: str, mask_shape: tuple[int, ...]) -> None:
    feeds = {"Q": normal(2, 4, 6, 8), "K": normal(2, kv_heads, 9, 8), "V": normal(2, kv_heads, 9, 5)}
    mask = {"none": None, "bool": RNG.random(mask_shape) < 0.5, "float": normal(*mask_shape)}[kind]
    if (
        mask is not None
    ):  # onnx.reference takes T from the mask when causal, and pads a last axis of 1: so it gets both whole
        feeds["mask"] = np.broadcast_to(mask, (*mask.shape[:-2], 6, 9)).copy()
    expected = run_onnx(feeds, 23, is_causal=causal)
    compare(expected, feeds["Q"], feeds["K"], feeds["V"], mask, is_causal=bool(causal), q_start=0)


@pytest.mark.parametrize("softcap", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_softcap_and_scale(softcap: float, scale: float | None) -> None:
    feeds = {"Q": normal(1, 2, 3, 8), "K": normal(1, 2, 20, 8), "V": normal(1, 2, 20, 8), "mask": normal(3, 20)}
    expected = run_onnx(feeds, 23, softcap=softcap, **({} if scale is None else {"scale": scale}))
    compare(expected, feeds["Q"], feeds["K"], feeds["V"], feeds["mask"], softcap=softcap, scale=scale)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("past", [1, 7])
def test_past(causal: int, past: int) -> None:
    feeds = {
        "Q": normal(2, 4, 3, 8),
        "K": normal(2, 2, 3, 8),
        "V": normal(2, 2, 3, 8),
        "mask": RNG.random((3, past + 3)) < 0.8,
        "past_key": normal(2, 2, past, 8),
        "past_value": normal(2, 2, past, 8),
    }
    expected = run_onnx(feeds, 23, is_causal=causal)
    k, v = (np.concatenate([feeds[f"past_{name}"], feeds[name[0].upper()]], 2) for name in ("key", "value"))
    compare(expected, feeds["Q"], k, v, feeds["mask"], is_causal=bool(causal), q_start=past)
    compare(expected, feeds["Q"], k, v, feeds["mask"], is_causal=bool(causal))  # S - T is the default


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("masked", ["no", "whole", "short"])
def test_lengths_of_an_outside_cache(causal: int, masked: str) -> None:
    lengths = np.array([6, 2, 0])  # fewer keys than queries, and none: rows that see nothing
    feeds = {"Q": normal(3, 2, 4, 8), "K": normal(3, 2, 10, 8), "V": normal(3, 2, 10, 8)}
    mask = None
    if masked != "no":
        mask = feeds["mask"] = RNG.random((3, 1, 4, 10 if masked == "whole" else 7)) < 0.7
    feeds["nonpad"] = lengths
    expected = run_onnx(feeds, 24, is_causal=causal)
    arrays = feeds["Q"], feeds["K"], feeds["V"]
    compare(expected, *arrays, mask, is_causal=bool(causal), kv_lengths=lengths, q_start=lengths - 4)


@pytest.mark.parametrize("side", [(0, -1), (2, -1), (-1, 1), (3, 2)])
@pytest.mark.parametrize("causal", [0, 1])
def test_windows(side: tuple[int, int], causal: int) -> None:
    if (
        onnx.defs.onnx_opset_version() < 25
        or "left_window_size" not in onnx.defs.get_schema("Attention", 25).attributes
    ):
        pytest.skip("this onnx has no windows in Attention")
    feeds = {"Q": normal(1, 2, 5, 8), "K": normal(1, 2, 11, 8), "V": normal(1, 2, 11, 8), "mask": normal(5, 11)}
    left, right = (None if size < 0 else size for size in side)
    expected = run_onnx(feeds, 25, is_causal=causal, left_window_size=side[0], right_window_size=side[1])
    arrays = feeds["Q"], feeds["K"], feeds["V"], feeds["mask"]
    compare(expected, *arrays, is_causal=bool(causal), window=(left, right), q_start=0)
