"""Makes the golden files of this folder: tiny T5 models in every shape they are published in, and what PyTorch and transformers
compute with them.

    python tests/golden/t5/make.py

needs torch, transformers 4.57, optimum-onnx, onnxruntime and onnxscript; the tests need none of them.

    relu, gated      trained: T5 (relu, tied head) and T5 v1.1 (gated-gelu, own head): config.json, model.safetensors,
                     runs.json.gz (ids of `generate`), logits.npz (logits, encoder outputs and attention in float32, the
                     first two also in float64)
        optimum/     exported by optimum: encoder_model.onnx, decoder_model_merged.onnx
        separate/    the same, decoder_model.onnx and decoder_with_past_model.onnx (relu only)
        whole/       model.onnx by torch.onnx.export, TorchScript (relu) or dynamo (gated)
    mt5, umt5, silu  random: model.safetensors and logits.npz without attention
"""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from seq2seq import VOCABULARY, make_logits, make_optimum, make_runs, sources, strip, train  # noqa: E402

PAD = 0
LENGTHS = [1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 20, 24, 31, 150]
KINDS: dict[str, dict[str, Any]] = {
    "relu": {"model_type": "t5", "feed_forward_proj": "relu", "tie_word_embeddings": True},
    "gated": {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {"model_type": "mt5"},
    "umt5": {"model_type": "umt5"},
    "silu": {"model_type": "t5", "feed_forward_proj": "gated-silu", "tie_word_embeddings": False},
}
TRAINED = ("relu", "gated")


def tiny(kind: str) -> PreTrainedModel:
    """d_kv * heads differs from d_model; the decoder is shallower than the encoder."""
    torch.manual_seed(3)
    sizes = {"d_model": 32, "d_kv": 6, "d_ff": 48, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 2}
    config = AutoConfig.for_model(
        **KINDS[kind], **sizes, vocab_size=VOCABULARY, relative_attention_num_buckets=16,
        relative_attention_max_distance=40, decoder_start_token_id=PAD, attn_implementation="eager")  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    if kind in TRAINED:
        train(model)
    with torch.no_grad():  # what initialisation leaves alike
        for name, tensor in model.named_parameters():
            if name.endswith("layer_norm.weight"):
                tensor.mul_(1 + 0.1 * torch.randn_like(tensor))
    return model


class Whole(nn.Module):
    """Ids to logits, with the parameter names of T5ForConditionalGeneration."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.shared, self.encoder, self.decoder, self.lm_head = (
            model.shared,
            model.encoder,
            model.decoder,
            model.lm_head,
        )
        self.scale = model.config.d_model**-0.5 if model.config.tie_word_embeddings else 1.0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        memory = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state
        x = self.decoder(input_ids=decoder_input_ids, encoder_hidden_states=memory, encoder_attention_mask=attention_mask,
                         use_cache=False, return_dict=True).last_hidden_state  # fmt: skip
        return self.lm_head(x * self.scale)


def make_whole(model: PreTrainedModel, folder: Path, dynamo: bool) -> None:
    folder.mkdir()
    inputs = (torch.randint(2, 99, (2, 7)), torch.ones(2, 7, dtype=torch.int64), torch.randint(2, 99, (2, 5)))
    names = ["input_ids", "attention_mask", "decoder_input_ids"]
    model.config.use_cache = False
    options: dict[str, Any] = {"input_names": names, "output_names": ["logits"]}
    if dynamo:
        axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        options |= {
            "dynamic_shapes": (axes, axes, {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}),
            "external_data": False,
        }
    else:
        options |= {"dynamic_axes": {name: {0: "batch", 1: f"length_{name}"} for name in names}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Whole(model).eval(), inputs, str(folder / "model.onnx"), dynamo=dynamo, verbose=False, **options
        )
    strip(folder / "model.onnx")
    model.config.use_cache = True
    shutil.copy(folder.parent / "config.json", folder / "config.json")


def main() -> None:
    for kind in KINDS:
        folder = HERE / kind
        shutil.rmtree(folder, ignore_errors=True)
        model = tiny(kind)
        model.save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)
        make_logits(model, folder, sources(model, LENGTHS)[:-1:2], kind in TRAINED)
        if kind in TRAINED:
            make_runs(model, folder, LENGTHS)
            make_optimum(folder, folder / "optimum", ("decoder_model_merged.onnx",))
            make_whole(model, folder / "whole", dynamo=kind == "gated")
    both = ("decoder_model.onnx", "decoder_with_past_model.onnx")
    make_optimum(HERE / "relu", HERE / "relu" / "separate", both, no_post_process=True)


if __name__ == "__main__":
    main()
