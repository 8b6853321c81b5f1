"""From checked sources to sequences: batches, and the strategy that the options ask for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..backends import Backend, slot_backend
from ..bundle.manifest import Manifest
from ..errors import InputError
from ..text.languages import with_languages
from ..text.tokenizer import Tokenizer
from .batch import GenerationBatch, Hypothesis, Results
from .beam import beam_search
from .config import GenerationConfig, new_tokens
from .constraints import ConstraintCompiler
from .engine_limits import check_sources, fitted_new_tokens
from .greedy import greedy_search
from .logits_processors import ByLength, Context, Processors, build_processors
from .prompt_lookup import prompt_lookup
from .source import Source, collate
from .stopping import StoppingRule
from .validation import check, is_integer


def decode(call: GenerationBatch) -> Iterator[Results]:
    """Decode a batch step by step; the last thing yielded is the result.

    Greedy decoding and sampling yield the growing sequences after each step; beam search
    yields empty lists until it knows. Closing the iterator ends the call.

    Raises:
        InputError: the options together forbid every token.
        BackendError: the engine failed.
    """
    if call.config.num_beams > 1:
        return beam_search(call)
    if call.config.prompt_lookup_num_tokens is not None:
        return prompt_lookup(call)
    return greedy_search(call)


class Generator:
    """Decodes sources with one engine. Several threads may use it at once."""

    def __init__(self, backend: Backend, manifest: Manifest, tokenizer: Tokenizer | None) -> None:
        self._backend = backend
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._compiler = ConstraintCompiler(
            tokenizer, manifest.dimensions.vocab_size, manifest.special_tokens.eos
        )

    def check(self, config: GenerationConfig) -> GenerationConfig:
        """Refuse options that cannot work, before anything runs; gives them as they are used.

        Raises:
            InputError: which option, its value and what is allowed.
            MissingDependencyError: a constraint needs a package that is not installed.
        """
        config = check(with_languages(config, self._manifest, self._tokenizer), self._manifest)
        self._new_tokens(config)
        if config.prompt_lookup_num_tokens is not None:
            slot_backend(self._backend, "prompt_lookup_num_tokens")
        if config.stop_strings and self._tokenizer is None:
            raise InputError("stop_strings are about text, and the bundle has no tokenizer")
        if config.constraint is not None:
            self._compiler.compile(config.constraint)
        return config

    def run(
        self,
        sources: Sequence[Source],
        config: GenerationConfig,
        *,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Results:
        """The sequences of each source; ``config`` is checked.

        Batches hold sources of similar lengths, so that little is padding.

        Raises:
            InputError: ``batch_size`` below 1, or options that together forbid every token.
            BackendError: the engine failed.
        """
        if batch_size is not None and not (is_integer(batch_size) and batch_size >= 1):
            raise InputError(f"batch_size must be an integer of at least 1, not {batch_size!r}")
        size = batch_size or max(1, len(sources))
        limits = self._backend.capabilities.limits
        if limits is not None:
            size = min(size, limits.max_batch)
            check_sources(limits, [len(source) for source in sources])
        order = list(range(len(sources)))
        if size < len(sources):
            order.sort(key=lambda number: len(sources[number]))
        found: list[list[Hypothesis]] = [[] for _ in sources]
        limit = self._new_tokens(config, sources)
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            call = self._call(sources, numbers, config, limit, cancelled)
            (results,) = deque(decode(call), maxlen=1)
            for number, sequences in zip(numbers, results, strict=True):
                found[number] = sequences
            if progress is not None:
                progress(start + len(numbers), len(sources))
        return found

    def steps(self, source: Source, config: GenerationConfig) -> Iterator[Hypothesis]:
        """The first sequence of one source after each step, finished in the last one."""
        if self._backend.capabilities.limits is not None:
            check_sources(self._backend.capabilities.limits, [len(source)])
        limit = self._new_tokens(config, [source])
        for results in decode(self._call([source], [0], config, limit, None)):
            if results[0]:
                yield results[0][0]

    def _new_tokens(self, config: GenerationConfig, sources: Sequence[Source] = ()) -> int:
        """How many tokens may follow; without an encoder, after the longest of ``sources``."""
        alone = self._manifest.single_stack == "decoder"
        longest = max((len(source.tokens()) for source in sources), default=1) if alone else 1
        limits, wanted = (
            self._backend.capabilities.limits,
            new_tokens(config, self._manifest, longest),
        )
        return wanted if limits is None else fitted_new_tokens(limits, config, wanted)

    def _call(
        self,
        sources: Sequence[Source],
        numbers: Sequence[int],
        config: GenerationConfig,
        limit: int,
        cancelled: Callable[[], bool] | None,
    ) -> GenerationBatch:
        manifest = _started(self._manifest, config)
        batch = [sources[number] for number in numbers]
        call = GenerationBatch(
            backend=self._backend,
            encoded=self._backend.encode(collate(batch, manifest.special_tokens.pad)),
            sources=[source.tokens() for source in batch],
            manifest=manifest,
            config=config,
            new_tokens=limit,
            stopping=StoppingRule(
                manifest.special_tokens.eos,
                stop_strings=config.stop_strings,
                decode=None if self._tokenizer is None else self._tokenizer.decode,
                max_time=config.max_time,
                cancelled=cancelled,
            ),
        )
        lengths = [len(prompt) for prompt in call.prompts]
        made = {length: self._processors(call, numbers, length) for length in set(lengths)}
        same = len(made) == 1
        call.processors = made[lengths[0]] if same else ByLength(np.array(lengths), made)
        return call

    def _processors(self, call: GenerationBatch, numbers: Sequence[int], length: int) -> Processors:
        """For sources whose prompts have ``length`` tokens."""
        constraint = None
        if call.config.constraint is not None:
            constraint = self._compiler.compile(call.config.constraint)(length)
        context = Context(
            sources=call.sources,
            numbers=numbers,
            eos=self._manifest.special_tokens.eos,
            prompt_length=length - len(call.forced),
            forced_length=length,
            max_length=length - len(call.forced) + call.new_tokens,
        )
        return build_processors(call.config, context, constraint)


def _started(manifest: Manifest, config: GenerationConfig) -> Manifest:
    """With the decoder start token that a call asks for."""
    start = config.decoder_start_token_id
    if start is None:
        return manifest
    return replace(manifest, special_tokens=replace(manifest.special_tokens, decoder_start=start))
