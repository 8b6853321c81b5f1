"""What the service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """All of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "seq2edge_requests",
            "Requests that were answered",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "seq2edge_request_seconds",
            "From a request's headers to the end of its response",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refused_seconds = Histogram(
            "seq2edge_refused_seconds",
            "From the headers of a request that found the queue full to the end of its 429",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.connections = Gauge(
            "seq2edge_connections", "Open connections of HTTP", registry=self.registry
        )
        self.connections_closed = Counter(
            "seq2edge_connections_closed",
            "Connections that the service closed",
            ["reason"],
            registry=self.registry,
        )
        self.queue_length = self._gauge("queue_length", "Texts or recordings that wait")
        self.running = self._gauge("running", "Texts or recordings that the model works on")
        self.queue_seconds = self._histogram("queue_seconds", "Time that a request waited")
        self.first_piece_seconds = self._histogram(
            "first_piece_seconds", "Time to the first piece of a stream, waiting included"
        )
        self.batch_size = self._histogram("batch_size", "Rows of a step of the model", _SIZES)
        self.source_tokens = self._counter("source_tokens", "Tokens of texts that were read")
        self.generated_tokens = self._counter("generated_tokens", "Tokens that were generated")
        self.audio_seconds = self._counter("audio_seconds", "Seconds of audio transcribed")
        self.rejected = self._counter("rejected", "Requests that found the queue full")
        self.cancelled = self._counter("cancelled", "Requests whose client went away")

    def of(self, model: str) -> ModelMetrics:
        """Those of one bundle."""
        return ModelMetrics(self, model)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"seq2edge_{name}", text, ["model"], registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"seq2edge_{name}", text, ["model"], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(
            f"seq2edge_{name}", text, ["model"], buckets=buckets, registry=self.registry
        )


class ModelMetrics:
    """The metrics of one bundle; all are there from the start, with 0."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.queue_length: Gauge = metrics.queue_length.labels(model)
        self.running: Gauge = metrics.running.labels(model)
        self.queue_seconds: Histogram = metrics.queue_seconds.labels(model)
        self.first_piece_seconds: Histogram = metrics.first_piece_seconds.labels(model)
        self.batch_size: Histogram = metrics.batch_size.labels(model)
        self.source_tokens: Counter = metrics.source_tokens.labels(model)
        self.generated_tokens: Counter = metrics.generated_tokens.labels(model)
        self.audio_seconds: Counter = metrics.audio_seconds.labels(model)
        self.rejected: Counter = metrics.rejected.labels(model)
        self.cancelled: Counter = metrics.cancelled.labels(model)
