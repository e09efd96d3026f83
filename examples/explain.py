"""The five steps of attention behind each word: scores, weights, context vector, attentional state, likeliest words."""

import numpy as np

import fastattn

model = fastattn.load("en-fr-luong")
for step in model.explain("I am eating an apple"):
    likeliest = "  ".join(f"{token} {probability:.3f}" for token, probability in step.top[:3])
    print(f"{step.token}: {likeliest}")
    for token, score, weight in zip(step.source_tokens, step.scores, step.weights, strict=True):
        print(f"  {token:8} score {score:7.2f}  weight {weight:.3f}")
    print(f"  |context| {np.linalg.norm(step.context):.2f}, |state| {np.linalg.norm(step.attentional_state):.2f}")
