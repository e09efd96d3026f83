"""What the scripts that make golden encoder-decoder models share: a toy task, runs of `generate`, logits, exports by optimum."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimum.exporters.onnx import main_export
from torch import Tensor
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parent / "exports"))
from make_exports import strip

__all__ = ["NEW", "VOCABULARY", "make_logits", "make_optimum", "make_runs", "sources", "strip", "train"]

VOCABULARY, NEW = 101, 24


def first(model: PreTrainedModel) -> int:
    """The first id behind the special tokens."""
    c = model.config
    return 1 + max(c.pad_token_id, c.eos_token_id, c.bos_token_id or 0)


def train(model: PreTrainedModel) -> None:
    """A little of a toy task (renamed tokens, neighbours swapped), so that outputs differ, hesitate and end."""
    torch.set_num_threads(1)
    rng, low, end = np.random.default_rng(7), first(model), model.config.eos_token_id
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(500):
        rows = [[*rng.integers(low, VOCABULARY, rng.integers(1, 16)).tolist(), end] for _ in range(48)]
        wanted = [[*(low + (7 * t) % (VOCABULARY - low) for t in (*row[1:-1:2], *row[:-1:2])), end] for row in rows]
        ids, mask = padded(model, rows)
        labels, known = padded(model, wanted)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels.masked_fill(known == 0, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"trained to a loss of {loss.item():.2f}")


def padded(model: PreTrainedModel, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width, pad = max(map(len, rows)), model.config.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


def sources(model: PreTrainedModel, lengths: list[int]) -> list[list[int]]:
    rng, end = np.random.default_rng(11), model.config.eos_token_id
    return [[*rng.integers(first(model), VOCABULARY, n - 1).tolist(), end] for n in lengths]


def cleaned(row: list[int], end: int) -> list[int]:
    """Ids without the start token, the end token and what pads the batch behind it."""
    row = row[1:]
    return row[: row.index(end)] if end in row else row


def make_runs(model: PreTrainedModel, folder: Path, lengths: list[int]) -> None:
    rows, end = sources(model, lengths), model.config.eos_token_id
    ids, mask = padded(model, rows)
    cases: list[dict[str, Any]] = [{"num_beams": 1}]
    for early, penalty in itertools.product((True, False, "never"), (0.6, 1.0, 2.0)):
        cases.append({"num_beams": 4, "early_stopping": early, "length_penalty": penalty})
    cases += [
        {"num_beams": 4, "num_return_sequences": 3},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
        {"num_beams": 1, "repetition_penalty": 1.5, "suppress_tokens": [5, 6, 7]},
        {"num_beams": 2, "forced_bos_token_id": 9, "length_penalty": 0.0},
    ]
    runs = []
    for options in cases:
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=NEW,
                return_dict_in_generate=True,
                output_scores=True,
                **options,
            )
        scores = out.sequences_scores.tolist() if options["num_beams"] > 1 else None
        runs.append(
            {"options": options, "ids": [cleaned(row, end) for row in out.sequences.tolist()], "scores": scores}
        )
        print(options, sorted({len(row) for row in runs[-1]["ids"]}))
    with gzip.GzipFile(folder / "runs.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps({"sources": rows, "max_new_tokens": NEW, "runs": runs}).encode())


def make_logits(model: PreTrainedModel, folder: Path, rows: list[list[int]], attention: bool) -> None:
    ids, mask = padded(model, rows)
    targets = torch.randint(first(model), VOCABULARY, (len(rows), 8), generator=torch.Generator().manual_seed(5))
    targets[:, 0] = model.config.decoder_start_token_id
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, decoder_input_ids=targets, output_attentions=True)
        exact = model.double()(input_ids=ids, attention_mask=mask, decoder_input_ids=targets)
        model.float()
    found = {"cross": out.cross_attentions, "own": out.decoder_attentions, "encoder": out.encoder_attentions}
    weights = {name: np.stack([a.numpy()[::3] for a in layers]) for name, layers in found.items() if attention}
    np.savez_compressed(
        folder / "logits.npz", lengths=mask.sum(1).numpy(), sources=ids.int().numpy(), targets=targets.int().numpy(),
        logits=out.logits.numpy(), exact=exact.logits.numpy(), states=out.encoder_last_hidden_state.numpy(),
        exact_states=exact.encoder_last_hidden_state.numpy(), **weights)  # fmt: skip


def make_optimum(saved: Path, folder: Path, decoders: tuple[str, ...], **options: Any) -> None:
    with tempfile.TemporaryDirectory() as out:
        main_export(str(saved), out, task="text2text-generation-with-past", do_validation=False, **options)
        folder.mkdir()
        for name in ("config.json", "generation_config.json", "encoder_model.onnx", *decoders):
            shutil.copy(Path(out) / name, folder / name)
            if name.endswith(".onnx"):
                strip(folder / name)
