"""`load` and `Model`: text or token ids in; text, scores and attention out."""

from __future__ import annotations

import difflib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, TypeVar, overload

import numpy as np

from fastattn import _native
from fastattn.attention_map import AttentionMap
from fastattn.decoding import GenerationOptions, generate, stream
from fastattn.decoding.forced import forced
from fastattn.decoding.options import check_integer
from fastattn.decoding.stream import check_streamable
from fastattn.errors import InputError, LoadError, OptionError
from fastattn.generation import Candidate, Generation, Source, Step
from fastattn.inputs import Input, TokenIds, as_list, batches, token_ids, unpadded
from fastattn.packing import COMPUTE_TYPES, Progress
from fastattn.runtime import (
    CACHE_TYPES,
    AttentionRecord,
    Capture,
    FloatArray,
    IntArray,
    NativePrograms,
    NativeSession,
    Select,
    Session,
    StepResult,
)

if TYPE_CHECKING:
    from fastattn.assembly import Assembly
    from fastattn.graph import Graph
    from fastattn.loaders import Checkpoint
    from fastattn.profile import Profile
    from fastattn.text import PromptCodec, TextCodec

BUNDLED = Path(__file__).parent / "bundled"
BACKENDS = ("native", "reference")
_POOLED = 4  # idle sessions a model keeps for the next call
_POOLED_BYTES = 128 << 20  # of all of them; what a larger call took costs the next less than its own work
_Read = TypeVar("_Read")


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def load(
    path: str | os.PathLike[str],
    *,
    compute_type: str | None = None,
    cache_type: str = "float32",
    num_threads: int | None = None,
    backend: str = "native",
    progress: Progress | None = None,
) -> Model:
    """Loads a model: a directory or file in a supported format, or the name of a bundled model.

    compute_type: "float32" (the default; what 16 bits hold exactly takes half the memory), "bfloat16", "int8" or "int4": how
    matrices are kept and multiplied, see docs/accuracy.md; a converted model has its own. cache_type: "float32", "bfloat16"
    or "int8" (a scale for each token and head): how keys and values are kept while generating, those of the encoded input
    too. num_threads: threads of one call, default `get_num_threads()`. backend: "native", or "reference", plain NumPy.
    progress: called while weights are packed with how many parameters are done and how many there are. Raises LoadError
    naming the file or tensor at fault, OptionError for a bad option.

    >>> load("en-fr-bahdanau").generate("I am eating an apple").text
    'je mange une pomme'
    """
    check_choice("backend", backend, BACKENDS)
    if compute_type is not None:
        check_choice("compute_type", compute_type, COMPUTE_TYPES)
    check_choice("cache_type", cache_type, CACHE_TYPES)
    if num_threads is not None:
        num_threads = check_threads(num_threads)
    from fastattn.loaders import open_checkpoint

    folder = find_model(path)
    return Model(
        open_checkpoint(folder), folder.name or str(path), num_threads, backend, compute_type, progress, cache_type
    )


