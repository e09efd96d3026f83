"""Attention on NumPy arrays: native against the reference, and the same bits alone and in a batch."""

import numpy as np

from fastattn import ops, reference

rng = np.random.default_rng(0)
query, key, value = (rng.standard_normal((4, 8, 33, 64), np.float32) for _ in range(3))  # [B, H, T, D]
context, weights = ops.scaled_dot_product_attention(query, key, value, is_causal=True, return_weights=True)
alone = ops.scaled_dot_product_attention(query[2:3], key[2:3], value[2:3], is_causal=True)
print("a batch changes no bit:", np.array_equal(context[2:3], alone))
print("rows of the weights add up to", weights.sum(-1).mean())

truth = reference.scaled_dot_product_attention(*(x.astype(np.float64) for x in (query, key, value)), is_causal=True)
print(f"largest difference from float64: {np.abs(context - truth).max():.1e}")

keys, state = rng.standard_normal((2, 7, 32), np.float32), rng.standard_normal((2, 32), np.float32)
W_q, W_k, v = (rng.standard_normal(shape, np.float32) for shape in ((16, 32), (16, 32), (16,)))
context, weights = ops.additive_attention(state, keys, W_q, W_k, v, lengths=[7, 4])
print("Bahdanau's weights, keys beyond a length unseen:", weights[1].round(2))
