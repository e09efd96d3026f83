"""Drawing tokens: temperature, top-k, nucleus (Holtzman et al. 2020) and min-p (Nguyen et al. 2024), in Hugging Face's
order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.decoding.options import GenerationOptions
from fastattn.runtime import FloatArray, IntArray

Scores = NDArray[np.float64]


def generator(seed: int | None, copy: int) -> np.random.Generator:
    """The source of one sequence's randomness; it depends on the seed and the copy only, never on the batch."""
    return np.random.default_rng(None if seed is None else [seed, copy])


def warp(scores: Scores, options: GenerationOptions, keep: int = 1) -> Scores:
    """One row's scores [k], in any order, after the options of sampling; what must not be drawn is minus infinity.

    At least `keep` tokens remain.
    """
    scores = scores / options.temperature
    if options.top_k and max(options.top_k, keep) < len(scores):
        k = max(options.top_k, keep)
        scores[scores < np.partition(scores, -k)[-k]] = -np.inf
    if options.top_p < 1:
        scores = _nucleus(scores, options.top_p, keep)
    if options.min_p:
        best = np.partition(scores, -keep)[-keep:] if keep < len(scores) else scores
        scores[scores < min(best.max() + np.log(options.min_p), best.min())] = -np.inf
    return scores


def _nucleus(scores: Scores, top_p: float, keep: int) -> Scores:
    """Removes the least likely tokens as long as together they have at most 1 - top_p of the probability."""
    order = np.argsort(scores, kind="stable")
    weights = _weights(scores[order])
    removed = np.cumsum(weights) <= (1 - top_p) * weights.sum()
    removed[len(removed) - min(keep, len(removed)) :] = False
    scores[order[removed]] = -np.inf
    return scores


def _weights(scores: Scores) -> Scores:
    """Softmax without its divisor; zeros if nothing can be drawn."""
    best = scores.max()
    return np.exp(scores - best) if best > -np.inf else np.zeros_like(scores)


def draw(scores: Scores, random: np.random.Generator) -> int:
    """The index of one token drawn from softmax(scores); the first if none can be drawn."""
    cumulative = np.cumsum(_weights(scores))
    at = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
    return at if at < len(scores) else int(np.argmax(scores))


def draw_beams(
    scores: FloatArray, running: FloatArray, options: GenerationOptions, keep: int, random: np.random.Generator
) -> tuple[FloatArray, IntArray, IntArray]:
    """`keep` different continuations of one input's beams, drawn in proportion to their accumulated probability.

    scores: processed log-probabilities [beams or 1, V] (1: all beams share it); running [beams]: their accumulated
    ones. Returns scores, beams and tokens, each [keep], in the order drawn. The k largest of log-probability + Gumbel
    noise are a draw without replacement (Yellott 1977; Kool et al. 2019).
    """
    at_least = max(len(options.eos), 1) + 1
    warped = np.stack([warp(row.astype(np.float64), options, at_least) for row in scores])
    total = (warped + running[:, None].astype(np.float64)).ravel()
    with np.errstate(invalid="ignore"):
        noisy = total + random.gumbel(size=total.shape)
    chosen = np.argsort(-noisy, kind="stable")[:keep]
    beams, tokens = np.divmod(chosen, scores.shape[1])
    picked = warped[beams if len(warped) > 1 else 0, tokens]
    return picked.astype(np.float32), beams.astype(np.int32), tokens.astype(np.int32)
