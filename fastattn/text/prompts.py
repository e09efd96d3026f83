"""Tokenizers of models that continue a text, as transformers makes them from a folder's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastattn.errors import LoadError
from fastattn.text.codec import Described, added_tokens, described_tokens, listed_tokens, special_content

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

    from fastattn.text.huggingface import Vocabulary

END_OF_TEXT = "<|endoftext|>"  # GPT-2's only special token
BYTE_LEVEL = {
    "model": {"type": "BPE"},
    "decoder": {"type": "ByteLevel"},
}  # what `byte_level` makes, as a tokenizer.json
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_LLAMA = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast")
_QWEN2 = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
_CLASSES = {"llama": "LlamaTokenizer", "mistral": "LlamaTokenizer", "qwen2": "Qwen2Tokenizer"}  # by model_type
# What Qwen2's tokenizer takes for words: contractions, letters with one sign before them, single digits, signs, breaks, spaces.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_TOKENS = {"bos": "<s>", "eos": "</s>"}  # where tokenizer_config.json names none


def _class(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The tokenizer's class: where no file names one, that of the model's type."""
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    return named if isinstance(named, str) else _CLASSES.get(str(config.get("model_type")), "")


def adapt(vocabulary: Vocabulary, settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """What transformers changes in a tokenizer.json by tokenizer_config.json when it loads it.

    The class of LLaMA's tokenizers writes its own post-processor: bos before a text unless `add_bos_token` is false, eos
    behind it if `add_eos_token` is true. A byte-level pre-tokenizer puts a space before a text only if `add_prefix_space`
    asks for it.
    """
    from tokenizers import pre_tokenizers

    file, tokenizer = vocabulary.file, vocabulary.tokenizer
    if _class(settings, config) in _LLAMA:
        wanted = {"bos": settings.get("add_bos_token", True), "eos": settings.get("add_eos_token", False)}
        named = {
            name: special_content(settings.get(f"{name}_token")) or _LLAMA_TOKENS[name]
            for name in wanted
            if wanted[name]
        }
        _surround(tokenizer, file, named)
    described = vocabulary.description.get("pre_tokenizer") or {}
    if described.get("type") == "ByteLevel":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=bool(settings.get("add_prefix_space", False)), use_regex=described.get("use_regex", True)
        )


def byte_level(folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Tokenizer:
    """vocab.json and merges.txt: Sennrich et al. (2016) on bytes, as GPT-2 has it, or Qwen2 with words of its own."""
    file = folder / "vocab.json"
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    except ImportError:
        raise LoadError(f"{file}: reading it needs the package tokenizers: pip install tokenizers") from None
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(file), str(folder / "merges.txt")))
    except Exception as error:  # the package raises plain Exception
        raise LoadError(f"{file}, merges.txt: not a byte-pair vocabulary: {' '.join(str(error).split())}") from None
    spaced = bool(settings.get("add_prefix_space", False))
    if _class(settings, config) in _QWEN2:
        tokenizer.normalizer = normalizers.NFC()
        words = pre_tokenizers.Split(Regex(_QWEN2_WORDS), "isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    _add_tokens(tokenizer, folder, settings)
    if settings.get("add_bos_token"):
        _surround(tokenizer, file, {"bos": special_content(settings.get("bos_token")) or END_OF_TEXT})
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, folder: Path, settings: Mapping[str, Any]) -> None:
    """The special tokens, and those that added_tokens.json and tokenizer_config.json's `added_tokens_decoder` add."""
    from tokenizers import AddedToken

    named = [special_content(settings.get(name)) or (END_OF_TEXT if name != "pad_token" else "") for name in _NAMES]
    special = {*named, *map(special_content, listed_tokens(folder, settings))}
    tokens: dict[str, tuple[int, AddedToken]] = {}
    for token, place in added_tokens(folder).items():
        tokens[token] = place, AddedToken(token, special=token in special, normalized=False)
    for text, (place, *flags) in described_tokens(folder, settings).items():
        tokens[text] = place, AddedToken(text, **dict(zip(Described._fields[1:], flags, strict=True)))
    listed = sorted(tokens.values(), key=lambda item: item[0])
    tokenizer.add_special_tokens([t for t in dict.fromkeys(named) if t and tokenizer.token_to_id(t) is not None])
    for place, token in listed:
        add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
        add([token])
        found = tokenizer.token_to_id(token.content)
        if found != place:
            raise LoadError(f"{folder}: added token {token.content!r} is {place}, expected {found}: ids have gaps")


def _surround(tokenizer: Tokenizer, file: Path, around: Mapping[str, str]) -> None:
    """Puts the tokens named "bos" and "eos" around every text."""
    from tokenizers import processors

    for name, token in around.items():
        if not token or tokenizer.token_to_id(token) is None:
            raise LoadError(f"{file}: tokenizer_config.json wants a {name}_token around texts, {token!r} is no token")
    before, behind = ([around[name]] if name in around else [] for name in ("bos", "eos"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *behind],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in {*before, *behind}],
    )
