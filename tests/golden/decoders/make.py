"""Makes the golden files of this folder: tiny decoder-only models, trained for some seconds, as safetensors and as ONNX
exported by optimum, and what Hugging Face transformers computes with them; and untrained variants of their configurations.

    python tests/golden/decoders/make.py [NAME ...]

needs torch, transformers 4.57, optimum-onnx and onnxruntime-genai; the tests need none of them.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "exports"))

import numpy as np
import torch
from make_exports import strip
from optimum.exporters.onnx import export, main_export
from optimum.exporters.tasks import TasksManager
from optimum.onnx import merge_decoders
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2TokenizerFast,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

HERE = Path(__file__).resolve().parent
LENGTHS = [1, 2, 3, 4, 6, 9, 13, 17, 25, 34]
EOS, SEPARATOR, PAD, VOCABULARY = 0, 99, 100, 101
TOKENS: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": PAD}
GPT2: dict[str, Any] = {**TOKENS, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
LLAMA: dict[str, Any] = {
    **TOKENS,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
QWEN2 = {name: value for name, value in LLAMA.items() if name != "head_dim"} | {"num_attention_heads": 4}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

TRAINED: dict[str, Callable[[], PretrainedConfig]] = {
    "gpt2": lambda: GPT2Config(**GPT2),
    "llama": lambda: LlamaConfig(**LLAMA, rope_scaling=LLAMA3, rope_theta=500.0),
    "mistral": lambda: MistralConfig(**LLAMA, sliding_window=7),
    "qwen2": lambda: Qwen2Config(**QWEN2, tie_word_embeddings=True),
}
VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "gpt2-inverse": lambda: GPT2Config(
        **GPT2, scale_attn_by_inverse_layer_idx=True, n_inner=40, activation_function="relu", layer_norm_epsilon=1e-3
    ),
    "gpt2-unscaled": lambda: GPT2Config(
        **GPT2, scale_attn_weights=False, reorder_and_upcast_attn=True, tie_word_embeddings=False
    ),
    "llama-linear": lambda: LlamaConfig(
        **LLAMA,
        rope_scaling={"type": "linear", "factor": 4.0},
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        rms_norm_eps=1e-3,
        hidden_act="gelu_pytorch_tanh",
    ),
    "llama-yarn": lambda: LlamaConfig(**LLAMA, rope_scaling=YARN),
    "llama-yarn-all": lambda: LlamaConfig(
        **LLAMA,
        rope_scaling={**YARN, "mscale": 0.7, "mscale_all_dim": 1.2, "beta_fast": 16, "beta_slow": 2, "truncate": False},
    ),
    "mistral-unwindowed": lambda: MistralConfig(**LLAMA, sliding_window=None),
    "qwen2-windows": lambda: Qwen2Config(**QWEN2, use_sliding_window=True, sliding_window=5, max_window_layers=1),
}
CASES: list[dict[str, Any]] = [{"num_beams": 1, "max_new_tokens": 24}]
CASES += [
    {"num_beams": 4, "early_stopping": early, "length_penalty": penalty, "max_new_tokens": 24}
    for early, penalty in itertools.product((True, False, "never"), (0.6, 1.0, 2.0))
]
CASES += [
    {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 20},
    {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 8, "max_new_tokens": 20},
    {"num_beams": 1, "no_repeat_ngram_size": 1, "max_new_tokens": 10},
    {"num_beams": 1, "repetition_penalty": 1.5, "suppress_tokens": [5, 6, 7], "max_new_tokens": 20},
    {"num_beams": 4, "repetition_penalty": 1.2, "length_penalty": 0.0, "max_new_tokens": 20},
    {"num_beams": 1, "max_length": 40, "min_length": 20},
    {"num_beams": 4, "max_length": 40, "min_length": 30},
]


def built(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name or ".ln_" in name:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
        else:
            nn.init.normal_(parameter, 0.0, 0.2)
    model.generation_config.max_length = None
    model.generation_config.bad_words_ids = [[PAD]]
    return model


def prompts(lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(11)
    return [[*rng.integers(2, SEPARATOR, n - 1).tolist(), SEPARATOR] for n in lengths]


def padded(rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    fill = [[PAD] * (width - len(row)) for row in rows]
    ids = [pad + row if left else row + pad for row, pad in zip(rows, fill, strict=True)]
    return torch.tensor(ids), torch.tensor([[int(i != PAD) for i in row] for row in ids])


def train(model: PreTrainedModel) -> None:
    """A little of a toy task (what comes before the separator, every other token, renamed), so that outputs differ,
    hesitate and end."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(7)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(300):
        rows = [rng.integers(2, SEPARATOR, rng.integers(0, 14)).tolist() for _ in range(48)]
        ids, mask = padded([[*row, SEPARATOR, *(2 + (7 * t) % 97 for t in row[::2]), EOS] for row in rows], left=False)
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"trained to a loss of {loss.item():.2f}")


