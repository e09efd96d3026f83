"""The recurrent translator with attention, in PyTorch: Bahdanau's and Luong's models, one class.

    encoder   bidirectional GRU/LSTM over the source                                   k_s, s = 1..S
    attention score(q, k_s): additive | dot | general | concat; softmax over s; context c_t = sum_s a_ts k_s
    bahdanau  q = top decoder state of the step before; the context joins the input of the decoder RNN
    luong     q = top decoder state of this step
    output    attentional state h~_t = tanh(W_c [c_t ; h_t]), logits = W_o h~_t + b

The attribute paths below are the tensor names of an export: fastattn's `rnn_attention` family declares the same tree.
Bahdanau, Cho, Bengio (2015), arXiv:1409.0473; Luong, Pham, Manning (2015), arXiv:1508.04025.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


@dataclass
class RnnConfig:
    vocab_size: int
    target_vocab_size: int
    model_type: str = "rnn_attention"
    cell: str = "gru"  # gru | lstm
    num_layers: int = 1
    attention: str = "bahdanau"  # bahdanau | luong
    score: str = "additive"  # additive | dot | general | concat
    input_feeding: bool = False
    embedding_size: int = 64
    encoder_hidden_size: int = 96
    decoder_hidden_size: int = 160
    attention_size: int = 96
    attention_output_size: int = 128
    attention_bias: bool = True  # the additive score's inner bias
    pad_token_id: int = 0
    eos_token_id: int = 1
    unk_token_id: int = 2
    decoder_start_token_id: int = 0
    max_position_embeddings: int = 128  # longest source

    def __post_init__(self) -> None:
        scores = {"bahdanau": ("additive",), "luong": ("dot", "general", "concat")}
        if self.score not in scores[self.attention]:
            raise ValueError(f"score {self.score!r} does not go with {self.attention!r}: {scores[self.attention]}")
        if self.score == "dot" and self.decoder_hidden_size != 2 * self.encoder_hidden_size:
            raise ValueError("score 'dot' needs decoder_hidden_size == 2 * encoder_hidden_size")

    def save(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(asdict(self), indent=2) + "\n")


class Attention(nn.Module):
    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        memory, state, inner = 2 * config.encoder_hidden_size, config.decoder_hidden_size, config.attention_size
        self.score = config.score
        if config.score in ("additive", "concat"):
            self.W_q = nn.Linear(state, inner, bias=False)
            self.W_k = nn.Linear(memory, inner, bias=False)
            self.v = nn.Linear(inner, 1, bias=False)
            if config.score == "additive" and config.attention_bias:
                self.bias = nn.Parameter(torch.zeros(inner))
        elif config.score == "general":
            self.W = nn.Linear(memory, state, bias=False)

    def project(self, memory: Tensor) -> Tensor:
        """What of the keys does not depend on the query. memory: (B, S, 2E)."""
        if self.score in ("additive", "concat"):
            keys = self.W_k(memory)
            return keys + self.bias if hasattr(self, "bias") else keys
        return self.W(memory) if self.score == "general" else memory

    def forward(self, query: Tensor, keys: Tensor | None, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """query: (B, T, D), keys: `project(memory)` if at hand, mask: (B, S), 1 = word.

        Returns the context (B, T, 2E) and the weights (B, T, S)."""
        keys = self.project(memory) if keys is None else keys
        if self.score in ("additive", "concat"):
            scores = self.v(torch.tanh(self.W_q(query).unsqueeze(2) + keys.unsqueeze(1))).squeeze(3)
        else:
            scores = query @ keys.transpose(1, 2)
        weights = torch.softmax(scores.masked_fill(mask.unsqueeze(1) == 0, -1e9), dim=-1)
        return weights @ memory, weights


class Encoder(nn.Module):
    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.rnn = make_rnn(config, config.embedding_size, config.encoder_hidden_size, bidirectional=True)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        """Memory (B, S, 2E) and what the RNN ends with, (2L, B, E). Padding changes nothing: the sequences are packed.

        Without a mask nothing is padded, and nothing is packed: torch.export cannot trace packing."""
        words = self.embed_tokens(input_ids)
        if attention_mask is None:
            return self.rnn(words)
        packed, last = self.rnn(
            pack_padded_sequence(words, attention_mask.sum(1).to("cpu"), True, enforce_sorted=False)
        )
        return pad_packed_sequence(packed, batch_first=True, total_length=input_ids.shape[1])[0], last


class Decoder(nn.Module):
    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        memory = 2 * config.encoder_hidden_size
        width = config.embedding_size + memory * (config.attention == "bahdanau")
        width += config.attention_output_size * config.input_feeding
        self.embed_tokens = nn.Embedding(config.target_vocab_size, config.embedding_size)
        self.attention = Attention(config)
        self.rnn = make_rnn(config, width, config.decoder_hidden_size, bidirectional=False)
        self.W_c = nn.Linear(memory + config.decoder_hidden_size, config.attention_output_size, bias=False)
        self.kind, self.input_feeding = config.attention, config.input_feeding

    def forward(
        self,
        token: Tensor,
        hidden: Tensor,
        cell: Tensor | None,
        attentional: Tensor,
        keys: Tensor | None,
        memory: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """One decoder step. token: (B, 1). Returns the new attentional state, hidden, cell and the weights (B, 1, S)."""
        return self.advance(self.embed_tokens(token), hidden, cell, attentional, keys, memory, mask)

    def advance(
        self,
        word: Tensor,
        hidden: Tensor,
        cell: Tensor | None,
        attentional: Tensor,
        keys: Tensor | None,
        memory: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """The step from the word's vector (B, 1, E) on."""
        parts = [word]
        if self.kind == "bahdanau":
            context, weights = self.attention(hidden[-1].unsqueeze(1), keys, memory, mask)
            parts.append(context)
        if self.input_feeding:
            parts.append(attentional.unsqueeze(1))
        states = (hidden, cell) if cell is not None else hidden
        top, states = self.rnn(torch.cat(parts, dim=2), states)
        hidden, cell = states if cell is not None else (states, None)
        if self.kind == "luong":
            context, weights = self.attention(top, keys, memory, mask)
        attentional = torch.tanh(self.W_c(torch.cat((context, top), dim=2))).squeeze(1)
        return attentional, hidden, cell, weights


