"""Loaded bundles under measurement, whatever they read: how they answer examples, and how fast."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.backends import Backend, load_backend
from seq2edge.runtime.generation.divergence import SpokenPair, TokenPair
from seq2edge.runtime.progress import CountProgress
from seq2edge.runtime.text.tokenizer import Tokenizer, load_tokenizer

from .data import Example
from .evaluate import BATCH_SIZE, Output, one_each
from .settings import Settings
from .speech import SpeechSubject
from .speed import Timing, greedy


class Subject(Protocol):
    """A bundle in an engine."""

    @property
    def bundle(self) -> Bundle: ...

    @property
    def backend(self) -> Backend: ...

    @property
    def tokenizer(self) -> Tokenizer | None: ...

    def check(self, examples: Sequence[Example]) -> None:
        """Refuse sources that it cannot take, before anything is generated.

        Raises:
            InputError: what is wrong with which.
        """
        ...

    def answer(
        self, examples: Sequence[Example], progress: CountProgress | None = None
    ) -> Sequence[Output]:
        """What it generates for each.

        Raises:
            InputError, BackendError: as :meth:`.Seq2SeqModel.generate`.
        """
        ...

    def pair(self, example: Example, output: Output) -> TokenPair | SpokenPair:
        """What others are compared on, token by token; ``output`` is its answer."""
        ...

    def timed(self, example: Example) -> Timing:
        """How long a greedy answer takes."""
        ...


class TextSubject:
    """A bundle that reads texts; a :class:`Subject`."""

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings) -> None:
        self.bundle, self.backend = bundle, backend
        self.tokenizer = load_tokenizer(bundle)
        self._model = Seq2SeqModel(bundle, backend, self.tokenizer)
        self._settings = settings
        own = one_each(
            self._model.generation_config,
            max_new_tokens=settings.max_new_tokens,
            num_beams=settings.num_beams,
        )
        self.config = replace(
            own, source_lang=settings.source_lang, target_lang=settings.target_lang
        )

    @property
    def model(self) -> Seq2SeqModel:
        return self._model

    def check(self, examples: Sequence[Example]) -> None:
        self._model.tokenize([example.source for example in examples])

    def answer(
        self, examples: Sequence[Example], progress: CountProgress | None = None
    ) -> Sequence[Output]:
        return self._model.generate(
            [example.source for example in examples],
            self.config,
            batch_size=self._settings.batch_size or BATCH_SIZE,
            skip_special_tokens=self._settings.skip_special_tokens,
            progress=progress,
        )

    def pair(self, example: Example, output: Output) -> TokenPair:
        (tokens,) = self._model.tokenize([example.source])
        return TokenPair(tokens, output.token_ids)

    def timed(self, example: Example) -> Timing:
        config = greedy(self.config)
        start = time.perf_counter()
        (generation,) = self._model.generate(example.source, config)
        return Timing(1e3 * (time.perf_counter() - start), len(generation.token_ids))


@contextmanager
def open_subject(bundle: Bundle, settings: Settings, **engine: Any) -> Iterator[Subject]:
    """Load a bundle; the engine is closed at the end.

    Args:
        engine: as of :func:`.load_backend`.

    Raises:
        BundleError, BackendError: it cannot be loaded.
        InputError: a setting that means nothing to it.
    """
    settings.check(bundle)
    backend = load_backend(bundle, num_threads=settings.threads, **engine)
    try:
        if bundle.manifest.speech is None:
            yield TextSubject(bundle, backend, settings)
        else:
            yield SpeechSubject(bundle, backend, settings)
    finally:
        backend.close()