def continued(model: PreTrainedModel, rows: list[list[int]], options: dict[str, Any]) -> tuple[list[list[int]], Any]:
    """Ids without prompt, end token and what pads the batch behind it; scores of beams."""
    ids, mask = padded(rows, left=True)
    with torch.no_grad():
        out = model.generate(
            ids, attention_mask=mask, return_dict_in_generate=True, output_scores=True, do_sample=False, **options
        )
    new = [row[ids.shape[1] :] for row in out.sequences.tolist()]
    cut = [row[: row.index(EOS)] if EOS in row else row for row in new]
    return cut, out.sequences_scores.tolist() if options["num_beams"] > 1 else []


def write_runs(model: PreTrainedModel, folder: Path) -> None:
    rows, runs = prompts(LENGTHS), list[dict[str, Any]]()
    for options in CASES:
        if "max_length" in options:  # it counts the prompt, in transformers with its padding
            parts = [continued(model, [row], options) for row in rows]
            ids, scores = [i for part, _ in parts for i in part], [s for _, part in parts for s in part]
        else:
            ids, scores = continued(model, rows, options)
        runs.append({"options": options, "ids": ids, "scores": scores})
        print(options, sorted({len(row) for row in ids}))
    with gzip.GzipFile(folder / "runs.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps({"prompts": rows, "runs": runs}).encode())


def exact(model: PreTrainedModel, **inputs: torch.Tensor) -> Any:
    """The model's output in float64 throughout: transformers computes RMS norms, the eager softmax (not GPT-2's, whose sdpa
    in turn knows nothing of its scalings) and scores that were "upcast" in float32."""

    def rms_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    norms = {type(m) for m in model.modules() if hasattr(m, "variance_epsilon")}
    kept = {norm: norm.forward for norm in norms}
    for module in model.modules():
        if hasattr(module, "reorder_and_upcast_attn"):
            module.reorder_and_upcast_attn = False
    if model.config.model_type != "gpt2":
        model.set_attn_implementation("sdpa")
    for norm in norms:
        norm.forward = rms_norm
    found = model.double()(**inputs, output_hidden_states=True)
    for norm, forward in kept.items():
        norm.forward = forward
    return found


def write_logits(model: PreTrainedModel, folder: Path) -> None:
    rows = [row[:-1] + [SEPARATOR, 7, 30] for row in prompts([1, 6, 17, 40])]
    ids, mask = padded(rows, left=False)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, output_attentions=True)
        truth = exact(model, input_ids=ids, attention_mask=mask)
    keep = mask.bool().numpy()
    assert np.abs(out.logits.numpy() - truth.logits.numpy())[keep].max() < 1e-5 * truth.logits.abs().max()
    np.savez_compressed(
        folder / "logits.npz",
        lengths=mask.sum(1).numpy(),
        inputs=ids.int().numpy(),
        logits=out.logits.numpy()[keep],
        exact=truth.logits.numpy()[keep],
        hidden=truth.hidden_states[-1].numpy()[keep],
        own=np.stack([a.numpy()[:3, :, :20, :20] for a in out.attentions]),
    )


def export_single(model: PreTrainedModel, folder: Path) -> None:
    """One file with past, as optimum writes it now."""
    with tempfile.TemporaryDirectory() as out:
        main_export(str(folder), out, task="text-generation-with-past", do_validation=False)
        shutil.copy(Path(out) / "model.onnx", folder / "model.onnx")


def export_merged(model: PreTrainedModel, folder: Path) -> None:
    """Two decoders joined in one file, as optimum wrote it until 2023."""
    config = TasksManager.get_exporter_config_constructor("onnx", model, task="text-generation")
    with tempfile.TemporaryDirectory() as out:
        files = [Path(out) / name for name in ("decoder_model.onnx", "decoder_with_past_model.onnx")]
        for file, past in zip(files, (False, True), strict=True):
            export(model, config(model.config, task="text-generation", use_past=True, use_past_in_inputs=past), file)
        merge_decoders(*files, save_path=folder / "decoder_model_merged.onnx", strict=False)


