"""Names of parameters in PyTorch, recovered from what exporters leave in an ONNX file.

Three sources, best first: the tensor's own ONNX name, when it is the parameter's; the exporter's note on what a
constant was folded from; the module path carried by the node that consumes it, with the parameter's role there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fastattn.loaders import callpaths
from fastattn.loaders.onnx_constants import Constant
from fastattn.loaders.onnx_format import Node
from fastattn.loaders.tensors import AnyArray

SCOPES = "pkg.torch.onnx.name_scopes"  # on nodes: the modules around it, outermost first, then the node itself
CLASSES = "pkg.torch.onnx.class_hierarchy"  # on nodes: their classes, in the same order
SPEC_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"  # on values: PARAMETER, BUFFER, CONSTANT_TENSOR, …
FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"  # on values: what a folded constant was computed from

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)*\Z")
_MERGED = re.compile(r"_merged_\d+\Z")  # optimum, when it joins two decoders into one file
_MACHINE = re.compile(r"\w+_\d+\Z|[a-z]\d+\Z")  # a name without a dot that an exporter made: val_12, embedding_1, t5
_OF_NODE = re.compile(r"\.(MatMul|Add)\.(weight|bias)\Z")  # onnxruntime-genai: what this node takes, as it takes it
_LIFTED = re.compile(r"\w*(lifted_tensor|tensor_constant)_?\d*\Z")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_NORM = re.compile(r"(norm|\bln)[^.]*\Z", re.I)


def own_name(onnx_name: str) -> str:
    """The name without what optimum appends when it merges decoders."""
    return _MERGED.sub("", onnx_name)


def is_parameter_name(onnx_name: str, notes: dict[str, str], noted: bool) -> bool:
    """Whether a tensor's ONNX name is the name of a parameter or buffer.

    `notes` is the exporter's metadata of this value; `noted` tells that the exporter annotates parameters at all
    (the dynamo exporter does), so that a value without a note is one it made itself.
    """
    name = own_name(onnx_name)
    if not _DOTTED.match(name) or _OF_NODE.search(name):  # onnx::MatMul_12, /fc/Constant_output_0, 123; fc.Add.bias
        return False
    if SPEC_KIND in notes:
        return notes[SPEC_KIND] in ("PARAMETER", "BUFFER")
    return not noted and not _MACHINE.match(name) and not _LIFTED.match(name.rsplit(".", 1)[-1])


def folded_from(notes: dict[str, str]) -> str:
    """The one parameter a folded constant was computed from, or ''."""
    names = _quoted(notes.get(FOLDED_FROM, ""))
    return names[0] if len(names) == 1 and _DOTTED.match(names[0]) else ""


@dataclass(frozen=True)
class Module:
    """The module a node belongs to: its path ('' at the root), its class if known, and whether the path is that of the
    parameters for certain (dynamo) or of the calls that led there (TorchScript), which differ for shared modules."""

    path: str
    cls: str
    certain: bool


def module_of(node: Node) -> Module | None:
    """Where the node comes from, or None when the exporter did not say."""
    scopes = _quoted(node.metadata.get(SCOPES, ""))
    if scopes:
        classes = _quoted(node.metadata.get(CLASSES, ""))
        path = re.sub(r"@\d+", "", scopes[-2]) if len(scopes) > 1 else ""
        cls = classes[-2] if len(classes) == len(scopes) and len(classes) > 1 else ""
        return Module(path, cls, True)
    if node.name.startswith("/"):
        return Module(callpaths.module_path(node.name), "", False)
    return None


def _quoted(text: str) -> list[str]:
    """The strings of a printed Python list."""
    return [a or b for a, b in _QUOTED.findall(text)]


@dataclass(frozen=True)
class Use:
    """A constant in a place where operators of this kind take a parameter."""

    constant: Constant
    role: str  # the parameter's name inside a standard module: weight, bias, running_mean, …
    array: AnyArray  # in PyTorch's layout
    note: str  # "transposed" or ""


# operator -> input position -> role, for the operators that take parameters in PyTorch's own layout
ROLES: dict[str, dict[int, str]] = {
    "Gather": {0: "weight"},
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "LayerNormalization": {1: "weight", 2: "bias"},
    "GroupNormalization": {1: "weight", 2: "bias"},
    "InstanceNormalization": {1: "weight", 2: "bias"},
    "BatchNormalization": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    "RMSNormalization": {1: "weight"},
    "SimplifiedLayerNormalization": {1: "weight"},
    "PRelu": {1: "weight"},
}


def uses(node: Node, constants: list[Constant | None], after_product: bool) -> Iterator[Use]:
    """The parameters among a node's inputs. `after_product`: its other input is a product with a weight of the same
    module, so that an Add is a bias."""
    if node.op in ("MatMul", "Gemm"):
        yield from _linear_uses(node, constants)
    elif node.op in ("Add", "Mul"):
        module = module_of(node)
        norm = module is not None and bool(_NORM.search(module.cls or module.path))
        for constant in constants:
            if constant is None or constant.array.ndim != 1:
                continue
            if node.op == "Add" and (after_product or norm):
                yield Use(constant, "bias", constant.array, "")
            elif node.op == "Mul" and norm and constant.array.size > 1:
                yield Use(constant, "weight", constant.array, "")
    else:
        for position, role in ROLES.get(node.op, {}).items():
            constant = constants[position] if position < len(constants) else None
            if constant is not None and (node.op != "Gather" or constant.array.ndim == 2):
                yield Use(constant, role, constant.array, "")


def _linear_uses(node: Node, constants: list[Constant | None]) -> Iterator[Use]:
    """x W, W x and Gemm: PyTorch keeps the weight as [out, in]."""
    left, right = (constants + [None, None])[:2]
    if right is not None and right.array.ndim == 2:
        flipped = not node.integer("transB", 0)
        yield Use(right, "weight", right.array.T if flipped else right.array, "transposed" if flipped else "")
    elif left is not None and left.array.ndim == 2:
        flipped = bool(node.integer("transA", 0))
        yield Use(left, "weight", left.array.T if flipped else left.array, "transposed" if flipped else "")
    if node.op == "Gemm" and len(constants) > 2 and (bias := constants[2]) is not None and bias.array.ndim == 1:
        yield Use(bias, "bias", bias.array, "")


def plain_product(node: Node) -> bool:
    """Whether the product is x W without factors, so that the constant is the parameter itself."""
    return node.number("alpha", 1.0) == 1.0 and node.number("beta", 1.0) == 1.0


def derived_name(module: Module | None, role: str, bias: str) -> tuple[str, bool]:
    """The parameter's name from the module path, and whether that is only a call path; '' if there is no path.

    `bias` is the name of the bias added to the product, '' if none. It knows better than the path where one module
    computes several products (`attn.in_proj_bias` under `attn` says `attn.in_proj_weight`) and where the path is
    that of the calls.
    """
    path = module.path if module else ""
    if role == "weight" and bias.endswith("bias"):
        close = bias.startswith(path + ".") if module and module.certain else callpaths.fits(path, bias)
        if not path or close:
            return bias[: -len("bias")] + "weight", False
    return (f"{path}.{role}", not (module and module.certain)) if path else ("", False)
