"""Exactly right or not: greedy translations of held-out sentences against the grammar's."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn

from . import marian, rnn
from .data import pad
from .grammar import Pair, held_out_pairs
from .tokenizer import Encoder


def held_out(seed: int, count: int) -> list[Pair]:
    return list(islice(held_out_pairs(seed), count))


def greedy(model: nn.Module, sources: list[list[int]]) -> tuple[list[list[int]], list[Tensor]]:
    """Ids without prompt and end token, and attention weights (T, S), for padded batches of 250."""
    search = rnn.greedy_search if isinstance(model, rnn.RnnAttention) else marian.greedy_search
    ids, maps = [], []
    for start in range(0, len(sources), 250):
        part = sources[start : start + 250]
        with torch.no_grad():
            found = search(model, pad(part), pad([[1] * len(row) for row in part], 0))
        ids += found[0]
        maps += found[1]
    return ids, maps


def beam(model: nn.Module, sources: list[list[int]], num_beams: int) -> list[list[int]]:
    """Ids of the best hypothesis: mean log-probability per token, Hugging Face's length_penalty 1."""
    ids = []
    for start in range(0, len(sources), 100):
        part = sources[start : start + 100]
        inputs, mask = pad(part), pad([[1] * len(row) for row in part], 0)
        if isinstance(model, rnn.RnnAttention):
            ids += rnn.beam_search(model, inputs, mask, num_beams)
        else:
            ids += marian.beam_search(model, inputs, mask, num_beams)
    return ids


def exact_matches(
    model: nn.Module, encoder: Encoder, pairs: list[Pair], num_beams: int = 1
) -> tuple[float, list[tuple[Pair, list[int]]]]:
    """Share of exact translations, and what went wrong: the pair and the ids found."""
    encoded = [encoder.pair(pair) for pair in pairs]
    sources = [source for source, _, _ in encoded]
    ids = greedy(model, sources)[0] if num_beams == 1 else beam(model, sources, num_beams)
    wrong = [
        (pair, found) for pair, found, (_, target, _) in zip(pairs, ids, encoded, strict=True) if found != target[:-1]
    ]
    return 1 - len(wrong) / len(pairs), wrong


def alignment_agreement(model: nn.Module, encoder: Encoder, pairs: list[Pair]) -> float:
    """Of the target words that translate one source word, how many attend most to it (in exact translations)."""
    encoded = [encoder.pair(pair) for pair in pairs]
    ids, maps = greedy(model, [source for source, _, _ in encoded])
    hits = [
        int(weights[t].argmax()) == row[0][0]
        for found, weights, (_, target, rows) in zip(ids, maps, encoded, strict=True)
        if found == target[:-1]
        for t, row in enumerate(rows)
        if len(row) == 1
    ]
    return sum(hits) / len(hits)
