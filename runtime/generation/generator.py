"""From checked sources to sequences: batches, and the strategy that the options ask for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from ..backends import Backend, EncoderOutput, slot_backend
from ..backends.base import RowBackend, row_backend
from ..backends.limits import Limits
from ..bundle.manifest import Manifest
from ..errors import InputError
from ..kv_cache.slots import PromptLogits
from ..text.tokenizer import Tokenizer
from .batch import GenerationBatch, Hypothesis, Results
from .beam import BeamSearch
from .config import GenerationConfig, new_tokens
from .constraint_compiler import ConstraintCompiler
from .continuous import ContinuousDecoder, Ticket
from .drafter import Drafter, check_same_tokens
from .engine_limits import check_sources, fitted_new_tokens, forced_tokens, guessed_tokens
from .greedy import GreedySearch
from .logits_processors import ByLength, Context, Processors, build_processors
from .model_drafter import ModelDrafter
from .ngram_drafter import NgramDrafters
from .prepared import PreparedCall
from .processor import MakeProcessor
from .recent_options import RecentOptions
from .source import Source, collate
from .speculative import SpeculativeDecoding
from .stopping import StoppingRule
from .validation import is_integer
from .workers import SharedList


def decode(batch: GenerationBatch) -> Iterator[Results]:
    """Decode a batch step by step; the last thing yielded is the result.

    Greedy decoding and sampling yield the growing sequences after each step; beam search
    yields empty lists until it knows. Closing the iterator ends the call.

    Raises:
        InputError: the options together forbid every token.
        BackendError: the engine failed.
    """
    if batch.config.num_beams > 1:
        return BeamSearch(batch).run()
    guessed = guessed_tokens(batch.config)
    if guessed is not None:
        return SpeculativeDecoding(batch, _drafter(batch, guessed), guessed).run()
    return GreedySearch(batch).run()


def _drafter(batch: GenerationBatch, guessed: int) -> Drafter:
    draft, config = batch.config.draft_model, batch.config
    if draft is None or batch.draft_encoded is None:
        return NgramDrafters(batch.sources, config.max_matching_ngram_size, guessed)
    prompts = [prompt[: len(prompt) - len(batch.forced)] for prompt in batch.prompts]
    longest = batch.decoder_prompt.shape[1] + len(config.decoder_prefix)
    return ModelDrafter(
        draft.backend,
        batch.draft_encoded,
        prompts,
        room=longest + batch.new_tokens,
        positions=draft.manifest.dimensions.max_target_length,
        vocab_size=batch.vocab_size,
        processors=batch.processors,
        filling=[longest - len(prompt) for prompt in prompts],
    )


class Generator:
    """Decodes sources with one engine. Several threads may use it at once.

    Args:
        backend: what runs the graphs.
        manifest: the bundle's.
        tokenizer: of outputs; None: there is none.
        num_workers: threads that share out the sources of a call, where the backend replaces rows.
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        tokenizer: Tokenizer | None,
        *,
        num_workers: int = 1,
    ) -> None:
        if num_workers > 1 and row_backend(backend) is None:
            raise InputError(
                f"num_workers={num_workers}: {type(backend).__name__} has no workers; a bundle of"
                " 'seq2edge export' has, on ONNX Runtime's CPU"
            )
        self._num_workers = num_workers
        self._backend = backend
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._compiler = ConstraintCompiler(
            tokenizer, manifest.dimensions.vocab_size, manifest.special_tokens.eos
        )

    @cached_property
    def default_config(self) -> GenerationConfig:
        """The checkpoint's own options; they are checked once.

        Raises:
            InputError: the bundle's options make no sense.
        """
        return GenerationConfig.of_bundle(self._manifest)

    @cached_property
    def recent_options(self) -> RecentOptions:
        """Of the calls so far."""
        return RecentOptions(self.default_config, self._manifest)

    def prepare(
        self,
        config: GenerationConfig,
        sources: Sequence[Source],
        *,
        draft_sources: Sequence[Source] | None = None,
        prompts: Sequence[Sequence[int]] | None = None,
        processors: Sequence[MakeProcessor] = (),
        logprobs: bool = False,
        estimates_logprobs: bool = False,
    ) -> PreparedCall:
        """Refuse options that cannot work, before anything runs, and make what the batches need.

        Args:
            config: the options; their languages are tokens already
                (:func:`seq2edge.runtime.text.languages.resolve_languages`).
            sources: checked sources.
            draft_sources: the same for ``config.draft_model``, where it reads other inputs.
            prompts: what the decoder starts with for each source, in place of its start token.
                The limits of new tokens count from the longest.
            processors: make processors for this call, which come after those of the options.
            logprobs: whether the sequences are to have their ``logprob``.
            estimates_logprobs: see :class:`.PreparedCall`.

        Raises:
            InputError: which option, its value and what is allowed; or a source that is too long
                for the engine.
            MissingDependencyError: a constraint needs a package that is not installed.
        """
        manifest, limits = self._manifest, self._backend.capabilities.limits
        config = self.recent_options.checked(config)
        start = config.decoder_start_token_id
        first = manifest.special_tokens.decoder_start if start is None else start
        decoder_prompts: list[tuple[int, ...]] = [(first,)] * len(sources)
        if manifest.single_stack == "decoder":
            decoder_prompts = [tuple(source.tokens()) for source in sources]
        if prompts is not None:
            decoder_prompts = [tuple(prompt) for prompt in prompts]
        longest = max(map(len, decoder_prompts), default=1)
        limit = new_tokens(config, manifest, longest)
        if limits is not None:
            prompt_length = 1 if prompts is None else longest
            limit = fitted_new_tokens(limits, config, limit, prompt_length)
        if config.prompt_lookup_num_tokens is not None:
            slot_backend(self._backend, "prompt_lookup_num_tokens")
        if config.draft_model is not None:
            slot_backend(self._backend, "draft_model")
            slot_backend(config.draft_model.backend, "draft_model")
            check_same_tokens(config.draft_model, manifest, self._tokenizer)
        if config.stop_strings and self._tokenizer is None:
            raise InputError("stop_strings are about text, and the bundle has no tokenizer")
        call = PreparedCall(
            manifest=manifest,
            config=config,
            sources=tuple(sources),
            draft_sources=tuple(sources if draft_sources is None else draft_sources),
            decoder_prompts=tuple(decoder_prompts),
            forced=forced_tokens(config, limit),
            new_tokens=limit,
            constraint=None
            if config.constraint is None
            else self._compiler.compile(config.constraint),
            processors=tuple(processors),
            logprobs=logprobs,
            estimates_logprobs=estimates_logprobs,
        )
        if limits is not None:
            check_sources(limits, call.lengths())
        draft_limits = _draft_limits(config)
        if draft_limits is not None:
            check_sources(draft_limits, list(map(len, call.draft_sources)))
        return call

    def run(
        self,
        call: PreparedCall,
        *,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Results:
        """The sequences of each source.

        Batches hold sources of similar lengths, so that little is padding.

        Raises:
            InputError: ``batch_size`` below 1, or options that together forbid every token.
            BackendError: the engine failed.
        """
        if batch_size is not None and not (is_integer(batch_size) and batch_size >= 1):
            raise InputError(f"batch_size must be an integer of at least 1, not {batch_size!r}")
        lengths = call.lengths()
        size = batch_size or max(1, len(lengths))
        for limits in (self._backend.capabilities.limits, _draft_limits(call.config)):
            if limits is not None:
                size = min(size, limits.max_batch)
        order = list(range(len(lengths)))
        backend = row_backend(self._backend)
        if backend is not None and len(order) > 1 and guessed_tokens(call.config) is None:
            # The longest one first: what follows fits beside it, and the last ones end soon.
            order.sort(key=lambda number: -lengths[number])
            workers = min(self._num_workers, len(order), size)
            rows = -(-size // workers)
            decoders = [self._continuous(backend, rows, rows) for _ in range(workers)]
            return SharedList(decoders, call, order, progress, cancelled).run()
        if size < len(lengths):
            order.sort(key=lengths.__getitem__)
        found: list[list[Hypothesis]] = [[] for _ in order]
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            (results,) = deque(decode(self._batch(call, numbers, cancelled)), maxlen=1)
            for number, sequences in zip(numbers, results, strict=True):
                found[number] = sequences
            if progress is not None:
                progress(start + len(numbers), len(order))
        return found

    def continuous(self, max_rows: int) -> ContinuousDecoder | None:
        """Decodes sources of prepared calls as they come; None: the backend cannot.

        The calls may have no ``prompt_lookup_num_tokens`` and no ``draft_model``.
        """
        backend = row_backend(self._backend)
        return None if backend is None else self._continuous(backend, max_rows)

    def _continuous(
        self, backend: RowBackend, max_rows: int, encodes_ahead: int = 1
    ) -> ContinuousDecoder:
        def encode(sources: Sequence[Source]) -> EncoderOutput:
            return backend.encode(collate(sources, self._manifest.special_tokens.pad))

        def make(ticket: Ticket, encoded: EncoderOutput) -> GenerationBatch:
            return self._batch(ticket.call, [ticket.number], ticket.cancelled, encoded)

        return ContinuousDecoder(backend, encode, make, max_rows, encodes_ahead)

    def decode(
        self,
        call: PreparedCall,
        encoded: EncoderOutput,
        *,
        prompt_logits: PromptLogits | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Results:
        """The sequences of all sources of a call, which are encoded already, in one batch.

        Args:
            call: as prepared.
            encoded: the encoder's output for its sources, in their order.
            prompt_logits: its ``values`` are filled in.
            cancelled: as in :meth:`run`.

        Raises:
            InputError: options that together forbid every token.
            BackendError: the engine failed.
        """
        batch = self._batch(call, range(len(call.sources)), cancelled, encoded)
        (results,) = deque(decode(replace(batch, prompt_logits=prompt_logits)), maxlen=1)
        return results

    def steps(
        self, call: PreparedCall, cancelled: Callable[[], bool] | None = None
    ) -> Iterator[Hypothesis]:
        """The first sequence of the first source after each step, finished in the last one."""
        for results in decode(self._batch(call, [0], cancelled)):
            if results[0]:
                yield results[0][0]

    def _batch(
        self,
        call: PreparedCall,
        numbers: Sequence[int],
        cancelled: Callable[[], bool] | None,
        encoded: EncoderOutput | None = None,
    ) -> GenerationBatch:
        sources = [call.sources[number] for number in numbers]
        decoder_prompts = [call.decoder_prompts[number] for number in numbers]
        decoder_prompt = np.zeros((len(decoder_prompts), max(map(len, decoder_prompts))), np.int64)
        for row, tokens in zip(decoder_prompt, decoder_prompts, strict=True):
            row[len(row) - len(tokens) :] = tokens
        tokens_of = [source.tokens() for source in sources]
        special, config = call.manifest.special_tokens, call.config
        draft_encoded = None
        if config.draft_model is not None:
            inputs = collate([call.draft_sources[number] for number in numbers], special.pad)
            draft_encoded = config.draft_model.backend.encode(inputs)
        if encoded is None:
            encoded = self._backend.encode(collate(sources, special.pad))
        return GenerationBatch(
            call=call,
            backend=self._backend,
            encoded=encoded,
            sources=tokens_of,
            decoder_prompt=decoder_prompt,
            prompts=[call.prompt(number) for number in numbers],
            stopping=StoppingRule(
                special.eos,
                stop_strings=config.stop_strings,
                decode=None if self._tokenizer is None else self._tokenizer.decode,
                max_time=config.max_time,
                cancelled=cancelled,
            ),
            processors=_processors(call, numbers, tokens_of),
            draft_encoded=draft_encoded,
        )


def _draft_limits(config: GenerationConfig) -> Limits | None:
    draft = config.draft_model
    return None if draft is None else draft.backend.capabilities.limits


def _processors(
    call: PreparedCall, numbers: Sequence[int], sources: Sequence[Sequence[int]]
) -> Processors:
    """Those of a batch; sources with prompts of different lengths have processors of their own."""

    def of_length(length: int) -> Processors:
        context = Context(
            sources=sources,
            numbers=numbers,
            eos=call.manifest.special_tokens.eos,
            prompt_length=length - len(call.forced),
            forced_length=length,
            max_length=length - len(call.forced) + call.new_tokens,
        )
        own = [make(length) for make in call.processors]
        if call.constraint is not None:
            own.append(call.constraint(length))
        return build_processors(call.config, context, own)

    lengths = [len(call.prompt(number)) for number in numbers]
    made = {length: of_length(length) for length in set(lengths)}
    return made[lengths[0]] if len(made) == 1 else ByLength(np.array(lengths), made)