def export_dynamo(model: PreTrainedModel, folder: Path) -> None:
    """By torch.onnx.export, without optimum and without past."""

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: torch.Tensor) -> Any:
            return self.inner(input_ids=input_ids, use_cache=False).logits

    shapes = {"input_ids": {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("tokens", min=2, max=64)}}
    torch.onnx.export(
        Logits(), (torch.ones(2, 7, dtype=torch.int64),), str(folder / "model.onnx"), input_names=["input_ids"],
        dynamo=True, external_data=False, dynamic_shapes=shapes)  # fmt: skip
    strip(folder / "model.onnx")


EXPORTS = {"gpt2": export_merged, "llama": export_dynamo, "mistral": export_single, "qwen2": export_single}


SENTENCES = [
    "I am eating an apple.", "I am reading a book in the garden.", "She drinks water, and he reads a book.",
    "The children were playing in the garden.", "The small dogs were eating in the garden.", "Two friends will buy three cars.",
    "L'été était très doux à Noël.", "Où êtes-vous ? Très loin d'ici."]  # fmt: skip


def make_text(name: str = "gpt2-text") -> None:
    """A model that knows eight sentences, with the tokenizer of ../text/prompts/gpt2, and what it makes of their beginnings."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(HERE.parent / "text" / "prompts" / "gpt2" / file, folder / file)
    tokenizer = GPT2TokenizerFast.from_pretrained(folder)
    end = tokenizer.eos_token_id
    model = built(
        GPT2Config(
            **{**GPT2, "vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
        ),
        5,
    )
    model.generation_config.bad_words_ids = None
    torch.set_num_threads(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    rows = [[*tokenizer(sentence).input_ids, end] for sentence in SENTENCES]
    ids = torch.tensor([row + [end] * (max(map(len, rows)) - len(row)) for row in rows])
    known = torch.tensor([[int(i < len(row)) for i in range(ids.shape[1])] for row in rows])
    for _ in range(260):
        loss = model(input_ids=ids, attention_mask=known, labels=ids.masked_fill(known == 0, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    cases = []
    for prompt in ("I am", "The", " The", "She drinks water,", "L'ét", "Où êtes-vous ?", "I"):
        fed = tokenizer(prompt, return_tensors="pt")
        for beams in (1, 4):
            with torch.no_grad():
                out = model.generate(**fed, max_new_tokens=24, num_beams=beams, do_sample=False, pad_token_id=end)[0]
            whole = tokenizer.decode(out, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            ids_of = [i for i in out[fed.input_ids.shape[1] :].tolist() if i != end]
            cases.append({"prompt": prompt, "num_beams": beams, "text": whole.removeprefix(prompt), "ids": ids_of})
            print(cases[-1])
    (folder / "text.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def make(name: str, seed: int) -> None:
    trained = name in TRAINED
    model = built({**TRAINED, **VARIANTS}[name](), seed)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    if trained:
        train(model)
    model.save_pretrained(folder)
    if trained:
        EXPORTS[name](model, folder)
        write_runs(model, folder)
    write_logits(model, folder)


def make_genai(name: str) -> None:
    """The same weights as onnxruntime-genai's builder exports them: projections packed, attention one node. Needs
    onnxruntime-genai 0.11; `make.py genai` makes these alone, from the safetensors that are there."""
    folder = HERE / name / "genai"
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as made:
        given = shutil.copytree(HERE / name, Path(made, "in"), ignore=shutil.ignore_patterns("*.onnx*"))
        words = Tokenizer(
            WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0")
        )  # the builder asks for one
        PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(given)
        places = ["-i", str(given), "-o", f"{made}/out", "-c", f"{made}/cache"]
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", *places, "-p", "fp32", "-e", "cpu"]
        subprocess.run(builder, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        folder.mkdir()
        for file in sorted(Path(made, "out").glob("*.onnx*")):
            shutil.copy(file, folder)


if __name__ == "__main__":
    for seed, name in enumerate((*TRAINED, *VARIANTS)):
        if name in sys.argv[1:] or len(sys.argv) == 1:
            make(name, seed)
    if "gpt2-text" in sys.argv[1:] or len(sys.argv) == 1:
        make_text()
    for name in ("llama", "qwen2"):
        if name in sys.argv[1:] or "genai" in sys.argv[1:] or len(sys.argv) == 1:
            make_genai(name)
