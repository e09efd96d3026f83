"""Write tests/golden/bundled/*.json.gz: what PyTorch makes of 2,000 held-out sentences with each bundled model.

    python tests/golden/make_bundled.py

The weights are read back from the bundled ONNX files into the PyTorch modules they came from.
Per model: `seed`, `exact` (how many are exactly right) and `sentences`, each [English, French of the grammar, ids], ids
being PyTorch's greedy ids without prompt and end token. `attention` holds one weight matrix, of "I am eating an apple".
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from examples.train import evaluate, export, grammar, tokenizer, train  # noqa: E402
from fastattn.loaders import open_checkpoint  # noqa: E402

SEED, COUNT = 2024, 2000
EXAMPLE = "I am eating an apple"


def weights_of(folder: Path, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict of `model` from the ONNX files; tied tensors are stored once, constants not at all."""
    checkpoint, state = open_checkpoint(folder), dict(model.state_dict())
    stored = {key: torch.from_numpy(np.array(value)) for key, value in checkpoint.tensors.items()}
    prefix = "" if any(key in stored for key in state) else "marian."
    found = {key: stored[key.removeprefix(prefix)] for key in state if key.removeprefix(prefix) in stored}
    for key in set(state) - set(found):
        if key.endswith(("embed_tokens.weight", "lm_head.weight")):
            found[key] = found[f"{prefix}model.shared.weight"]
        elif "embed_positions" not in key:
            raise SystemExit(f"{folder}: {key} is not in the ONNX files")
    return state | found


def make(name: str) -> dict[str, object]:
    source, target, *sizes = tokenizer.build(shared=name == "en-fr-transformer")
    model = train.make_model(name, (sizes[0], sizes[1]))
    model.load_state_dict(weights_of(ROOT / "fastattn" / "bundled" / name, model))
    model.eval()
    encoder = tokenizer.Encoder(source, target)
    pairs = evaluate.held_out(SEED, COUNT)
    sources = [encoder.source(pair.source) for pair in pairs]
    ids, _ = evaluate.greedy(model, sources)
    runtime = export.OnnxTranslator(ROOT / "fastattn" / "bundled" / name)
    found = [row for start in range(0, COUNT, 250) for row in runtime.greedy(sources[start : start + 250])]
    differing = sum(a != b for a, b in zip(ids, found, strict=True))
    if differing:
        raise SystemExit(f"{name}: onnxruntime differs from PyTorch in {differing} of {COUNT} sentences")
    sentences = [
        [" ".join(pair.source), grammar.french_text(pair.target), row] for pair, row in zip(pairs, ids, strict=True)
    ]
    for english, french, row in sentences[:200]:
        assert source.encode(english).ids == encoder.source(english.split()), english
        assert target.encode(french).ids[:-1] == row or target.decode(row) != french, french
    exact = sum(target.decode(row) == french for _, french, row in sentences)
    (row,), (weights,) = evaluate.greedy(model, [source.encode(EXAMPLE).ids])
    return {
        "seed": SEED,
        "exact": exact,
        "sentences": sentences,
        "attention": {
            "source": EXAMPLE,
            "ids": row,
            "weights": [[round(w, 6) for w in line] for line in weights.tolist()],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="*", default=sorted(train.SENTENCES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = ROOT / "tests" / "golden" / "bundled"
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        golden = make(name)
        text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
        path = folder / f"{name}.json.gz"
        path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        print(f"{path.name}: {golden['exact']} of {COUNT} exact, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
