"""The Transformer translator: Hugging Face's MarianMTModel, small, with one guided cross-attention layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from .tokenizer import EOS, PAD


class Marian(nn.Module):
    """MarianMTModel under `model`, returning what the training loop needs."""

    def __init__(self, model: MarianMTModel) -> None:
        super().__init__()
        self.marian = model
        # the output bias is a buffer in Marian; here it is learned and lands in that buffer
        bias = model.final_logits_bias
        del model.final_logits_bias
        model.final_logits_bias = nn.Parameter(bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher-forced decoder states (B, T, C), what `lm_head` takes; the last cross-attention, mean over heads."""
        out = self.marian.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            output_attentions=True,
            use_cache=False,
        )
        return out.last_hidden_state, out.cross_attentions[-1].mean(1)

    def lm_head(self, states: Tensor) -> Tensor:
        return self.marian.lm_head(states) + self.marian.final_logits_bias


def make_model(vocab_size: int) -> Marian:
    config = MarianConfig(
        vocab_size=vocab_size,
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        activation_function="swish",
        max_position_embeddings=96,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        init_std=0.06,
        scale_embedding=True,
        static_position_embeddings=True,
        share_encoder_decoder_embeddings=True,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
        decoder_start_token_id=PAD,
        forced_eos_token_id=None,
        attn_implementation="eager",
    )
    return Marian(MarianMTModel(config))


@torch.no_grad()
def greedy_search(
    model: Marian, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int = 64
) -> tuple[list[list[int]], list[Tensor]]:
    """As rnn.greedy_search, by Hugging Face's generate."""
    marian = model.marian
    out = marian.generate(
        input_ids=input_ids, attention_mask=attention_mask, num_beams=1, do_sample=False, max_new_tokens=max_new_tokens
    )[:, 1:]
    decoder_input_ids = torch.cat((torch.full((len(out), 1), PAD), out[:, :-1]), dim=1)
    _, attention = model(input_ids, attention_mask, decoder_input_ids)
    ids, maps = [], []
    for row, weights, mask in zip(out.tolist(), attention, attention_mask, strict=True):
        length = row.index(EOS) if EOS in row else len(row)
        ids.append(row[:length])
        maps.append(weights[: length + 1, : int(mask.sum())])
    return ids, maps


@torch.no_grad()
def beam_search(
    model: Marian, input_ids: Tensor, attention_mask: Tensor, num_beams: int, max_new_tokens: int = 64
) -> list[list[int]]:
    """As rnn.beam_search, by Hugging Face's generate."""
    out = model.marian.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        num_beams=num_beams,
        do_sample=False,
        max_new_tokens=max_new_tokens,
    )[:, 1:].tolist()
    return [row[: row.index(EOS)] if EOS in row else row for row in out]
