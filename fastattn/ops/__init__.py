"""Single operations on NumPy arrays, run by the C++ kernels: NumPy in, NumPy out, the GIL released while they compute.

What holds for all of them:

* float32 arrays are taken as they are, whatever their strides; each docstring says what is copied. float64, float16,
  bfloat16, integers and bool are converted to float32 (a copy). Results are new float32 arrays. Any other dtype is a
  TypeError, a shape that does not fit a ValueError; both name the argument.
* The number of threads is `fastattn.get_num_threads()`; small problems run alone. The result does not depend on it,
  nor on what else is in the batch, bit by bit.
* A weight that multiplies a few rows at a time is best packed once, with `pack`; every op says which of its weights
  may be.
* Empty batches and empty sequences are allowed; what attends to nothing is zero.
"""

from fastattn.ops.attention import (
    additive_attention,
    attentional_state,
    luong_attention,
    multi_head_attention,
    scaled_dot_product_attention,
)
from fastattn.ops.basic import (
    embedding,
    erf,
    exp,
    gelu,
    layer_norm,
    linear,
    log_softmax,
    relu,
    rms_norm,
    sigmoid,
    silu,
    softmax,
    swish,
    tanh,
    top_k,
)
from fastattn.ops.packed import PackedWeight, pack
from fastattn.ops.recurrent import gru, gru_cell, lstm, lstm_cell

__all__ = [
    "PackedWeight",
    "additive_attention",
    "attentional_state",
    "embedding",
    "erf",
    "exp",
    "gelu",
    "gru",
    "gru_cell",
    "layer_norm",
    "linear",
    "log_softmax",
    "lstm",
    "lstm_cell",
    "luong_attention",
    "multi_head_attention",
    "pack",
    "relu",
    "rms_norm",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "swish",
    "tanh",
    "top_k",
]
