"""Makes the tiny tokenizers of prompts/ and what transformers says about them (prompts/expected.json).

    python tests/golden/text/make_prompts.py

Needs transformers and tokenizers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from make import ENGLISH, FRENCH
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    GPT2Tokenizer,
    GPT2TokenizerFast,
    LlamaTokenizerFast,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen2TokenizerFast,
)

HERE = Path(__file__).parent / "prompts"
TEXTS = [
    "I am eating an apple.",
    " She drinks  water",
    "  two\n\nlines \t",
    "\n",
    "don't we're 's 'S 123 4,567",
    "été naïve 日本 ☃ 😀",
    "<|endoftext|>The garden<|endoftext|>",
    "<s>The garden</s>",
    "<|begin_of_text|>The",
    "a",
    "f(x)\u2009e\u0301t\u00e9 l'eau 12 34\n\n  y",
]
CONTINUATIONS = [
    (" the gard", "en is"),
    ("It is", " red, isn't it?"),
    ("été 日", "本 ☃"),
    ("Two ", "dogs"),
    ("", "I eat"),
]


def byte_level(words: Any = None) -> Tokenizer:
    """Trained on GPT-2's words, or on others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(ENGLISH + FRENCH, trainer)
    return tokenizer


def gpt2(folder: Path) -> None:
    """As GPT-2 came: vocab.json and merges.txt. (`gpt2-json` is the same as tokenizer.json, saved by transformers.)"""
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    fast = GPT2TokenizerFast(tokenizer_object=tokenizer)
    fast.save_pretrained(HERE / "gpt2-json")
    state = json.loads(tokenizer.to_str())["model"]
    vocabulary = {**state["vocab"], "<|endoftext|>": len(state["vocab"])}
    merges = "".join(" ".join(pair) + "\n" for pair in state["merges"])
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")


def gpt2_added(folder: Path) -> None:
    """The same with a token for padding, and bos before each text."""
    for file in (HERE / "gpt2").iterdir():
        shutil.copy(file, folder / file.name)
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": size}))
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,
        "bos_token": "<|endoftext|>",
        "pad_token": "[PAD]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def gpt2_special(folder: Path) -> None:
    """The same with further special tokens and an ordinary one, which only tokenizer_config.json describes."""
    for file in (HERE / "gpt2").iterdir():
        shutil.copy(file, folder / file.name)
    tokenizer = GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_tokens([AddedToken("apple.", single_word=True)])
    more = ["<|begin_of_text|>", AddedToken("<s>", rstrip=True), "</s>"]
    tokenizer.add_special_tokens({"additional_special_tokens": more})
    tokenizer.save_pretrained(folder)
    (folder / "added_tokens.json").unlink()


def qwen2(folder: Path) -> None:
    """Its slow tokenizer saves no tokenizer.json; words are its own."""
    any_files = str(HERE / "gpt2" / "vocab.json"), str(HERE / "gpt2" / "merges.txt")
    tokenizer = byte_level(Qwen2TokenizerFast(*any_files).backend_tokenizer.pre_tokenizer)
    state = json.loads(tokenizer.to_str())["model"]
    merges = "".join(" ".join(pair) + "\n" for pair in state["merges"])
    (folder / "vocab.json").write_text(json.dumps(state["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    Qwen2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


def llama3(folder: Path) -> None:
    """Byte-level pieces after a split of its own, bos by the post-processor."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    digits = pre_tokenizers.Split(r"\d{1,3}", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bos = [("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))]
    template = processors.TemplateProcessing(single=["<|begin_of_text|>", "$A"], special_tokens=bos)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    names: dict[str, Any] = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def llama(folder: Path, **options: Any) -> None:
    """Pieces with ▁ for spaces and bytes to fall back on; the class adds bos, whatever tokenizer.json says."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=pieces, show_progress=False)
    words = [f"▁{word}" for line in ENGLISH + FRENCH for word in line.split()]
    tokenizer.train_from_iterator(words, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # bytes are pieces, not special tokens
    fast = LlamaTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), legacy=False, **options)
    fast.save_pretrained(folder)
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    saved["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(saved, ensure_ascii=False), encoding="utf-8")


def continuations(tokenizer: Any) -> list[dict[str, Any]]:
    cases = []
    for prompt, text in CONTINUATIONS:
        before, whole = tokenizer(prompt).input_ids, tokenizer(prompt + text).input_ids
        ids = whole[len(before) :] if whole[: len(before)] == before and len(whole) > len(before) else None
        if ids is None:
            ids = tokenizer(text, add_special_tokens=False).input_ids
        shown = tokenizer.decode(before, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        all_of_it = tokenizer.decode([*before, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert all_of_it.startswith(shown.rstrip("\ufffd"))
        cases.append(
            {"prompt": prompt, "text": text, "ids": ids, "continued": all_of_it[len(shown.rstrip("\ufffd")) :]}
        )
    return cases


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    for name, make in (
        ("gpt2", gpt2),
        ("gpt2-added", gpt2_added),
        ("gpt2-special", gpt2_special),
        ("qwen2", qwen2),
        ("llama3", llama3),
        ("llama", llama),
        ("llama-eos", lambda folder: llama(folder, add_bos_token=False, add_eos_token=True)),
    ):
        (HERE / name).mkdir(parents=True)
        make(HERE / name)
    expected: dict[str, Any] = {}
    for folder in sorted(path for path in HERE.iterdir() if path.is_dir()):
        if folder.name.startswith("gpt2") and not (folder / "tokenizer_config.json").exists():
            tokenizer: Any = GPT2TokenizerFast.from_pretrained(folder)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        expected[folder.name] = {
            "prompts": [{"text": text, "ids": tokenizer(text).input_ids} for text in TEXTS],
            "continuations": [] if folder.name == "llama-eos" else continuations(tokenizer),
        }
    (HERE / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
