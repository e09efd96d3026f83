"""Teacher forcing: a decoder run over tokens that are already known, for logits, scores and the attention behind an output.

A step is bit-identical cached or not and alone or in a batch, so this gives exactly what decoding saw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastattn.runtime import AttentionRecord, IntArray, Select, Session, StepResult


def forced(session: Session, targets: Sequence[IntArray], select: Select, sequential: bool) -> list[StepResult]:
    """One result per sequence, with a row for each of its tokens.

    targets: int32 decoder inputs, one array per sequence of the batch, the start token first. sequential: the decoder takes
    one token a step (recurrent models). The batch has been encoded or started, and is used up.
    """
    if not sequential:
        whole = session.step(targets, select, all_rows=True)
        ends = np.cumsum([len(t) for t in targets])
        return [_rows(whole, slice(end - len(t), end)) for t, end in zip(targets, ends.tolist(), strict=True)]
    steps: list[list[StepResult]] = [[] for _ in targets]
    for t in range(max(len(target) for target in targets)):
        # a sequence that is through repeats its last token; those rows are dropped
        result = session.step(np.array([target[min(t, len(target) - 1)] for target in targets], np.int32), select)
        for s, target in enumerate(targets):
            if t < len(target):
                steps[s].append(_rows(result, slice(s, s + 1)))
    return [_joined(rows) for rows in steps]


def _rows(result: StepResult, rows: slice) -> StepResult:
    return StepResult(
        result.scores[rows],
        result.tokens[rows],
        result.log_sum_exp[rows],
        None if result.logits is None else result.logits[rows],
        [AttentionRecord(a.kind, a.layer, a.weights[rows]) for a in result.attention],
        {name: value[rows] for name, value in result.taps.items()},
    )


def _joined(results: Sequence[StepResult]) -> StepResult:
    first = results[0]
    return StepResult(
        np.concatenate([r.scores for r in results]),
        np.concatenate([r.tokens for r in results]),
        np.concatenate([r.log_sum_exp for r in results]),
        None if first.logits is None else np.concatenate([r.logits for r in results if r.logits is not None]),
        [
            AttentionRecord(a.kind, a.layer, np.concatenate([r.attention[i].weights for r in results]))
            for i, a in enumerate(first.attention)
        ],
        {name: np.concatenate([r.taps[name] for r in results]) for name in first.taps},
    )
