"""Every op and whole sessions in plain NumPy: what the engine is tested against, and the benchmarks' baseline.

Imports NumPy and the errors, nothing else. `dense` holds the public attention ops, `ops` and `stateful` one function
per row of the op table, `session` runs graphs.
"""

from fastattn.reference.dense import (
    additive_attention,
    attentional_state,
    luong_attention,
    multi_head_attention,
    scaled_dot_product_attention,
    softmax,
)
from fastattn.reference.ops import PLAIN
from fastattn.reference.session import ReferenceSession
from fastattn.reference.stateful import KEEPING

OPS = {**PLAIN, **KEEPING}

__all__ = [
    "OPS",
    "ReferenceSession",
    "additive_attention",
    "attentional_state",
    "luong_attention",
    "multi_head_attention",
    "scaled_dot_product_attention",
    "softmax",
]
