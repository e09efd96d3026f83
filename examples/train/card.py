"""The model card of a trained folder: README.md with what was measured, not what was hoped."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .rnn import RnnAttention
from .tokenizer import vocabularies

KIND = {
    "en-fr-bahdanau": "GRU encoder–decoder with additive attention (Bahdanau, Cho, Bengio 2015) and attentional state",
    "en-fr-luong": "LSTM encoder–decoder with the general score (Luong, Pham, Manning 2015) and attentional state",
    "en-fr-transformer": "Transformer (Vaswani et al. 2017) in the form of Hugging Face's MarianMTModel",
}
GUIDED = {
    True: "the attention weights were trained towards that alignment as well (guided alignment, weight 0.3): a\n"
    "determiner looks half at the English determiner and half at its noun",
    False: "the last decoder layer's cross-attention, averaged over its heads, was trained towards that alignment as\n"
    "well (guided alignment, weight 0.3); its single heads and the other layers were left free",
}


def shape(model: nn.Module) -> str:
    if isinstance(model, RnnAttention):
        c = model.config
        feeding = "with" if c.input_feeding else "without"
        return (
            f"{c.num_layers} {c.cell.upper()} layer each side, embeddings {c.embedding_size}, encoder "
            f"2 × {c.encoder_hidden_size}, decoder {c.decoder_hidden_size}, attentional state "
            f"{c.attention_output_size}, {feeding} input feeding"
        )
    c = model.marian.config
    return (
        f"{c.encoder_layers} + {c.decoder_layers} layers, width {c.d_model}, {c.encoder_attention_heads} heads, "
        f"feed-forward {c.encoder_ffn_dim}, one shared vocabulary of {c.vocab_size} pieces, tied embeddings"
    )


def write(
    name: str,
    model: nn.Module,
    folder: Path,
    measured: dict[str, dict[int, float]],
    alignment: float,
    sentences: int,
    seeds: str,
) -> None:
    """`measured`: "greedy" and "beam 4" -> held-out seed -> share of 2,000 sentences exactly right.

    `alignment` is `evaluate.alignment_agreement`; `seeds` those of the training runs, one after the other."""
    english, french = vocabularies()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = "\n".join(
        f"| {search} | {held} | {share:.2%} |"
        for search, by_seed in measured.items()
        for held, share in by_seed.items()
    )
    files = sorted(path for path in folder.iterdir() if path.suffix in (".onnx", ".json"))
    size = sum(path.stat().st_size for path in files) / 1e6
    (folder / "README.md").write_text(f"""# {name}

English to French, for demonstration and tests:
a {KIND[name]}.

* **Shape**: {shape(model)};
  {parameters:,} parameters, float32.
* **Files**: {", ".join(path.name for path in files)};
  {size:.2f} MB together.
* **Vocabulary**: {len(english) - 3:,} English words, {len(french) - 3:,} French pieces ("▁" marks the start of a word).
* **Made by**: `python -m examples.train.train --model {name} --out DIR`, training seed(s) {seeds} (each further one
  continues the run before it with `--resume`); exported by `torch.onnx.export` (TorchScript, constants not folded).

## Data

Sentence pairs drawn freshly from a hand-written English–French grammar (`examples/train/grammar.py`): about
{sentences:,} of them. It has pronouns and names, present, progressive, past, perfect, imperfect, future, modal
verbs, negation, yes/no and wh-questions, commands, requests, numbers, adjectives on either side of the noun, agreement,
elision, partitives, object pronouns, possessives, places, times, joined and reported clauses, a few greetings.

The grammar knows which French word translates which English one;
{GUIDED[isinstance(model, RnnAttention)]}.
So the attention maps of this model show an alignment that was taught, not one it found by itself: of the held-out words
whose alignment is a single English word, {alignment:.1%} attend most to that word.

## Held-out accuracy

One French sentence in 25 (by a hash of its words) was never trained on in any English wording. Of such sentences, 2,000
per seed, this share is translated exactly, end token included:

| search | seed | exact |
|---|---|---|
{rows}

## Limits

* Outside its grammar and vocabulary the model is out of its depth: it will still say something. Words it does not know
  become `<unk>`; idioms, free word order and relative clauses other than "who …" are not covered. One sentence at a
  time; the longest trained on has 24 words.
* "you" is always the polite "vous"; "I", "we" are masculine; "it" and "they" are masculine unless the subject of the
  clause before says otherwise. "I read" is taken as present.
* The sentences are grammatical, not sensible: bees drive trucks. Do not use it as a translator of anything that matters.
""")
