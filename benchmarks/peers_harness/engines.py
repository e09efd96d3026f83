"""One class per engine: loads a model, generates, gives log-probabilities. Each is imported only in its own process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from peers_harness import models
from peers_harness.models import Ids


class Unsupported(Exception):
    """This engine does not run this model in this type; the text says why."""


class FastAttn:
    """Ours, from a converted folder; its NumPy reference from safetensors."""

    def __init__(self, root: Path, model: str, dtype: str, threads: int, backend: str = "native") -> None:
        import fastattn

        self.shape = models.SHAPES[model]
        self.loaded_from = "hf" if backend == "reference" else f"fastattn-{dtype}"
        fastattn.set_num_threads(threads)
        folder = models.ready(root, model, self.loaded_from)
        self.model = fastattn.load(folder, compute_type=dtype, num_threads=threads, backend=backend)

    def generate(self, rows: Ids, beams: int, new: int) -> Ids:
        options = {"num_beams": beams, "max_new_tokens": new, "min_new_tokens": new}
        return [g.token_ids for g in self.model.generate(rows, batch_size=len(rows), **options)]

    def log_probs(self, rows: Ids, targets: Ids) -> list[list[float]]:
        """[row][token]: of the targets' tokens, teacher-forced."""
        if self.shape.kind == "seq2seq":
            return [[float(x) for x in scores] for scores in self.model.score(rows, targets)]
        fed = [row + target[:-1] for row, target in zip(rows, targets, strict=True)]
        logits = self.model.logits(np.array(fed, np.int32))
        return _picked(logits[:, len(rows[0]) - 1 :], targets)


class NumPy(FastAttn):
    """The reference backend: plain NumPy."""

    def __init__(self, root: Path, model: str, dtype: str, threads: int) -> None:
        super().__init__(root, model, dtype, threads, backend="reference")


def _picked(logits: Any, targets: Ids) -> list[list[float]]:
    """Log-softmax of logits [B, T, V] at the targets, in float64."""
    rows = np.asarray(logits, np.float64)
    top = rows.max(axis=-1, keepdims=True)
    normal = rows - top - np.log(np.exp(rows - top).sum(axis=-1, keepdims=True))
    return [[float(normal[b, t, token]) for t, token in enumerate(row)] for b, row in enumerate(targets)]


class HuggingFace:
    """What PyTorch and ONNX Runtime share: both are driven by transformers' generate."""

    model: Any
    shape: models.Shape

    def generate(self, rows: Ids, beams: int, new: int) -> Ids:
        import torch

        ids = torch.tensor(rows)
        options = {"num_beams": beams, "do_sample": False, "max_new_tokens": new, "min_new_tokens": new}
        pad = self.model.generation_config.pad_token_id
        options["pad_token_id"] = self.shape.eos if pad is None else pad
        with torch.inference_mode():
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids), **options).tolist()
        start = 1 if self.shape.kind == "seq2seq" else len(rows[0])
        return [row[start:] for row in out]

    def log_probs(self, rows: Ids, targets: Ids) -> list[list[float]]:
        import torch

        wanted = torch.tensor(targets)
        with torch.inference_mode():
            if self.shape.kind == "seq2seq":
                ids = torch.tensor(rows)
                start = torch.full((len(rows), 1), self.model.config.decoder_start_token_id)
                fed = torch.cat([start, wanted[:, :-1]], 1)
                logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=fed).logits
            else:
                fed = torch.cat([torch.tensor(rows), wanted[:, :-1]], 1)
                logits = self.model(input_ids=fed, attention_mask=torch.ones_like(fed)).logits[:, len(rows[0]) - 1 :]
        return _picked(logits.float().numpy(), targets)


