"""Text to token ids and back: thin wrappers around the tokenizer files that stand beside a model's weights.

`load_tokenizer` looks at a model folder and gives the codec its files ask for; a new format is one class with the
methods of `TextCodec` and one row in `FORMATS`. The packages that read them are imported then only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastattn.text.codec import Encoded, PromptCodec, TextCodec, TextStream
from fastattn.text.huggingface import HuggingFaceCodec
from fastattn.text.marian import MarianCodec
from fastattn.text.t5 import T5Codec

__all__ = ["FORMATS", "Encoded", "PromptCodec", "TextCodec", "TextStream", "load_prompt_tokenizer", "load_tokenizer"]

# The files that must stand in the folder, and what reads them (None: not for this model); the first complete row wins.
FORMATS: list[tuple[tuple[str, ...], Callable[[Path, Mapping[str, Any]], TextCodec | None]]] = [
    (("source.spm", "target.spm", "vocab.json"), MarianCodec.load),
    (("tokenizer.json",), HuggingFaceCodec.load),
    (("spiece.model",), T5Codec.load),
]


def load_tokenizer(folder: Path, config: Mapping[str, Any]) -> TextCodec | None:
    """The codec of the tokenizer files in `folder`, or None where there are none (the model then takes token ids only).

    config: the model's configuration; a tokenizer whose ids do not fit its vocabulary is refused.
    Raises LoadError for damaged files and for a missing package, naming what to install.

        >>> from pathlib import Path
        >>> load_tokenizer(Path("/nonexistent"), {}) is None
        True
    """
    for files, load in FORMATS:
        if all((folder / name).is_file() for name in files) and (found := load(folder, config)) is not None:
            return found
    return None


# The same for models that continue a prompt.
PROMPT_FORMATS: list[tuple[tuple[str, ...], Callable[[Path, Mapping[str, Any]], PromptCodec]]] = [
    (("tokenizer.json",), HuggingFaceCodec.load_for_prompts),
    (("vocab.json", "merges.txt"), HuggingFaceCodec.load_for_prompts),
]


def load_prompt_tokenizer(folder: Path, config: Mapping[str, Any]) -> PromptCodec | None:
    """`load_tokenizer` for decoder-only models: prompts get the special tokens that transformers gives them."""
    for files, load in PROMPT_FORMATS:
        if all((folder / name).is_file() for name in files):
            return load(folder, config)
    return None
