"""`load` and `Model`: text or token ids in; text, scores and attention out."""

from __future__ import annotations

import difflib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from fastattn import _native
from fastattn.attention_map import AttentionMap
from fastattn.decoding import GenerationOptions, generate, stream
from fastattn.decoding.forced import forced
from fastattn.errors import InputError, LoadError, OptionError
from fastattn.generation import Candidate, Generation, Source, Step
from fastattn.packing import COMPUTE_TYPES, PackingStore, Progress, as_float32, needed
from fastattn.runtime import (
    AttentionRecord,
    FloatArray,
    IntArray,
    NativePrograms,
    NativeSession,
    Select,
    Session,
    StepResult,
)

if TYPE_CHECKING:
    from fastattn.loaders import Checkpoint
    from fastattn.models.architecture import Weights
    from fastattn.profile import Profile
    from fastattn.text import TextCodec

BUNDLED = Path(__file__).parent / "bundled"
BACKENDS = ("native", "reference")
_POOLED = 4  # idle sessions a model keeps for the next call

TokenIds = Sequence[int] | NDArray[np.integer[Any]]
Input = str | TokenIds


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def load(
    path: str | os.PathLike[str],
    *,
    compute_type: str = "float32",
    num_threads: int | None = None,
    backend: str = "native",
    progress: Progress | None = None,
) -> Model:
    """Loads a model: a directory or file in a supported format, or the name of a bundled model.

    compute_type: "float32". num_threads: threads of one call, default `get_num_threads()`. backend: "native", or
    "reference", plain NumPy. progress: called while weights are packed with how many parameters are done and how many there
    are. Raises LoadError naming the file or tensor at fault, OptionError for a bad option.

    >>> load("en-fr-bahdanau").generate("I am eating an apple").text
    'je mange une pomme'
    """
    _check_choice("backend", backend, BACKENDS)
    _check_choice("compute_type", compute_type, COMPUTE_TYPES)
    if num_threads is not None:
        check_threads(num_threads)
    folder = Path(path)
    name = str(path)
    if not folder.exists():
        if name not in bundled_models():
            near = difflib.get_close_matches(name, bundled_models(), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise LoadError(
                f"{name}: no such file or directory, and no bundled model (bundled: {', '.join(bundled_models())}){hint}"
            )
        folder = BUNDLED / name
    from fastattn.loaders import open_checkpoint

    return Model(open_checkpoint(folder), folder.name or name, num_threads, backend, compute_type, progress)


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise OptionError(f"{option}: found {value!r}, expected one of {', '.join(choices)}")


def check_threads(num_threads: int) -> int:
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or not 1 <= num_threads <= 1024:
        raise OptionError(f"num_threads: found {num_threads!r}, expected an integer from 1 to 1024")
    return num_threads


class Model:
    """A loaded model. Safe to use from many threads at once: each call works in a session of its own.

    Attributes: name, family, config (config.json), checkpoint (where the tensors came from), num_parameters,
    tokenizer (None if the model's folder has none: it then takes and gives token ids).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        name: str,
        num_threads: int | None,
        backend: str,
        compute_type: str = "float32",
        progress: Progress | None = None,
    ) -> None:
        from fastattn.models import build
        from fastattn.text import load_tokenizer
        from fastattn.weights import bind_weights

        self.name, self.checkpoint, self.backend = name, checkpoint, backend
        self.config: Mapping[str, Any] = checkpoint.config
        self._architecture = architecture = build(checkpoint.config, str(checkpoint.path))
        self.family = architecture.family
        bound = bind_weights(
            architecture.params, checkpoint, architecture.rename, architecture.optional, architecture.ignore
        )
        self.num_parameters = sum(math.prod(architecture.params[name]) for name in bound)
        weights = architecture.prepare(bound)
        self.tokenizer: TextCodec | None = load_tokenizer(checkpoint.path, checkpoint.config)
        self._num_threads = num_threads
        self.compute_type = compute_type
        self._new_session = self._backend(weights, progress)
        self._sequential = architecture.graphs["decoder"].sequential
        self._pool: list[tuple[int, Session]] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<fastattn.Model {self.name!r}: {self.family}, {self.num_parameters:,} parameters, {self.backend}>"

    # --- sessions -------------------------------------------------------------------------------------------------------

    def _backend(self, weights: Weights, progress: Progress | None) -> Callable[[int], Session]:
        graphs = self._architecture.graphs
        if self.backend == "reference":
            from fastattn.reference import ReferenceSession

            plain = {item.name: as_float32(weights[item.name]) for item in needed(graphs.values())}
            return lambda threads: ReferenceSession(graphs, plain, result=StepResult, record=AttentionRecord)
        total = sum(math.prod(item.shape) for item in needed(graphs.values()))
        store = PackingStore(weights, self.compute_type, self.num_threads, progress, total)
        programs = NativePrograms(graphs, store, self.num_threads)
        return lambda threads: NativeSession(programs, num_threads=threads)

    @property
    def num_threads(self) -> int:
        """Threads of one call."""
        return self._num_threads or int(_native.get_num_threads())

    @contextmanager
    def _session(self, capture: bool = False) -> Iterator[Session]:
        threads = self.num_threads
        with self._lock:
            session = next((s for n, s in self._pool if n == threads), None)
            self._pool = [(n, s) for n, s in self._pool if s is not session and n == threads]
        session = session or self._new_session(threads)
        session.capture = capture
        yield session
        with self._lock:  # one that raised is not kept
            if len(self._pool) < _POOLED:
                self._pool.append((threads, session))

    # --- inputs ---------------------------------------------------------------------------------------------------------

    def _source(self, given: Input) -> Source:
        limit = self._architecture.max_source
        if isinstance(given, str):
            codec = self._codec("text")
            encoded = codec.encode(given, limit or None)
            ids = np.array(encoded.ids, np.int32)
            return Source(ids, codec.tokens(encoded.ids, target=False), list(encoded.unknown))
        ids = _token_ids(given, "input")
        if limit and len(ids) > limit:
            raise InputError(f"the input is too long: {len(ids)} tokens found, the limit is {limit}")
        return Source(ids, self._labels(ids.tolist(), target=False), [])

    def _codec(self, what: str) -> TextCodec:
        if self.tokenizer is None:
            raise InputError(f"{self.name}: found {what}, expected token ids: the model's folder has no tokenizer")
        return self.tokenizer

    def _labels(self, ids: Sequence[int], target: bool) -> list[str]:
        return self.tokenizer.tokens(ids, target) if self.tokenizer else [str(i) for i in ids]

    def _target(self, given: Input) -> IntArray:
        """A target as ids with its end token."""
        if not isinstance(given, str):
            return _token_ids(given, "target")
        return np.array(self._codec("text").encode_target(given), np.int32)

    def _options(self, overrides: Mapping[str, Any]) -> GenerationOptions:
        facts = {"decoder_vocab_size": self._architecture.vocabulary, "is_encoder_decoder": True}
        positions: dict[str, int | None] = dict.fromkeys(("n_positions", "max_target_positions"))
        positions["max_position_embeddings"] = self._architecture.max_target or None
        config = {**self.config, **facts, **positions}
        return GenerationOptions.resolve(config, self.checkpoint.generation_config, **overrides)

    def _prompt(self, options: GenerationOptions) -> IntArray:
        if options.decoder_start_token_id is None:
            raise OptionError("decoder_start_token_id: neither given nor in config.json or generation_config.json")
        return np.array([options.decoder_start_token_id], np.int32)

    # --- generation -----------------------------------------------------------------------------------------------------

    @overload
    def generate(
        self, inputs: str, *, return_attention: bool = ..., batch_size: int = ..., **options: Any
    ) -> Generation: ...

    @overload
    def generate(
        self,
        inputs: Sequence[str] | Sequence[TokenIds],
        *,
        return_attention: bool = ...,
        batch_size: int = ...,
        **options: Any,
    ) -> list[Generation]: ...

    def generate(
        self, inputs: Any, *, return_attention: bool = False, batch_size: int = 32, **options: Any
    ) -> Generation | list[Generation]:
        """Decodes one input (a string, or token ids) or a list of them; a list gives a list, in order.

        Token ids are taken as they are (end token included). options: see `fastattn.decoding.GenerationOptions`, names and
        meanings of Hugging Face. return_attention: `.attention` of every hypothesis becomes an `AttentionMap`. batch_size:
        inputs decoded together; results do not depend on it. Raises InputError for text or ids the model cannot take,
        OptionError for a bad option.

        >>> model = load("en-fr-bahdanau")
        >>> [g.text for g in model.generate(["I am eating an apple", "she sees a dog"], num_beams=4)]
        ['je mange une pomme', 'elle voit un chien']
        """
        resolved = self._options(options)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(f"batch_size: found {batch_size!r}, expected an integer >= 1")
        many, listed = _listed(inputs)
        sources = [self._source(given) for given in listed]
        results: list[Generation | None] = [None] * len(sources)
        # inputs of similar length finish together
        order = sorted(range(len(sources)), key=lambda i: len(sources[i].ids))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for i, result in zip(
                chosen, self._generate([sources[i] for i in chosen], resolved, return_attention), strict=True
            ):
                results[i] = result
        done = [result for result in results if result is not None]
        return done if many else done[0]

    def _generate(self, sources: Sequence[Source], options: GenerationOptions, attend: bool) -> list[Generation]:
        prompt = self._prompt(options)
        with self._session() as session:
            session.encode([source.ids for source in sources])
            decoded = generate(session, [prompt] * len(sources), options)
        results = []
        for source, hypotheses in zip(sources, decoded, strict=True):
            candidates = [
                Candidate(
                    text=self.tokenizer.decode(h.token_ids) if self.tokenizer else "",
                    tokens=self._labels(h.token_ids, target=True),
                    token_ids=h.token_ids,
                    score=h.score,
                    finish_reason=h.finish_reason,
                    token_scores=h.token_scores,
                    attention=self._attention(source, prompt, h.token_ids) if attend else None,
                )
                for h in hypotheses
            ]
            best = vars(candidates[0])
            results.append(
                Generation(**best, hypotheses=candidates, unknown_words=source.unknown, source_tokens=source.tokens)
            )
        return results

    def stream(self, given: Input, **options: Any) -> Iterator[str]:
        """Decodes one input greedily (or by sampling) and yields its text piece by piece as tokens are chosen.

        The pieces together are the text `generate` gives. A number of beams in the model's files does not count here, as
        beams settle on a token only at the end. Raises as `generate`, before the first piece.

        >>> "".join(load("en-fr-bahdanau").stream("I am eating an apple"))
        'je mange une pomme'
        """
        resolved = self._options({"num_beams": 1, **options})
        codec = self._codec("a request for text")
        source, prompt = self._source(given), self._prompt(resolved)

        def pieces() -> Iterator[str]:
            text = codec.stream()
            with self._session() as session:
                session.encode([source.ids])
                for token in stream(session, prompt, resolved):
                    if piece := text.put(token):
                        yield piece
            if piece := text.end():
                yield piece

        return pieces()

    def profile(self, inputs: Any = None, **options: Any) -> Profile:
        """Where the time goes when `generate` decodes this: an entry per op, as `fastattn.profile.Profile`; print it.

        inputs: as for `generate`, decoded as one batch; default: one input of 32 tokens. options: those of `generate`; default 32
        new tokens, greedily. Timing costs some 0.1 µs per op. Raises OptionError for the backend "reference".

        >>> print(load("en-fr-transformer").profile("I am eating an apple", num_beams=4))  # doctest: +SKIP
        """
        from fastattn.profile import collect

        if self.backend != "native":
            raise OptionError(f"backend: found {self.backend!r}, expected 'native': only its ops are timed")
        if inputs is None:
            inputs = np.arange(1, 33) % self._architecture.source_vocabulary
        resolved = self._options({"num_beams": 1, "max_new_tokens": 32, **options})
        sources = [self._source(given) for given in _listed(inputs)[1]]
        prompts = [self._prompt(resolved)] * len(sources)
        with self._session() as session:
            assert isinstance(session, NativeSession)
            for timed in (False, True):  # once to warm up
                session.profile(timed)
                begin = time.perf_counter()
                session.encode([source.ids for source in sources])
                generate(session, prompts, resolved)
                seconds = time.perf_counter() - begin
            profile = collect(session, seconds, self.num_threads)
            session.profile(False)
        return profile

    # --- what is behind an output ---------------------------------------------------------------------------------------

    def _forced(
        self, sources: Sequence[Source], targets: Sequence[IntArray], select: Select, capture: bool
    ) -> tuple[StepResult, list[StepResult]]:
        with self._session(capture) as session:
            encoded = session.encode([source.ids for source in sources])
            return encoded, forced(session, targets, select, self._sequential)

    def _attention(self, source: Source, prompt: IntArray, ids: Sequence[int]) -> AttentionMap:
        inputs = np.concatenate([prompt, np.array(ids, np.int32)])
        steps = len(inputs) - 1  # row t chose token t; the row of the end token is dropped
        encoded, (result,) = self._forced([source], [inputs[:-1] if steps else inputs], Select(), capture=True)
        labels = self._labels(inputs.tolist(), target=True)
        return AttentionMap(
            cross=_stacked(result, "cross", steps),
            self=_stacked(result, "self", steps, steps),
            encoder=_stacked(encoded, "encoder", len(source.ids)),
            source_tokens=source.tokens,
            target_tokens=labels[len(prompt) :],
            decoder_tokens=labels[:-1] if steps else [],
        )

    def explain(self, given: Input, **options: Any) -> list[Step]:
        """How each target token came about: scores, weights, context, attentional state, the five likeliest tokens.

        The end token is the last step, where the output has one.
        """
        resolved = self._options({**options, "num_return_sequences": 1})
        source, prompt = self._source(given), self._prompt(resolved)
        with self._session() as session:
            session.encode([source.ids])
            best = generate(session, [prompt], resolved)[0][0]
        ids = best.token_ids + ([] if best.end_token is None else [best.end_token])
        inputs = np.concatenate([prompt, np.array(ids[:-1], np.int32)])
        _, (result,) = self._forced(
            [source], [inputs], Select(k=min(5, self._architecture.vocabulary), log_probs=True), True
        )
        weights = [record.weights for record in result.attention if record.kind == "cross"][-1].mean(axis=1)
        with np.errstate(divide="ignore"):
            scores = result.taps.get("scores", np.log(weights))
        state = result.taps["attentional_state" if "attentional_state" in result.taps else "decoder_state"]
        labels = self._labels(ids, target=True)
        return [
            Step(
                token=labels[t],
                token_id=ids[t],
                source_tokens=source.tokens,
                scores=scores[t],
                weights=weights[t],
                context=result.taps["context"][t],
                attentional_state=state[t],
                top=list(
                    zip(self._labels(result.tokens[t].tolist(), True), np.exp(result.scores[t]).tolist(), strict=True)
                ),
            )
            for t in range(len(ids))
        ]

    def logits(self, input_ids: Any, decoder_input_ids: Any = None, *, attention_mask: Any = None) -> FloatArray:
        """Teacher-forced logits, float32 [batch, target, vocabulary].

        input_ids, decoder_input_ids: integers [batch, length], or lists of different lengths; rows past a shorter target are
        zero. decoder_input_ids: default the start token alone. attention_mask: [batch, source] of 1 and, after them, 0 for
        padding in input_ids. Raises InputError for ids the model cannot take.
        """
        _, listed = _listed(input_ids)
        if attention_mask is not None:
            listed = _unpadded(listed, attention_mask)
        sources = [self._source(_token_ids(row, "input_ids")) for row in listed]
        if decoder_input_ids is None:
            targets = [self._prompt(self._options({}))] * len(sources)
        else:
            targets = [_token_ids(row, "decoder_input_ids") for row in _listed(decoder_input_ids)[1]]
        if len(targets) != len(sources):
            raise InputError(f"decoder_input_ids: found {len(targets)} rows, expected {len(sources)} as in input_ids")
        if not sources:
            return np.zeros((0, 0, self._architecture.vocabulary), np.float32)
        _, results = self._forced(sources, targets, Select(logits=True), capture=False)
        logits = np.zeros((len(sources), max(map(len, targets)), self._architecture.vocabulary), np.float32)
        for row, result in zip(logits, results, strict=True):
            assert result.logits is not None
            row[: len(result.logits)] = result.logits
        return logits

    def score(self, inputs: Any, targets: Any) -> Any:
        """Log-probabilities (natural logarithm) of the targets' tokens: float32 [target] for one input, a list of them for
        many.

        targets: strings (their end token is scored too) or token ids, taken as they are. The sum is the log-probability of
        the whole target.
        """
        many, listed = _listed(inputs)
        _, wanted = _listed(targets)
        if len(wanted) != len(listed):
            raise InputError(f"targets: found {len(wanted)}, expected {len(listed)} as in inputs")
        if not listed:
            return []
        sources, ids = [self._source(given) for given in listed], [self._target(given) for given in wanted]
        prompt = self._prompt(self._options({}))
        fed = [np.concatenate([prompt, target[:-1]]) for target in ids]
        _, results = self._forced(sources, fed, Select(logits=True, log_probs=True), capture=False)
        scores = []
        for target, result in zip(ids, results, strict=True):
            assert result.logits is not None
            scores.append(result.logits[np.arange(len(target)), target])
        return scores if many else scores[0]

    def encode(self, inputs: Any) -> Any:
        """The encoder's last hidden states: float32 [source, C] for one input, a list of them for many."""
        many, listed = _listed(inputs)
        states = []
        for given in listed:
            with self._session(capture=True) as session:
                states.append(session.encode([self._source(given).ids]).taps["last_hidden_state"])
        return states if many else states[0]

    def embed(self, texts: Any) -> FloatArray:
        """Sentence vectors: the mean of the encoder's last hidden states, of length 1; float32 [C], or [texts, C] for many."""
        many, listed = _listed(texts)
        if not listed:
            return np.zeros((0, 0), np.float32)
        means = np.stack([state.mean(axis=0, dtype=np.float64) for state in self.encode(listed)])
        vectors = (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        return vectors if many else np.asarray(vectors[0])


def _stacked(result: StepResult, kind: str, rows: int, columns: int | None = None) -> FloatArray | None:
    """[layer, head, rows, columns] of one kind of attention, None where the model has none."""
    layers = [record.weights[:rows, :, :columns] for record in result.attention if record.kind == kind]
    return np.ascontiguousarray(np.stack(layers).transpose(0, 2, 1, 3)) if layers else None


def _listed(inputs: Any) -> tuple[bool, list[Any]]:
    """Whether many inputs were given, and they as a list: a string or a row of integers is one."""
    if isinstance(inputs, str):
        return False, [inputs]
    if isinstance(inputs, np.ndarray):
        return inputs.ndim != 1, list(inputs) if inputs.ndim != 1 else [inputs]
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes):
        raise InputError(f"inputs: found {type(inputs).__name__}, expected text, token ids or a list of them")
    one = len(inputs) > 0 and all(isinstance(i, (int, np.integer)) for i in inputs)
    return not one, [inputs] if one else list(inputs)


def _token_ids(given: Any, what: str) -> IntArray:
    try:
        ids = np.asarray(given)
    except ValueError:
        raise InputError(f"{what}: expected a row of token ids, found rows of different lengths") from None
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        found = type(given).__name__ if ids.dtype == object or ids.ndim == 0 else f"{ids.dtype} {list(ids.shape)}"
        raise InputError(f"{what}: expected text or a row of token ids, found {found}")
    if not ids.size:
        raise InputError(f"{what}: expected at least one token id, found none")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise InputError(f"{what}: token id {int(ids.min() if ids.min() < 0 else ids.max())} is outside the vocabulary")
    return ids.astype(np.int32)


def _unpadded(rows: Sequence[Any], attention_mask: Any) -> list[Any]:
    mask = np.asarray(attention_mask)
    if mask.ndim != 2 or len(mask) != len(rows):
        raise InputError(f"attention_mask: found shape {list(mask.shape)}, expected one row per input ({len(rows)})")
    lengths = mask.astype(bool).sum(axis=1)
    for i, (row, length) in enumerate(zip(mask, lengths, strict=True)):
        if len(row) != len(rows[i]) or not row[:length].all():
            raise InputError(f"attention_mask: row {i} must be ones, then zeros, {len(rows[i])} in all")
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
