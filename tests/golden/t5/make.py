"""Makes the golden files of this folder: tiny T5 models in every shape they are published in, and what PyTorch and transformers
compute with them.

    python tests/golden/t5/make.py

needs torch, transformers 4.57, optimum-onnx, onnxruntime and onnxscript; the tests need none of them.

    relu, gated      trained: T5 (relu, tied head) and T5 v1.1 (gated-gelu, own head): config.json, model.safetensors,
                     runs.json.gz (ids of `generate`), logits.npz (logits, encoder outputs and attention in float32, the
                     first two also in float64)
        optimum/     exported by optimum: encoder_model.onnx, decoder_model_merged.onnx
        separate/    the same, decoder_model.onnx and decoder_with_past_model.onnx (relu only)
        whole/       model.onnx by torch.onnx.export, TorchScript (relu) or dynamo (gated)
    mt5, umt5, silu  random: model.safetensors and logits.npz without attention
"""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimum.exporters.onnx import main_export
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "exports"))
from make_exports import strip  # noqa: E402

LENGTHS = [1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 20, 24, 31, 150]
PAD, EOS, VOCABULARY, NEW = 0, 1, 101, 24
KINDS: dict[str, dict[str, Any]] = {
    "relu": {"model_type": "t5", "feed_forward_proj": "relu", "tie_word_embeddings": True},
    "gated": {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {"model_type": "mt5"},
    "umt5": {"model_type": "umt5"},
    "silu": {"model_type": "t5", "feed_forward_proj": "gated-silu", "tie_word_embeddings": False},
}
TRAINED = ("relu", "gated")


def tiny(kind: str) -> PreTrainedModel:
    """d_kv * heads differs from d_model; the decoder is shallower than the encoder."""
    torch.manual_seed(3)
    sizes = {"d_model": 32, "d_kv": 6, "d_ff": 48, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 2}
    config = AutoConfig.for_model(
        **KINDS[kind], **sizes, vocab_size=VOCABULARY, relative_attention_num_buckets=16,
        relative_attention_max_distance=40, decoder_start_token_id=PAD, attn_implementation="eager")  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    if kind in TRAINED:
        train(model)
    with torch.no_grad():  # what initialisation leaves alike
        for name, tensor in model.named_parameters():
            if name.endswith("layer_norm.weight"):
                tensor.mul_(1 + 0.1 * torch.randn_like(tensor))
    return model


def train(model: PreTrainedModel) -> None:
    """A little of a toy task (renamed tokens, neighbours swapped), so that outputs differ, hesitate and end."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(7)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(500):
        rows = [[*rng.integers(2, VOCABULARY, rng.integers(1, 16)).tolist(), EOS] for _ in range(48)]
        wanted = [[*(2 + (7 * t) % 99 for t in (*row[1:-1:2], *row[:-1:2])), EOS] for row in rows]
        ids, mask = padded(rows)
        labels, known = padded(wanted)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels.masked_fill(known == 0, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"trained to a loss of {loss.item():.2f}")


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


def sources(lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(11)
    return [[*rng.integers(2, VOCABULARY, n - 1).tolist(), EOS] for n in lengths]


def cleaned(row: list[int]) -> list[int]:
    """Ids without the start token, the end token and what pads the batch behind it."""
    row = row[1:]
    return row[: row.index(EOS)] if EOS in row else row


def make_runs(model: PreTrainedModel, folder: Path) -> None:
    rows = sources(LENGTHS)
    ids, mask = padded(rows)
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
        runs.append({"options": options, "ids": [cleaned(row) for row in out.sequences.tolist()], "scores": scores})
        print(options, sorted({len(row) for row in runs[-1]["ids"]}))
    with gzip.GzipFile(folder / "runs.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps({"sources": rows, "max_new_tokens": NEW, "runs": runs}).encode())


def make_logits(model: PreTrainedModel, folder: Path, attention: bool) -> None:
    rows = sources(LENGTHS)[:-1:2]
    ids, mask = padded(rows)
    targets = torch.randint(2, VOCABULARY, (len(rows), 8), generator=torch.Generator().manual_seed(5))
    targets[:, 0] = PAD
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


class Whole(nn.Module):
    """Ids to logits, with the parameter names of T5ForConditionalGeneration."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.shared, self.encoder, self.decoder, self.lm_head = (
            model.shared,
            model.encoder,
            model.decoder,
            model.lm_head,
        )
        self.scale = model.config.d_model**-0.5 if model.config.tie_word_embeddings else 1.0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        memory = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state
        x = self.decoder(input_ids=decoder_input_ids, encoder_hidden_states=memory, encoder_attention_mask=attention_mask,
                         use_cache=False, return_dict=True).last_hidden_state  # fmt: skip
        return self.lm_head(x * self.scale)


def make_whole(model: PreTrainedModel, folder: Path, dynamo: bool) -> None:
    folder.mkdir()
    inputs = (torch.randint(2, 99, (2, 7)), torch.ones(2, 7, dtype=torch.int64), torch.randint(2, 99, (2, 5)))
    names = ["input_ids", "attention_mask", "decoder_input_ids"]
    model.config.use_cache = False
    options: dict[str, Any] = {"input_names": names, "output_names": ["logits"]}
    if dynamo:
        axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        options |= {
            "dynamic_shapes": (axes, axes, {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}),
            "external_data": False,
        }
    else:
        options |= {"dynamic_axes": {name: {0: "batch", 1: f"length_{name}"} for name in names}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Whole(model).eval(), inputs, str(folder / "model.onnx"), dynamo=dynamo, verbose=False, **options
        )
    strip(folder / "model.onnx")
    model.config.use_cache = True
    shutil.copy(folder.parent / "config.json", folder / "config.json")


def make_optimum(saved: Path, folder: Path, decoders: tuple[str, ...], **options: Any) -> None:
    with tempfile.TemporaryDirectory() as out:
        main_export(str(saved), out, task="text2text-generation-with-past", do_validation=False, **options)
        folder.mkdir()
        for name in ("config.json", "generation_config.json", "encoder_model.onnx", *decoders):
            shutil.copy(Path(out) / name, folder / name)
            if name.endswith(".onnx"):
                strip(folder / name)


def main() -> None:
    for kind in KINDS:
        folder = HERE / kind
        shutil.rmtree(folder, ignore_errors=True)
        model = tiny(kind)
        model.save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)
        make_logits(model, folder, kind in TRAINED)
        if kind in TRAINED:
            make_runs(model, folder)
            make_optimum(folder, folder / "optimum", ("decoder_model_merged.onnx",))
            make_whole(model, folder / "whole", dynamo=kind == "gated")
    both = ("decoder_model.onnx", "decoder_with_past_model.onnx")
    make_optimum(HERE / "relu", HERE / "relu" / "separate", both, no_post_process=True)


if __name__ == "__main__":
    main()
