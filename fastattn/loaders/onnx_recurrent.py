"""GRU, LSTM and RNN nodes: ONNX packs gates and directions; PyTorch names them apart.

ONNX: W [directions, gates*H, I], R [directions, gates*H, H], B [directions, 2*gates*H] = (Wb, Rb) one after the other.
PyTorch: weight_ih_l{n}, weight_hh_l{n}, bias_ih_l{n}, bias_hh_l{n}, with `_reverse` for the second direction.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastattn.errors import LoadError
from fastattn.loaders.onnx_constants import Constant
from fastattn.loaders.onnx_format import Node
from fastattn.loaders.tensors import AnyArray

# operator -> for each PyTorch gate, the block of the ONNX tensor that holds it
GATES: dict[str, tuple[int, ...]] = {
    "LSTM": (0, 2, 3, 1),  # i o f c -> i f g o
    "GRU": (1, 0, 2),  # z r h -> r z n
    "RNN": (0,),
}
# activations that are what PyTorch computes, per direction
ACTIVATIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "LSTM": (("Sigmoid", "Tanh", "Tanh"),),
    "GRU": (("Sigmoid", "Tanh"),),
    "RNN": (("Tanh",), ("Relu",)),
}


def recurrent_parameters(
    node: Node, constants: list[Constant | None], layer: int, file: str
) -> Iterator[tuple[Constant, str, AnyArray, tuple[int, ...]]]:
    """Yield (constant, PyTorch name inside the module, array, gate order) for each parameter of one node."""
    gates = GATES[node.op]
    where = f"{file}: {node.op} {node.name!r}"
    _check_variant(node, constants, where)
    w, r, b = (constants[i] if i < len(constants) else None for i in (1, 2, 3))
    if w is None or r is None:
        raise LoadError(f"{where}: its weights are not constants of the file")
    hidden = r.array.shape[-1] if r.array.ndim == 3 else 0
    directions, rows = r.array.shape[0] if r.array.ndim == 3 else 0, len(gates) * hidden
    direction = node.attributes["direction"].s if "direction" in node.attributes else "forward"
    if direction not in ("forward", "reverse", "bidirectional"):
        raise LoadError(f"{where}: direction {direction[:40]!r}, expected 'forward', 'reverse' or 'bidirectional'")
    want = 2 if direction == "bidirectional" else 1
    shapes = w.array.ndim == 3 and w.array.shape[:2] == (want, rows) and r.array.shape == (want, rows, hidden)
    if not shapes or directions != want or (b is not None and b.array.shape != (want, 2 * rows)):
        found = [None if c is None else list(c.array.shape) for c in (w, r, b)]
        raise LoadError(f"{where}: W, R, B have shapes {found}, which do not fit a {direction} {node.op}")
    for k in range(want):
        suffix = f"_l{layer}" + ("_reverse" if k == 1 or direction == "reverse" else "")
        yield w, f"weight_ih{suffix}", w.array[k], gates
        yield r, f"weight_hh{suffix}", r.array[k], gates
        if b is not None:
            yield b, f"bias_ih{suffix}", b.array[k, :rows], gates
            yield b, f"bias_hh{suffix}", b.array[k, rows:], gates


def _check_variant(node: Node, constants: list[Constant | None], where: str) -> None:
    """Refuse cells that compute something else than PyTorch's."""
    if node.op == "GRU" and not node.integer("linear_before_reset", 0):
        raise LoadError(f"{where}: linear_before_reset is 0; only the PyTorch form (1) is supported")
    if node.op == "LSTM" and (node.integer("input_forget", 0) or (len(constants) > 7 and node.inputs[7])):
        raise LoadError(f"{where}: coupled gates and peepholes are not supported")
    for i, state in ((5, "initial_h"), (6, "initial_c")):
        constant = constants[i] if i < len(constants) else None
        if constant is not None and np.any(constant.array):
            raise LoadError(
                f"{where}: {state} is a constant other than zero; only cells that begin at zero are supported"
            )
    if node.number("clip", 0.0) > 0:
        raise LoadError(f"{where}: clipped cells are not supported")
    given = tuple(node.attributes["activations"].strings) if "activations" in node.attributes else ()
    if given and not any(given == known * (len(given) // len(known)) for known in ACTIVATIONS[node.op]):
        raise LoadError(f"{where}: activations {list(given)} are not those of PyTorch's {node.op}")
