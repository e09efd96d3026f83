"""Compute types: what a matrix becomes, the engine against NumPy with the same quantised weights, and what must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, inputs, logits

import fastattn
import fastattn.weights
from fastattn import _native
from fastattn.assembly import assemble
from fastattn.loaders import open_checkpoint
from fastattn.packing import (
    CHECKED,
    COMPUTE_TYPES,
    BFloat16Array,
    Needed,
    PackingStore,
    as_float32,
    is_bfloat16,
    is_float16,
    needed,
    packed_bytes,
)
from fastattn.reference.matrices import Quantized, Rounded, in_type, unpack
from fastattn.reference.quantized import to_bfloat16
from fastattn.runtime import Select

GOLDEN = Path(__file__).parent / "golden"
SMALL = [t for t in COMPUTE_TYPES if t != "float32"]
# half a step, relative to the weight (bfloat16), to the largest of a channel (int8) or of a group (int4, whose steps vary)
STEPS = {"bfloat16": 2.0**-8, "int8": 1 / 254, "int4": 1 / 13}


def hard_matrix(rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Rows of many scales, with zeros, tiny and huge values, infinities and NaN."""
    rng = np.random.default_rng(rows * 1000 + columns)
    w = (rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-4, 4, (rows, 1))).astype(np.float32)
    w[0] = 0
    w[1 % rows] = 1e-38
    w[2 % rows, 0] = 3e15
    w[3 % rows, columns // 2] = np.inf
    w[4 % rows, columns - 1] = np.nan
    return w


@pytest.mark.parametrize("isa", fastattn.isa.available())
@pytest.mark.parametrize("kind", COMPUTE_TYPES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (32, 32), (33, 65), (100, 130), (64, 1100)])
def test_the_engine_packs_what_numpy_says(shape: tuple[int, int], kind: str, isa: str) -> None:
    for weight in (hard_matrix(*shape), np.random.default_rng(1).standard_normal(shape).astype(np.float32)):
        with fastattn.isa.use(isa):
            native = _native.Weight(weight, True, 2, kind)
        ours = in_type(weight, kind)
        theirs = unpack(native.packed, *shape, kind, kind)
        if isinstance(ours, Quantized):
            assert isinstance(theirs, Quantized)
            np.testing.assert_array_equal(theirs.scales, ours.scales)
            np.testing.assert_array_equal(theirs.codes, ours.codes)
            assert np.abs(ours.codes).max() <= (127 if kind == "int8" else 8)
        elif isinstance(ours, Rounded):
            assert isinstance(theirs, Rounded)
            np.testing.assert_array_equal(theirs.values, ours.values)
        else:
            np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize("kind", SMALL)
def test_the_error_of_a_weight_is_within_half_a_step(kind: str) -> None:
    weight = np.random.default_rng(2).standard_normal((96, 160)).astype(np.float32)
    held = in_type(weight, kind)
    rows = held[np.arange(96)]
    most = np.abs(weight.reshape(96, -1, 32)).max(-1) if kind == "int4" else np.abs(weight).max(-1, keepdims=True)
    most = np.repeat(most, 160 // most.shape[1], -1)
    bound = STEPS[kind] * (np.abs(weight) if kind == "bfloat16" else most) * (1 + 1e-6)
    errors = np.abs(rows - weight)
    if kind == "int4":  # the largest may be cut off where that makes the group's error smaller
        bound = np.where(np.abs(weight) >= 0.75 * most, 0.2 * most, bound)
    assert (errors <= bound).all()


def test_to_bfloat16() -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -0.0, np.inf, 3.4e38, 1e-40], np.float32)
    assert to_bfloat16(x).tolist()[:4] == [1.0, 1.0, 1.015625, -0.0]
    assert np.isinf(to_bfloat16(x)[4:6]).all()
    assert np.isnan(to_bfloat16(np.array([np.nan], np.float32)))[0]


