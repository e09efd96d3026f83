import numpy as np
from numpy.typing import NDArray

from fastattn._native import Weight

_F = NDArray[np.float32]
_L = NDArray[np.int64]

def attention(
    query: _F,
    key: _F,
    value: _F,
    mask: _F | NDArray[np.bool_] | None,
    left: int,
    right: int,
    q_start: _L | None,
    kv_lengths: _L | None,
    scale: float,
    softcap: float,
    out: _F,
    weights: _F | None,
) -> None: ...
def score_attention(
    query: _F, keys: _F, v: _F | None, values: _F, lengths: _L | None, context: _F, weights: _F
) -> None: ...

PANEL: int

def pack(weight: _F, dtype: str) -> Weight: ...
def linear(
    x: _F, weight: _F | Weight, first_panel: int, bias: _F | None, activation: str, residual: _F | None, out: _F
) -> None: ...
def softmax(x: _F, out: _F) -> None: ...
def log_softmax(x: _F, out: _F) -> None: ...
def activation(x: _F, kind: str, out: _F) -> None: ...
def layer_norm(x: _F, weight: _F | None, bias: _F | None, eps: float, out: _F) -> None: ...
def rms_norm(x: _F, weight: _F | None, eps: float, out: _F) -> None: ...
def top_k(x: _F, k: int, values: _F, indices: NDArray[np.int32]) -> None: ...
def embedding(ids: _L, weight: _F | Weight, scale: float, out: _F) -> None: ...
def cell(cell: str, from_x: _F, from_h: _F, h: _F, c: _F | None) -> None: ...
def recurrent(
    cell: str,
    reverse: bool,
    x: _F,
    weight_ih: _F | Weight,
    weight_hh: _F | Weight,
    bias_ih: _F | None,
    bias_hh: _F | None,
    lengths: _L | None,
    out: _F,
    h: _F,
    c: _F | None,
) -> None: ...
