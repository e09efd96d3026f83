"""Attention of an encoder beside weights of fewer bits: products of bfloat16 (docs/decisions/bfloat16-attention.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, GOLDEN

import fastattn
from fastattn.assembly import assemble
from fastattn.graph import Graph
from fastattn.loaders import open_checkpoint
from fastattn.ops.table import OPS
from fastattn.passes.attention import round_attention
from fastattn.reference.dense import attend, rounded_weights
from fastattn.reference.quantized import to_bfloat16

LENGTHS = (700, 3, 257, 256, 5, 64)  # of one block of keys, of several, of a part of a page
ENCODERS = ["t5/relu", "t5/gated"]  # take any length
SMALL = ("bfloat16", "int8", "int4")


def sources(model: fastattn.Model) -> list[list[int]]:
    rng = np.random.default_rng(11)
    size = model._architecture.source_vocabulary or model._architecture.vocabulary
    return [rng.integers(2, size, n).tolist() for n in LENGTHS]


TARGETS = [[3, 5, 4], [4, 9, 6], [5, 3, 7], [6, 6, 3], [7, 3, 8], [4, 4, 5]]  # one length: no row of zeros


def logits(folder: str, kind: str, **options: Any) -> np.ndarray[Any, Any]:
    model = fastattn.load(GOLDEN / folder, compute_type=kind, **options)
    return model.logits(sources(model), TARGETS)


def rounded(graph: Graph) -> list[bool]:
    return [bool(node.attrs["rounded"]) for node in graph.nodes if node.op == "attention"]


@pytest.mark.parametrize("folder", FAMILIES, ids=str)
def test_only_attention_of_an_encoder_is_rounded(folder: str) -> None:
    assembly = assemble(open_checkpoint(GOLDEN / folder))
    plain = assembly.graphs("float32")
    assert plain is assembly.architecture.graphs and not any(any(rounded(graph)) for graph in plain.values())
    for kind in SMALL:
        graphs = assembly.graphs(kind)
        assert all(rounded(graphs["encoder"])) if "encoder" in graphs else True
        assert not any(rounded(graphs["decoder"]))
        assert [node.op for node in graphs["decoder"].nodes] == [node.op for node in plain["decoder"].nodes]


@pytest.mark.parametrize("hidden", [{"causal": 1}, {"window_left": 8}, {"window_right": 0}, {"cache": 0}], ids=str)
def test_rows_that_do_not_see_all_keys_stay_exact(hidden: dict[str, int]) -> None:
    encoder = assemble(open_checkpoint(GOLDEN / "t5/relu")).architecture.graphs["encoder"]
    nodes = [replace(n, attrs={**n.attrs, **hidden}) if n.op == "attention" else n for n in encoder.nodes]
    assert any(rounded(round_attention(encoder)))
    assert not any(rounded(round_attention(replace(encoder, nodes=nodes))))
    node = next(node for node in encoder.nodes if node.op == "attention")
    with pytest.raises(ValueError, match="rounded, but not all keys are seen"):
        attrs = {**node.attrs, **hidden, "rounded": 1, "buckets": 0, "max_distance": 0, "bidirectional": 0}
        OPS["attention"].infer([encoder.values[v] for v in node.inputs], {}, attrs)


def test_a_model_shows_what_it_runs() -> None:
    assert all(rounded(fastattn.load(GOLDEN / "t5/relu", compute_type="int8").graphs()["encoder"]))
    assert not any(rounded(fastattn.load(GOLDEN / "t5/relu").graphs()["encoder"]))


@pytest.mark.parametrize("isa", fastattn.isa.available())
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("folder", ENCODERS)
def test_the_engine_rounds_what_numpy_rounds(folder: str, kind: str, isa: str) -> None:
    """Keys in three blocks: a power is rounded beside the largest of its own block. What float32 errs can move one number of
    thousands to its neighbour, and all rows that see it a little."""
    with fastattn.isa.use(isa):
        ours = logits(folder, kind)
    theirs = logits(folder, kind, backend="reference")
    errors, scale = np.abs(ours - theirs), np.abs(theirs).max()
    usual, most = (2e-4, 1e-2) if kind == "bfloat16" else (2e-3, 3e-2)
    assert np.median(errors) <= usual * scale and errors.max() <= most * scale


@pytest.mark.parametrize("folder", ENCODERS)
@pytest.mark.parametrize("left", ["q", "k", "v", "powers"])
def test_each_factor_is_rounded(folder: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy that leaves one of them as it is is further from the engine than NumPy that rounds all four."""
    from fastattn.reference import dense

    ours, theirs = logits(folder, "bfloat16"), logits(folder, "bfloat16", backend="reference")
    calls = iter(range(10**9))
    order = ["q", "k", "v", "powers"]
    monkeypatch.setattr(dense, "to_bfloat16", lambda x: x if order[next(calls) % 4] == left else to_bfloat16(x))
    other = logits(folder, "bfloat16", backend="reference")
    assert np.median(np.abs(ours - theirs)) * 4 < np.median(np.abs(ours - other))


