"""The models: Hugging Face configurations with random weights (seeded, no download), and the form each engine wants.

Everything is made once, below a folder of the caller's choice, in a process of its own (`python -m peers_harness.models`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Ids = list[list[int]]


@dataclass(frozen=True)
class Shape:
    """What a model reads per step, from which the limit follows: elements of the weights, and of keys and values.

    weights: elements of the matrices one decoder step multiplies by; per_token: elements of keys and values a step reads
    for each token of its own past; per_source: the same for each token of the source (cross-attention); parameters: all;
    published: the type of the checkpoint.
    """

    kind: str  # "seq2seq" | "decoder"
    vocabulary: int
    eos: int
    positions: int  # 0: unlimited
    weights: int
    per_token: int
    per_source: int
    parameters: int
    published: str = "float32"


def _seq2seq(vocabulary: int, width: int, layers: int, ffn: int, eos: int, positions: int) -> Shape:
    decoder = layers * (6 * width**2 + 2 * width * ffn)  # q k v o, and of cross-attention q and o: its k, v are memory
    encoder = layers * (4 * width**2 + 2 * width * ffn)
    head, cross = vocabulary * width, layers * 2 * width**2
    return Shape(
        "seq2seq", vocabulary, eos, positions, decoder + head, 2 * layers * width, 2 * layers * width,
        decoder + encoder + head + cross,
    )  # fmt: skip


SHAPES = {
    "marian-base": _seq2seq(58101, 512, 6, 2048, eos=0, positions=512),
    "t5-small": _seq2seq(32128, 512, 6, 2048, eos=1, positions=0),
    "gpt2-small": Shape(
        "decoder", 50257, 50256, 1024, 12 * 12 * 768**2 + 50257 * 768, 2 * 12 * 768, 0, 12 * 12 * 768**2 + 51281 * 768
    ),
    "llama-1b": Shape(
        "decoder", 128256, 128001, 131072, 16 * (2 * 2048**2 + 2 * 2048 * 512 + 3 * 2048 * 8192) + 128256 * 2048,
        16 * 2 * 512, 0, 16 * (2 * 2048**2 + 2 * 2048 * 512 + 3 * 2048 * 8192) + 128256 * 2048, "bfloat16",
    ),
}  # fmt: skip


def inputs(model: str, batch: int, context: int) -> Ids:
    """Sources (ending in the end token) or prompts, `context` tokens each, the same for every engine."""
    shape = SHAPES[model]
    rows = np.random.default_rng([7, batch, context]).integers(3, min(shape.vocabulary, 50_000) - 300, (batch, context))
    if shape.kind == "seq2seq":
        rows[:, -1] = shape.eos
    return [[int(i) for i in row] for row in rows]


def targets(model: str, batch: int, length: int) -> Ids:
    """Tokens whose log-probabilities are compared between engines."""
    rows = np.random.default_rng([8, batch]).integers(3, min(SHAPES[model].vocabulary, 50_000) - 300, (batch, length))
    return [[int(i) for i in row] for row in rows]


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def _marian(transformers: Any) -> Any:
    return transformers.MarianConfig(
        vocab_size=58101, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, max_position_embeddings=512,
        pad_token_id=58100, eos_token_id=0, decoder_start_token_id=58100, forced_eos_token_id=None, bos_token_id=None,
        scale_embedding=True, activation_function="swish", init_std=0.05, num_beams=1, max_length=None)  # fmt: skip


def _t5(transformers: Any) -> Any:
    return transformers.T5Config(  # the defaults are t5-small's
        vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, decoder_start_token_id=0)  # fmt: skip


def _gpt2(transformers: Any) -> Any:
    return transformers.GPT2Config()  # the defaults are the small one's


def _llama(transformers: Any) -> Any:
    rope = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}  # fmt: skip
    return transformers.LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0,
        rope_scaling=rope, tie_word_embeddings=True, bos_token_id=128000, eos_token_id=128001)  # fmt: skip


CONFIGS: dict[str, Callable[[Any], Any]] = {
    "marian-base": _marian, "t5-small": _t5, "gpt2-small": _gpt2, "llama-1b": _llama,
}  # fmt: skip


def auto_class(model: str) -> Any:
    """The transformers class that runs it."""
    import transformers

    seq2seq = SHAPES[model].kind == "seq2seq"
    return transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM


def _make_hf(model: str, folder: Path, root: Path) -> None:
    """A folder of safetensors, in the type that such models are published in."""
    import torch
    import transformers

    torch.manual_seed(0)
    made = auto_class(model).from_config(CONFIGS[model](transformers)).eval()
    with torch.no_grad():
        if model == "marian-base":
            made.final_logits_bias.normal_()
            made.final_logits_bias[0, -1] = -100.0  # never the padding token, which CTranslate2 removes
        made = made.to(getattr(torch, SHAPES[model].published))
    made.generation_config.max_length = None
    made.save_pretrained(folder)


# --- the other engines' formats ---------------------------------------------------------------------------------------


def _make_onnx(model: str, folder: Path, root: Path) -> None:
    from optimum.exporters.onnx import main_export

    task = "text2text-generation-with-past" if SHAPES[model].kind == "seq2seq" else "text-generation-with-past"
    main_export(str(ready(root, model, "hf")), folder, task=task, do_validation=False)


class MadeUpTokenizer:
    """As much of a tokenizer as CTranslate2's converter asks for: token i is called t<i>."""

    def __init__(self, model: str) -> None:
        shape = SHAPES[model]
        self.names = [f"t{i}" for i in range(shape.vocabulary)]
        self.names[shape.eos] = "</s>"
        self.eos_token, self.unk_token, self.pad_token = "</s>", "</s>", "t0"
        self.bos_token = "</s>"
        if model == "marian-base":
            self.names[1], self.unk_token = "<unk>", "<unk>"
            self.names[-1] = self.pad_token = "<pad>"
        if model == "t5-small":
            self.names[0], self.names[2], self.unk_token, self.pad_token = "<pad>", "<unk>", "<unk>", "<pad>"

    def get_vocab(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.names[token]


def _make_ctranslate2(quantization: str) -> Callable[[str, Path, Path], None]:
    def make(model: str, folder: Path, root: Path) -> None:
        from ctranslate2.converters import transformers as converter

        loaded = auto_class(model).from_pretrained(ready(root, model, "hf"), dtype="float32")
        if rope := getattr(
            loaded.config, "rope_scaling", None
        ):  # the converter looks for theta here, and else takes 10,000
            rope.setdefault("rope_theta", loaded.config.rope_theta)
        loader = converter._MODEL_LOADERS[type(loaded.config).__name__]
        spec = loader(loaded, MadeUpTokenizer(model))
        spec.validate()
        spec.optimize(quantization=quantization)
        spec.save(str(folder))

    return make


def _make_fastattn(dtype: str) -> Callable[[str, Path, Path], None]:
    def make(model: str, folder: Path, root: Path) -> None:
        import fastattn

        folder.rmdir()  # convert makes it
        fastattn.convert(ready(root, model, "hf"), folder, compute_type=dtype)

    return make


def _make_gguf(weights: str) -> Callable[[str, Path, Path], None]:
    """In the type the model is published in, by ourselves; in any other from that by llama.cpp's own quantisation."""

    def make(model: str, folder: Path, root: Path) -> None:
        from peers_harness import gguf_form

        if weights == SHAPES[model].published:
            loaded = auto_class(model).from_pretrained(ready(root, model, "hf"), dtype="auto")
            gguf_form.write(loaded, folder / gguf_form.FILE)
        else:
            source = ready(root, model, f"gguf-{SHAPES[model].published}")
            gguf_form.quantize(source / gguf_form.FILE, folder / gguf_form.FILE, weights)

    return make


FORMS: dict[str, Callable[[str, Path, Path], None]] = {
    "hf": _make_hf,
    "onnx": _make_onnx,
    "ct2-float32": _make_ctranslate2("float32"),
    "ct2-int8": _make_ctranslate2("int8"),
    **{f"gguf-{weights}": _make_gguf(weights) for weights in ("float32", "bfloat16", "Q8_0", "Q4_0", "Q4_K_M")},
    **{f"fastattn-{dtype}": _make_fastattn(dtype) for dtype in ("float32", "bfloat16", "int8", "int4")},
}


def form_of(engine: str, dtype: str) -> str:
    """The form an engine loads."""
    if engine == "llamacpp":
        return f"gguf-{GGUF_TYPES.get(dtype, dtype)}"
    return {"ctranslate2": f"ct2-{dtype}", "ort": "onnx", "fastattn": f"fastattn-{dtype}"}.get(engine, "hf")


GGUF_TYPES = {"int8": "Q8_0", "int4": "Q4_0"}  # of groups of 32, as our int4


def stamp(form: str) -> str:
    """What a made form depends on beside the model: ours on this very version, as how weights are packed may change."""
    if not form.startswith("fastattn-"):
        return ""
    from fastattn import _native, container, packing

    files = [Path(str(module.__file__)) for module in (_native, container, packing)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def is_ready(root: Path, model: str, form: str) -> bool:
    """Whether the model is there in this form, and still good."""
    mark = root / model / f".{form}.stamp"
    return (root / model / form).exists() and (mark.read_text() if mark.exists() else "") == stamp(form)


def ready(root: Path, model: str, form: str) -> Path:
    """The folder of a model in a form, made where it is missing: beside its place first, so that it is whole or not there."""
    folder = root / model / form
    if not is_ready(root, model, form):
        partial = folder.with_name(f".{form}-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            FORMS[form](model, partial, root)
            shutil.rmtree(folder, ignore_errors=True)
            (root / model / f".{form}.stamp").write_text(stamp(form))
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def expendable() -> None:
    """Of all processes this one is to go first if memory runs out; where the system has no such thing, nothing."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":  # ROOT MODEL FORM
    expendable()
    ready(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
