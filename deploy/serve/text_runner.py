"""Texts on a model: rows of one running batch; what cannot be one, in plain batches beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from seq2edge.runtime import (
    ContinuousBatch,
    Generation,
    GenerationConfig,
    InputError,
    Seq2SeqModel,
    TextStream,
)
from seq2edge.runtime import Request as Row
from seq2edge.runtime.errors import Seq2EdgeError, SourceError

from .jobs import TextItem
from .metrics import ModelMetrics
from .settings import Limits


class TextRunner:
    """A :class:`.worker.Runner` of texts.

    Args:
        model: is closed with it.
        limits: of a batch and of a source.
        metrics: are counted up.
    """

    def __init__(self, model: Seq2SeqModel, limits: Limits, metrics: ModelMetrics) -> None:
        self._model, self._limits, self._metrics = model, limits, metrics
        self._rows: dict[Row, TextItem] = {}
        self._batch = self._new_batch()
        #: Of engines that cannot replace a row, and of requests that guess tokens for themselves.
        self._plain = _PlainBatches(model, metrics)

    @property
    def gathers(self) -> bool:
        return self._batch is None

    @property
    def running(self) -> int:
        return len(self._rows) + self._plain.running

    @property
    def room(self) -> int:
        return self._limits.max_batch - self.running

    def add(self, items: Sequence[TextItem]) -> None:
        for item in items:
            try:
                self._add(item)
            except SourceError as error:
                item.job.fail(SourceError(item.index, error.reason))
            except Seq2EdgeError as error:
                item.job.fail(error)

    def step(self) -> None:
        if self._batch is not None and self._rows:
            self._step(self._batch)
        self._plain.step()

    def abort(self, error: Exception) -> None:
        for item in self._rows.values():
            item.job.fail(error)
        self._rows.clear()
        self._plain.abort(error)
        if self._batch is not None:
            self._batch.close()
            self._batch = self._new_batch()

    def close(self) -> None:
        self._model.close()

    def _new_batch(self) -> ContinuousBatch | None:
        try:
            return ContinuousBatch(self._model, self._limits.max_batch)
        except InputError:
            return None

    def _add(self, item: TextItem) -> None:
        config = item.job.config
        [tokens] = self._model.tokenize([item.text], config)
        item.source_tokens = len(tokens)
        most = self._limits.max_source_tokens
        if most is not None and len(tokens) > most:
            raise SourceError(0, f"has {len(tokens)} tokens, and at most {most} are taken here")
        self._metrics.source_tokens.inc(len(tokens))
        if self._batch is None or config.prompt_lookup_num_tokens is not None:
            self._plain.add(item)
        else:
            row = self._batch.submit(tokens, config, stream=item.job.stream)
            self._rows[row] = item

    def _step(self, batch: ContinuousBatch) -> None:
        for row, item in self._rows.items():
            if item.job.abandoned:
                batch.cancel(row)
        for event in batch.step():
            item = self._rows[event.request]
            if event.piece:
                item.job.give(event.piece)
            if not event.request.done:
                continue
            del self._rows[event.request]
            if event.request.error is not None:
                item.job.fail(event.request.error)
            elif item.job.abandoned:
                item.job.leave()
            else:
                done(item, list(event.request.results), self._metrics)


def done(item: TextItem, results: list[Generation], metrics: ModelMetrics) -> None:
    """An item has its results."""
    metrics.generated_tokens.inc(sum(len(found.token_ids) for found in results))
    item.job.done(item.index, [replace(found, source=item.index) for found in results])


class _PlainBatches:
    """Requests of equal options in one call; streams a piece each in turn."""

    def __init__(self, model: Seq2SeqModel, metrics: ModelMetrics) -> None:
        self._model, self._metrics = model, metrics
        self._groups: list[tuple[GenerationConfig, list[TextItem]]] = []
        self._streams: deque[tuple[TextItem, TextStream]] = deque()

    @property
    def running(self) -> int:
        return len(self._streams) + sum(len(items) for _, items in self._groups)

    def add(self, item: TextItem) -> None:
        job = item.job
        if job.stream:
            stream = self._model.stream(item.text, job.config, cancelled=lambda: job.abandoned)
            self._streams.append((item, stream))
            return
        for config, members in self._groups:
            if config == job.config:
                members.append(item)
                return
        self._groups.append((job.config, [item]))

    def step(self) -> None:
        for item, stream in list(self._streams):
            try:
                if self._advance(item, stream):
                    continue
            except Seq2EdgeError as error:
                item.job.fail(error)
            self._streams.remove((item, stream))
        if self._groups:
            self._run(*self._groups[0])
            del self._groups[0]

    def abort(self, error: Exception) -> None:
        for _, items in self._groups:
            for item in items:
                item.job.fail(error)
        for item, stream in self._streams:
            stream.close()
            item.job.fail(error)
        self._groups.clear()
        self._streams.clear()

    def _advance(self, item: TextItem, stream: TextStream) -> bool:
        piece = next(stream, None)
        job = item.job
        if job.abandoned:
            stream.close()
            job.leave()
            return False
        if piece is not None:
            job.give(piece)
            return True
        if stream.result is not None:
            done(item, [stream.result], self._metrics)
        return False

    def _run(self, config: GenerationConfig, items: list[TextItem]) -> None:
        try:
            found = self._model.generate(
                [item.text for item in items],
                config,
                cancelled=lambda: all(item.job.abandoned for item in items),
            )
        except Seq2EdgeError as error:
            for item in items:
                item.job.fail(error)
            return
        results: list[list[Generation]] = [[] for _ in items]
        for generation in found:
            results[generation.source].append(generation)
        for item, own in zip(items, results, strict=True):
            if item.job.abandoned:
                item.job.leave()
            else:
                done(item, own, self._metrics)
