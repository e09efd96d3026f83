"""Makes the golden files of this folder: tiny BART, mBART and Pegasus, and what PyTorch and transformers compute with them.

    python tests/golden/bart/make.py

needs torch, transformers 4.57, optimum-onnx and onnxruntime; the tests need none of them. For each family, trained for some
seconds: config.json, generation_config.json, model.safetensors, runs.json.gz (ids of `generate`), logits.npz (logits, encoder
outputs and attention in float32, the first two also in float64), and optimum/ with encoder_model.onnx and
decoder_model_merged.onnx.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from seq2seq import VOCABULARY, make_logits, make_optimum, make_runs, sources, train  # noqa: E402

LENGTHS = [1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 20, 24, 31]
FAMILIES: dict[str, dict[str, Any]] = {
    "bart": {"activation_function": "gelu", "forced_bos_token_id": 0},
    "mbart": {"activation_function": "relu", "scale_embedding": True, "decoder_start_token_id": 2},
    "pegasus": {"activation_function": "gelu", "scale_embedding": True},
}


def tiny(family: str) -> PreTrainedModel:
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        family, vocab_size=VOCABULARY, d_model=32, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=64, max_position_embeddings=64,
        attn_implementation="eager", init_std=0.1, **FAMILIES[family])  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    model.final_logits_bias.normal_(0, 0.3)
    train(model)
    with torch.no_grad():  # what initialisation leaves alike
        for name, tensor in model.named_parameters():
            if "norm" in name:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def main() -> None:
    for family in FAMILIES:
        folder = HERE / family
        shutil.rmtree(folder, ignore_errors=True)
        model = tiny(family)
        model.save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)
        make_logits(model, folder, sources(model, LENGTHS)[::2], attention=True)
        make_runs(model, folder, LENGTHS)
        make_optimum(folder, folder / "optimum", ("decoder_model_merged.onnx",))


if __name__ == "__main__":
    main()
