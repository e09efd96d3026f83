"""A golden model of each family, for tests that every one must pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import fastattn
from fastattn.models import FAMILIES as KNOWN

GOLDEN = Path(__file__).parent / "golden"


def families() -> list[str]:
    """Folders below golden/, one for each model_type and each kind of recurrent cell."""
    found: dict[Any, str] = {}
    for path in sorted(GOLDEN.glob("*/*/config.json")):
        config = json.loads(path.read_text())
        if config.get("model_type") in KNOWN and any(path.parent.glob("*.onnx")) | any(
            path.parent.glob("*.safetensors")
        ):
            found.setdefault((config["model_type"], config.get("cell")), str(path.parent.relative_to(GOLDEN)))
    return sorted(found.values())


FAMILIES = families()


def inputs(model: fastattn.Model) -> tuple[list[list[int]], list[list[int]]]:
    """Sources and targets of many lengths."""
    rng = np.random.default_rng(7)
    size = min(filter(None, (model._architecture.source_vocabulary, model._architecture.vocabulary))) - 1
    sources = [rng.integers(2, size, n).tolist() for n in (5, 1, 9, 3, 12, 7, 2)]
    return sources, [rng.integers(2, size, n).tolist() for n in (4, 2, 3, 2, 5, 2, 3)]


def logits(model: fastattn.Model, sources: list[list[int]], targets: list[list[int]]) -> np.ndarray[Any, Any]:
    return model.logits(sources, targets) if model._architecture.has_encoder else model.logits(sources)
