"""Tokenizers of models that continue a text, as transformers makes them from a folder's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastattn.errors import LoadError
from fastattn.text.codec import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from fastattn.text.huggingface import Vocabulary

END_OF_TEXT = "<|endoftext|>"  # GPT-2's only special token
BYTE_LEVEL = {
    "model": {"type": "BPE"},
    "decoder": {"type": "ByteLevel"},
}  # what `byte_level` makes, as a tokenizer.json
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
_LLAMA = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast")
_LLAMA_TOKENS = {"bos": "<s>", "eos": "</s>"}  # where tokenizer_config.json names none


def adapt(vocabulary: Vocabulary, settings: Mapping[str, Any]) -> None:
    """What transformers changes in a tokenizer.json by tokenizer_config.json when it loads it.

    The class of LLaMA's tokenizers writes its own post-processor: bos before a text unless `add_bos_token` is false, eos
    behind it if `add_eos_token` is true. A byte-level pre-tokenizer puts a space before a text only if `add_prefix_space`
    asks for it.
    """
    from tokenizers import pre_tokenizers

    file, tokenizer = vocabulary.file, vocabulary.tokenizer
    if settings.get("tokenizer_class") in _LLAMA:
        wanted = {"bos": settings.get("add_bos_token", True), "eos": settings.get("add_eos_token", False)}
        named = {
            name: _content(settings.get(f"{name}_token")) or _LLAMA_TOKENS[name] for name in wanted if wanted[name]
        }
        _surround(tokenizer, file, named)
    described = vocabulary.description.get("pre_tokenizer") or {}
    if described.get("type") == "ByteLevel":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=bool(settings.get("add_prefix_space", False)), use_regex=described.get("use_regex", True)
        )


def byte_level(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """vocab.json and merges.txt: Sennrich et al. (2016) on bytes, as GPT-2 has it."""
    file = folder / "vocab.json"
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    except ImportError:
        raise LoadError(f"{file}: reading it needs the package tokenizers: pip install tokenizers") from None
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(file), str(folder / "merges.txt")))
    except Exception as error:  # the package raises plain Exception
        raise LoadError(f"{file}, merges.txt: not a byte-pair vocabulary: {' '.join(str(error).split())}") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space", False)))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = [_content(settings.get(name)) or (END_OF_TEXT if name != "pad_token" else "") for name in _NAMES]
    extra = _added(folder / "added_tokens.json")
    known = [token for token in dict.fromkeys(special) if token and tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens(known)
    tokenizer.add_tokens([AddedToken(token, special=token in special, normalized=False) for token in extra])
    for token, place in extra.items():
        if tokenizer.token_to_id(token) != place:
            found = tokenizer.token_to_id(token)
            raise LoadError(f"{folder / 'added_tokens.json'}: {token!r} is {place}, expected {found}: ids have gaps")
    if settings.get("add_bos_token"):
        _surround(tokenizer, file, {"bos": _content(settings.get("bos_token")) or END_OF_TEXT})
    return tokenizer


def _added(file: Path) -> dict[str, int]:
    """Token -> id, by id; empty where the file does not exist."""
    found = read_json(file) if file.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(i, int) for i in found.values()):
        raise LoadError(f"{file}: expected an object of tokens with their ids")
    return dict(sorted(found.items(), key=lambda item: item[1]))


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


def _content(token: Any) -> str:
    """A special token as tokenizer_config.json writes it: its text, or an object that holds it."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else ""
