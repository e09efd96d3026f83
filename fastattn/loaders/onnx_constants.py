"""Constants of an ONNX graph: tensor payloads checked and viewed in place, and the shape-only arithmetic exporters
leave in front of a weight (Transpose, Slice, Concat, …) carried out.

Everything here treats the file as hostile: a size is compared with what the dimensions say before an array is made,
the name of external data must not lead out of the model's folder nor its bytes out of the file, and evaluation has a budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fastattn.errors import LoadError
from fastattn.loaders.files import map_file, named_file
from fastattn.loaders.onnx_format import Node, OnnxFile, TensorRecord
from fastattn.loaders.protobuf import BYTES, FIXED32, FIXED64, VARINT, Reader, signed
from fastattn.loaders.tensors import AnyArray

MAX_RANK = 16
MAX_ELEMENTS = 1 << 40
MAX_STEPS = 64  # operators between a tensor and its use, and tensors joined into one

# TensorProto.DataType -> (name, little-endian NumPy type, the *_data field used when the data is not raw)
ELEMENT_TYPES: dict[int, tuple[str, str, int]] = {
    1: ("float32", "<f4", 4),
    2: ("uint8", "u1", 5),
    3: ("int8", "i1", 5),
    4: ("uint16", "<u2", 5),
    5: ("int16", "<i2", 5),
    6: ("int32", "<i4", 5),
    7: ("int64", "<i8", 7),
    9: ("bool", "?", 5),
    10: ("float16", "<f2", 5),
    11: ("float64", "<f8", 10),
    12: ("uint32", "<u4", 11),
    13: ("uint64", "<u8", 11),
    16: ("bfloat16", "<u2", 5),
}
REFUSED_TYPES = {0: "undefined", 8: "string", 14: "complex64", 15: "complex128", 17: "float8e4m3fn"}
REFUSED_TYPES |= {18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4"}
REFUSED_TYPES |= {23: "float4e2m1", 24: "float8e8m0"}
BFLOAT16 = 16


@dataclass(eq=False)
class Source:
    """A constant as the file holds it, and what became of it."""

    name: str
    kind: str  # "initializer" | "constant node"
    placed: bool = False  # some use gave it a canonical name
    weight_like: bool = False  # it stands where an operator takes a parameter


@dataclass(eq=False)
class Constant:
    """A value known without running the model."""

    array: AnyArray
    bfloat16: bool
    sources: tuple[Source, ...]
    name: str = ""  # its own ONNX name while it is still the tensor of that name
    steps: tuple[str, ...] = ()  # operators applied since
    folded: str = ""  # the parameter the exporter computed it from, when it says so


@dataclass
class Payloads:
    """Reads the tensors of one file; maps each external file once."""

    file: OnnxFile
    mapped: dict[str, memoryview] = field(default_factory=dict)
    total_bytes: int = 0  # of all constants seen, the yardstick of the evaluation budget

    def array(self, tensor: TensorRecord, name: str) -> AnyArray:
        """The tensor as a view on its file, shape checked against the size of the data."""
        where = f"{self.file.path}: tensor {name!r}"
        if tensor.data_type not in ELEMENT_TYPES:
            found = REFUSED_TYPES.get(tensor.data_type, f"number {tensor.data_type}")
            known = "expected a float of 16, 32 or 64 bits, an integer or bool"
            raise LoadError(f"{where}: element type {found} is not supported; {known}")
        dtype = np.dtype(ELEMENT_TYPES[tensor.data_type][1])
        count = _element_count(tensor.dims, where)
        need = f"shape {list(tensor.dims)} needs {count * dtype.itemsize} bytes"
        if tensor.is_external:
            flat = self._external(tensor, dtype, count, f"{where}: {need}, external data")
        elif tensor.raw is not None:
            size = tensor.raw.end - tensor.raw.start
            if size != count * dtype.itemsize:
                raise LoadError(f"{where}: {need}, found {size}")
            flat = np.frombuffer(self.file.reader.data[tensor.raw.start : tensor.raw.end], dtype)
        else:
            flat = _typed_data(self.file.reader, tensor, where)
        if flat.size != count:
            raise LoadError(f"{where}: shape {list(tensor.dims)} needs {count} values, found {flat.size}")
        self.total_bytes += flat.nbytes
        try:
            return flat.reshape(tensor.dims)
        except ValueError as error:  # an empty tensor with absurd dimensions
            raise LoadError(f"{where}: shape {list(tensor.dims)} is not possible") from error

    def _external(self, tensor: TensorRecord, dtype: np.dtype[np.generic], count: int, where: str) -> AnyArray:
        location = tensor.external.get("location", "")
        numbers: dict[str, int] = {}
        for key, default in (("offset", 0), ("length", count * dtype.itemsize)):
            text = tensor.external.get(key, str(default)).strip()
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise LoadError(f"{where} has {key} {text!r}, expected a number of bytes")
            numbers[key] = int(text)
        offset, length = numbers["offset"], numbers["length"]
        if length != count * dtype.itemsize:
            raise LoadError(f"{where} gives {length}")
        if length == 0:
            return np.zeros(0, dtype)
        if location not in self.mapped:
            named = f"{self.file.path}: tensor {tensor.name!r}: external data"
            self.mapped[location] = map_file(named_file(self.file.path.parent, location, named))
        data = self.mapped[location]
        if offset + length > len(data):
            raise LoadError(f"{where} from {offset} on, but {location!r} has {len(data)} bytes")
        return np.frombuffer(data[offset : offset + length], dtype)


def _element_count(dims: tuple[int, ...], where: str) -> int:
    if len(dims) > MAX_RANK or any(d < 0 for d in dims):
        raise LoadError(f"{where}: shape {list(dims)[: MAX_RANK + 1]} is not possible")
    count = math.prod(dims)
    if count > MAX_ELEMENTS or max(dims, default=0) > MAX_ELEMENTS:
        raise LoadError(f"{where}: shape {list(dims)} is larger than any tensor can be")
    return count


def _typed_data(reader: Reader, tensor: TensorRecord, where: str) -> AnyArray:
    """The values of float_data, int32_data, …: packed runs, or one field per value."""
    label, dtype, number = ELEMENT_TYPES[tensor.data_type]
    parts: list[AnyArray] = []
    singles: list[int] = []
    for wire, value, span in tensor.typed.get(number, []):
        if number in (4, 10):  # fixed width: float_data, double_data
            width = 4 if number == 4 else 8
            if wire not in (BYTES, FIXED32 if number == 4 else FIXED64) or (span.end - span.start) % width:
                raise LoadError(f"{where}: its {label} data is malformed")
            parts.append(np.frombuffer(reader.data[span.start : span.end], f"<f{width}"))
        elif wire == BYTES:
            parts.append(reader.varints(span))
        elif wire == VARINT:
            singles.append(signed(value))
        else:
            raise LoadError(f"{where}: its {label} data is malformed")
    if singles:
        parts.append(np.array(singles, np.int64))
    values = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, parts[0].dtype if parts else dtype), *parts])
    if number in (4, 10):
        return values
    if label in ("float16", "bfloat16"):  # the bits of each value, in an integer
        return values.astype(np.uint16).view(dtype)
    return values.astype(dtype)


class Evaluator:
    """Carries out shape-only operators on constants, within a budget of bytes copied."""

    def __init__(self, payloads: Payloads) -> None:
        self.payloads = payloads
        self.copied = 0

    def run(self, node: Node, inputs: list[Constant | None]) -> list[Constant] | None:
        """The node's outputs as constants, or None when it is not shape-only or its inputs are not constant."""
        operator = OPERATORS.get(node.op)
        first = inputs[0] if inputs else None
        if operator is None or first is None or any(c is None and n for c, n in zip(inputs, node.inputs, strict=True)):
            return None
        known = [c for c in inputs if c is not None]
        if len(first.steps) >= MAX_STEPS or len(known) > MAX_STEPS:
            return None  # no exporter writes this
        data = known if node.op == "Concat" else [first]
        if len({c.bfloat16 for c in data}) > 1:
            return None
        if node.op == "Concat":  # the one operator that makes more than it is given
            self._charge(node, sum(c.array.nbytes for c in known))
        try:
            arrays = operator(node, [None if c is None else c.array for c in inputs])
        except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError):
            return None  # malformed: the tensor will be reported as missing by name
        except MemoryError:
            raise LoadError(
                f"{self.payloads.file.path}: node {node.name or node.op!r}: not enough memory to compute its constant"
            ) from None
        if arrays is None:
            return None
        if node.op != "Concat":
            self._charge(node, sum(a.nbytes for a in arrays if not np.may_share_memory(a, first.array)))
        sources = tuple({id(s): s for c in data for s in c.sources}.values())
        if len(sources) > MAX_STEPS:
            return None
        steps = first.steps + ((node.op,) if node.op != "Identity" else ())
        name = first.name if node.op == "Identity" else ""
        return [Constant(array, first.bfloat16, sources, name, steps) for array in arrays]

    def _charge(self, node: Node, copied: int) -> None:
        self.copied += copied
        if self.copied > (1 << 20) + 4 * self.payloads.total_bytes:
            what = f"node {node.name or node.op!r}: constants grow beyond four times the file's weights"
            raise LoadError(f"{self.payloads.file.path}: {what}")


