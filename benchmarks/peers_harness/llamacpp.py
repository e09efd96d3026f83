"""llama.cpp through its C interface, as llama-cpp-python binds it: several sequences at once, greedy, driven with ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from peers_harness import gguf_form, models
from peers_harness.models import Ids


class Bindings:
    """As it comes: its own choice of kernels, of repacking, of flash attention, and keys and values in float16."""

    def __init__(self, root: Path, model: str, dtype: str, threads: int) -> None:
        import llama_cpp

        self.api, self.shape, self.threads = llama_cpp, models.SHAPES[model], threads
        self.loaded_from = models.form_of("llamacpp", dtype)
        file = models.ready(root, model, self.loaded_from) / gguf_form.FILE
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {file}")
        self.context: Any = None
        self.room = (0, 0)

    def generate(self, rows: Ids, beams: int, new: int) -> Ids:
        self._open(len(rows), len(rows[0]) + new)
        sampler = self._greedy_but_end()
        found: Ids = [[] for _ in rows]
        fed, position = rows, 0
        for _ in range(new):
            self._feed(fed, position, 1)
            position += len(fed[0])
            fed = [[self.api.llama_sampler_sample(sampler, self.context, b - len(rows))] for b in range(len(rows))]
            for row, token in zip(found, fed, strict=True):
                row += token
        self.api.llama_sampler_free(sampler)
        return found

    def logits(self, rows: Ids, targets: Ids) -> Any:
        """[row, token, vocabulary]: before each of the targets' tokens, teacher-forced."""
        length = len(targets[0])
        self._open(len(rows), len(rows[0]) + length)
        self._feed([row + target[:-1] for row, target in zip(rows, targets, strict=True)], 0, length)
        get = self.api.llama_get_logits_ith
        places = [[t * len(rows) + b - len(rows) * length for t in range(length)] for b in range(len(rows))]
        width = (self.shape.vocabulary,)
        return np.array([[np.ctypeslib.as_array(get(self.context, at), width) for at in row] for row in places])

    def _open(self, rows: int, tokens: int) -> None:
        """An empty context with room for so many sequences of so many tokens."""
        room = (rows, rows * -(-tokens // 256) * 256)
        if room != self.room:
            if self.context:
                self.api.llama_free(self.context)
            options = self.api.llama_context_default_params()
            options.n_seq_max, options.n_ctx = room
            options.n_threads = options.n_threads_batch = self.threads
            self.context, self.room = self.api.llama_init_from_model(self.model, options), room
            if not self.context:
                raise RuntimeError(f"llama.cpp made no context for {rows} x {tokens} tokens")
            self.most = self.api.llama_n_batch(self.context)
            self.batch = self.api.llama_batch_init(self.most, 0, 1)
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)

    def _greedy_but_end(self) -> Any:
        api = self.api
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        bias = (api.llama_logit_bias * 1)(api.llama_logit_bias(self.shape.eos, -np.inf))
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_logit_bias(self.shape.vocabulary, 1, bias))
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())
        return chain

    def _feed(self, rows: Ids, position: int, kept: int) -> None:
        """Tokens of all rows, the first of each, then the second of each …; the last `kept` of each get logits, which stand
        at the end of the last call."""
        length, batch = len(rows[0]), self.batch
        tokens = [(row[j], position + j, b, j >= length - kept) for j in range(length) for b, row in enumerate(rows)]
        for begin in range(0, len(tokens), self.most):
            part = tokens[begin : begin + self.most]
            batch.n_tokens = len(part)
            for i, (token, at, row, wanted) in enumerate(part):
                batch.token[i], batch.pos[i], batch.logits[i] = token, at, wanted
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
            if failed := self.api.llama_decode(self.context, batch):
                raise RuntimeError(f"llama_decode: {failed}")
