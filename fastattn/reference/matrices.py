"""Matrices in a compute type, as a session multiplies with them and looks rows up: codes and scales are the engine's to the bit.

`quantized` says what the codes are, docs/packing.md how they are packed.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.quantized import GROUP, quantize_int4, quantize_rows, to_bfloat16

Array = NDArray[Any]

PANEL = 32  # rows that are packed together
INT8_ZERO, INT4_ZERO = 128, 8  # what is added to a code where it is packed
_EXACT = 1040  # so many products of two codes add up exactly in float32


@dataclass(frozen=True)
class Quantized:
    """A matrix [O, I] in int8 or int4: codes [O, I], integers held as floats; scales float32 [O, 1] or [O, groups of GROUP]."""

    kind: str
    codes: Array
    scales: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def __getitem__(self, rows: Array) -> Array:
        """Rows as float32, as the engine looks them up."""
        each = self.shape[1] if self.kind == "int8" else GROUP
        scales = np.repeat(self.scales[rows], each, -1)[..., : self.shape[1]]
        return self.codes[rows].astype(np.float32) * scales

    def product(self, x: Array) -> Array:
        """x [rows, I] times the transpose, float32 [rows, O]; rows of x are quantised to int8 on the way."""
        signed, each = quantize_rows(x)
        codes, scale = signed.astype(self.codes.dtype), each[:, None]
        if self.kind == "int8":
            sums = (codes @ self.codes.T).astype(np.float32)
            return sums * (scale * self.scales.T)
        total = np.zeros((len(x), self.shape[0]), np.float32)
        for g in range(self.scales.shape[1]):
            part = slice(g * GROUP, (g + 1) * GROUP)
            dots = (codes[:, part] @ self.codes[:, part].T).astype(np.float64)
            total = (dots * self.scales[:, g] + total).astype(np.float32)  # as fused: rounded once
        return total * scale


@dataclass(frozen=True)
class Rounded:
    """A matrix [O, I] in bfloat16, values as float32; so is what it multiplies."""

    values: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def __getitem__(self, rows: Array) -> Array:
        """Rows as float32, as the engine looks them up."""
        return self.values[rows]

    def product(self, x: Array) -> Array:
        """x [rows, I], rounded, times the transpose: [rows, O] in the type of x."""
        return to_bfloat16(x) @ self.values.T


Matrix = Array | Rounded | Quantized


def in_type(weight: Array, kind: str) -> Matrix:
    """A float32 matrix [O, I] in a compute type."""
    if kind == "float32":
        return weight
    if kind == "bfloat16":
        return Rounded(np.ascontiguousarray(to_bfloat16(weight)))
    columns = weight.shape[1]
    if kind == "int8":
        codes, scales = quantize_rows(weight)
        return Quantized(kind, codes.astype(_exact(columns)), scales[:, None])
    codes, scales = quantize_int4(weight)
    return Quantized(kind, codes.reshape(len(weight), -1)[:, :columns].astype(_exact(columns)), scales)


def _exact(columns: int) -> type[np.floating[Any]]:
    """A type in which the sum of so many products of codes is exact."""
    return np.float32 if columns <= _EXACT else np.float64


def unpack(packed: Array, rows: int, columns: int, kind: str, compute_type: str) -> Matrix:
    """A matrix from the bytes the engine streams (docs/packing.md). kind: how it is kept, which is "bfloat16" or "float16"
    also where a model computes in float32 and loses nothing."""
    count, exact = -(-rows // PANEL), _exact(columns)
    panels = packed.reshape(count, -1)

    def whole(blocks: Array) -> Array:  # [count, PANEL, ...] without what was filled up
        return blocks.reshape(count * PANEL, -1)[:rows, :columns]

    if kind in ("float32", "bfloat16", "float16"):
        values = _paired(panels) if kind == "bfloat16" else panels.view(kind).astype(np.float32, copy=False)
        matrix = whole(values.reshape(count, columns, PANEL).swapaxes(1, 2))
        return Rounded(np.ascontiguousarray(matrix)) if compute_type == "bfloat16" else matrix
    if kind == "int8":
        quads = -(-columns // 4)
        codes = panels[:, : quads * 4 * PANEL].reshape(count, quads, PANEL, 4).swapaxes(1, 2).astype(exact)
        scales = panels[:, quads * 4 * PANEL :].view(np.float32).reshape(-1, 1)[:rows]
        return Quantized(kind, whole(codes) - INT8_ZERO, scales)
    groups = panels.reshape(count, -(-columns // GROUP), -1)
    scales = _paired(np.ascontiguousarray(groups[..., : 2 * PANEL])).reshape(count, -1, PANEL).swapaxes(1, 2)
    lines = groups[..., 2 * PANEL :].reshape(count, -1, GROUP // 4, PANEL // 2, 4)
    halves = np.stack([lines & 15, lines >> 4], 1)  # [panel, half, group, quad, 16, 4]
    codes = halves.transpose(0, 1, 4, 2, 3, 5).astype(exact)
    return Quantized(kind, whole(codes) - INT4_ZERO, scales.reshape(count * PANEL, -1)[:rows])


def _paired(panels: Array) -> Array:
    """bfloat16 as float32: words of columns c (low half) and 16 + c (high half), 16 of them a line."""
    words = panels.view(np.uint32).reshape(-1, PANEL // 2)
    both = np.concatenate([words << np.uint32(16), words & np.uint32(0xFFFF0000)], -1)
    return both.view(np.float32)
