"""Call paths: what torch.onnx's TorchScript exporter writes instead of module paths.

A node is named after the chain of modules being called: `/decoder/rnn/GRU`. Where each module is called by its parent,
that is the module path. A wrapper that reaches inside (`self.decoder.attention.W_k(x)`) leaves components out, and a
second call of a like-named module gets a number: `/W_k/MatMul`, `/rnn_1/GRU`.
"""

from __future__ import annotations

import re

_REPEAT = re.compile(r"_\d+\Z")


def module_path(node_name: str) -> str:
    """`/layers.0/fc/MatMul` -> `layers.0.fc`; children of a Sequential repeat its name: `/net/net.0/Gemm`, `net.0`."""
    parts: list[str] = []
    for part in node_name.split("/")[1:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def base(path: str) -> str:
    """The path without the numbers of repeated calls."""
    return ".".join(_REPEAT.sub("", part) for part in path.split("."))


def fits(call_path: str, module: str) -> bool:
    """Whether the parts of the call path occur in the module path, in order; repeat numbers do not count."""
    rest = iter(module.split("."))
    return all(any(here in (part, _REPEAT.sub("", part)) for here in rest) for part in call_path.split("."))


def ends_alike(call_path: str, module: str) -> bool:
    """Whether both paths name a module by the same attribute."""
    last = call_path.rsplit(".", 1)[-1]
    return module.rsplit(".", 1)[-1] in (last, _REPEAT.sub("", last))
