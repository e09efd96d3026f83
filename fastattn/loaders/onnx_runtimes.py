"""What tells that a file was rewritten for one runtime: its weights quantised, or packed for fused nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fastattn.errors import LoadError
from fastattn.loaders.onnx_constants import Constant
from fastattn.loaders.onnx_format import Node

# operators that take integers for weights (ONNX; com.microsoft)
QUANTIZED = {
    "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv",
    "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QAttention", "DynamicQuantizeLSTM", "QEmbedLayerNormalization",
    "MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "QMoE",
}  # fmt: skip
# those of com.microsoft that stand for a whole attention; its projections are often packed into one matrix
FUSED = {
    "Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention", "PackedMultiHeadAttention",
    "DecoderMaskedSelfAttention", "DecoderMaskedMultiHeadAttention",
}  # fmt: skip


@dataclass
class Rewritten:
    """The nodes of a file that say so."""

    quantized: Counter[str] = field(default_factory=Counter)
    fused: Counter[str] = field(default_factory=Counter)

    def see(self, node: Node, inputs: list[Constant | None]) -> None:
        of_weights = (
            node.op == "DequantizeLinear" and bool(inputs) and inputs[0] is not None and inputs[0].array.ndim > 1
        )
        if node.op in QUANTIZED or of_weights:
            self.quantized[node.op] += 1
        if node.op in FUSED:
            self.fused[node.op] += 1

    def refuse(self, path: object) -> None:
        """Raises LoadError where weights are quantised: what is left of them may look like a whole model."""
        if self.quantized:
            found = _listed(self.quantized)
            advice = "load the float32 or float16 export and have it quantised here: compute_type='int8' or 'int4'"
            raise LoadError(f"{path}: its weights are quantised ({found}), expected floating-point ones; {advice}")

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
