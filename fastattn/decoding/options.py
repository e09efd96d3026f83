"""`GenerationOptions`: the options of `generate`, with the names and meanings of Hugging Face transformers 4.57."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from fastattn.errors import OptionError

DEFAULT_NEW_TOKENS = 256
"""How many tokens are generated at most when neither the caller nor the model's files set a limit."""

HUGGING_FACE_MAX_LENGTH = 20
"""The default `max_length` of Hugging Face: found in a file it means 20 *new* tokens, as it does there."""


@dataclass(frozen=True)
class _Rule:
    """What an option may be: `accept` returns the value in its canonical type or raises TypeError or ValueError."""

    expected: str
    accept: Callable[[Any], Any]
    optional: bool = False


def _to_int(value: Any) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError
    return operator.index(value)


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError
    if not math.isfinite(value):
        raise ValueError
    return float(value)


def _check(good: bool) -> None:
    if not good:
        raise ValueError


def _integer(low: int, high: int | None = 2**31 - 1, optional: bool = False) -> _Rule:
    def accept(value: Any) -> int:
        number = _to_int(value)
        _check(low <= number and (high is None or number <= high))
        return number

    return _Rule(f"an integer >= {low}" if high is None else f"an integer from {low} to {high}", accept, optional)


def _number(expected: str, good: Callable[[float], bool], optional: bool = False) -> _Rule:
    def accept(value: Any) -> float:
        number = _to_float(value)
        _check(good(number))
        return number

    return _Rule(expected, accept, optional)


def _between(low: float, high: float, zero: bool = False) -> _Rule:
    """A number in these bounds; zero: or 0, where it means that the option is not used."""
    return _number(f"a number from {low:g} to {high:g}", lambda x: low <= x <= high or (zero and x == 0))


def _to_ids(value: Any) -> tuple[int, ...]:
    """One id or a list of ids, as a tuple without repeats."""
    if isinstance(value, (int, np.integer)):
        value = [value]
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError
    ids = tuple(dict.fromkeys(_to_int(i) for i in value))
    _check(all(0 <= i < 2**31 for i in ids))
    return ids


def _to_some_ids(value: Any) -> tuple[int, ...]:
    ids = _to_ids(value)
    _check(len(ids) > 0)
    return ids


def _to_id_list(value: Any) -> tuple[int, ...]:
    if isinstance(value, (int, np.integer)):
        raise TypeError
    return _to_ids(value)