def make_rnn(config: RnnConfig, inputs: int, hidden: int, bidirectional: bool) -> nn.GRU | nn.LSTM:
    kind = nn.GRU if config.cell == "gru" else nn.LSTM
    return kind(inputs, hidden, num_layers=config.num_layers, batch_first=True, bidirectional=bidirectional)


class RnnAttention(nn.Module):
    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        self.config = config
        memory, state = 2 * config.encoder_hidden_size, config.decoder_hidden_size
        self.encoder = Encoder(config)
        self.bridge = nn.ModuleList(nn.Linear(memory, state) for _ in range(config.num_layers))
        if config.cell == "lstm":
            self.bridge_cell = nn.ModuleList(nn.Linear(memory, state) for _ in range(config.num_layers))
        self.decoder = Decoder(config)
        self.lm_head = nn.Linear(config.attention_output_size, config.target_vocab_size)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Memory (B, S, 2E), initial hidden and cell state of the decoder (L, B, D). Padding changes nothing."""
        memory, last = self.encoder(input_ids, attention_mask)
        if self.config.cell == "lstm":
            return memory, self.bridged(self.bridge, last[0]), self.bridged(self.bridge_cell, last[1])
        return memory, self.bridged(self.bridge, last), None

    def bridged(self, bridge: nn.ModuleList, last: Tensor) -> Tensor:
        """last: (2L, B, E), forward and backward of each layer in turn -> (L, B, D)."""
        return torch.stack(
            [
                torch.tanh(linear(torch.cat((last[2 * layer], last[2 * layer + 1]), dim=1)))
                for layer, linear in enumerate(bridge)
            ]
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher-forced attentional states (B, T, F), what `lm_head` takes, and attention weights (B, T, S)."""
        memory, hidden, cell = self.encode(input_ids, attention_mask)
        keys = self.decoder.attention.project(memory)
        words = self.decoder.embed_tokens(decoder_input_ids)
        if (
            self.config.attention == "luong" and not self.config.input_feeding
        ):  # nothing of the attention enters the RNN
            top, _ = self.decoder.rnn(words, hidden if cell is None else (hidden, cell))
            context, weights = self.decoder.attention(top, keys, memory, attention_mask)
            return torch.tanh(self.decoder.W_c(torch.cat((context, top), dim=2))), weights
        attentional = memory.new_zeros(len(memory), self.config.attention_output_size)
        outputs, maps = [], []
        for word in words.split(1, dim=1):
            attentional, hidden, cell, weights = self.decoder.advance(
                word, hidden, cell, attentional, keys, memory, attention_mask
            )
            outputs.append(attentional)
            maps.append(weights)
        return torch.stack(outputs, dim=1), torch.cat(maps, dim=1)


