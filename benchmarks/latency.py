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
from seq2edge.runtime.errors import InputError
from seq2edge.runtime.generation import GenerationConfig, Generator
from seq2edge.runtime.text.sources import TextSource


@dataclass(frozen=True)
class Workload:
    """Settings of a measurement; lengths in tokens. ``threads`` None is the backend's default, and
    ``backend``, ``device``, ``strict`` are :func:`seq2edge.runtime.backends.load_backend`'s."""

    source_length: int = 64
    new_tokens: int = 64
    batch_size: int = 1
    num_beams: int = 1
    runs: int = 20
    warmup: int = 3
    threads: int | None = None
    backend: str = "onnxruntime"
    device: str | None = None
    strict: bool = False


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
    """Times in milliseconds: ``encoder``, ``first token`` (encoder included), ``token``
    (each further one), ``all``. ``threads`` None: all cores."""

    workload: Workload
    milliseconds: dict[str, LatencyPercentiles]
    tokens_per_second: float
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
    bundle.require_text("bench")
    backend = load_backend(
        bundle,
        backend=workload.backend,
        device=workload.device,
        strict=workload.strict,
        num_threads=workload.threads,
    )
    load_ms = 1e3 * (time.perf_counter() - start)
    manifest = without_end(bundle.manifest)
    try:
        milliseconds = _measure(backend, manifest, workload)
    finally:
        backend.close()
    total = milliseconds["all"].p50 / 1e3
    return LatencyReport(
        workload=workload,
        milliseconds=milliseconds,
        tokens_per_second=workload.batch_size * workload.new_tokens / total,
        load_ms=load_ms,
        # ru_maxrss is in kilobytes on Linux (getrusage(2)).
        peak_rss_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        engine_version=engine_version(workload.backend),
        threads=backend.num_threads,
    )


def random_source(manifest: Manifest, workload: Workload) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Seeded random tokens [batch, source], none of them special.

    Raises:
        InputError: more source tokens than the model allows.
    """
    limit = manifest.dimensions.max_source_length
    if limit is not None and workload.source_length > limit:
        raise InputError(
            f"--source-length {workload.source_length} is more than the model's {limit}"
        )
    special = manifest.special_tokens
    ordinary = np.setdiff1d(
        np.arange(manifest.dimensions.source_tokens),
        [special.pad, special.decoder_start, *special.eos],
    )
    shape = (workload.batch_size, workload.source_length)
    return np.random.default_rng(0).choice(ordinary, shape)


def fixed_length(new_tokens: int, num_beams: int) -> GenerationConfig:
    """Options under which a bundle without end tokens makes so many tokens.

    The checkpoint's own options do not count: they would make bundles hard to compare.
    """
    return GenerationConfig(max_new_tokens=new_tokens, num_beams=num_beams)


def without_end(manifest: Manifest) -> Manifest:
    return replace(manifest, special_tokens=replace(manifest.special_tokens, eos=()))


def _measure(
    backend: Backend, manifest: Manifest, workload: Workload
) -> dict[str, LatencyPercentiles]:
    input_ids = random_source(manifest, workload)
    mask = np.ones(input_ids.shape, np.bool_)
    generator = Generator(backend, manifest, None)
    sources = [TextSource.of(row.tolist()) for row in input_ids]
    several = fixed_length(workload.new_tokens, workload.num_beams)

    def generate(config: GenerationConfig) -> Callable[[], object]:
        call = generator.prepare(config, sources)
        return lambda: generator.run(call)

    parts: dict[str, Callable[[], object]] = {
        "encoder": lambda: backend.encode({"input_ids": input_ids, "attention_mask": mask}),
        "first token": generate(replace(several, max_new_tokens=1)),
        "all": generate(several),
    }
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
    order = ("encoder", "first token", "token", "all")
    return {name: LatencyPercentiles.of(times[name]) for name in order if name in times}


def engine_version(backend: str) -> str:
    """Of the library that an engine is: ONNX Runtime, TensorRT or TensorRT-RTX."""
    if not backend.startswith("onnxruntime"):
        return load_library(backend).version
    import onnxruntime

    return str(onnxruntime.__version__)