def find_model(path: str | os.PathLike[str]) -> Path:
    """The file or folder a user means: a path, or the name of a bundled model; LoadError where there is neither."""
    if not isinstance(path, (str, os.PathLike)):
        raise OptionError(f"path: found {type(path).__name__}, expected a string or a path")
    name = str(path)
    try:
        if Path(path).exists():
            return Path(path)
    except OSError as error:  # a name the system does not take, a folder it does not let us see
        raise LoadError(f"{name}: {error.strerror}") from None
    if name not in bundled_models():
        near = difflib.get_close_matches(name, bundled_models(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LoadError(
            f"{name}: no such file or directory, and no bundled model (bundled: {', '.join(bundled_models())}){hint}"
        )
    return BUNDLED / name


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise OptionError(f"{option}: found {value!r}, expected one of {', '.join(choices)}")


def check_threads(num_threads: int) -> int:
    return check_integer("num_threads", num_threads, 1, 1024)


class Model:
    """A loaded model. Safe to use from many threads at once: each call works in a session of its own.

    Attributes: name, family, compute_type, cache_type, config (config.json), checkpoint (where the tensors came from),
    num_parameters, weight_bytes (all weights as they lie in memory), tokenizer (None if the model's folder has none: it then
    takes and gives token ids).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        name: str,
        num_threads: int | None,
        backend: str,
        compute_type: str | None = None,
        progress: Progress | None = None,
        cache_type: str = "float32",
    ) -> None:
        from fastattn.assembly import assemble
        from fastattn.text import load_prompt_tokenizer, load_tokenizer

        self.name, self.checkpoint, self.backend = name, checkpoint, backend
        self.config: Mapping[str, Any] = checkpoint.config
        assembly = assemble(checkpoint)
        self.compute_type, self.cache_type = assembly.compute_type(compute_type), cache_type
        self._architecture = architecture = assembly.architecture
        self.family, self.num_parameters = architecture.family, assembly.parameters
        self._prompts_codec: PromptCodec | None = None
        self.tokenizer: TextCodec | None
        if architecture.has_encoder:
            self.tokenizer = load_tokenizer(checkpoint.path, checkpoint.config)
        else:
            self.tokenizer = self._prompts_codec = load_prompt_tokenizer(checkpoint.path, checkpoint.config)
        self._num_threads = num_threads
        self._new_session = self._backend(assembly, progress)
        self._sequential = architecture.graphs["decoder"].sequential
        self._pool: deque[tuple[int, int, Session]] = deque(maxlen=_POOLED)  # threads, bytes, session

    def __repr__(self) -> str:
        return f"<fastattn.Model {self.name!r}: {self.family}, {self.num_parameters:,} parameters, {self.backend}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """A copy would share sessions with this one; its programs and weights are the engine's, which has no copies."""
        raise TypeError("a Model cannot be copied or pickled: share it between threads, load it in each process")

    @property
    def has_encoder(self) -> bool:
        """Whether inputs are read by an encoder; False for decoder-only models, which continue them."""
        return self._architecture.has_encoder

    # --- sessions -------------------------------------------------------------------------------------------------------

    def _backend(self, assembly: Assembly, progress: Progress | None) -> Callable[[int], Session]:
        graphs = self._graphs = assembly.graphs(self.compute_type)
        if self.backend == "reference":
            from fastattn.reference import ReferenceSession

            arrays = assembly.arrays(self.compute_type)
            self.weight_bytes = sum(array.nbytes for array in arrays.values())
            return lambda threads: ReferenceSession(
                graphs, arrays, cache_type=self.cache_type, result=StepResult, record=AttentionRecord
            )
        store = assembly.store(self.compute_type, self.num_threads, progress)
        programs = NativePrograms(graphs, store, self.num_threads, self.cache_type)
        assembly.release()
        self.weight_bytes = store.nbytes
        return lambda threads: NativeSession(programs, num_threads=threads)

    @property
    def num_threads(self) -> int:
        """Threads of one call."""
        return self._num_threads or int(_native.get_num_threads())

    @contextmanager
    def _session(self) -> Iterator[Session]:
        threads = self.num_threads
        session = self._idle(threads) or self._new_session(threads)
        yield session  # one that raises is not kept, nor one that has grown large
        size = session.nbytes if isinstance(session, NativeSession) else 0
        if size + sum(kept for _, kept, _ in self._pool.copy()) <= _POOLED_BYTES:
            self._pool.append((threads, size, session))

    def _idle(self, threads: int) -> Session | None:
        """A session of the pool; those with another number of threads are thrown away. The pool needs no lock, as a deque's
        pop, append and copy are atomic: a child forked while another thread held one would wait for it for ever."""
        while True:
            try:
                found, _, session = self._pool.pop()
            except IndexError:
                return None
            if found == threads:
                return session

    def weight_sizes(self) -> dict[str, int]:
        """Compute type -> bytes of the weights in memory; of a converted model its own type only."""
        from fastattn.assembly import assemble

        return assemble(self.checkpoint).weight_sizes()

    # --- inputs ---------------------------------------------------------------------------------------------------------

    def _source(self, given: Input, what: str = "input") -> Source:
        """An input of the encoder, or a prompt."""
        architecture = self._architecture
        limit = architecture.max_source
        if isinstance(given, str):
            codec = self._codec()
            encode = self._prompts_codec.encode_prompt if self._prompts_codec else codec.encode
            encoded = encode(given, limit or None)
            ids = np.array(encoded.ids, np.int32)
            return Source(ids, codec.tokens(encoded.ids, target=False), list(encoded.unknown))
        ids = token_ids(given, what)
        _check_vocabulary(what, ids, architecture.source_vocabulary or architecture.vocabulary)
        if limit and len(ids) > limit:
            raise InputError(f"the input is too long: {len(ids)} tokens found, the limit is {limit}")
        return Source(ids, self._labels(ids.tolist(), target=False), [])

    def _sources(self, inputs: Sequence[Input]) -> list[Source]:
        return _each("inputs", inputs, self._source)

    def _codec(self) -> TextCodec:
        if self.tokenizer is None:
            raise InputError(f"{self.name}: found text, expected token ids: the model's folder has no tokenizer")
        return self.tokenizer

    def _labels(self, ids: Sequence[int], target: bool) -> list[str]:
        return self.tokenizer.tokens(ids, target) if self.tokenizer else [str(i) for i in ids]

    def _target(self, given: Input, prompt: Input, source: Source) -> IntArray:
        """A target as ids: with its end token, or as it continues a prompt. InputError for a token that has no logit, and for
        more tokens than the model has positions."""
        architecture = self._architecture
        ids = self._encoded(given, prompt, source) if isinstance(given, str) else token_ids(given, "target")
        _check_vocabulary("target", ids, architecture.vocabulary)
        what, fed, limit = "the target is", len(ids), architecture.max_target
        if not architecture.has_encoder:  # the last token is not fed
            what, fed, limit = "prompt and target are", len(source.ids) + fed - 1, architecture.max_source
        if limit and fed > limit:
            raise InputError(f"{what} too long: {fed} tokens to feed, the limit is {limit}")
        return ids

    def _encoded(self, target: str, prompt: Input, source: Source) -> IntArray:
        codec = self._codec()
        if not self._prompts_codec:
            return np.array(codec.encode_target(target), np.int32)
        text = prompt if isinstance(prompt, str) else codec.decode(source.ids.tolist())
        return np.array(self._prompts_codec.encode_continuation(text, target), np.int32)

    def _options(self, overrides: Mapping[str, Any]) -> GenerationOptions:
        architecture = self._architecture
        facts = {"decoder_vocab_size": architecture.vocabulary, "is_encoder_decoder": architecture.has_encoder}
        positions: dict[str, int | None] = dict.fromkeys(("n_positions", "max_target_positions"))
        positions["max_position_embeddings"] = architecture.max_target or None
        config = {**architecture.defaults, **self.config, **facts, **positions}
        options = GenerationOptions.resolve(config, self.checkpoint.generation_config, **overrides)
        limit = architecture.max_target if architecture.has_encoder else architecture.max_source
        if limit and overrides.get(options.length_option) is None:  # limits of the files may be larger
            options = replace(options, ends_at_limit=True)
        if architecture.has_encoder:
            options.check_room(1, limit)  # behind the start token
        return options

    def _prompts(self, sources: Sequence[Source], options: GenerationOptions) -> list[IntArray]:
        """What the decoder is fed before the first token it chooses: the start token, or the inputs themselves."""
        if self._architecture.has_encoder:
            return [self._start(options) for _ in sources]
        for source in sources:
            options.check_room(len(source.ids), self._architecture.max_source)
        return [source.ids for source in sources]

    def _start(self, options: GenerationOptions) -> IntArray:
        if options.decoder_start_token_id is None:
            raise OptionError("decoder_start_token_id: neither given nor in config.json or generation_config.json")
        return np.array([options.decoder_start_token_id], np.int32)

    def _begin(self, session: Session, sources: Sequence[Source]) -> StepResult | None:
        """Starts a batch; gives what the encoder recorded, if there is one."""
        if self._architecture.has_encoder:
            return session.encode([source.ids for source in sources])
        session.start(len(sources))
        return None

    def _text(self, source: Source, ids: Sequence[int]) -> str:
        if self._prompts_codec:
            return self._prompts_codec.decode_continuation(source.ids.tolist(), ids)
        return self.tokenizer.decode(ids) if self.tokenizer else ""

    # --- generation -----------------------------------------------------------------------------------------------------

    @overload
    def generate(
        self, inputs: Input, *, return_attention: bool = ..., batch_size: int = ..., **options: Any
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

        An input is what the encoder reads, or, for a decoder-only model, the prompt. Token ids are taken as they are (end
        token included). Outputs hold neither prompt nor end token. options: see `fastattn.decoding.GenerationOptions`, names and
        meanings of Hugging Face. return_attention: `.attention` of every hypothesis becomes an `AttentionMap`. batch_size:
        most inputs decoded together; results do not depend on it. Raises InputError for text or ids the model cannot take,
        OptionError for a bad option, both before anything is decoded.

        >>> model = load("en-fr-bahdanau")
        >>> [g.text for g in model.generate(["I am eating an apple", "she sees a dog"], num_beams=4)]
        ['je mange une pomme', 'elle voit un chien']
        """
        resolved = self._options(options)
        batch_size = check_integer("batch_size", batch_size, 1)
        many, listed = as_list(inputs)
        sources = self._sources(listed)
        prompts = self._prompts(sources, resolved)
        results: list[Generation | None] = [None] * len(sources)
        for chosen in batches([len(source.ids) for source in sources], batch_size):
            found = self._generate(
                [sources[i] for i in chosen], [prompts[i] for i in chosen], resolved, return_attention
            )
            for i, result in zip(chosen, found, strict=True):
                results[i] = result
        done = [result for result in results if result is not None]
        return done if many else done[0]

    def _generate(
        self, sources: Sequence[Source], prompts: Sequence[IntArray], options: GenerationOptions, attend: bool
    ) -> list[Generation]:
        with self._session() as session:
            self._begin(session, sources)
            decoded = generate(session, prompts, options)
        results = []
        for source, prompt, hypotheses in zip(sources, prompts, decoded, strict=True):
            candidates = [
                Candidate(
                    text=self._text(source, h.token_ids),
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
        resolved = self._options({**_ONE_BEAM, **options})
        check_streamable(resolved)
        if not (codec := self.tokenizer):
            raise InputError(
                f"{self.name}: no tokenizer in the model's folder, so no text to stream; generate gives token ids"
            )
        source = self._source(given)
        (prompt,) = self._prompts([source], resolved)

        def pieces() -> Iterator[str]:
            continued = self._prompts_codec
            text = continued.stream_continuation(source.ids.tolist()) if continued else codec.stream()
            with self._session() as session:
                self._begin(session, [source])
                for token in stream(session, prompt, resolved):
                    if piece := text.put(token):
                        yield piece
            if piece := text.end():
                yield piece

        return pieces()

    def graphs(self) -> dict[str, Graph]:
        """What a step runs, "encoder" (where there is one) and "decoder", after the fusion passes; print them."""
        from fastattn.passes import optimise

        return {name: optimise(graph) for name, graph in self._graphs.items()}

    def profile(self, inputs: Any = None, **options: Any) -> Profile:
        """Where the time goes when `generate` decodes this: an entry per op, as `fastattn.profile.Profile`; print it.

        inputs: as for `generate`, decoded as one batch; default: one input of 32 tokens. options: those of `generate`; default 32
        new tokens, greedily; both fewer where the model has no room for them. Timing costs some 0.1 µs per op. Raises
        OptionError for the backend "reference".

        >>> print(load("en-fr-transformer").profile("I am eating an apple", num_beams=4))  # doctest: +SKIP
        """
        from fastattn.profile import collect

        if self.backend != "native":
            raise OptionError(f"backend: found {self.backend!r}, expected 'native': only its ops are timed")
        sources = self._sources(as_list(self._profiled_input() if inputs is None else inputs)[1])
        if not sources:
            raise InputError("inputs: found none, expected one at least")
        if "max_length" not in options and "max_new_tokens" not in options:
            options["max_new_tokens"] = min((_PROFILED, *(self._room_behind(source) for source in sources)))
        resolved = self._options({**_ONE_BEAM, **options})
        prompts = self._prompts(sources, resolved)
        with self._session() as session:
            assert isinstance(session, NativeSession)
            for timed in (False, True):  # once to warm up
                session.profile(timed)
                begin = time.perf_counter()
                self._begin(session, sources)
                generate(session, prompts, resolved)
                seconds = time.perf_counter() - begin
            profile = collect(session, seconds, self.num_threads)
            session.profile(False)
        return profile

    def _profiled_input(self) -> IntArray:
        """What is profiled where no input is given; in a decoder-only model it leaves half of the positions free."""
        architecture = self._architecture
        limit = architecture.max_source or 2 * _PROFILED
        length = min(_PROFILED, limit if architecture.has_encoder else max(limit // 2, 1))
        ids = np.arange(1, length + 1) % (architecture.source_vocabulary or architecture.vocabulary)
        return ids.astype(np.int32)

    def _room_behind(self, source: Source) -> int:
        """How many tokens at least, of those profiled, there are positions for."""
        architecture = self._architecture
        if architecture.has_encoder:
            return architecture.max_target or _PROFILED
        return architecture.max_source - len(source.ids) + 1 if architecture.max_source else _PROFILED

    # --- what is behind an output ---------------------------------------------------------------------------------------

    def _capturing(self, what: Capture) -> Session:
        """A session that is not kept: attention takes much memory, and so do the states of a long text."""
        session = self._new_session(self.num_threads)
        session.capture = what
        return session

    def _forced(
        self, session: Session, sources: Sequence[Source], targets: Sequence[IntArray], select: Select
    ) -> tuple[StepResult | None, list[StepResult]]:
        """What the encoder recorded, and for each input a row for each token of its target."""
        return self._begin(session, sources), forced(session, targets, select, self._sequential)

    def _replayed(
        self, source: Source, fed: IntArray, select: Select, encoder: Capture
    ) -> tuple[StepResult | None, StepResult]:
        """Records the steps that chose tokens: all rows of `fed` behind an encoder, those from the prompt's last on
        without one. encoder: what is recorded of it; its attention grows with the square of the source."""
        session = self._capturing(encoder)
        if self._architecture.has_encoder:
            encoded = self._begin(session, [source])
            session.capture = Capture.ATTENTION
            return encoded, forced(session, [fed], select, self._sequential)[0]
        first = len(source.ids) - 1
        session.start(1)
        if first:
            session.capture = Capture.NOTHING
            session.step([fed[:first]])
        session.capture = Capture.ATTENTION
        return None, forced(session, [fed[first:]], select, sequential=False)[0]

    def _attention(self, source: Source, prompt: IntArray, ids: Sequence[int]) -> AttentionMap:
        inputs = np.concatenate([prompt, np.array(ids, np.int32)])
        steps = len(ids)  # row t chose token t; the row of the end token is dropped
        fed = inputs[:-1] if steps else inputs
        encoded, result = self._replayed(source, fed, Select(), Capture.ATTENTION)
        has_encoder = self._architecture.has_encoder
        seen = 0 if has_encoder and not steps else len(fed)
        return AttentionMap(
            cross=_stacked(result, "cross", steps),
            self=_stacked(result, "self", steps, seen),
            encoder=_stacked(encoded, "encoder", len(source.ids)) if encoded else None,
            source_tokens=source.tokens if has_encoder else (),
            target_tokens=self._labels(ids, target=True),
            decoder_tokens=self._labels(fed[:seen].tolist(), target=True),
        )

    def explain(self, given: Input, **options: Any) -> list[Step]:
        """How each target token came about: scores, weights, context, attentional state, the five likeliest tokens.

        The end token is the last step, where the output has one. A decoder-only model attends to the prompt and to what
        it has written so far: a step's `source_tokens` are those.
        """
        resolved = self._options({**options, "num_return_sequences": 1})
        source = self._source(given)
        (prompt,) = self._prompts([source], resolved)
        with self._session() as session:
            self._begin(session, [source])
            best = generate(session, [prompt], resolved)[0][0]
        ids = best.token_ids + ([] if best.end_token is None else [best.end_token])
        inputs = np.concatenate([prompt, np.array(ids[:-1], np.int32)])
        select = Select(k=min(5, self._architecture.vocabulary), log_probs=True)
        _, result = self._replayed(source, inputs, select, Capture.NOTHING)
        kind = "cross" if self._architecture.has_encoder else "self"
        weights = [record.weights for record in result.attention if record.kind == kind][-1].mean(axis=1)
        with np.errstate(divide="ignore"):
            scores = result.taps.get("scores", np.log(weights))
        state = next(result.taps[name] for name in _STATES if name in result.taps)
        labels = self._labels(ids, target=True)
        seen = [source.tokens] * len(ids)
        if kind == "self":
            seen = [source.tokens + labels[:t] for t in range(len(ids))]
        return [
            Step(
                token=labels[t],
                token_id=ids[t],
                source_tokens=seen[t],
                scores=scores[t, : len(seen[t])],
                weights=weights[t, : len(seen[t])],
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
        zero. decoder_input_ids: default the start token alone; a decoder-only model takes input_ids only, which are its
        target. attention_mask: [batch, source] of 1 and, after them, 0 for padding in input_ids. Raises InputError for ids
        the model cannot take.
        """
        _, listed = as_list(input_ids, "input_ids")
        if attention_mask is not None:
            listed = unpadded(listed, attention_mask)
        sources = _each("input_ids", listed, lambda row: self._source(token_ids(row, "input_ids"), "input_ids"))
        if not self._architecture.has_encoder:
            if decoder_input_ids is not None:
                raise InputError(f"decoder_input_ids: {self.name} has no encoder, expected input_ids alone")
            targets = [source.ids for source in sources]
        elif decoder_input_ids is None:
            targets = [self._start(self._options({}))] * len(sources)
        else:
            rows = as_list(decoder_input_ids, "decoder_input_ids")[1]
            targets = _each("decoder_input_ids", rows, lambda row: token_ids(row, "decoder_input_ids"))
        if len(targets) != len(sources):
            raise InputError(f"decoder_input_ids: found {len(targets)} rows, expected {len(sources)} as in input_ids")
        if not sources:
            return np.zeros((0, 0, self._architecture.vocabulary), np.float32)
        try:
            with self._session() as session:
                _, results = self._forced(session, sources, targets, Select(logits=True))
        except InputError as error:  # the encoder's input has been looked at above
            name = "input_ids" if decoder_input_ids is None else "decoder_input_ids"
            raise InputError(f"{name}: {error}") from None
        logits = np.zeros((len(sources), max(map(len, targets)), self._architecture.vocabulary), np.float32)
        for row, result in zip(logits, results, strict=True):
            assert result.logits is not None
            row[: len(result.logits)] = result.logits
        return logits

    def score(self, inputs: Any, targets: Any) -> Any:
        """Log-probabilities (natural logarithm) of the targets' tokens: float32 [target] for one input, a list of them for
        many.

        targets: strings (their end token is scored too) or token ids, taken as they are. The sum is the log-probability of
        the whole target. For a decoder-only model a target is what follows the prompt: a string's tokens are those that
        prompt and target together have behind those of the prompt, and no end token is added.
        """
        many, listed = as_list(inputs)
        _, wanted = as_list(targets, "targets")
        if len(wanted) != len(listed):
            raise InputError(f"targets: found {len(wanted)}, expected {len(listed)} as in inputs")
        if not listed:
            return []
        sources = self._sources(listed)
        asked = list(zip(wanted, listed, sources, strict=True))
        ids = _each("targets", asked, lambda one: self._target(*one))
        log_probs = self._teach if self._architecture.has_encoder else self._follow
        scores: dict[int, FloatArray] = {}
        for chosen in batches([len(s.ids) + len(t) for s, t in zip(sources, ids, strict=True)], _SCORED):
            results = log_probs([sources[i] for i in chosen], [ids[i] for i in chosen])
            for i, rows in zip(chosen, results, strict=True):
                scores[i] = rows[np.arange(len(ids[i])), ids[i]]
        return [scores[i] for i in range(len(ids))] if many else scores[0]

    def _teach(self, sources: Sequence[Source], targets: Sequence[IntArray]) -> list[FloatArray]:
        """Log-probabilities [target, V] of every token where those of the targets stand."""
        start = self._start(self._options({}))
        fed = [np.concatenate([start, target[:-1]]) for target in targets]
        with self._session() as session:
            _, results = self._forced(session, sources, fed, _LOG_PROBS)
        return [_rows(result) for result in results]

    def _follow(self, sources: Sequence[Source], targets: Sequence[IntArray]) -> list[FloatArray]:
        """The same behind prompts, whose own tokens are not scored."""
        longer = [i for i, target in enumerate(targets) if len(target) > 1]
        with self._session() as session:
            self._begin(session, sources)
            first = _rows(session.step([source.ids for source in sources], _LOG_PROBS))
            parts = [[row[None]] for row in first]
            if longer:
                session.reorder(np.array(longer, np.int32))
                results = forced(session, [targets[i][:-1] for i in longer], _LOG_PROBS, sequential=False)
                for i, result in zip(longer, results, strict=True):
                    parts[i].append(_rows(result))
        return [np.concatenate(rows) for rows in parts]

    def encode(self, inputs: Any) -> Any:
        """The last hidden states, of the encoder where there is one: float32 [source, C] for one input, a list of them for
        many."""
        many, listed = as_list(inputs)
        session = self._capturing(Capture.TAPS)
        states = [self._states(session, source.ids) for source in self._sources(listed)]
        return states if many else states[0]

    def _states(self, session: Session, ids: IntArray) -> FloatArray:
        if self._architecture.has_encoder:
            return session.encode([ids]).taps["last_hidden_state"]
        session.start(1)
        pieces = (session.step([ids[i : i + _FED]], all_rows=True).taps for i in range(0, len(ids), _FED))
        return np.concatenate([piece["last_hidden_state"] for piece in pieces])

    def embed(self, texts: Any) -> FloatArray:
        """Sentence vectors: the mean of the last hidden states (see `encode`), scaled to length 1; float32 [C], or [texts, C]
        for many."""
        many, listed = as_list(texts, "texts")
        if not listed:
            return np.zeros((0, 0), np.float32)
        means = np.stack([state.mean(axis=0, dtype=np.float64) for state in self.encode(listed)])
        vectors = (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        return vectors if many else np.asarray(vectors[0])


_LOG_PROBS = Select(logits=True, log_probs=True)
_STATES = ("attentional_state", "decoder_state", "last_hidden_state")  # what the output is computed from, by family
_ONE_BEAM = {"num_beams": 1, "num_return_sequences": 1}  # whatever the files say, where a caller asks for nothing else
_PROFILED = 32  # tokens of the input, and new ones, that are profiled where nothing else is asked for
_SCORED = 32  # most inputs scored together: every logit of their targets is kept until the wanted ones are picked
_FED = 512  # tokens fed at a time where all states are wanted: a layer's are several times as wide


def _each(names: str, given: Sequence[Any], read: Callable[[Any], _Read]) -> list[_Read]:
    """What `read` makes of each of the `names`; its error, which may begin with their name, says which of several it is."""
    results = []
    for i, one in enumerate(given):
        try:
            results.append(read(one))
        except InputError as error:
            if len(given) == 1:
                raise
            message = str(error).removeprefix(f"{names}: ").removeprefix(f"{names.removesuffix('s')}: ")
            raise InputError(f"{names}[{i}]: {message}") from None
    return results


def _check_vocabulary(what: str, ids: IntArray, size: int) -> None:
    if (largest := int(ids.max())) >= size:
        raise InputError(f"{what}: token id {largest} is outside the vocabulary of {size}")


def _rows(result: StepResult) -> FloatArray:
    assert result.logits is not None
    return result.logits


def _stacked(result: StepResult, kind: str, rows: int, columns: int | None = None) -> FloatArray | None:
    """[layer, head, rows, columns] of one kind of attention, None where the model has none."""
    layers = [record.weights[:rows, :, :columns] for record in result.attention if record.kind == kind]
    return np.ascontiguousarray(np.stack(layers).transpose(0, 2, 1, 3)) if layers else None