@pytest.mark.parametrize("kind", SMALL)
def test_what_is_kept_in_which_type(kind: str) -> None:
    """Matrices of linear layers, recurrent weights and embeddings in the compute type; the rest in float32, once each."""
    model = assemble(open_checkpoint(GOLDEN / "models" / "marian"))
    matrices = {item.name for item in model.needed if item.matrix}
    plain = {item.name for item in model.needed if not item.matrix}
    assert not matrices & plain
    assert all(len(model.architecture.params.get(n, (1,))) == 1 or "positions" in n or "logits" in n for n in plain)
    assert "model.shared.weight" in matrices
    recurrent = assemble(open_checkpoint(GOLDEN / "models" / "rnn-gru-additive-2-feeding"))
    names = {item.name: item.matrix for item in recurrent.needed}
    assert names["encoder.rnn.weight_hh_l0"] and not names["decoder.attention.v.weight"]
    assert len({item.name for item in recurrent.needed}) == len(recurrent.needed)


@pytest.mark.parametrize("kind", COMPUTE_TYPES)
@pytest.mark.parametrize("folder", FAMILIES, ids=str)
def test_the_engine_equals_numpy_with_the_same_quantised_weights(folder: str, kind: str) -> None:
    """Both round weights and activations alike; what float32 errs elsewhere can move an activation by one code, or one bit."""
    native = fastattn.load(GOLDEN / folder, compute_type=kind)
    plain = fastattn.load(GOLDEN / folder, compute_type=kind, backend="reference")
    assert native.compute_type == plain.compute_type == kind
    given = inputs(native)
    ours, theirs = logits(native, *given), logits(plain, *given)
    scale = np.abs(theirs).max()
    errors = np.abs(ours - theirs)
    usual, most = {"float32": (2e-5, 2e-5), "bfloat16": (2e-5, 1e-2)}.get(kind, (2e-3, 3e-2))
    assert np.median(errors) <= usual * scale and errors.max() <= most * scale
    exact = logits(fastattn.load(GOLDEN / folder), *given)
    bound = {"float32": 0, "bfloat16": 0.03, "int8": 0.06, "int4": 0.7}[kind]
    assert np.abs(ours - exact).max() <= bound * scale


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("folder", FAMILIES, ids=str)
def test_batch_padding_and_threads_change_no_bit(folder: str, kind: str) -> None:
    one = fastattn.load(GOLDEN / folder, num_threads=1, compute_type=kind)
    two = fastattn.load(GOLDEN / folder, num_threads=2, compute_type=kind)
    sources, targets = inputs(one)
    together = logits(two, sources, targets)
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone = logits(one, [source], [target])[0]
        assert (alone == together[i, : len(alone)]).all()
    if one._architecture.has_encoder:  # a padded rectangle gives the rows of ragged lists
        width = max(map(len, sources))
        rectangle = np.array([row + [0] * (width - len(row)) for row in sources])
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in sources])
        assert (two.logits(rectangle, targets, attention_mask=mask) == together).all()
    for beams in (1, 3):
        options: dict[str, Any] = {"num_beams": beams, "max_new_tokens": 6}
        batch = two.generate(sources, **options)
        for source, result in zip(sources, batch, strict=True):
            alone = one.generate(source, **options, return_attention=True)
            assert (alone.token_ids, alone.score) == (result.token_ids, result.score)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("folder", FAMILIES, ids=str)
def test_cached_steps_give_the_bits_of_one_pass(folder: str, kind: str) -> None:
    model = fastattn.load(GOLDEN / folder, compute_type=kind)
    sources, targets = inputs(model)
    select = Select(logits=True)
    fed = np.array([*targets[0], *targets[1]], np.int32)

    def begin(session: Any) -> None:
        if model._architecture.has_encoder:
            session.encode([np.array(ids, np.int32) for ids in sources[:3]])
        else:
            session.start(3)

    with model._session() as session:
        begin(session)
        steps = [session.step(np.repeat(token, 3).astype(np.int32), select).logits for token in fed]
        begin(session)
        if model._sequential:
            return  # takes one token at a time whatever happens
        whole = session.step([fed] * 3, select, all_rows=True).logits
        assert whole is not None
        assert (whole.reshape(3, len(fed), -1) == np.stack(steps, 1)).all()
        begin(session)
        session.step([fed[:2]] * 3)
        rest = session.step([fed[2:]] * 3, select, all_rows=True).logits
        assert rest is not None and (rest.reshape(3, len(fed) - 2, -1) == np.stack(steps[2:], 1)).all()