Operator = Callable[[Node, list["AnyArray | None"]], "list[AnyArray] | None"]


def _array(inputs: list[AnyArray | None], at: int) -> AnyArray | None:
    return inputs[at] if at < len(inputs) else None


def _axes(node: Node, inputs: list[AnyArray | None]) -> list[int] | None:
    given = _array(inputs, 1)
    return node.integers("axes") if given is None else [int(a) for a in given.ravel()]


def _identity(node: Node, inputs: list[AnyArray | None]) -> list[AnyArray] | None:
    return [np.asarray(inputs[0])]


def _transpose(node: Node, inputs: list[AnyArray | None]) -> list[AnyArray] | None:
    return [np.transpose(np.asarray(inputs[0]), node.integers("perm"))]


def _reshape(node: Node, inputs: list[AnyArray | None]) -> list[AnyArray] | None:
    x, shape = np.asarray(inputs[0]), _array(inputs, 1)
    if shape is None:
        return None
    dims = [int(d) for d in shape.ravel()]
    if not node.integer("allowzero", 0):
        dims = [x.shape[i] if d == 0 else d for i, d in enumerate(dims)]
    return [x.reshape(dims)]


def _squeeze(node: Node, inputs: list[AnyArray | None]) -> list[AnyArray] | None:
    axes = _axes(node, inputs)
    return [np.squeeze(np.asarray(inputs[0]), None if axes is None else tuple(axes))]