@pytest.mark.skipif("avx512bf16" not in fastattn.isa.available(), reason="the CPU has no avx512bf16")
@pytest.mark.parametrize("folder", ENCODERS)
def test_dot_products_of_bfloat16_change_no_bit(folder: str) -> None:
    results = []
    for isa in ("avx512bf16", "avx512"):
        with fastattn.isa.use(isa):
            results.append(logits(folder, "bfloat16"))
    assert (results[0] == results[1]).all()


def test_the_instruction_set_may_change_between_calls() -> None:
    """Their pages have other sizes, and a session keeps its memory from call to call."""
    model = fastattn.load(GOLDEN / "t5/relu", compute_type="bfloat16")
    given, single = sources(model), [[5], [7], [9]]
    for isa in (*fastattn.isa.available(), *reversed(fastattn.isa.available())):
        with fastattn.isa.use(isa):
            fresh = fastattn.load(GOLDEN / "t5/relu", compute_type="bfloat16")
            assert (model.logits(given, TARGETS) == fresh.logits(given, TARGETS)).all()
            assert (model.logits(single, TARGETS[:3]) == fresh.logits(single, TARGETS[:3])).all()


@pytest.mark.parametrize("isa", fastattn.isa.available())
@pytest.mark.parametrize("kind", SMALL)
def test_batch_and_threads_change_no_bit(kind: str, isa: str) -> None:
    with fastattn.isa.use(isa):
        one, two = (fastattn.load(GOLDEN / "t5/relu", compute_type=kind, num_threads=n) for n in (1, 2))
        given = sources(one)
        together = two.logits(given, TARGETS)
        for i, (source, target) in enumerate(zip(given, TARGETS, strict=True)):
            alone = one.logits([source], [target])[0]
            assert (alone == together[i, : len(alone)]).all()


def test_what_numpy_rounds() -> None:
    """Four factors are bfloat16, and a power is rounded before it is divided."""
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((2, n, 16)).astype(np.float32) for n in (5, 600, 600))
    context, weights = attend(q, k, v, None, 0.25, 0.0, rounded=True)
    exact, plain = attend(q, k, v, None, 0.25, 0.0)
    assert np.abs(weights - plain).max() <= 2.0**-6 * plain.max() and not (weights == plain).all()
    assert 0 < np.abs(context - exact).max() <= 2.0**-6 * np.abs(v).max()
    again, _ = attend(q, to_bfloat16(k), to_bfloat16(v), None, 0.25, 0.0, rounded=True)
    assert (again == context).all()
    scores = np.log(np.float32(2.0)) * rng.integers(-8, 1, (3, 600)).astype(np.float32)
    assert np.allclose(rounded_weights(scores), np.exp(scores) / np.exp(scores).sum(-1, keepdims=True), rtol=2e-6)
    assert (rounded_weights(np.full((1, 300), -np.inf, np.float32)) == 0).all()
    assert rounded_weights(np.zeros((2, 0), np.float32)).shape == (2, 0)
    hidden = np.full(456, -300.0, np.float32)
    hidden[:256] = -np.inf  # a block that nobody sees
    assert np.allclose(rounded_weights(hidden)[256:], 1 / 200) and (rounded_weights(hidden)[:256] == 0).all()
