"""How near a decoder step comes to the machine's memory bandwidth.

A step of one token reads all weights of the decoder and the cache, and computes little with
each byte, so that reading them is a lower bound of its time. What this machine can read is
measured in the same rounds as the steps, by the median over the rounds of both (and by the best
of both): they meet the same noise. A bandwidth is fair if it is hard to beat:

- the reader is numpy, with as many threads as the engine uses, each over its own part of a
  buffer that holds data (pages never written are all one page, which stays in the cache); of
  three reductions the fastest counts, because a slow one measures arithmetic;
- it reads two buffers: one far larger than any cache, and one as large as the decoder's weights,
  over and over as steps do, of which a cache may hold a part. The higher figure counts.

Where a step stays far below, it is bound by something else, most often by arithmetic: unpacking
8 or 4 bits takes instructions. A float32 bundle of the same model, measured as a reference in the
same rounds, tells: it has four times the bytes and nothing to unpack.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.bundle import Bundle
from seq2edge.runtime.engines import Engine, Step, load_engine
from seq2edge.runtime.errors import InputError
from seq2edge.runtime.manifest import DTYPE_BITS, GraphInfo, Manifest

from .latency import Spread, Workload, random_source

#: Of the large buffer, and of what one reading of the other adds up to at least.
_MEMORY_BYTES, _READ_BYTES = 256_000_000, 32_000_000
_STEPS_A_ROUND = 8
#: Seconds after which the engine's idle threads have stopped spinning.
_SETTLE = 0.02

_FIRST = "maximum of int32"
_Words = NDArray[np.uint64]
#: Reductions that numpy runs in vector instructions, without the interpreter's lock.
_READERS: dict[str, Callable[[_Words], object]] = {
    _FIRST: lambda words: words.view(np.int32).max(),
    "maximum of uint8": lambda words: words.view(np.uint8).max(),
    "sum of uint64": lambda words: words.sum(),
}


@dataclass(frozen=True)
class Roofline:
    """One bundle's greedy decoder step beside the bandwidth. Bytes, and bytes a second.

    Attributes:
        weight_bytes: that a step reads (the manifest's).
        cache_bytes: keys and values that a step reads, its own and the source's.
        cache_slots: length of its own cache; the step sees all of it.
        source_length: of the source's, in tokens.
        batch_size: sequences a step.
        threads: of the engine and of the reader.
        step_ms: milliseconds of a step.
        step_bandwidth: all its bytes over the median step.
        memory_bandwidth: read from a buffer of 256 MB.
        same_size_bandwidth: read from a buffer of ``weight_bytes`` over and over.
        bound_ms: milliseconds of reading the step's bytes at the higher of the two.
        share: ``bound_ms`` over the median step: 1 is all of the bandwidth.
        best_step_ms: the fastest step of all.
        best_bandwidth: the fastest reading of all, of either buffer.
        best_share: the share by these two. On a machine with other work on it medians tell
            more about that work, which costs a step of many operators more than one reading.
    """

    weight_bytes: int
    cache_bytes: int
    cache_slots: int
    source_length: int
    batch_size: int
    threads: int
    step_ms: Spread
    step_bandwidth: float
    memory_bandwidth: float
    same_size_bandwidth: float
    bound_ms: float
    share: float
    best_step_ms: float
    best_bandwidth: float
    best_share: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_rooflines(
    paths: Sequence[str | os.PathLike[str]],
    workload: Workload,
    progress: Callable[[int, int], None] | None = None,
) -> list[Roofline]:
    """Measure steps of one or more bundles and the bandwidth, in turns.

    Args:
        paths: the bundles' folders.
        workload: ``new_tokens`` is the number of cache slots; ``runs`` and ``warmup`` are
            rounds of 8 steps a bundle. Steps are greedy, whatever ``num_beams`` is.
        progress: called after each round with how many are done and how many there are.

    Raises:
        BundleError, EngineError: a bundle cannot be loaded.
        InputError: the workload does not fit a model.
    """
    with ExitStack() as stack:
        steppers = [_Stepper.load(path, workload, stack) for path in paths]
        pool = {
            threads: stack.enter_context(ThreadPoolExecutor(threads))
            for threads in {stepper.threads for stepper in steppers}
        }
        memory = _filled(_MEMORY_BYTES)
        same_size = [_filled(stepper.graph.weight_bytes) for stepper in steppers]
        step_ms: list[list[float]] = [[] for _ in steppers]
        rates: list[_Rates] = [_Rates() for _ in steppers]
        for number in range(workload.warmup + workload.runs):
            for place, stepper in enumerate(steppers):
                times = [stepper.milliseconds() for _ in range(_STEPS_A_ROUND)]
                time.sleep(_SETTLE)
                readers = pool[stepper.threads]
                found = (
                    _read(memory, readers, stepper.threads),
                    _read(same_size[place], readers, stepper.threads),
                )
                if number >= workload.warmup:
                    step_ms[place] += times
                    rates[place].add(*found)
            if progress is not None:
                progress(number + 1, workload.warmup + workload.runs)
        return [
            _roofline(stepper, workload, step_ms[place], rates[place])
            for place, stepper in enumerate(steppers)
        ]


def cache_bytes(graph: GraphInfo, batch_size: int, slots: int, source_length: int) -> int:
    """Bytes of the keys and values that a decoder step reads."""
    lengths = {"past_": slots, "cross_": source_length}
    total = 0
    for spec in graph.inputs:
        for prefix, length in lengths.items():
            if spec.name.startswith((f"{prefix}key.", f"{prefix}value.")):
                heads, head_dim = int(spec.shape[1]), int(spec.shape[3])
                total += batch_size * heads * length * head_dim * DTYPE_BITS[spec.dtype] // 8
    return total


@dataclass(frozen=True)
class _Stepper:
    """A loaded bundle whose decoder can run its last greedy step again and again."""

    graph: GraphInfo
    threads: int
    run: Callable[[], None]

    @classmethod
    def load(cls, path: str | os.PathLike[str], workload: Workload, stack: ExitStack) -> _Stepper:
        bundle = Bundle.open(path)
        _check(bundle.manifest, workload)
        engine: Engine = load_engine(bundle, num_threads=workload.threads)
        stack.callback(engine.close)
        source = random_source(bundle.manifest, workload)
        slots, batch = workload.new_tokens, workload.batch_size
        decoder = engine.decoder(engine.encode(source, np.ones(source.shape, np.bool_)), slots)
        step = Step.allocate(batch, 1, slots, feed_back=True)
        step.input_ids[:] = bundle.manifest.special_tokens.decoder_start
        step.attention_mask[:] = True
        step.position_ids[:] = step.write_index[:] = slots - 1
        threads = engine.num_threads or len(os.sched_getaffinity(0))
        return cls(bundle.manifest.graphs["decoder"], threads, decoder.bind(step))

    def milliseconds(self) -> float:
        start = time.perf_counter()
        self.run()
        return 1e3 * (time.perf_counter() - start)


class _Rates:
    """Bytes a second of each round, by reader, for both buffers."""

    def __init__(self) -> None:
        self._memory: list[dict[str, float]] = []
        self._same_size: list[dict[str, float]] = []

    def add(self, memory: dict[str, float], same_size: dict[str, float]) -> None:
        self._memory.append(memory)
        self._same_size.append(same_size)

    def best(self) -> tuple[float, float]:
        """The fastest reader's median, of both."""
        memory, same_size = (
            max(statistics.median(found[name] for found in rounds) for name in _READERS)
            for rounds in (self._memory, self._same_size)
        )
        return memory, same_size

    def fastest(self) -> float:
        """The fastest reading of all."""
        return max(rate for found in self._memory + self._same_size for rate in found.values())


def _roofline(
    stepper: _Stepper, workload: Workload, step_ms: list[float], rates: _Rates
) -> Roofline:
    graph, spread = stepper.graph, Spread.of(step_ms)
    slots, batch = workload.new_tokens, workload.batch_size
    cache = cache_bytes(graph, batch, slots, workload.source_length)
    memory, same_size = rates.best()
    read = graph.weight_bytes + cache
    bound_ms = 1e3 * read / max(memory, same_size)
    best_step_ms, best_bandwidth = min(step_ms), rates.fastest()
    return Roofline(
        weight_bytes=graph.weight_bytes,
        cache_bytes=cache,
        cache_slots=slots,
        source_length=workload.source_length,
        batch_size=batch,
        threads=stepper.threads,
        step_ms=spread,
        step_bandwidth=1e3 * read / spread.p50,
        memory_bandwidth=memory,
        same_size_bandwidth=same_size,
        bound_ms=bound_ms,
        share=bound_ms / spread.p50,
        best_step_ms=best_step_ms,
        best_bandwidth=best_bandwidth,
        best_share=1e3 * read / best_bandwidth / best_step_ms,
    )


def _check(manifest: Manifest, workload: Workload) -> None:
    limit = manifest.dimensions.max_target_length
    if limit is not None and workload.new_tokens > limit:
        raise InputError(f"--new-tokens {workload.new_tokens} is more than the model's {limit}")


def _filled(size: int) -> _Words:
    """A buffer of about so many bytes, each page written."""
    return np.full(max(size // 8, 1), 0x0102030405060708, np.uint64)


def _read(words: _Words, pool: ThreadPoolExecutor, threads: int) -> dict[str, float]:
    """Bytes a second of each reader over ``words``, split among the threads."""
    parts = np.array_split(words, threads)
    # One reading of a small buffer would measure how fast threads wake up.
    passes = max(1, _READ_BYTES // words.nbytes)

    def read(reduce: Callable[[_Words], object], passes: int) -> float:
        def repeat(part: _Words) -> None:
            for _ in range(passes):
                reduce(part)

        start = time.perf_counter()
        list(pool.map(repeat, parts))
        return time.perf_counter() - start

    # Once for nothing: the cores wake up, and a cache takes what it can hold.
    read(_READERS[_FIRST], 1)
    return {name: passes * words.nbytes / read(reduce, passes) for name, reduce in _READERS.items()}
