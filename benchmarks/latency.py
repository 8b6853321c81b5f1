"""Latency of one bundle on this machine.

The end token is ignored, so that every run makes the same number of tokens. The time of a
token is what each token after the first adds: (all tokens - first token) / (tokens - 1).
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from seq2edge.runtime.backends import Backend, load_backend
from seq2edge.runtime.backends.tensorrt.library import load_library
from seq2edge.runtime.bundle.manifest import Manifest
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.generation import GenerationConfig, Generator

from .sources import audio_seconds, check_sources, extract, make_batch, read_audio
from .workload import Workload


@dataclass(frozen=True)
class LatencyPercentiles:
    """Percentiles over the runs."""

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: list[float]) -> LatencyPercentiles:
        p50, p90, p99 = np.percentile(values, [50, 90, 99])
        return cls(float(p50), float(p90), float(p99))


@dataclass(frozen=True)
class LatencyReport:
    """What :func:`measure` found.

    Attributes:
        workload: as asked for.
        milliseconds: of ``features`` (of speech), ``encoder``, ``first token`` (features and
            encoder included), ``token`` (each further one), ``all``.
        tokens_per_second: of all sequences of the batch.
        audio_seconds: of a source; None: a text.
        real_time_factor: time of ``all`` by the seconds of the batch's audio; None: texts.
        load_ms, peak_rss_bytes: until the model was loaded; of the process.
        engine_version: of the library that ran it.
        threads: None: all cores.
    """

    workload: Workload
    milliseconds: dict[str, LatencyPercentiles]
    tokens_per_second: float
    audio_seconds: float | None
    real_time_factor: float | None
    load_ms: float
    peak_rss_bytes: int
    engine_version: str
    threads: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __repr__(self) -> str:
        median = f"{self.milliseconds['token'].p50:.3f} ms per token"
        return f"LatencyReport({median}, {self.tokens_per_second:.1f} tokens/s)"


def measure(path: str | os.PathLike[str], workload: Workload) -> LatencyReport:
    """Load a bundle and measure it.

    Raises:
        BundleError, BackendError: it cannot be loaded.
        InputError: the workload does not fit the model.
    """
    start = time.perf_counter()
    bundle = Bundle.open(path)
    check_sources(bundle, workload)
    backend = load_backend(
        bundle,
        backend=workload.backend,
        device=workload.device,
        strict=workload.strict,
        num_threads=workload.threads,
    )
    load_ms = 1e3 * (time.perf_counter() - start)
    try:
        milliseconds = _measure(backend, bundle, workload)
    finally:
        backend.close()
    total = milliseconds["all"].p50 / 1e3
    seconds = audio_seconds(bundle, workload)
    return LatencyReport(
        workload=workload,
        milliseconds=milliseconds,
        tokens_per_second=workload.batch_size * workload.new_tokens / total,
        audio_seconds=seconds,
        real_time_factor=None if seconds is None else total / (workload.batch_size * seconds),
        load_ms=load_ms,
        # ru_maxrss is in kilobytes on Linux (getrusage(2)).
        peak_rss_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        engine_version=engine_version(workload.backend),
        threads=backend.num_threads,
    )


def fixed_length(new_tokens: int, num_beams: int) -> GenerationConfig:
    """Options under which a bundle without end tokens makes so many tokens.

    The checkpoint's own options do not count: they would make bundles hard to compare.
    """
    return GenerationConfig(max_new_tokens=new_tokens, num_beams=num_beams)


def without_end(manifest: Manifest) -> Manifest:
    return replace(manifest, special_tokens=replace(manifest.special_tokens, eos=()))


def _measure(backend: Backend, bundle: Bundle, workload: Workload) -> dict[str, LatencyPercentiles]:
    batch = make_batch(backend, bundle, workload)
    generator = Generator(backend, without_end(bundle.manifest), None)
    several = fixed_length(workload.new_tokens, workload.num_beams)

    def generate(config: GenerationConfig) -> Callable[[], object]:
        call = generator.prepare(config, batch.sources, prompts=batch.prompts)
        return lambda: generator.run(call)

    parts: dict[str, Callable[[], object]] = {
        "encoder": lambda: backend.encode(batch.inputs),
        "first token": generate(replace(several, max_new_tokens=1)),
        "all": generate(several),
    }
    if "features" in bundle.manifest.graphs and bundle.manifest.speech is not None:
        audio = read_audio(bundle.manifest.speech, workload)
        parts = {"features": lambda: extract(backend, bundle.manifest, audio), **parts}
    times: dict[str, list[float]] = {name: [] for name in parts}
    for run in range(workload.warmup + workload.runs):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if run >= workload.warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
    if workload.new_tokens > 1:
        times["token"] = [
            (total - first) / (workload.new_tokens - 1)
            for total, first in zip(times["all"], times["first token"], strict=True)
        ]
    for name in ("first token", "all"):
        features = times.get("features", [0.0] * workload.runs)
        times[name] = [sum(both) for both in zip(times[name], features, strict=True)]
    order = ("features", "encoder", "first token", "token", "all")
    return {name: LatencyPercentiles.of(times[name]) for name in order if name in times}


def engine_version(backend: str) -> str:
    """Of the library that an engine is: ONNX Runtime, TensorRT or TensorRT-RTX."""
    if not backend.startswith("onnxruntime"):
        return load_library(backend).version
    import onnxruntime

    return str(onnxruntime.__version__)
