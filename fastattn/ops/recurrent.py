"""GRU and LSTM: single steps, and whole sequences of any number of layers; PyTorch's weights and order of gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastattn._native import ops as native
from fastattn.ops._arrays import (
    Floats,
    Longs,
    contiguous,
    contiguous_rows,
    expect,
    expect_sequence,
    floats,
    lengths_of,
    optional_floats,
)
from fastattn.ops.packed import WeightLike, native_of, project, weight_of

GATES = {"gru": 3, "lstm": 4}
Weights = Sequence[Sequence[WeightLike | None]]


class _Layer:
    """The weights of one layer and direction, checked against the width of its input."""

    def __init__(self, cell: str, weights: Sequence[WeightLike | None], width: int, prefix: str = "") -> None:
        names = [f"{prefix}{name}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if len(weights) not in (2, 4) or weights[0] is None or weights[1] is None:
            raise ValueError(
                f"{prefix or 'weights'}: expected (weight_ih, weight_hh) or (weight_ih, weight_hh, bias_ih, bias_hh)"
            )
        self.cell = cell
        ih, hh = weight_of(weights[0], names[0]), weight_of(weights[1], names[1])
        expect(hh, names[1], f"{GATES[cell]}H H", None, None)
        self.hidden = hh.shape[1]
        rows = GATES[cell] * self.hidden
        expect(hh, names[1], f"{GATES[cell]}H H", rows, self.hidden)
        expect(ih, names[0], f"{GATES[cell]}H I", rows, width)
        self.ih, self.hh = ih, hh
        self.bias_ih, self.bias_hh = (
            self._bias(bias, name, rows) for bias, name in zip((*weights[2:], None, None), names[2:], strict=False)
        )

    def _bias(self, value: Any, name: str, rows: int) -> Floats | None:
        bias = optional_floats(value, name)
        if bias is not None:
            expect(bias, name, f"{GATES[self.cell]}H", rows)
        return contiguous(bias)

    def run(self, x: Floats, lengths: Longs | None, reverse: bool, out: Floats, h: Floats, c: Floats | None) -> None:
        """Writes the states of all tokens to `out`, and replaces h and c by the last ones."""
        ih, hh = native_of(self.ih), native_of(self.hh)
        native.recurrent(self.cell, reverse, x, ih, hh, self.bias_ih, self.bias_hh, lengths, out, h, c)


def _state(value: ArrayLike | None, name: str, layout: str, *shape: int) -> Floats:
    """A copy of a state, or zeros."""
    if value is None:
        return np.zeros(shape, np.float32)
    state = floats(value, name)
    expect(state, name, layout, *shape)
    return np.array(state, np.float32, order="C")


def _step(
    cell: str, x: ArrayLike, weights: tuple[WeightLike | None, ...], states: dict[str, ArrayLike]
) -> list[Floats]:
    """One token of every sequence."""
    inputs = floats(x, "x")
    expect(inputs, "x", "B I", None, None)
    layer = _Layer(cell, weights, inputs.shape[1])
    batch = inputs.shape[0]
    after = [_state(state, name, "B H", batch, layer.hidden) for name, state in states.items()]
    from_x, from_h = project(inputs, layer.ih, layer.bias_ih), project(after[0], layer.hh, layer.bias_hh)
    native.cell(cell, from_x, from_h, after[0], after[1] if len(after) > 1 else None)
    return after


def gru_cell(
    x: ArrayLike,
    h: ArrayLike,
    weight_ih: WeightLike,
    weight_hh: WeightLike,
    bias_ih: ArrayLike | None = None,
    bias_hh: ArrayLike | None = None,
) -> Floats:
    """One step of a gated recurrent unit.

    r, z = sigmoid(W_r x + U_r h), sigmoid(W_z x + U_z h);  n = tanh(W_n x + b + r (U_n h + b'));  h' = (1 - z) n + z h.
    Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder", in the variant of PyTorch's
    `nn.GRUCell`, whose weights these are.

    Args:
        x: [B, I]. h: [B, H].
        weight_ih: [3 H, I], the rows of r, then z, then n. weight_hh: [3 H, H]. bias_ih, bias_hh: [3 H] or None. The
            weights may be packed (`pack`); arrays are read as in `linear`.

    Returns:
        h', float32 [B, H].

    Raises:
        TypeError: an argument is no array of numbers; it is named.
        ValueError: a shape does not fit; it is named, with what was found and expected.

    >>> import numpy as np
    >>> gru_cell(np.zeros((1, 2)), np.ones((1, 1)), np.zeros((3, 2)), np.zeros((3, 1))).tolist()
    [[0.5]]
    """
    return _step("gru", x, (weight_ih, weight_hh, bias_ih, bias_hh), {"h": h})[0]


def lstm_cell(
    x: ArrayLike,
    h: ArrayLike,
    c: ArrayLike,
    weight_ih: WeightLike,
    weight_hh: WeightLike,
    bias_ih: ArrayLike | None = None,
    bias_hh: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """One step of a long short-term memory.

    i, f, o = sigmoid(W x + U h + b) each;  g = tanh(W_g x + U_g h + b_g);  c' = f c + i g;  h' = o tanh(c').
    Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000; PyTorch's `nn.LSTMCell`, whose weights
    these are.

    Args:
        x: [B, I]. h, c: [B, H].
        weight_ih: [4 H, I], the rows of i, f, g, o. weight_hh: [4 H, H]. bias_ih, bias_hh: [4 H] or None. As
            in `gru_cell` they may be packed.

    Returns:
        (h', c'), float32 [B, H] each.

    Raises:
        TypeError, ValueError: as in `gru_cell`.

    >>> import numpy as np
    >>> h, c = lstm_cell(np.zeros((1, 2)), np.zeros((1, 1)), np.ones((1, 1)), np.zeros((4, 2)), np.zeros((4, 1)))
    >>> c.tolist()
    [[0.5]]
    """
    after = _step("lstm", x, (weight_ih, weight_hh, bias_ih, bias_hh), {"h": h, "c": c})
    return after[0], after[1]


def _sequence(
    cell: str,
    x: ArrayLike,
    weights: Weights,
    states: dict[str, ArrayLike | None],
    lengths: ArrayLike | None,
    bidirectional: bool,
) -> tuple[Floats, list[Floats]]:
    """All layers and directions: the output of the last layer, and the last states [L · dirs, B, H]."""
    inputs = floats(x, "x")
    expect(inputs, "x", "B T I", None, None, None)
    directions = 2 if bidirectional else 1
    expect_sequence(weights, "weights")
    if not len(weights) or len(weights) % directions:
        kind = "two per layer (forward, reverse)" if bidirectional else "one per layer"
        raise ValueError(f"weights: expected {kind}, got {len(weights)}")
    batch, steps, _ = inputs.shape
    limit = lengths_of(lengths, "lengths", batch, steps)
    layers: list[_Layer] = []
    for n, layer_weights in enumerate(weights):
        width = inputs.shape[2] if n < directions else directions * layers[0].hidden
        expect_sequence(layer_weights, f"weights[{n}]")
        layers.append(_Layer(cell, layer_weights, width, f"weights[{n}]."))
        if layers[n].hidden != layers[0].hidden:
            wanted, got = layers[0].hidden, layers[n].hidden
            raise ValueError(f"weights[{n}].weight_hh: expected H={wanted} as in the first, got {got}")
    hidden = layers[0].hidden
    after = [_state(s, name, "L*dirs B H", len(weights), batch, hidden) for name, s in states.items()]
    for first in range(0, len(weights), directions):
        out = np.empty((batch, steps, directions * hidden), np.float32)
        rows = contiguous_rows(inputs)
        for i in range(directions):
            n = first + i
            part = out[..., i * hidden : (i + 1) * hidden]
            layers[n].run(rows, limit, i == 1, part, after[0][n], after[1][n] if len(after) > 1 else None)
        inputs = out
    return inputs, after


def gru(
    x: ArrayLike,
    weights: Weights,
    h0: ArrayLike | None = None,
    *,
    lengths: ArrayLike | None = None,
    bidirectional: bool = False,
) -> tuple[Floats, Floats]:
    """A GRU over whole sequences, in any number of layers; see `gru_cell` for one step.

    Args:
        x: [B, T, I]. Copied if its last axis is not contiguous.
        weights: for each layer (and, if bidirectional, each direction, forward first) in PyTorch's order: (weight_ih,
            weight_hh) or (weight_ih, weight_hh, bias_ih, bias_hh), with [3 H, I or directions · H], [3 H, H], [3 H],
            [3 H].
        h0: the states to begin with, [layers · directions, B, H]; default: zeros.
        lengths: integers [B]: tokens from there on do not exist, whatever they hold. The reverse direction begins at
            the last token that exists, as with PyTorch's packed sequences.
        bidirectional: every layer also goes from right to left; the two results stand side by side.

    Returns:
        (output, h_n): float32 [B, T, directions · H], the states of the last layer, zeros beyond a length; and
        [layers · directions, B, H], the last states (h0 for a sequence of length 0).

    Raises:
        TypeError: an argument is no array of numbers; it is named.
        ValueError: a shape or length does not fit; it is named, with what was found and expected.

    >>> import numpy as np
    >>> output, h_n = gru(np.zeros((1, 2, 3)), [(np.zeros((3, 3)), np.zeros((3, 1)))], np.ones((1, 1, 1)))
    >>> output.tolist(), h_n.tolist()
    ([[[0.5], [0.25]]], [[[0.25]]])
    """
    output, after = _sequence("gru", x, weights, {"h0": h0}, lengths, bidirectional)
    return output, after[0]


def lstm(
    x: ArrayLike,
    weights: Weights,
    state: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    lengths: ArrayLike | None = None,
    bidirectional: bool = False,
) -> tuple[Floats, tuple[Floats, Floats]]:
    """An LSTM over whole sequences, in any number of layers; see `lstm_cell` for one step.

    Args:
        x, lengths, bidirectional: as in `gru`.
        weights: as in `gru`, with 4 H rows instead of 3 H.
        state: (h0, c0), each [layers · directions, B, H]; default: zeros.

    Returns:
        (output, (h_n, c_n)): shapes as in `gru`.

    Raises:
        TypeError, ValueError: as in `gru`.

    >>> import numpy as np
    >>> state = np.zeros((1, 1, 1)), np.ones((1, 1, 1))
    >>> output, (h_n, c_n) = lstm(np.zeros((1, 2, 3)), [(np.zeros((4, 3)), np.zeros((4, 1)))], state)
    >>> c_n.tolist()
    [[[0.25]]]
    """
    if state is not None and (not isinstance(state, (tuple, list)) or len(state) != 2):
        raise ValueError("state: expected (h0, c0)")
    h0, c0 = state or (None, None)
    output, after = _sequence("lstm", x, weights, {"h0": h0, "c0": c0}, lengths, bidirectional)
    return output, (after[0], after[1])