def _unsqueeze(node: Node, inputs: list[AnyArray | None]) -> list[AnyArray] | None:
    axes = _axes(node, inputs)
    x = np.asarray(inputs[0])
    return None if axes is None or x.ndim + len(axes) > MAX_RANK else [np.expand_dims(x, tuple(axes))]


def _concat(node: Node, inputs: list[AnyArray | None]) -> list[AnyArray] | None:
    arrays = [a for a in inputs if a is not None]
    if len({a.dtype for a in arrays}) > 1:
        return None
    return arrays if len(arrays) == 1 else [np.concatenate(arrays, node.integer("axis", 0))]


def _slice(node: Node, inputs: list[AnyArray | None]) -> list[AnyArray] | None:
    x = np.asarray(inputs[0])
    if "starts" in node.attributes:  # before opset 10
        starts, ends, axes, steps = node.integers("starts"), node.integers("ends"), node.integers("axes"), None
    else:
        given = [_array(inputs, i) for i in (1, 2, 3, 4)]
        starts, ends, axes, steps = (None if a is None else a.ravel().tolist() for a in given)
    if starts is None or ends is None:
        return None
    index = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (axes[i] if axes else i), (steps[i] if steps else 1)
        stop = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return [x[tuple(index)]]


def _split(node: Node, inputs: list[AnyArray | None]) -> list[AnyArray] | None:
    x, axis = np.asarray(inputs[0]), node.integer("axis", 0)
    given = _array(inputs, 1)
    sizes = node.integers("split") if given is None else given.ravel().tolist()
    if sizes is None:  # equal chunks, the last one smaller
        chunk = -(-x.shape[axis] // len(node.outputs))
        sizes = [min(chunk, x.shape[axis] - i * chunk) for i in range(len(node.outputs))]
    if len(sizes) != len(node.outputs) or sum(sizes) != x.shape[axis] or min(sizes) < 0:
        return None
    return list(np.split(x, np.cumsum(sizes)[:-1], axis))


def _cast(node: Node, inputs: list[AnyArray | None]) -> list[AnyArray] | None:
    """Only casts that lose nothing, which need no work: every floating type ends as float32."""
    x, to = np.asarray(inputs[0]), ELEMENT_TYPES.get(node.integer("to", 0))
    if to is None or x.dtype.kind != "f" or to[0] not in ("float32", "float64"):
        return None
    return [x]


OPERATORS: dict[str, Operator] = {
    "Identity": _identity,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Cast": _cast,
}