@torch.no_grad()
def greedy_search(
    model: RnnAttention, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int = 64
) -> tuple[list[list[int]], list[Tensor]]:
    """Per sentence the ids up to the end token (not included) and the weights (T, S), the end token's row included."""
    config = model.config
    memory, hidden, cell = model.encode(input_ids, attention_mask)
    keys = model.decoder.attention.project(memory)
    attentional = memory.new_zeros(len(memory), config.attention_output_size)
    token = torch.full((len(memory), 1), config.decoder_start_token_id)
    tokens, maps = [], []
    finished = torch.zeros(len(memory), dtype=torch.bool)
    while len(tokens) < max_new_tokens and not bool(finished.all()):
        attentional, hidden, cell, weights = model.decoder(
            token, hidden, cell, attentional, keys, memory, attention_mask
        )
        token = model.lm_head(attentional).argmax(1, keepdim=True)
        tokens.append(token)
        maps.append(weights)
        finished |= token[:, 0] == config.eos_token_id
    ids, attention = torch.cat(tokens, dim=1).tolist(), torch.cat(maps, dim=1)
    lengths = [row.index(config.eos_token_id) if config.eos_token_id in row else len(row) for row in ids]
    return [row[:n] for row, n in zip(ids, lengths, strict=True)], [
        weights[: n + 1, : int(mask.sum())] for weights, n, mask in zip(attention, lengths, attention_mask, strict=True)
    ]


@torch.no_grad()
def beam_search(
    model: RnnAttention, input_ids: Tensor, attention_mask: Tensor, num_beams: int, max_new_tokens: int = 64
) -> list[list[int]]:
    """The best hypothesis per sentence by log-probability per token, the end token counted.

    A beam that ends leaves the search; a sentence is done when `num_beams` hypotheses are and no open one can beat them.
    """
    config, count, k = model.config, len(input_ids), num_beams
    memory, hidden, cell = model.encode(input_ids, attention_mask)
    repeat = torch.arange(count).repeat_interleave(k)
    memory, mask, hidden = memory[repeat], attention_mask[repeat], hidden[:, repeat]
    cell = cell[:, repeat] if cell is not None else None
    keys = model.decoder.attention.project(memory)
    attentional = memory.new_zeros(count * k, config.attention_output_size)
    token = torch.full((count * k, 1), config.decoder_start_token_id)
    scores = torch.tensor([0.0] + [-1e9] * (k - 1)).repeat(count, 1)  # (B, K): all beams start equal, one counts
    open_ids: list[list[int]] = [[] for _ in range(count * k)]
    done: list[list[tuple[float, list[int]]]] = [[] for _ in range(count)]
    for length in range(1, max_new_tokens + 1):
        attentional, hidden, cell, _ = model.decoder(token, hidden, cell, attentional, keys, memory, mask)
        words = torch.log_softmax(model.lm_head(attentional), dim=1).view(count, k, -1)
        best, flat = (scores.unsqueeze(2) + words).flatten(1).topk(2 * k, dim=1)
        parents: list[int] = []
        tokens: list[int] = []
        kept: list[list[float]] = []
        for b, (values, picks) in enumerate(zip(best.tolist(), flat.tolist(), strict=True)):
            row: list[float] = []
            for rank, (value, pick) in enumerate(zip(values, picks, strict=True)):
                parent, word = b * k + pick // config.target_vocab_size, pick % config.target_vocab_size
                if word == config.eos_token_id:
                    if rank < k:
                        done[b].append((value / length, open_ids[parent]))
                elif len(row) < k:
                    row.append(value)
                    parents.append(parent)
                    tokens.append(word)
            kept.append(row)
        if all(len(found) >= k and max(found)[0] >= row[0] / length for found, row in zip(done, kept, strict=True)):
            break
        open_ids = [open_ids[parent] + [word] for parent, word in zip(parents, tokens, strict=True)]
        order = torch.tensor(parents)
        scores, token = torch.tensor(kept), torch.tensor(tokens).unsqueeze(1)
        hidden, attentional = hidden[:, order], attentional[order]
        cell = cell[:, order] if cell is not None else None
    return [max(found)[1] if found else open_ids[b * k] for b, found in enumerate(done)]
