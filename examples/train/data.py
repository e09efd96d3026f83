"""Batches of freshly drawn sentence pairs, sorted by length within a pool so that little is padded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .grammar import Pair, training_pairs
from .tokenizer import PAD, Encoder


class Batch(NamedTuple):
    input_ids: Tensor  # (B, S)
    attention_mask: Tensor  # (B, S), 1 = word
    decoder_input_ids: Tensor  # (B, T), the targets shifted right behind the start token
    labels: Tensor  # (B, T), -100 where padded
    alignment: Tensor  # (B, T, S), rows sum to 1


def pad(rows: list[list[int]], value: int = PAD) -> Tensor:
    width = max(map(len, rows))
    return torch.from_numpy(np.array([row + [value] * (width - len(row)) for row in rows]))


def collate(examples: list[tuple[list[int], list[int], list[list[tuple[int, float]]]]]) -> Batch:
    sources, targets, rows = zip(*examples, strict=True)
    input_ids = pad(list(sources))
    cells = [
        (b, t, s, weight) for b, sentence in enumerate(rows) for t, row in enumerate(sentence) for s, weight in row
    ]
    where = np.array(cells)
    alignment = np.zeros((len(examples), max(map(len, targets)), input_ids.shape[1]), np.float32)
    alignment[tuple(where[:, :3].astype(np.int64).T)] = where[:, 3]
    mask = pad([[1] * len(source) for source in sources], 0)
    return Batch(
        input_ids,
        mask,
        pad([[PAD, *target[:-1]] for target in targets]),
        pad(list(targets), -100),
        torch.from_numpy(alignment),
    )


def forget_words(pair: Pair, draw: random.Random) -> Pair:
    """Make one word unknown, and with it the French words that translate it: the model learns to live with gaps."""
    index = draw.randrange(len(pair.source))
    source = list(pair.source)
    source[index] = "<unk>"
    target = [
        "<unk>" if any(s == index and weight > 0.7 for s, weight in row) else word
        for word, row in zip(pair.target, pair.alignment, strict=True)
    ]
    return Pair(source, target, pair.alignment)


def batches(encoder: Encoder, seed: int, batch_size: int, pool: int = 24) -> Iterator[Batch]:
    """Endless. Every pool of `pool` batches is sorted by length, cut, and its batches shuffled."""
    draw = random.Random(seed)
    pairs = training_pairs(seed)
    while True:
        examples = [
            encoder.pair(forget_words(pair, draw) if draw.random() < 0.01 else pair)
            for pair in islice(pairs, batch_size * pool)
        ]
        examples.sort(key=lambda example: (len(example[1]), len(example[0])))
        starts = list(range(0, len(examples), batch_size))
        draw.shuffle(starts)
        for start in starts:
            yield collate(examples[start : start + batch_size])
