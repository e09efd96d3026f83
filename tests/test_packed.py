"""Weights of every type: packing against the NumPy definition, products, rows that are not finite, borrowed memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from ops_support import LAYOUTS, U, same_bits, threads

from fastattn import _native, isa, ops
from fastattn.reference import quantized

RNG = np.random.default_rng(9)
DTYPES = ["float32", "bfloat16", "int8", "int4"]
SHAPES = [(1, 1), (5, 3), (31, 4), (32, 31), (33, 32), (64, 33), (70, 100), (16, 257), (40, 1100)]


@pytest.fixture(params=isa.available())
def each_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with isa.use(request.param):
        yield request.param


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def rough(rows: int, cols: int) -> np.ndarray:
    """A weight with a channel of zeros, one below what counts, and elements that are not finite."""
    w = normal(rows, cols)
    w[rows // 2] = 0
    w[rows // 3] = 1e-35
    w[-1, cols // 2] = np.nan
    w[rows // 4, -1] = np.inf
    return w


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    return (quantized.to_bfloat16(x).view(np.uint32) >> 16).astype(np.uint16)


def bytes_of(weight: np.ndarray, dtype: str) -> np.ndarray:
    packed = ops.pack(weight, dtype).native.packed
    assert packed is not None
    return packed


# --- packing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_packed_weight_stands_for_the_numbers_of_the_reference(
    each_isa: str, dtype: str, shape: tuple[int, int]
) -> None:
    for w in (normal(*shape), rough(*shape)):
        rows = ops.embedding(np.arange(len(w)), ops.pack(w, dtype))
        if dtype in ("int8", "int4"):  # 0 · NaN: a channel or group that is not finite is NaN throughout
            with np.errstate(invalid="ignore"):
                assert same_bits(rows, quantized.dequantized(w, dtype))
        else:
            assert same_bits(rows, quantized.dequantized(w, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_bytes_do_not_depend_on_the_instruction_set(dtype: str, shape: tuple[int, int]) -> None:
    w = rough(*shape)
    packed = []
    for name in isa.available():
        with isa.use(name):
            packed.append(bytes_of(w, dtype).copy())
    assert len(packed[0]) % 64 == 0
    assert all(np.array_equal(p, packed[0]) for p in packed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packing_reads_any_strides(dtype: str, layout: str) -> None:
    w = normal(70, 100)
    assert np.array_equal(bytes_of(LAYOUTS[layout](w), dtype), bytes_of(w, dtype))
    native = _native.Weight(LAYOUTS[layout](w), True, 2, dtype)
    assert np.array_equal(native.packed, bytes_of(w, dtype))
    assert (native.shape, native.dtype, native.nbytes) == ((70, 100), dtype, len(bytes_of(w, dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_reads_16_bit_files_as_they_are(dtype: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).reshape(128, 512)
    half = every.view(np.float16)
    wide = half.astype(np.float32)
    assert np.array_equal(_native.Weight(half, True, 1, dtype).packed, bytes_of(wide, dtype))
    assert np.array_equal(_native.Weight(half.T, True, 2, dtype).packed, bytes_of(wide.T, dtype))
    brain = (every.astype(np.uint32) << 16).view(np.float32)
    got = _native.Weight(every, True, 1, dtype, bfloat16=True).packed
    assert np.array_equal(got, bytes_of(brain, dtype))


def test_packing_refuses_what_it_cannot_read() -> None:
    for bad in (
        np.zeros((2, 2)),
        np.zeros((2, 2), np.uint16),
        np.zeros((2, 2), ">f4"),
        np.zeros((2, 2, 2), np.float32),
    ):
        with pytest.raises(ValueError, match="a weight"):
            _native.Weight(bad, True, 1)
    with pytest.raises(ValueError, match="int5"):
        _native.Weight(np.zeros((2, 2), np.float32), True, 1, "int5")
    with pytest.raises(ValueError, match="plain"):
        _native.Weight(np.zeros(3, np.float32), False, 1, "int8")
    with pytest.raises(ValueError, match="65536"):
        ops.pack(np.broadcast_to(np.float32(1), (1, 65537)), "int8")
    with pytest.raises(ValueError, match=r"dtype: .*'fp8'"):
        ops.pack(np.eye(2), "fp8")


def test_int4_scales_are_at_least_as_good_as_the_plain_ones() -> None:
    w = normal(64, 320)
    plain = np.abs(w.reshape(64, 10, 32)).max(-1) / 7
    codes = np.rint(w.reshape(64, 10, 32) / plain[..., None])
    plainly = ((codes * plain[..., None]).reshape(w.shape) - w).std()
    assert (quantized.dequantized(w, "int4") - w).std() < 0.97 * plainly


@pytest.mark.parametrize("largest", [1e19, 1e25, 1e36])
def test_huge_weights_are_not_lost_in_int4(each_isa: str, largest: float) -> None:
    w = normal(8, 64) * np.float32(0.2)
    w[:, ::32] = np.sign(w[:, ::32])  # the extreme of each group
    w *= np.float32(largest)
    panels, found = ops.pack(w, "int4"), quantized.dequantized(w, "int4")
    assert (np.abs(found - w) <= 0.15 * np.float32(largest)).all() and (np.abs(found).max(-1) > 0.8 * largest).all()
    x = np.eye(64, dtype=np.float32)[:3]
    assert np.allclose(ops.linear(x, panels) / largest, found[:, :3].T / largest, rtol=0.02, atol=1e-6)


# --- products


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_quantised_products_are_those_of_the_reference(each_isa: str, dtype: str, shape: tuple[int, int]) -> None:
    w, x = normal(*shape), normal(14, shape[1])
    w[0] = 0
    x[3], x[4] = 0, 1e-36
    y = ops.linear(x, ops.pack(w, dtype))
    want = quantized.linear(x, w, dtype)
    if dtype == "int8" or isa.active() != "generic":  # generic has no fused multiply-add
        assert same_bits(y, want)
    else:
        magnitude = quantized.linear(np.abs(x), np.abs(w), "float32").max()
        assert np.abs(y - want).max() <= 2 * U * (shape[1] // 32 + 2) * magnitude * 2
    assert not y[3].any() and not y[4].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_err_as_much_as_their_type_rounds(each_isa: str, dtype: str, shape: tuple[int, int]) -> None:
    w, x = normal(*shape), normal(5, shape[1])
    y = ops.linear(x, ops.pack(w, dtype)).astype(np.float64)
    x = quantized.to_bfloat16(x) if dtype == "bfloat16" else x
    deq = quantized.dequantized(w, dtype).astype(np.float64)
    rounding = (len(x[0]) + 4) * U * (np.abs(x) @ np.abs(deq).T)
    if dtype in ("int8", "int4"):  # half a step of the row's scale at every element
        rounding = rounding * 2 + (np.abs(x).max(-1) / 254)[:, None] * np.abs(deq).sum(-1) * 1.001
    assert (np.abs(y - x.astype(np.float64) @ deq.T) <= rounding).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 5, 12, 13, 25, 97, 130])
def test_a_row_alone_and_among_others_and_on_threads_is_the_same(each_isa: str, dtype: str, rows: int) -> None:
    w, x, bias, residual = ops.pack(normal(170, 300), dtype), normal(rows, 300), normal(170), normal(rows, 170)
    together = ops.linear(x, w, bias, activation="gelu", residual=residual)
    with threads(2):
        assert same_bits(ops.linear(x, w, bias, activation="gelu", residual=residual), together)
    for i in {0, rows // 2, rows - 1}:
        alone = ops.linear(x[i : i + 1], w, bias, activation="gelu", residual=residual[i : i + 1])
        assert same_bits(alone[0], together[i])


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_that_help_each_other_change_no_bit(dtype: str) -> None:
    """More threads than cores: some are always late, and others take their part."""
    w = ops.pack(normal(700, 513), dtype)
    for rows in (1, 3, 300):
        x = normal(rows, 513)
        once = ops.linear(x, w)
        with threads(7):
            assert all(same_bits(ops.linear(x, w), once) for _ in range(20))


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_products_are_equal_on_every_instruction_set(shape: tuple[int, int]) -> None:
    """Those of integers, and of two bfloat16 in float32."""
    w, x = normal(*shape) * 3, normal(30, shape[1])
    fused = [name for name in isa.available() if name != "generic"]
    for dtype, names in (("int8", isa.available()), ("int4", fused), ("bfloat16", isa.available())):
        results = []
        for name in names:
            with isa.use(name):
                results.append(ops.linear(x, ops.pack(w, dtype)))
        assert all(same_bits(y, results[0]) for y in results)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_extreme_codes_do_not_saturate(each_isa: str, dtype: str) -> None:
    size = 4096
    w = np.where(RNG.random((40, size)) < 0.5, np.float32(-1), np.float32(1))
    x = np.where(RNG.random((14, size)) < 0.5, np.float32(-1), np.float32(1))
    x[0], w[0] = 1, 1
    x[1], w[1] = -1, -1
    assert same_bits(ops.linear(x, ops.pack(w, dtype)), quantized.linear(x, w, dtype))


@pytest.mark.parametrize("size", [1, 3, 4, 31, 64, 127, 512, 515, 1100])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_large_codes_side_by_side_do_not_saturate(each_isa: str, dtype: str, size: int) -> None:
    """None, few, many and nothing else of them in a row, in all of it or in one chunk: products of bytes overflow there."""
    w, x = normal(40, size), normal(30, size) * np.float32(0.1)
    w[:20] = np.sign(w[:20])
    for i, share in enumerate((0.0, 0.01, 0.04, 0.1, 0.2, 0.3, 0.6, 1.0)):
        large = RNG.random((3, size)) < share
        x[3 * i : 3 * i + 3][large] = RNG.choice(np.float32([-1, -0.51, 0.51, 1]), large.sum())
    x[24:27, size // 2 :] = 1
    x[27:, :4] = -1
    assert same_bits(ops.linear(x, ops.pack(w, dtype)), quantized.linear(x, w, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_stays_so_and_alone(each_isa: str, dtype: str, bad: float) -> None:
    w, x = ops.pack(normal(40, 100), dtype), normal(14, 100)
    clean = ops.linear(x, w)
    x[5, 77] = bad
    y = ops.linear(x, w, activation="none")
    assert not np.isfinite(y[5]).any()
    if dtype in ("int8", "int4"):
        assert np.isnan(y[5]).all()
    rest = np.arange(14) != 5
    assert same_bits(y[rest], clean[rest])


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_ones(each_isa: str, dtype: str) -> None:
    assert ops.linear(normal(0, 7), ops.pack(normal(3, 7), dtype)).shape == (0, 3)
    assert ops.linear(normal(3, 7), ops.pack(normal(0, 7), dtype)).shape == (3, 0)
    assert ops.linear(normal(3, 0), ops.pack(normal(5, 0), dtype), np.ones(5)).tolist() == [[1.0] * 5] * 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_recurrent_ops_take_every_type(each_isa: str, dtype: str) -> None:
    x, ih, hh = normal(3, 70, 65), normal(4 * 33, 65), normal(4 * 33, 33)
    with threads(2):
        out = ops.lstm(x, [(ops.pack(ih, dtype), ops.pack(hh, dtype))])[0]
    near = ops.lstm(x, [(quantized.dequantized(ih, dtype), quantized.dequantized(hh, dtype))])[0]
    assert np.abs(out - near).mean() < {"float32": 1e-6, "bfloat16": 2e-3}.get(dtype, 0.02)
    alone = ops.lstm(x[1:2], [(ops.pack(ih, dtype), ops.pack(hh, dtype))])[0]
    assert same_bits(alone[0], out[1])


# --- borrowed memory


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_bytes_are_borrowed(dtype: str) -> None:
    w, x = normal(70, 100), normal(3, 100)
    packed = ops.pack(w, dtype)
    kept = packed.native.packed
    assert kept is not None and not kept.flags.writeable
    mine = kept.copy()
    borrowed = _native.Weight.from_packed(mine, 70, 100, dtype)
    again = borrowed.packed
    assert again is not None and again.ctypes.data == mine.ctypes.data  # not copied
    assert same_bits(ops.linear(x, ops.PackedWeight(borrowed, (70, 100))), ops.linear(x, packed))


def test_borrowed_memory_lives_as_long_as_the_weight() -> None:
    class Bytes(np.ndarray):
        pass

    mine = bytes_of(normal(33, 5), "int8").copy().view(Bytes)
    watched = weakref.ref(mine)
    weight = _native.Weight.from_packed(mine, 33, 5, "int8")
    view = weight.packed
    del mine, weight
    gc.collect()
    assert watched() is not None and view is not None and view[0] == view[0]
    del view
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_borrowed_bytes_are_counted(dtype: str) -> None:
    size = len(bytes_of(normal(33, 5), dtype))
    for wrong in (size - 1, size + 64, 0):
        with pytest.raises(ValueError, match=rf"\[33, 5\] has {size} bytes, got {wrong}"):
            _native.Weight.from_packed(np.zeros(wrong, np.uint8), 33, 5, dtype)
    for rows, cols in ((-1, 5), (1 << 62, 1 << 62), (1 << 40, 1 << 20)):
        with pytest.raises(ValueError, match="cannot have the shape"):
            _native.Weight.from_packed(np.zeros(64, np.uint8), rows, cols, dtype)
    with pytest.raises(ValueError, match="contiguous vector of uint8"):
        _native.Weight.from_packed(np.zeros(2 * size, np.uint8)[::2], 33, 5, dtype)
    with pytest.raises(ValueError, match="multiple of 4"):
        _native.Weight.from_packed(np.zeros(size + 1, np.uint8)[1:], 33, 5, dtype)


def test_a_plain_weight_has_no_panels() -> None:
    weight = _native.Weight(np.arange(3, dtype=np.float16), False, 1)
    assert weight.packed is None and weight.shape == (3, 1) and weight.nbytes == 12
