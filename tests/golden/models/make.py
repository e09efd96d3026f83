"""Makes the golden files of this folder: a tiny Marian exported by optimum and as transformers saves it, tiny recurrent
translators exported by torch.onnx.export, and what PyTorch and Hugging Face transformers compute with them.

    python tests/golden/models/make.py

needs torch, transformers 4.57, optimum-onnx and onnxruntime (examples/train imports it); the tests need none of them.
"""

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
from transformers import MarianConfig, MarianMTModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))
from examples.train.export import export_rnn  # noqa: E402
from examples.train.rnn import RnnAttention, RnnConfig  # noqa: E402

LENGTHS = [1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 20, 24, 31]
PAD, EOS, VOCABULARY = 100, 0, 101


def marian() -> MarianMTModel:
    """A tiny model, trained for half a minute."""
    torch.manual_seed(3)
    config = MarianConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=64, max_position_embeddings=64, pad_token_id=PAD,
        eos_token_id=EOS, decoder_start_token_id=PAD, forced_eos_token_id=EOS, bos_token_id=None, scale_embedding=True,
        activation_function="swish", attn_implementation="eager", num_beams=1, max_length=None)  # fmt: skip
    model = MarianMTModel(config).eval()
    model.final_logits_bias.normal_(0, 0.3)
    train(model)
    model.generation_config.max_length = None
    model.generation_config.bad_words_ids = [[PAD]]
    return model


def train(model: MarianMTModel) -> None:
    """A little of a toy task (renamed tokens, neighbours swapped), so that outputs differ, hesitate and end."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(7)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(500):
        rows = [[*rng.integers(1, PAD, rng.integers(1, 16)).tolist(), EOS] for _ in range(48)]
        wanted = [[*(1 + (7 * t) % 99 for t in (*row[1:-1:2], *row[:-1:2])), EOS] for row in rows]
        ids, mask = padded(rows, PAD)
        labels, known = padded(wanted, PAD)
        fed = torch.cat([torch.full((len(rows), 1), PAD), labels[:, :-1]], dim=1)
        loss = model(
            input_ids=ids, attention_mask=mask, decoder_input_ids=fed, labels=labels.masked_fill(known == 0, -100)
        ).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"trained to a loss of {loss.item():.2f}")


def sources(lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(11)
    return [[*rng.integers(1, PAD, n - 1).tolist(), EOS] for n in lengths]


def padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


def cleaned(row: list[int]) -> list[int]:
    """Ids without the start token, the end token and what pads the batch behind it."""
    row = row[1:]
    return row[: row.index(EOS)] if EOS in row else row


def make_marian() -> None:
    model, rows = marian(), sources(LENGTHS)
    folder = HERE / "marian"
    with tempfile.TemporaryDirectory() as saved, tempfile.TemporaryDirectory() as out:
        model.save_pretrained(saved)
        main_export(saved, out, task="text2text-generation-with-past", do_validation=False)
        shutil.rmtree(HERE / "marian-safetensors", ignore_errors=True)
        shutil.copytree(saved, HERE / "marian-safetensors")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ("config.json", "generation_config.json", "encoder_model.onnx", "decoder_model_merged.onnx"):
            shutil.copy(Path(out) / name, folder / name)
    ids, mask = padded(rows, PAD)
    runs: list[dict[str, Any]] = []
    cases: list[dict[str, Any]] = [{"num_beams": 1}]
    for early, penalty in itertools.product((True, False, "never"), (0.6, 1.0, 2.0)):
        cases.append({"num_beams": 4, "early_stopping": early, "length_penalty": penalty})
    cases += [
        {"num_beams": 4, "num_return_sequences": 3},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
        {"num_beams": 1, "repetition_penalty": 1.5, "suppress_tokens": [5, 6, 7]},
        {"num_beams": 2, "forced_bos_token_id": 9, "length_penalty": 0.0},
    ]
    for options in cases:
        with torch.no_grad():
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=24, return_dict_in_generate=True, output_scores=True, **options
            )
        scores = out.sequences_scores.tolist() if options["num_beams"] > 1 else None
        runs.append({"options": options, "ids": [cleaned(row) for row in out.sequences.tolist()], "scores": scores})
        print(options, sorted({len(row) for row in runs[-1]["ids"]}))
    with gzip.GzipFile(folder / "runs.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps({"sources": rows, "max_new_tokens": 24, "runs": runs}).encode())
    rows = rows[::3]
    ids, mask = padded(rows, PAD)
    targets = torch.randint(1, PAD, (len(rows), 8), generator=torch.Generator().manual_seed(5))
    targets[:, 0] = PAD
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, decoder_input_ids=targets, output_attentions=True)
        exact = model.double()(input_ids=ids, attention_mask=mask, decoder_input_ids=targets)
    np.savez_compressed(
        folder / "logits.npz", lengths=mask.sum(1).numpy(), sources=ids.int().numpy(),
        targets=targets.int().numpy(), logits=out.logits.numpy(), exact=exact.logits.numpy(),
        cross=np.stack([a.numpy() for a in out.cross_attentions]), own=np.stack([a.numpy() for a in out.decoder_attentions]),
        encoder=np.stack([a.numpy() for a in out.encoder_attentions]))  # fmt: skip


def make_rnn() -> None:
    """Every cell and score, with and without input feeding, one to four layers."""
    variants = itertools.product(
        ("gru", "lstm"),
        (("bahdanau", "additive"), ("luong", "dot"), ("luong", "general"), ("luong", "concat")),
        (False, True),
    )
    for i, (cell, (attention, score), feeding) in enumerate(variants):
        layers = 1 + i % 4
        name = f"rnn-{cell}-{score}-{layers}{'-feeding' if feeding else ''}"
        torch.manual_seed(i)
        config = RnnConfig(
            vocab_size=100, target_vocab_size=35, cell=cell, num_layers=layers, attention=attention, score=score,
            input_feeding=feeding, embedding_size=6, encoder_hidden_size=7, decoder_hidden_size=14, attention_size=5,
            attention_output_size=9)  # fmt: skip
        model = RnnAttention(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.5)
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        config.save(folder)
        export_rnn(model, folder, "torchscript")
        rng = np.random.default_rng(i)
        rows = [[*rng.integers(3, 100, n - 1).tolist(), 1] for n in (1, 4, 9, 17)]
        targets = torch.tensor(rng.integers(0, 35, (4, 8)))
        ids, mask = padded(rows, 0)
        with torch.no_grad():
            states, weights = model(ids, mask, targets)
            logits = model.lm_head(states)
            exact = model.double().lm_head(model(ids, mask, targets)[0])
        np.savez_compressed(
            folder / "logits.npz", sources=ids.int().numpy(), lengths=mask.sum(1).numpy(), targets=targets.int().numpy(),
            logits=logits.numpy(), exact=exact.numpy(), cross=weights.numpy())  # fmt: skip
        print(name)


if __name__ == "__main__":
    make_marian()
    make_rnn()
