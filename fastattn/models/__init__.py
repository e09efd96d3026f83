"""One file per family of models; `FAMILIES` maps the `model_type` of a config.json to its file.

A family file has `build(config) -> Architecture`: the modules, called once for each graph.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fastattn.errors import LoadError
from fastattn.models.architecture import Architecture, shown

FAMILIES = {
    "rnn_attention": "fastattn.models.rnn_attention",
    "marian": "fastattn.models.marian",
    "gpt2": "fastattn.models.gpt2",
    "llama": "fastattn.models.llama",
    "mistral": "fastattn.models.llama",
    "qwen2": "fastattn.models.llama",
    "bart": "fastattn.models.bart",
    "mbart": "fastattn.models.bart",
    "pegasus": "fastattn.models.bart",
    "mt5": "fastattn.models.t5",
    "t5": "fastattn.models.t5",
    "umt5": "fastattn.models.t5",
}

__all__ = ["FAMILIES", "Architecture", "build"]


def build(config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture a config.json describes; LoadError naming `where` if no family here has its `model_type`."""
    model_type = config.get("model_type")
    if model_type is None:
        raise LoadError(f"{where}: config.json with a model_type is needed to know the architecture; found none")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        near = difflib.get_close_matches(str(model_type)[:120] if isinstance(model_type, str) else "", FAMILIES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LoadError(
            f"{where}: model_type {shown(model_type)} is not supported; supported are {sorted(FAMILIES)}{hint}"
        )
    try:
        architecture: Architecture = import_module(FAMILIES[model_type]).build(config)
    except LoadError as error:  # the families say "config.json", here it is known which
        said = str(error)
        raise LoadError(os.path.join(where, said) if said.startswith("config.json") else said) from None
    return architecture