def test_int8_logits_are_near_the_same_on_every_instruction_set() -> None:
    """Integer sums are equal; what lies between the products is float32 as ever."""
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal((5, 96)).astype(np.float32), rng.standard_normal((70, 96)).astype(np.float32)
    results = []
    for isa in fastattn.isa.available():
        with fastattn.isa.use(isa):
            out = np.empty((5, 70), np.float32)
            _native.ops.linear(x, _native.ops.pack(weight, "int8"), 0, None, "none", None, out)
            results.append(out)
    held = in_type(weight, "int8")
    assert isinstance(held, Quantized)
    for out in results:
        assert (out == results[0]).all() and (out == held.product(x)).all()


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("kind", SMALL)
def test_a_bundled_model_translates(kind: str, backend: str) -> None:
    for name in fastattn.bundled_models():
        model = fastattn.load(name, compute_type=kind, backend=backend)
        assert model.generate("I am eating an apple").text == "je mange une pomme"


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(
        fastattn.OptionError, match="compute_type: found 'int3', expected one of float32, bfloat16, int8"
    ):
        fastattn.load("en-fr-luong", compute_type="int3")


def test_16_bit_checkpoints_are_packed_from_their_bits(tmp_path: Path) -> None:
    """float16 and bfloat16 give the logits of the same values in float32."""
    checkpoint = open_checkpoint(GOLDEN / "models" / "marian")
    assembly = assemble(checkpoint)
    assert assembly.weights is not None
    rounded = {n: to_bfloat16(as_float32(assembly.weights[n])) for n in assembly.weights}
    graphs = assembly.architecture.graphs
    bits = {n: (a.view(np.uint32) >> 16).astype(np.uint16).view(BFloat16Array) for n, a in rounded.items()}
    half = {n: np.asfortranarray(a.astype(np.float16)) for n, a in rounded.items()}
    for kind in COMPUTE_TYPES:
        for item in needed(graphs.values()):
            plain = PackingStore(rounded, kind).get(item)
            assert (contents(PackingStore(bits, kind).get(item)) == contents(plain)).all()
            full = {n: a.astype(np.float32) for n, a in half.items()}
            assert (contents(PackingStore(half, kind).get(item)) == contents(PackingStore(full, kind).get(item))).all()


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3), (3, 0), (4, CHECKED // 3), (3, CHECKED + 1), (2 * CHECKED + 5,)])
def test_values_that_bfloat16_holds_are_recognised(shape: tuple[int, ...]) -> None:
    array = to_bfloat16(np.random.default_rng(3).standard_normal(shape).astype(np.float32))
    flat = array.reshape(-1)
    flat[: min(4, flat.size)] = np.array([np.inf, np.nan, -0.0, 2.0**-133], np.float32)[
        : flat.size
    ]  # 2^-133: subnormal
    assert is_bfloat16(array) and is_bfloat16(array.T) and is_bfloat16(array[::-2])
    assert is_bfloat16((array.view(np.uint32) >> 16).astype(np.uint16).view(BFloat16Array))
    assert not is_bfloat16(array.astype(np.float64))
    half = np.array(array, np.float16)
    exact = half.astype(np.float32)
    assert is_bfloat16(half) == (to_bfloat16(exact).view(np.uint32) == exact.view(np.uint32)).all()
    for place in {0, flat.size // 2, flat.size - 1} if flat.size else ():
        kept, flat[place] = flat[place], np.float32(0.1)
        assert not is_bfloat16(array) and not is_bfloat16(array.T)
        flat[place] = kept


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3), (3, 0), (4, CHECKED // 3), (3, CHECKED + 1), (2 * CHECKED + 5,)])
def test_values_that_float16_holds_are_recognised(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(3).standard_normal(shape).astype(np.float16).astype(np.float32)
    flat = array.reshape(-1)
    some = np.array([np.inf, 65504.0, -0.0, 2.0**-24, 1023 * 2.0**-24], np.float32)
    flat[: min(5, flat.size)] = some[: flat.size]
    assert is_float16(array) and is_float16(array.T) and is_float16(array[::-2])
    assert is_float16(array.astype(np.float16)) and not is_float16(array.astype(np.float64))
    assert not is_float16(np.zeros(3, np.uint16))  # bfloat16
    for place in {0, flat.size // 2, flat.size - 1} if flat.size else ():
        for other in (0.1, 65536.0, 2.0**-25, 1.0 + 2.0**-11):
            kept, flat[place] = flat[place], np.float32(other)
            assert not is_float16(array) and not is_float16(array.T)
            flat[place] = kept


def test_every_float16_is_packed_and_found_again() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    exact = every.astype(np.float32)
    for isa in fastattn.isa.available():
        with fastattn.isa.use(isa):
            for array in (every, exact, every.T, np.asfortranarray(exact)):
                weight = _native.Weight(array, True, 2, "float16")
                assert (weight.dtype, weight.nbytes) == ("float16", 2 * array.size)
                packed = weight.packed
                assert packed is not None
                found = unpack(packed, *array.shape, "float16", "float32")
                np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("model", FAMILIES)
def test_float32_that_16_bits_hold_is_kept_in_half_the_bytes_with_the_same_bits(
    model: str, half: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A checkpoint of 16 bits, exported as float32: results are those of weights kept as float32."""
    stored = fastattn.weights._stored

    def rounded(*which: Any) -> np.ndarray[Any, Any]:
        array = as_float32(stored(*which))
        return to_bfloat16(array) if half == "bfloat16" else array.astype(np.float16).astype(np.float32)

    monkeypatch.setattr("fastattn.weights._stored", rounded)
    halved = fastattn.load(GOLDEN / model)
    assert halved.weight_sizes()["float32"] == halved.weight_bytes
    converted = fastattn.load(fastattn.convert(GOLDEN / model, tmp_path / "out", compute_type="float32"))
    assert (converted.compute_type, converted.weight_bytes) == ("float32", halved.weight_bytes)
    monkeypatch.setattr("fastattn.packing.matrix_type", lambda array, kind: kind)
    whole = fastattn.load(GOLDEN / model)
    assert halved.weight_bytes < 0.9 * whole.weight_bytes
    sources, targets = inputs(whole)
    plain = [fastattn.load(m, backend="reference") for m in (GOLDEN / model, tmp_path / "out")]
    assert (logits(plain[0], sources, targets) == logits(plain[1], sources, targets)).all()
    for isa in fastattn.isa.available():
        with fastattn.isa.use(isa):
            expected = logits(whole, sources, targets)
            assert (logits(halved, sources, targets) == expected).all()
            assert (logits(converted, sources, targets) == expected).all()


def contents(weight: _native.Weight) -> np.ndarray[Any, Any]:
    return weight.packed if weight.packed is not None else np.zeros(1)


def test_a_matrix_that_a_type_cannot_hold_is_named() -> None:
    wide = {"w": np.zeros((1, (1 << 16) + 1), np.float32)}
    with pytest.raises(fastattn.LoadError, match=r"model: tensor 'w': .*65536"):
        PackingStore(wide, "int8", where="model").get(Needed("w", wide["w"].shape, True))
    assert PackingStore(wide, "int4").get(Needed("w", wide["w"].shape, True)).dtype == "int4"


def test_sizes_are_known_before_packing() -> None:
    for rows, columns in ((1, 1), (32, 32), (33, 65), (100, 7)):
        item, weights = Needed("w", (rows, columns), True), {"w": np.full((rows, columns), 0.1, np.float32)}
        for kind in COMPUTE_TYPES:
            assert packed_bytes(item, kind) == PackingStore(weights, kind).get(item).nbytes
        halved = {"w": weights["w"].astype(np.float16)}
        assert packed_bytes(item, "float16") == PackingStore(halved).get(item).nbytes


def test_float64_and_what_is_not_aligned_is_read_too() -> None:
    rng = np.random.default_rng(5)
    exact = rng.standard_normal((9, 40)).astype(np.float32)
    shifted = np.frombuffer(b"x" + exact.tobytes(), np.uint8)[1:].view(np.float32).reshape(9, 40)
    item = Needed("w", (9, 40), True)
    for kind in COMPUTE_TYPES:
        plain = contents(PackingStore({"w": exact}, kind).get(item))
        for other in (
            exact.astype(np.float64),
            shifted,
            exact.astype(">f4"),
            np.asfortranarray(exact),
            exact[::-1][::-1],
        ):
            assert (contents(PackingStore({"w": other}, kind).get(item)) == plain).all()
