"""The models as llama.cpp wants them: one GGUF file, written from the Hugging Face folder, then quantised by llama.cpp itself.

Names of keys and tensors: the GGUF specification (ggml's docs/gguf.md) and llama.cpp's tables of architectures.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Tensors = dict[str, Any]  # torch tensors

GPT2_NAMES = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
LLAMA_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write(model: Any, path: Path) -> None:
    """A transformers model of GPT-2's or Llama's kind, in the type its weights are in (float32 or bfloat16)."""
    import gguf

    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(str(path), config.model_type)
    writer.add_tokenizer_model("none")  # it is driven with ids
    writer.add_vocab_size(config.vocab_size)
    tensors = _gpt2(writer, config, state) if config.model_type == "gpt2" else _llama(writer, config, state)
    for name, tensor in tensors:
        values, kind = tensor.float().contiguous().numpy(), gguf.GGMLQuantizationType.F32
        if tensor.dim() > 1 and str(tensor.dtype) == "torch.bfloat16":  # what is added or scales stays float32 there
            kind = gguf.GGMLQuantizationType.BF16
            values = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gpt2(writer: Any, c: Any, state: Tensors) -> Iterator[tuple[str, Any]]:
    _sizes(writer, c.n_positions, c.n_embd, c.n_layer, c.n_inner or 4 * c.n_embd, c.n_head)
    writer.add_layer_norm_eps(c.layer_norm_epsilon)
    yield "token_embd.weight", state["transformer.wte.weight"]
    yield "position_embd.weight", state["transformer.wpe.weight"].float()
    for kind in ("weight", "bias"):
        yield f"output_norm.{kind}", state[f"transformer.ln_f.{kind}"]
        for i in range(c.n_layer):
            for theirs, name in GPT2_NAMES.items():
                tensor = state[f"transformer.h.{i}.{theirs}.{kind}"]
                yield f"blk.{i}.{name}.{kind}", tensor.T if tensor.dim() > 1 else tensor  # Conv1D: [in, out]


def _llama(writer: Any, c: Any, state: Tensors) -> Iterator[tuple[str, Any]]:
    import torch

    _sizes(writer, c.max_position_embeddings, c.hidden_size, c.num_hidden_layers, c.intermediate_size,
           c.num_attention_heads)  # fmt: skip
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    if c.rope_scaling:
        yield "rope_freqs.weight", torch.from_numpy(rope_factors(c))
    yield "token_embd.weight", state["model.embed_tokens.weight"]
    yield "output_norm.weight", state["model.norm.weight"]
    heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}
    for i in range(c.num_hidden_layers):
        for theirs, name in LLAMA_NAMES.items():
            tensor = state[f"model.layers.{i}.{theirs}.weight"]
            yield f"blk.{i}.{name}.weight", neighbours(tensor, heads[name]) if name in heads else tensor


def _sizes(writer: Any, positions: int, width: int, layers: int, ffn: int, heads: int) -> None:
    writer.add_context_length(positions)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)


def neighbours(weight: Any, heads: int) -> Any:
    """RoPE turns rows i and i + D/2 of a head together; llama.cpp wants each such pair side by side."""
    out, width = weight.shape
    return weight.reshape(heads, 2, out // heads // 2, width).swapaxes(1, 2).reshape(out, width)


def rope_factors(c: Any) -> Any:
    """What scaling divides each frequency by."""
    from fastattn.models.rope import read_rope

    plain, scaled = (
        read_rope({"rope_theta": c.rope_theta, "rope_scaling": scaling}, c.head_dim, c.max_position_embeddings)[0]
        for scaling in (None, c.rope_scaling)
    )
    return plain / scaled


FILE = "model.gguf"
FILE_TYPES = {"float32": 0, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "bfloat16": 32}  # llama.h: llama_ftype


def quantize(source: Path, target: Path, kind: str) -> None:
    """By llama.cpp, with its own choice of which tensors keep more bits."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = FILE_TYPES[kind], 2
    if failed := llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options)):
        raise RuntimeError(f"llama.cpp could not quantise {source} to {kind}: {failed}")
