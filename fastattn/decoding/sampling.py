"""Drawing tokens: temperature, top-k, nucleus (Holtzman et al. 2020) and min-p (Nguyen et al. 2024), in Hugging Face's
order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.decoding.options import GenerationOptions
from fastattn.runtime import FloatArray, IntArray

Scores = NDArray[np.float64]
Places = NDArray[np.intp]

_BINS, _SPAN = 1024, 40.0  # scores are counted in so many equal parts of so much below the best one


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
    """Removes the least likely tokens as long as together they have at most 1 - top_p of the probability; of equally likely
    ones the first go first. Only the tokens that score about as much as the last one to go are put in order."""
    best = scores.max()
    if not np.isfinite(best):  # nothing can be told apart
        return scores
    weights = np.exp(scores - best)
    bins = (np.maximum(scores - (best - _SPAN), 0.0) * (_BINS / _SPAN)).astype(np.intp)
    summed = np.cumsum(np.bincount(bins, weights))
    most = (1 - top_p) * summed[-1]
    end = int(np.searchsorted(summed, most, side="right"))  # all bins before it go
    inside = np.flatnonzero(bins == end)
    inside = inside[np.argsort(scores[inside], kind="stable")]
    before = summed[end - 1] if end else 0.0
    removed = bins < end
    removed[inside[before + np.cumsum(weights[inside]) <= most]] = True
    if len(scores) - np.count_nonzero(removed) < keep:
        removed[len(scores) - 1 - _first(-scores[::-1], keep)] = False  # the last ones in that order
    scores[removed] = -np.inf
    return scores


def _first(costs: Scores, n: int) -> Places:
    """Where the n least stand, in ascending order; of equal ones the first, NaN last."""
    found = np.arange(len(costs))
    if n < len(costs):
        least = np.partition(costs, n - 1)[n - 1]
        found = found if np.isnan(least) else np.flatnonzero(costs <= least)
    return found[np.argsort(costs[found], kind="stable")][:n]


def draw(scores: Scores, random: np.random.Generator) -> int:
    """The index of one token drawn from softmax(scores); the first if none can be drawn."""
    share, left = random.random(), np.flatnonzero(scores > -np.inf)
    if left.size:
        cumulative = np.cumsum(np.exp(scores[left] - scores.max()))
        at = int(np.searchsorted(cumulative, share * cumulative[-1], side="right"))
        if at < left.size:
            return int(left[at])
    return int(np.argmax(scores))


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
    left = np.flatnonzero(total > -np.inf)  # noise for these alone: there may be fifty of a hundred thousand
    chosen = left[_first(-(total[left] + random.gumbel(size=left.size)), keep)]
    if chosen.size < keep:
        others = np.setdiff1d(np.arange(total.size), left, assume_unique=True)
        chosen = np.concatenate([chosen, others[: keep - chosen.size]])
    beams, tokens = np.divmod(chosen, scores.shape[1])
    picked = warped[beams if len(warped) > 1 else 0, tokens]
    return picked.astype(np.float32), beams.astype(np.int32), tokens.astype(np.int32)
