"""Writes cases.json.gz, what Hugging Face `generate` returns for many options on small table language models, and
warps.json.gz, which tokens its samplers leave.

Needs torch and transformers 4.57.6; run it from the repository's root as `python tests/golden/decoding/make.py`. The
models are those of tests/fakes.py (logits looked up by a hash of the prefix), wrapped as PreTrainedModel, so that the
tests have exactly the same logits without torch. Every case holds a model, inputs of one batch, options, and ids and
scores per returned sequence.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, Seq2SeqLMOutput
from transformers.utils import logging

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from fakes import FACTOR, PRIME, random_table  # noqa: E402


class TableConfig(PretrainedConfig):
    model_type = "table"


def absorb(state: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """States int64 [B] after ids int64 [B, T]."""
    for column in ids.T:
        state = (state * FACTOR + column + 1) % PRIME
    return state


class TableModel(PreTrainedModel, GenerationMixin):
    """Decoder-only."""

    config_class = TableConfig
    main_input_name = "input_ids"

    def __init__(self, config: PretrainedConfig, table: torch.Tensor) -> None:
        super().__init__(config)
        self.table = torch.nn.Parameter(table)

    def look_up(self, state: torch.Tensor) -> torch.Tensor:
        return self.table[state % len(self.table)][:, None, :]

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.look_up(absorb(torch.ones(len(input_ids), dtype=torch.int64), input_ids)))


class Encoder(torch.nn.Module):
    main_input_name = "input_ids"

    def forward(self, input_ids: torch.Tensor, **_: Any) -> BaseModelOutput:
        state = absorb(torch.full((len(input_ids),), 7), input_ids)
        return BaseModelOutput(last_hidden_state=state.double()[:, None, None])


class TableTranslator(TableModel):
    """Encoder-decoder: the encoder's hash of the source is where the decoder's starts."""

    def get_encoder(self) -> Encoder:
        return Encoder()

    def forward(self, decoder_input_ids: torch.Tensor, encoder_outputs: Any = None, **_: Any) -> Seq2SeqLMOutput:
        start = encoder_outputs.last_hidden_state[:, 0, 0].long()
        return Seq2SeqLMOutput(logits=self.look_up(absorb(start, decoder_input_ids)))


def run(model: dict[str, Any], inputs: list[list[int]], options: dict[str, Any]) -> dict[str, Any]:
    table = torch.from_numpy(
        random_table(
            model["seed"], model["rows"], model["vocabulary"], model["sharpness"], tuple(model["eos"]), model["boost"]
        )
    )
    translator = model["encoder"]
    config = TableConfig(vocab_size=model["vocabulary"], is_encoder_decoder=translator)
    net = (TableTranslator if translator else TableModel)(config, table)
    net.generation_config = GenerationConfig(
        eos_token_id=model["eos"] or None,
        pad_token_id=model["vocabulary"] - 1,
        decoder_start_token_id=model["start"] if translator else None,
    )
    out = net.generate(
        torch.tensor(inputs), use_cache=False, return_dict_in_generate=True, output_scores=True, **options
    )
    prompt = 1 if translator else len(inputs[0])
    sequences = [ids[prompt:] for ids in out.sequences.tolist()]
    return {"ids": sequences, "scores": out.sequences_scores.tolist() if "sequences_scores" in out else None}


def cut(ids: list[int], eos: list[int], limit: int) -> list[int]:
    """Up to and with the first end token; what follows is padding."""
    ends = [at for at, token in enumerate(ids) if token in eos]
    return ids[: ends[0] + 1] if ends else ids[:limit]


def models(rng: random.Random) -> dict[str, Any]:
    vocabulary = rng.choice([24, 40, 64])
    eos = rng.choice([[0], [0], [3], [2, 5], [1, 4, 9], []])
    return {
        "seed": rng.randrange(10_000),
        "rows": rng.choice([50, 200]),
        "vocabulary": vocabulary,
        "sharpness": rng.choice([1.0, 2.0, 3.0]),
        "eos": eos,
        "boost": rng.choice([0.0, 1.0, 2.5]),
        "encoder": rng.random() < 0.6,
        "start": vocabulary - 2,
    }


def extras(rng: random.Random, model: dict[str, Any], most: int) -> dict[str, Any]:
    """A random handful of processors."""
    vocabulary = model["vocabulary"]
    tokens = lambda n: rng.sample(range(10, vocabulary - 2), n)  # noqa: E731
    menu: list[dict[str, Any]] = [
        {"no_repeat_ngram_size": rng.choice([1, 2, 3])},
        {"repetition_penalty": rng.choice([0.7, 1.2, 2.0])},
        {"suppress_tokens": tokens(3)},
        {"begin_suppress_tokens": tokens(2) + model["eos"]},
        {"bad_words_ids": [tokens(1), tokens(2), tokens(2), tokens(3), [tokens(1)[0]] * 2]},
        {"min_new_tokens": rng.randint(1, most)},
        {"min_length": rng.randint(1, most)},
        {"forced_bos_token_id": tokens(1)[0]},
        {"forced_eos_token_id": rng.choice(model["eos"]) if model["eos"] else tokens(1)[0]},
    ]
    chosen: dict[str, Any] = {}
    for option in rng.sample(menu, rng.choice([0, 0, 1, 1, 2, 3])):
        chosen.update(option)
    return chosen


def grid() -> Any:
    """early_stopping x length_penalty x num_beams, all others random."""
    penalties, stops = [0.6, 1.0, 2.0, 0.0, -1.0], [False, True, "never"]
    for number, (stop, penalty, beams, _) in enumerate(itertools.product(stops, penalties, [2, 4, 5], range(9))):
        yield number, {"early_stopping": stop, "length_penalty": penalty, "num_beams": beams}
    for number in range(100):
        yield 10_000 + number, {"num_beams": 1}


def cases() -> Any:
    for number, options in grid():
        rng = random.Random(number)
        model = models(rng)
        most = rng.choice([1, 4, 9, 9, 16, 16, 16, 70])
        length = rng.choice([1, 1, 3, 5])
        batch = rng.choice([1, 2, 4])
        inputs = [[rng.randrange(10, model["vocabulary"] - 2) for _ in range(length)] for _ in range(batch)]
        prompt = 1 if model["encoder"] else length
        options |= {"max_length": most + prompt} if rng.random() < 0.3 else {"max_new_tokens": most}
        options |= extras(rng, model, most)
        if options["num_beams"] > 1:
            options["num_return_sequences"] = rng.choice([1, 2, options["num_beams"]])
        result = run(model, inputs, options)
        ids = [cut(sequence, model["eos"], most) for sequence in result["ids"]]
        scores = None if result["scores"] is None else [round(score, 5) for score in result["scores"]]
        yield {"model": model, "inputs": inputs, "options": options, "ids": ids, "scores": scores}


def warps() -> Any:
    """One row of scores through the chain that `generate` builds for sampling; what is left."""
    net = TableModel(TableConfig(vocab_size=40), torch.zeros(1, 40))
    for number in range(120):
        rng = random.Random(number)
        options = {
            "temperature": rng.choice([1.0, 0.3, 2.0]),
            "top_k": rng.choice([0, 1, 5, 39, 50]),
            "top_p": rng.choice([1.0, 0.2, 0.7, 0.95]),
            "min_p": rng.choice([None, 0.05, 0.4]),
            "num_beams": rng.choice([1, 2]),
        }
        config = GenerationConfig(do_sample=True, eos_token_id=[0, 1], **options)
        config._eos_token_tensor = torch.tensor([0, 1])
        scores = torch.from_numpy(random_table(number, 1, 40, 3.0))
        left = net._get_logits_processor(config, 1)(torch.zeros(1, 1, dtype=torch.long), scores)
        yield {"seed": number, "options": options, "left": [i for i, x in enumerate(left[0].tolist()) if x > -1e30]}


def write(name: str, found: list[Any]) -> None:
    text = "[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in found) + "\n]\n"
    (HERE / name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{name}: {len(found)} cases, {(HERE / name).stat().st_size} bytes")


def main() -> None:
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    write("warps.json.gz", list(warps()))
    write("cases.json.gz", list(cases()))


if __name__ == "__main__":
    main()
