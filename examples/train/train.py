"""Train, evaluate and export one of the bundled translators.

    python -m examples.train.train --model en-fr-bahdanau --out build/en-fr-bahdanau --seed 1

Writes the ONNX files, configuration, tokenizers and model card to --out, and checkpoint.pt beside them unless --clean.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from . import card, export, marian
from .data import Batch, batches
from .evaluate import alignment_agreement, exact_matches, held_out
from .rnn import RnnAttention, RnnConfig
from .tokenizer import Encoder, build

SENTENCES = {"en-fr-bahdanau": 1_900_000, "en-fr-luong": 1_300_000, "en-fr-transformer": 1_300_000}
LEARNING_RATE = {"en-fr-bahdanau": 3e-3, "en-fr-luong": 4e-3, "en-fr-transformer": 2e-3}
EVALUATION_SEEDS = (2024, 2025)


def make_model(name: str, sizes: tuple[int, int]) -> nn.Module:
    if name == "en-fr-transformer":
        return marian.make_model(sizes[0])
    if name == "en-fr-bahdanau":
        return RnnAttention(RnnConfig(*sizes))
    return RnnAttention(
        RnnConfig(
            *sizes, cell="lstm", attention="luong", score="general", encoder_hidden_size=112, decoder_hidden_size=176
        )
    )


def losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the words, and of the attention weights against the grammar's alignment, per target token."""
    states, weights = model(batch.input_ids, batch.attention_mask, batch.decoder_input_ids)
    real = batch.labels != -100
    words = nn.functional.cross_entropy(model.lm_head(states[real]), batch.labels[real])
    guided = -(batch.alignment * torch.log(weights + 1e-6)).sum() / real.sum()
    return words, guided


def schedule(step: int, total: int, warmup: int = 200) -> float:
    """Linear warm-up, a plateau, and over the last half a cosine down to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * step / total - 1)))


def train(
    model: nn.Module,
    encoder: Encoder,
    *,
    steps: int,
    batch_size: int,
    rate: float,
    seed: int,
    guide: float,
    half_precision: bool,
    check: Callable[[], str],
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98), eps=1e-9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps))
    began = time.perf_counter()
    model.train()
    for step, batch in zip(range(1, steps + 1), batches(encoder, seed, batch_size), strict=False):
        with torch.autocast("cpu", torch.bfloat16, enabled=half_precision and step < 0.85 * steps):
            words, guided = losses(model, batch)
        optimizer.zero_grad()
        (words + guide * guided).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 100 == 0:
            print(
                f"step {step:6}/{steps}  words {words.item():.4f}  alignment {guided.item():.4f}  "
                f"{(time.perf_counter() - began) / step:.3f} s/step",
                flush=True,
            )
        if step % 500 == 0:
            model.eval()
            print("   ", check(), flush=True)
            model.train()
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=sorted(SENTENCES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sentences", type=int, help="how many to train on")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--bfloat16", action="store_true", help="autocast for the first 85 %%: faster where the CPU has AMX"
    )
    parser.add_argument("--resume", type=Path, help="start from this checkpoint.pt")
    parser.add_argument("--before", type=int, default=0, help="sentences that checkpoint has seen, for the model card")
    parser.add_argument("--checkpoint", type=Path, help="export this checkpoint.pt instead of training")
    parser.add_argument("--exporter", choices=("torchscript", "dynamo"), default="torchscript")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    source, target, *sizes = build(shared=options.model == "en-fr-transformer")
    encoder = Encoder(source, target)
    model = make_model(options.model, (sizes[0], sizes[1]))
    sentences = options.sentences or SENTENCES[options.model]
    options.out.mkdir(parents=True, exist_ok=True)
    print(
        f"{options.model}: {sum(p.numel() for p in model.parameters()):,} parameters, vocabularies {sizes}", flush=True
    )
    if options.resume:
        model.load_state_dict(torch.load(options.resume))
    if options.checkpoint:
        model.load_state_dict(torch.load(options.checkpoint))
        model.eval()
    else:
        sample = held_out(7, 500)

        def check() -> str:
            torch.save(model.state_dict(), options.out / "checkpoint.pt")
            return f"{exact_matches(model, encoder, sample)[0]:.2%} of 500 held-out sentences exact"

        train(
            model,
            encoder,
            steps=sentences // options.batch_size,
            batch_size=options.batch_size,
            rate=options.rate or LEARNING_RATE[options.model],
            seed=options.seed,
            guide=0.3,
            half_precision=options.bfloat16,
            check=check,
        )
        torch.save(model.state_dict(), options.out / "checkpoint.pt")
    measured = {
        search: {seed: exact_matches(model, encoder, held_out(seed, 2000), num_beams)[0] for seed in EVALUATION_SEEDS}
        for search, num_beams in (("greedy", 1), ("beam 4", 4))
    }
    print("held out, exact:", measured, flush=True)
    export.export(model, options.out, source, target, exporter=options.exporter)
    agreement = alignment_agreement(model, encoder, held_out(EVALUATION_SEEDS[0], 500))
    card.write(options.model, model, options.out, measured, agreement, sentences + options.before, str(options.seed))


if __name__ == "__main__":
    main()