def _to_words(value: Any) -> tuple[tuple[int, ...], ...]:
    """A list of non-empty lists of ids, order and repeats inside a word kept."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError
    words = []
    for word in value:
        if isinstance(word, (str, bytes, Mapping)) or not isinstance(word, Iterable):
            raise TypeError
        ids = tuple(_to_int(i) for i in word)
        _check(len(ids) > 0 and all(0 <= i < 2**31 for i in ids))
        words.append(ids)
    return tuple(words)


def _to_bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError
    return bool(value)


def _to_early_stopping(value: Any) -> bool | str:
    if isinstance(value, str):
        _check(value == "never")
        return value
    return _to_bool(value)


_TOKEN = _integer(0, optional=True)
_FACTOR = (1e-30, 1e30)  # what a score is multiplied with or divided by: it stays within float32
_COLDEST_BEAMS = 1e-5  # below, whole beams would score less than -1e9, which counts as no output
_LENGTH_PENALTY = 10  # so do powers of a length, up to 7,000 tokens
_MOST_BEAMS = 1 << 20  # candidates of a step are counted in 32 bits
_RULES: dict[str, _Rule] = {
    "num_beams": _integer(1, _MOST_BEAMS),
    "length_penalty": _between(-_LENGTH_PENALTY, _LENGTH_PENALTY),
    "early_stopping": _Rule('True, False or "never"', _to_early_stopping),
    "num_return_sequences": _integer(1, _MOST_BEAMS),
    "max_new_tokens": _integer(1, optional=True),
    "min_new_tokens": _integer(0, optional=True),
    "max_length": _integer(1, optional=True),
    "min_length": _integer(0),
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": _Rule("a token id or a non-empty list of token ids", _to_some_ids, optional=True),
    "suppress_tokens": _Rule("a list of token ids", _to_id_list, optional=True),
    "begin_suppress_tokens": _Rule("a list of token ids", _to_id_list, optional=True),
    "bad_words_ids": _Rule("a list of non-empty lists of token ids", _to_words, optional=True),
    "no_repeat_ngram_size": _integer(0),
    "repetition_penalty": _between(*_FACTOR),
    "do_sample": _Rule("True or False", _to_bool),
    "temperature": _between(*_FACTOR, zero=True),  # 0 only where it is not used, see _check_combinations
    "top_k": _integer(0, optional=True),
    "top_p": _number("a number in [0, 1]", lambda x: 0 <= x <= 1),
    "min_p": _number("a number in [0, 1]", lambda x: 0 <= x <= 1, optional=True),
    "seed": _integer(0, None, optional=True),
    "eos_token_id": _Rule("a token id or a non-empty list of token ids", _to_some_ids, optional=True),
    "pad_token_id": _TOKEN,
    "bos_token_id": _TOKEN,
    "decoder_start_token_id": _TOKEN,
    "position_limit": _integer(1, optional=True),
    "vocab_size": _integer(1, optional=True),
    "ends_at_limit": _Rule("True or False", _to_bool),
}
_SPECIAL_TOKENS = ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id")
_INTERNAL = ("position_limit", "vocab_size", "ends_at_limit")
_FILE_OPTIONS = tuple(name for name in _RULES if name not in ("seed", *_INTERNAL))

# Options of Hugging Face that change the result and are not implemented, with the values that change nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (None, 1),
    "diversity_penalty": (None, 0.0),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "sequence_bias": (None,),
    "exponential_decay_length_penalty": (None,),
    "renormalize_logits": (None, False),
    "penalty_alpha": (None, 0.0),
    "guidance_scale": (None, 1.0),
    "constraints": (None,),
    "force_words_ids": (None,),
    "watermarking_config": (None,),
    "token_healing": (None, False),
    "dola_layers": (None,),
    "max_time": (None,),
    "stop_strings": (None,),
}
_POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions")


def check_integer(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """The integer given for an argument that is none of these options; OptionError if it is not in the bounds."""
    return int(_accept_by(_integer(low, high), name, value))


def _accept(name: str, value: Any, source: str = "") -> Any:
    return _accept_by(_RULES[name], name, value, source)


def _accept_by(rule: _Rule, name: str, value: Any, source: str = "") -> Any:
    if value is None and rule.optional:
        return None
    try:
        return rule.accept(value)
    except (TypeError, ValueError, OverflowError):
        where = f"{source}: " if source else ""
        raise OptionError(f"{where}{name}: found {_short(value)}, expected {rule.expected}") from None


def _short(value: Any) -> str:
    try:
        text = repr(value).replace("\n", " ")
    except ValueError:  # an integer of thousands of digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class GenerationOptions:
    """How to decode. Names, meanings and defaults are those of Hugging Face `generate`; where not, it is said below.

    Beams: `num_beams` hypotheses are kept per input; a finished one's score is its log-probability divided by its
    generated length ** `length_penalty` (-10 to 10); `early_stopping` True stops at `num_beams` finished hypotheses, False when
    the best running one could not improve on them at its present length, "never" when it could not at any length.
    `num_return_sequences` of them are returned.

    Length: `max_new_tokens` and `min_new_tokens` count generated tokens; `max_length` and `min_length` count the
    decoder prompt too, and give way to the former where both are set. Where the model's files set the former and a call
    the latter, `resolve` refuses what would be ignored, unless the call switches the former off (`max_new_tokens=None`).
    When nothing sets a limit, generation ends after `DEFAULT_NEW_TOKENS` (256) tokens or at the model's last position
    (`position_limit`); Hugging Face would end after 20. With `ends_at_limit` that position ends it in any case.

    Tokens: `forced_bos_token_id` follows a prompt of one token; `forced_eos_token_id` is the last token when the limit
    is reached; `suppress_tokens` never appear, `begin_suppress_tokens` not as the first; `bad_words_ids` are sequences
    that never appear; `no_repeat_ngram_size` n forbids any n tokens to appear twice; `repetition_penalty` > 1 makes
    seen tokens less likely.

    Sampling: with `do_sample`, tokens are drawn after `temperature`, `top_k` (0: all), `top_p` and `min_p`, in this
    order. `seed` makes it repeatable: an input's samples depend on the seed and the input alone, not on the batch, so
    that equal inputs give equal samples. (Hugging Face draws from PyTorch's global generator.)

    `position_limit` and `vocab_size` describe the model and come from its config; the latter bounds all token ids. End,
    padding and beginning tokens that the model's files name beyond it are passed over: they can neither be chosen nor fed.

    Raises `OptionError` naming the option, the value found and what is expected.

    >>> GenerationOptions(num_beams=4, length_penalty=0.6, eos_token_id=0).num_beams
    4
    """

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    max_length: int | None = None
    min_length: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float = 1.0
    min_p: float | None = None
    seed: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    position_limit: int | None = None
    vocab_size: int | None = None
    ends_at_limit: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _accept(field.name, getattr(self, field.name)))
        self._check_combinations()

    def _check_combinations(self) -> None:
        wanted = self.num_return_sequences
        if self.num_beams > 1 and wanted > self.num_beams:
            raise OptionError(f"num_return_sequences: found {wanted}, expected at most num_beams ({self.num_beams})")
        if self.num_beams == 1 and wanted > 1 and not self.do_sample:
            raise OptionError(
                f"num_return_sequences: found {wanted}, expected 1 for greedy decoding (num_beams=1, do_sample=False)"
            )
        if self.vocab_size is not None:
            self._check_vocabulary(self.vocab_size)
        if self.do_sample and self.temperature == 0:
            raise OptionError("temperature: found 0, expected a number > 0 (greedy decoding is do_sample=False)")
        if self.do_sample and self.num_beams > 1 and self.temperature < _COLDEST_BEAMS:
            raise OptionError(f"temperature: found {self.temperature}, expected at least {_COLDEST_BEAMS} with beams")
        forced = {*self.forced_eos, *_as_tuple(self.forced_bos_token_id)}
        if clash := sorted(forced & set(self.suppress_tokens or ())):
            raise OptionError(f"suppress_tokens: found {clash[0]}, expected no forced token")

    @property
    def eos(self) -> tuple[int, ...]:
        """The end tokens, empty if there are none."""
        return _as_tuple(self.eos_token_id)

    @property
    def forced_eos(self) -> tuple[int, ...]:
        """The tokens one of which is forced at the limit, empty if none is."""
        return _as_tuple(self.forced_eos_token_id)

    def new_tokens(self, prompt_length: int) -> tuple[int, int]:
        """The least and the greatest number of tokens to generate, end token included, after a prompt this long."""
        least = self.min_new_tokens if self.min_new_tokens is not None else self.min_length - prompt_length
        most = self.max_new_tokens
        if most is None and self.max_length is not None:
            most = _room("max_length", self.max_length, prompt_length)
        if self.position_limit is not None and (most is None or self.ends_at_limit):  # the last token is not fed
            most = min(DEFAULT_NEW_TOKENS if most is None else most, self._positions_left(prompt_length))
        return max(least, 0), DEFAULT_NEW_TOKENS if most is None else most

    def _positions_left(self, prompt_length: int) -> int:
        assert self.position_limit is not None
        if prompt_length > self.position_limit:
            raise OptionError(
                f"max_new_tokens: found None, expected how many tokens are to follow: a prompt of {prompt_length} tokens is "
                f"longer than the {self.position_limit} positions that the model was made for"
            )
        return self.position_limit - prompt_length + 1

    @property
    def length_option(self) -> str:
        """The option that says when an output ends: the first goes before the second."""
        return "max_length" if self.max_new_tokens is None and self.max_length is not None else "max_new_tokens"

    def check_room(self, prompt_length: int, limit: int) -> None:
        """OptionError if more tokens may follow a prompt than a model of `limit` positions has room for; 0: it has any
        number."""
        _, most = self.new_tokens(prompt_length)
        room = limit - prompt_length + 1  # the last token is not fed
        if not limit or most <= room:
            return
        name = self.length_option
        found, allowed = (prompt_length + most, prompt_length + room) if name == "max_length" else (most, room)
        raise OptionError(
            f"{name}: {found} after a prompt of {_tokens(prompt_length)}, expected at most {allowed}: "
            f"the model has {limit} positions"
        )

    @classmethod
    def resolve(
        cls, config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None, **overrides: Any
    ) -> GenerationOptions:
        """Options for one call: what the caller says, else the model's files, else the defaults.

        config: the contents of config.json; generation_config: those of generation_config.json, empty or None if the
        model has none. As in Hugging Face, config.json decides how to decode only where there is no
        generation_config.json; the special tokens are taken from it also when the latter lacks them (Hugging Face then
        starts a decoder with the token that begins a text, or refuses). A None given by the caller switches an optional
        option off and leaves the others as the files have them.

        >>> GenerationOptions.resolve({"eos_token_id": 0, "num_beams": 6}, {}, num_beams=2).num_beams
        2
        """
        _check_names(overrides)
        generation_config = generation_config or {}
        _check_unsupported(config, generation_config, overrides)
        values = _from_file("config.json", config, _SPECIAL_TOKENS if generation_config else _FILE_OPTIONS)
        values.update(_from_file("generation_config.json", generation_config, _FILE_OPTIONS))
        if values.get("max_length") == HUGGING_FACE_MAX_LENGTH:
            del values["max_length"]
            if overrides.get("max_length") is None:
                values.setdefault("max_new_tokens", HUGGING_FACE_MAX_LENGTH)
        limit = next((config[k] for k in _POSITIONS if config.get(k) is not None), None)
        values["position_limit"] = _accept("position_limit", limit, "config.json")
        values["vocab_size"] = _accept(
            "vocab_size", config.get("decoder_vocab_size") or config.get("vocab_size"), "config.json"
        )
        _pass_over_unknown_tokens(values)
        _check_lengths(overrides, values)
        for name, value in overrides.items():
            if name in _RULES and (value is not None or (_RULES[name].optional and name != "max_length")):
                values[name] = _accept(name, value)
        if config.get("is_encoder_decoder") and values.get("decoder_start_token_id") is None:
            values["decoder_start_token_id"] = values.get("bos_token_id")
        return cls(**values)

    def _check_vocabulary(self, size: int) -> None:
        for name in (*_SPECIAL_TOKENS, "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens"):
            self._check_ids(name, _as_tuple(getattr(self, name)), size)
        self._check_ids("begin_suppress_tokens", self.begin_suppress_tokens or (), size)
        for word in self.bad_words_ids or ():
            self._check_ids("bad_words_ids", word, size)

    @staticmethod
    def _check_ids(name: str, ids: Sequence[int], size: int) -> None:
        if ids and max(ids) >= size:
            raise OptionError(f"{name}: found token id {max(ids)}, expected less than the vocabulary size {size}")


def _room(name: str, limit: int, prompt_length: int) -> int:
    if limit <= prompt_length:
        raise OptionError(
            f"{name}: found {limit}, expected more than the {_tokens(prompt_length)} of the decoder prompt"
        )
    return limit - prompt_length


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count} tokens"


def _as_tuple(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


def _check_names(overrides: Mapping[str, Any]) -> None:
    public = [name for name in _RULES if name not in _INTERNAL]
    for name in overrides:
        if name not in public and name not in _UNSUPPORTED:
            near = difflib.get_close_matches(name, public, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(public)}"
            raise OptionError(f"{name}: unknown option; {hint}")


def _check_lengths(overrides: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """OptionError for a length of the caller's that one of the model's files, which goes before it, would undo."""
    for name, first in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        given, set_by_file = overrides.get(name), files.get(first)
        if given is not None and set_by_file is not None and first not in overrides:
            raise OptionError(
                f"{name}: found {_short(given)}, but the model's files set {first} to {set_by_file}, which goes before it; "
                f"expected {first} instead, or {first}=None too"
            )


def _check_unsupported(
    config: Mapping[str, Any], generation_config: Mapping[str, Any], overrides: Mapping[str, Any]
) -> None:
    """Refuses what this library would ignore and Hugging Face would not; values that change nothing pass."""
    sources = [("", overrides), ("generation_config.json: ", generation_config)]
    if not generation_config:
        sources.append(("config.json: ", config))
    for name, neutral in _UNSUPPORTED.items():
        source, value = next(((source, content[name]) for source, content in sources if name in content), ("", None))
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not any(value is n or (number and n is not None and value == n) for n in neutral):
            raise OptionError(
                f"{source}{name}: found {_short(value)}, expected {neutral[-1]} (others are not supported)"
            )


def _from_file(source: str, content: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The options a model's file sets, checked; null is passed over, and so is the -1 that some files have for "no
    padding"."""
    given = {name: content[name] for name in names if content.get(name) is not None}
    if given.get("pad_token_id") == -1:
        del given["pad_token_id"]
    return {name: _accept(name, value, source) for name, value in given.items()}


def _pass_over_unknown_tokens(files: dict[str, Any]) -> None:
    """Forgets end, padding and beginning tokens of the model's files that are outside its vocabulary."""
    size = files["vocab_size"]
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        ids = _as_tuple(files.get(name))
        known = tuple(i for i in ids if size is None or i < size)
        if known != ids:
            files[name] = known or None