class Torch(HuggingFace):
    """transformers on PyTorch, as it comes: its own choice of attention (sdpa where the model has it)."""

    def __init__(self, root: Path, model: str, dtype: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.shape, self.loaded_from = models.SHAPES[model], "hf"
        folder = models.ready(root, model, "hf")
        self.model = models.auto_class(model).from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


class Ort(HuggingFace):
    """optimum's ONNX Runtime classes on optimum's export."""

    def __init__(self, root: Path, model: str, dtype: str, threads: int) -> None:
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM

        if dtype != "float32":
            raise Unsupported("float32 only")
        torch.set_num_threads(threads)
        self.shape, self.loaded_from = models.SHAPES[model], "onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        kind = ORTModelForSeq2SeqLM if self.shape.kind == "seq2seq" else ORTModelForCausalLM
        folder = models.ready(root, model, "onnx")
        self.model = kind.from_pretrained(folder, session_options=options, provider="CPUExecutionProvider")


class CTranslate2:
    """Tokens are strings there: t<i>. The end token is kept away by its own option, the minimal length."""

    def __init__(self, root: Path, model: str, dtype: str, threads: int) -> None:
        import ctranslate2

        known = ctranslate2.get_supported_compute_types("cpu")
        if dtype not in known:
            raise Unsupported(f"on this CPU it has {', '.join(sorted(known))}")
        self.shape, self.loaded_from = models.SHAPES[model], f"ct2-{dtype}"
        self.names = models.MadeUpTokenizer(model).names
        self.ids = {name: i for i, name in enumerate(self.names)}
        kind = ctranslate2.Translator if self.shape.kind == "seq2seq" else ctranslate2.Generator
        folder = models.ready(root, model, self.loaded_from)
        # one batch at a time, all threads on it
        self.model = kind(str(folder), device="cpu", compute_type=dtype, inter_threads=1, intra_threads=threads)

    def generate(self, rows: Ids, beams: int, new: int) -> Ids:
        tokens = self._tokens(rows)
        if self.shape.kind == "seq2seq":
            found = self.model.translate_batch(
                tokens, beam_size=beams, max_decoding_length=new, min_decoding_length=new, max_input_length=0
            )
            return [[self.ids[t] for t in result.hypotheses[0]] for result in found]
        found = self.model.generate_batch(
            tokens, beam_size=beams, max_length=new, min_length=new, include_prompt_in_result=False
        )
        return [list(result.sequences_ids[0]) for result in found]

    def log_probs(self, rows: Ids, targets: Ids) -> list[list[float]]:
        length = len(targets[0])
        if self.shape.kind == "seq2seq":
            scored = self.model.score_batch(self._tokens(rows), self._tokens(targets), max_input_length=0)
            return [list(result.log_probs[:length]) for result in scored]
        full = [row + target for row, target in zip(rows, targets, strict=True)]
        scored = self.model.score_batch(self._tokens(full), max_input_length=0)
        begin = len(rows[0]) - 1  # its first figure is the second token's
        return [list(result.log_probs[begin : begin + length]) for result in scored]

    def _tokens(self, rows: Ids) -> list[list[str]]:
        return [[self.names[i] for i in row] for row in rows]


class LlamaCpp:
    """Through llama-cpp-python's bindings of the C interface, several sequences at once. As it comes: its own choice of
    kernels, of repacking, of flash attention; keys and values in float16."""

    def __init__(self, root: Path, model: str, dtype: str, threads: int) -> None:
        import llama_cpp

        from peers_harness import gguf_form

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

    def log_probs(self, rows: Ids, targets: Ids) -> list[list[float]]:
        length, get = len(targets[0]), self.api.llama_get_logits_ith
        self._open(len(rows), len(rows[0]) + length)
        self._feed([row + target[:-1] for row, target in zip(rows, targets, strict=True)], 0, length)
        width, first = (self.shape.vocabulary,), -len(rows) * length
        logits = [np.ctypeslib.as_array(get(self.context, at), width) for at in range(first, 0)]
        return _picked(np.stack(logits).reshape(length, len(rows), -1).swapaxes(0, 1), targets)

    def _open(self, rows: int, tokens: int) -> None:
        """An empty context with room for so many sequences of so many tokens."""
        room = (rows, rows * -(-tokens // 256) * 256)
        if room != self.room:
            if self.context:
                self.api.llama_free(self.context)
                self.api.llama_batch_free(self.batch)
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


ENGINES = {"fastattn": FastAttn, "numpy": NumPy, "torch": Torch, "ort": Ort, "ctranslate2": CTranslate2,
           "llamacpp": LlamaCpp}  # fmt: skip
MODULES = {"fastattn": "fastattn", "numpy": "fastattn", "torch": "transformers", "ort": "optimum.onnxruntime",
           "ctranslate2": "ctranslate2", "llamacpp": "llama_cpp"}  # fmt: skip


def environment(engine: str, variant: str, threads: int) -> dict[str, str]:
    """A worker's variables: so many threads for every library there is; how long they spin is left to each engine."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FASTATTN_", "CT2_", "OMP_", "KMP_", "GOMP_"))}
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    kept.update(dict.fromkeys(names, str(threads)))
    kept.update({"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"})
    if variant == "MKL":
        kept["CT2_USE_MKL"] = "1"
    elif variant and engine == "ctranslate2":
        kept["CT2_FORCE_CPU_ISA"] = variant
    elif variant and engine == "fastattn":
        kept["FASTATTN_ISA"] = variant.lower()
    return kept
