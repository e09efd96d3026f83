"""What each compute type costs in accuracy, on the bundled trained models: writes docs/accuracy.md.

python benchmarks/accuracy.py [--check]   --check: print, write nothing
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastattn
from fastattn.packing import COMPUTE_TYPES

ROOT = Path(__file__).parents[1]
TOKENS = 5000  # positions whose logits are compared, at least
Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Row:
    """One model in one compute type against itself in float32, on held-out sentences.

    logit_error: largest absolute difference of a logit, every prefix being that of float32; logit_range: largest minus smallest
    logit there. agreed of tokens: positions where the likeliest token is the same. changed of sentences: greedy
    translations that differ; right: those that are the expected ones.
    """

    model: str
    compute_type: str
    megabytes: float
    logit_error: float
    logit_range: float
    agreed: int
    tokens: int
    changed: int
    right: int
    sentences: int


def held_out(name: str) -> tuple[list[str], list[str]]:
    """The English sentences no model was trained on, and their French."""
    golden = json.loads(gzip.decompress((ROOT / "tests" / "golden" / "bundled" / f"{name}.json.gz").read_bytes()))
    english, french, _ = zip(*golden["sentences"], strict=True)
    return list(english), list(french)


def rows(name: str, backend: str = "native", every: int = 1) -> Iterator[Row]:
    """A row per compute type; `every`: only every so many held-out sentences."""
    english, french = (texts[::every] for texts in held_out(name))
    exact = fastattn.load(name, backend=backend)
    expected = exact.generate(english, num_beams=1, batch_size=64)
    start = int(exact.config["decoder_start_token_id"])
    sources, targets = [], []
    for text, result in zip(english, expected, strict=True):
        sources.append(exact._source(text).ids)
        targets.append([start, *result.token_ids])
        if sum(map(len, targets)) >= TOKENS:
            break
    truth = _logits(exact, sources, targets)
    for kind in COMPUTE_TYPES:
        model = exact if kind == "float32" else fastattn.load(name, compute_type=kind, backend=backend)
        found = model.generate(english, num_beams=1, batch_size=64)
        logits = _logits(model, sources, targets)
        yield Row(
            name,
            kind,
            model.weight_bytes / 1e6,
            float(np.abs(logits - truth).max()),
            float(np.ptp(truth)),
            int((logits.argmax(-1) == truth.argmax(-1)).sum()),
            len(truth),
            sum(a.token_ids != b.token_ids for a, b in zip(found, expected, strict=True)),
            sum(a.text == b for a, b in zip(found, french, strict=True)),
            len(english),
        )


def _logits(model: fastattn.Model, sources: list[Any], targets: list[list[int]]) -> Floats:
    """[tokens, V]: the logits behind each target token, without padding."""
    logits = model.logits(sources, targets)
    return np.concatenate([row[: len(target)] for row, target in zip(logits, targets, strict=True)])


def table(found: list[Row]) -> Iterator[str]:
    """The section "Accuracy by compute type", for this page and others."""
    yield "| model | weights | MB | largest logit error | of the range | same likeliest token | changed translations | right |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for r in found:
        share = f"{100 * r.logit_error / r.logit_range:.2f} %"
        changed = f"{r.changed} of {r.sentences} ({100 * r.changed / r.sentences:.2f} %)"
        cells = [r.model, r.compute_type, f"{r.megabytes:.2f}", f"{r.logit_error:.4f}", share]
        cells += [f"{r.agreed} of {r.tokens}", changed, f"{100 * r.right / r.sentences:.2f} %"]
        yield f"| {' | '.join(cells)} |"


HEAD = """# Accuracy by compute type

Written by `python benchmarks/accuracy.py`. Every bundled model in every compute type against itself in float32, on the
2,000 held-out sentences of `tests/golden/bundled`, decoded greedily.

* *largest logit error*: over all logits behind at least 5,000 target tokens, all types being fed the tokens that float32
  chose; *of the range*: divided by the difference between the largest and the smallest of these logits.
* *same likeliest token*: in how many of these places.
* *changed translations*: of those decoded freely; *right*: translations that are exactly the expected ones.
* *MB*: all weights as they lie in memory."""

KINDS = """
## What is kept in which type

`compute_type` says how matrices are kept: those of linear layers, of recurrent cells, and embeddings (one copy for an embedding
and an output tied to it). Biases, norms, tables of positions and other small parameters stay float32, as do activations, caches
and sums. The column `matrices` of the op table (`fastattn/ops/table.py`) is where this is decided.

| type | a weight | an activation that meets it | the product |
|---|---|---|---|
| `float32` | as it is | float32 | float32 multiply-adds |
| `bfloat16` | nearest, 8 bits of mantissa | the same, at each product | exact, float32 sums |
| `int8` | -127 … 127 times a scale per output | -127 … 127 times a scale per row, at each product | exact integers |
| `int4` | -8 … 7 times a bfloat16 scale per output and 32 inputs | as for int8 | exact integers in each group of 32 |

Beside the three smaller types the attention of an encoder multiplies bfloat16, with float32 sums
([decisions/bfloat16-attention.md](decisions/bfloat16-attention.md)).

A matrix whose every value bfloat16 or float16 holds is kept so under `float32` as well: half the bytes, the same bits in every
result ([decisions/checkpoints-of-16-bits.md](decisions/checkpoints-of-16-bits.md)).

[packing.md](packing.md) has the layouts, [converted-models.md](converted-models.md) how to quantise ahead of time.
`backend="reference"` runs the same quantisation in NumPy (`fastattn/reference/quantized.py`): codes and scales are equal to
the bit."""


def main() -> None:
    parser = argparse.ArgumentParser(description="measures the accuracy of compute types and writes docs/accuracy.md")
    parser.add_argument("--check", action="store_true", help="print, write nothing")
    arguments = parser.parse_args()
    found = [row for name in fastattn.bundled_models() for row in rows(name)]
    page = "\n".join([HEAD, "", *table(found), KINDS]) + "\n"
    if arguments.check:
        print(page)
    else:
        (ROOT / "docs" / "accuracy.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
