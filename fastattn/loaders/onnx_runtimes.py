"""What tells that a file was made for one runtime: its weights quantised, or packed for fused nodes.

Projections that GroupQueryAttention (com.microsoft) takes as one product are told apart: onnxruntime-genai's builder packs
them so, in the order of its input: the rows of the queries, of the keys, of the values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fastattn.errors import LoadError
from fastattn.loaders.onnx_constants import Constant
from fastattn.loaders.onnx_format import Node
from fastattn.loaders.onnx_names import module_of
from fastattn.loaders.tensors import Weight

# operators that take integers for weights (ONNX; com.microsoft)
QUANTIZED = {
    "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv",
    "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QAttention", "DynamicQuantizeLSTM", "QEmbedLayerNormalization",
    "MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "QMoE",
}  # fmt: skip
# those of com.microsoft that stand for a whole attention; its projections are often packed into one matrix
FUSED = {
    "MultiHeadAttention", "GroupQueryAttention", "PackedAttention", "PackedMultiHeadAttention",
    "DecoderMaskedSelfAttention", "DecoderMaskedMultiHeadAttention",
}  # fmt: skip


@dataclass
class Rewritten:
    """The nodes of a file that say so."""

    quantized: Counter[str] = field(default_factory=Counter)
    fused: Counter[str] = field(default_factory=Counter)
    packed: dict[str, tuple[int, int]] = field(default_factory=dict)  # module -> heads of queries, and of keys

    def see(self, node: Node, inputs: list[Constant | None], producers: Mapping[str, Node]) -> None:
        matrices = [constant is not None and constant.array.ndim > 1 for constant in inputs[:2]]
        if node.op in QUANTIZED or (node.op == "DequantizeLinear" and matrices[:1] == [True]):
            self.quantized[node.op] += 1
        with_weights = node.op == "Attention" and matrices[1:] == [True]  # that of ONNX itself has none
        if node.op in FUSED or with_weights:
            self.fused[node.op] += 1
        if node.op == "GroupQueryAttention" and node.inputs and not any(node.inputs[1:3]):
            product = producers.get(node.inputs[0])
            module = module_of(product) if product is not None else None
            heads = node.integer("num_heads", 0), node.integer("kv_num_heads", 0)
            if module is not None and min(heads) > 0 and not node.integer("rotary_interleaved", 0):
                self.packed[module.path] = heads

    def refuse(self, path: object) -> None:
        """Raises LoadError where weights are quantised: what is left of them may look like a whole model."""
        if self.quantized:
            found = _listed(self.quantized)
            advice = "load the float32 or float16 export and have it quantised here: compute_type='int8' or 'int4'"
            raise LoadError(f"{path}: its weights are quantised ({found}), expected floating-point ones; {advice}")

    def parts(self, name: str, weight: Weight) -> dict[str, Weight]:
        """The projections in a tensor of a packed product; {} where it is none."""
        module, _, leaf = name.rpartition(".")
        heads, kv_heads = self.packed.get(module, (0, 0))
        rows = heads + 2 * kv_heads
        if not rows or not weight.shape or weight.shape[0] % rows:
            return {}
        size, begin, found = weight.shape[0] // rows, 0, {}
        for kind, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            end = begin + count * size
            origin = f"{weight.origin}, rows {begin} to {end} of {module}"
            path = f"{module.rpartition('.')[0]}.{kind}_proj.{leaf}"
            found[path] = replace(weight, stored=weight.stored[begin:end], origin=origin, product="")
            begin = end
        return found

    @property
    def hint(self) -> str:
        """Where tensors are missing: why they may be."""
        if not self.fused:
            return ""
        return (
            f"its attention is fused for one runtime ({_listed(self.fused)}), and its weights may be packed for that: "
            "expected the export as optimum or torch.onnx makes it, or safetensors"
        )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{op}, {n} node{'s' * (n > 1)}" for op, n in sorted(counts.items()))
