"""How near a decoder step comes to the bandwidth of the memory that it reads.

A step of one token reads all weights of the decoder and the cache, and computes little with
each byte, so that reading them is a lower bound of its time. What the memory gives (the machine's,
or a GPU's: see :mod:`.bandwidth`) is measured in the same rounds as the steps, by the median over
the rounds of both (and by the best of both): they meet the same noise. The higher of the two
buffers' figures counts.

Where a step stays far below, it is bound by something else, most often by arithmetic: unpacking
8 or 4 bits takes instructions. A float32 bundle of the same model, measured as a reference in the
same rounds, tells: it has four times the bytes and nothing to unpack.

A GPU's steps are timed as greedy decoding runs them: several in a row without the host, where
the engine can do that. Not run on a GPU yet: the tests' CUDA is a fake one.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from seq2edge.runtime.backends import Backend, Step, slot_backend
from seq2edge.runtime.backends.limits import cache_bytes
from seq2edge.runtime.backends.onnxruntime.session import cpu_graphs
from seq2edge.runtime.backends.tensorrt.cuda import Cuda, load_cuda
from seq2edge.runtime.backends.tensorrt.engine_cache import find_engines
from seq2edge.runtime.backends.tensorrt.library import load_library
from seq2edge.runtime.bundle.manifest import GraphInfo, Manifest
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import InputError
from seq2edge.runtime.generation.engine_limits import check_sources as check_engine
from seq2edge.runtime.progress import CountProgress

from .bandwidth import DeviceMemory, HostMemory, Memory, Rates
from .latency import engine_version
from .report.statistics import Measurement
from .sources import check_sources, make_batch
from .workload import Workload

_STEPS_A_ROUND = 8
#: Seconds after which the engine's idle threads have stopped spinning.
_SETTLE = 0.02


@dataclass(frozen=True)
class Roofline:
    """One bundle's greedy decoder step beside the bandwidth. Bytes, and bytes per second.

    Attributes:
        device: whose memory it is: ``cpu``, or the GPU's name.
        weight_bytes: that a step must read (the manifest's: a table that is only looked up does
            not count).
        plan_weight_bytes: weights that TensorRT's decoder engine holds, such tables included; None
            where that is not known. More than ``weight_bytes`` also where a layer was built with
            wider weights than the bundle's.
        cache_bytes: keys and values that a step must read, its own and the source's.
        cache_slots: slots of its own cache that the step sees. An engine that was built for more
            may read more, and is not excused for it.
        source_length: of the source's, in tokens or positions of sound.
        batch_size: sequences per step.
        threads: of the engine and of the reader; None on a GPU.
        step_ms: milliseconds of a step.
        step_bandwidth: all its bytes over the median step.
        memory_bandwidth: of a buffer that no cache holds (256 MB, on a GPU 512 MB).
        same_size_bandwidth: of a buffer of ``weight_bytes`` over and over.
        bound_ms: milliseconds of reading the step's bytes at the higher of the two.
        share: ``bound_ms`` over the median step: 1 is all of the bandwidth.
        best_step_ms: the fastest step of all.
        best_bandwidth: the fastest reading of all, of either buffer.
        best_share: the share by these two. On a machine with other work on it medians tell
            more about that work, which costs a step of many operators more than one reading.
    """

    device: str
    weight_bytes: int
    plan_weight_bytes: int | None
    cache_bytes: int
    cache_slots: int
    source_length: int
    batch_size: int
    threads: int | None
    step_ms: Measurement
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
    progress: CountProgress | None = None,
) -> list[Roofline]:
    """Measure steps of one or more bundles and the bandwidth, in turns.

    Args:
        paths: the bundles' folders.
        workload: ``new_tokens`` is the number of cache slots that a step sees; ``runs`` and
            ``warmup`` are rounds of 8 steps a bundle. Steps are greedy, whatever ``num_beams`` is.
            Where ``engine`` and ``device`` run on a GPU, the bandwidth is the GPU's, which takes
            cuda-bindings.
        progress: called after each round with how many are done and how many there are.

    Raises:
        BundleError, BackendError: a bundle cannot be loaded, or there is no GPU for it.
        InputError: the workload does not fit a model, or the engines built for it.
    """
    with ExitStack() as stack:
        cuda = load_cuda() if _on_gpu(workload) else None
        steppers = [_Stepper.load(path, workload, cuda, stack) for path in paths]
        memories: dict[int | None, Memory] = {
            threads: DeviceMemory(cuda) if cuda else HostMemory(threads or 1)
            for threads in {stepper.threads for stepper in steppers}
        }
        for memory in memories.values():
            stack.callback(memory.close)
        step_ms: list[list[float]] = [[] for _ in steppers]
        rates: list[_RatesOfRounds] = [_RatesOfRounds() for _ in steppers]
        for number in range(workload.warmup_rounds + workload.runs):
            for index, stepper in enumerate(steppers):
                times = [stepper.milliseconds() for _ in range(_STEPS_A_ROUND)]
                time.sleep(_SETTLE)
                bandwidths = memories[stepper.threads].measure(stepper.graph.weight_bytes)
                if number >= workload.warmup_rounds:
                    step_ms[index] += times
                    rates[index].add(*bandwidths)
            if progress is not None:
                progress(number + 1, workload.warmup_rounds + workload.runs)
        return [
            _roofline(
                stepper, workload, step_ms[index], rates[index], memories[stepper.threads].device
            )
            for index, stepper in enumerate(steppers)
        ]


@dataclass(frozen=True)
class _Stepper:
    """A loaded bundle whose decoder can run its last greedy steps again and again.

    Attributes:
        threads: of the engine; None on a GPU.
        count: steps that ``run`` makes.
        source_length: positions of the encoder's output.
    """

    graph: GraphInfo
    source_length: int
    plan_weight_bytes: int | None
    threads: int | None
    count: int
    run: Callable[[], object]

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        workload: Workload,
        cuda: Cuda | None,
        stack: ExitStack,
    ) -> _Stepper:
        bundle = Bundle.open(path)
        check_sources(bundle, workload)
        _check_slots(bundle.manifest.dimensions.max_target_length, workload, "the model's")
        backend = workload.load(bundle)
        stack.callback(backend.close)
        source = make_batch(backend, bundle, workload)
        _check_limits(backend, workload, source.positions)
        slots, batch = workload.new_tokens, workload.batch_size
        encoded = backend.encode(source.inputs)
        cache = slot_backend(backend, "a roofline").new_cache(encoded, slots)
        step = Step.allocate(batch, 1, cache.max_cache_len, feed_back=True)
        count = min(backend.capabilities.steps_per_launch, slots)
        run: Callable[[], object] = partial(cache.forward, step)
        if count > 1:
            run = partial(cache.forward_greedy, step, count)
        step.input_ids[:] = bundle.manifest.special_tokens.decoder_start
        # The last of the steps fills the last slot.
        step.position_ids[:] = step.write_indices[:] = slots - count
        step.attention_mask[..., : slots - count + 1] = True
        return cls(
            graph=_decoder(bundle.manifest, workload, cuda),
            source_length=source.positions,
            plan_weight_bytes=_plan_weight_bytes(bundle, workload.backend, cuda),
            threads=None if cuda else backend.num_threads or len(os.sched_getaffinity(0)),
            count=count,
            run=run,
        )

    def milliseconds(self) -> float:
        """Of one step. Engines return when its tokens are on the host."""
        start = time.perf_counter()
        self.run()
        return 1e3 * (time.perf_counter() - start) / self.count


class _RatesOfRounds:
    """Bytes per second of each round, by reader, for both buffers."""

    def __init__(self) -> None:
        self._memory: list[Rates] = []
        self._same_size: list[Rates] = []

    def add(self, memory: Rates, same_size: Rates) -> None:
        self._memory.append(memory)
        self._same_size.append(same_size)

    def best(self) -> tuple[float, float]:
        """The fastest reader's median, of both."""
        memory, same_size = (
            max(statistics.median(rates[name] for rates in rounds) for name in rounds[0])
            for rounds in (self._memory, self._same_size)
        )
        return memory, same_size

    def fastest(self) -> float:
        """The fastest reading of all."""
        return max(rate for rates in self._memory + self._same_size for rate in rates.values())


def _roofline(
    stepper: _Stepper,
    workload: Workload,
    step_ms: list[float],
    rates: _RatesOfRounds,
    device: str,
) -> Roofline:
    graph, spread = stepper.graph, Measurement.of(step_ms)
    slots, batch = workload.new_tokens, workload.batch_size
    cache = cache_bytes(graph, batch, slots, stepper.source_length)
    memory, same_size = rates.best()
    read = graph.weight_bytes + cache
    bound_ms = 1e3 * read / max(memory, same_size)
    best_step_ms, best_bandwidth = min(step_ms), rates.fastest()
    return Roofline(
        device=device,
        weight_bytes=graph.weight_bytes,
        plan_weight_bytes=stepper.plan_weight_bytes,
        cache_bytes=cache,
        cache_slots=slots,
        source_length=stepper.source_length,
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


def _on_gpu(workload: Workload) -> bool:
    return workload.device == "cuda" or (
        workload.device is None and workload.backend != "onnxruntime"
    )


def _plan_weight_bytes(bundle: Bundle, backend: str, cuda: Cuda | None) -> int | None:
    if cuda is None or backend.startswith("onnxruntime"):
        return None
    _, engines = find_engines(bundle, load_library(backend), cuda.gpu())
    return engines.engines["decoder"].report.weight_bytes


def _decoder(manifest: Manifest, workload: Workload, cuda: Cuda | None) -> GraphInfo:
    """The graph that runs: one that was made for the CPU may read less than the canonical one."""
    if cuda is not None or workload.device not in (None, "cpu"):
        return manifest.graphs["decoder"]
    return cpu_graphs(manifest, engine_version(workload.backend))["decoder"]


def _check_limits(backend: Backend, workload: Workload, source_length: int) -> None:
    limits = backend.capabilities.limits
    if limits is None:
        return
    check_engine(limits, [source_length])
    if workload.batch_size > limits.max_batch:
        raise InputError(
            f"--batch-size {workload.batch_size} is more than the {limits.max_batch} that the"
            f" engine was built for; build it with --max-batch {workload.batch_size}"
        )
    _check_slots(limits.max_target_length, workload, "the engine's (--max-target-length)")


def _check_slots(limit: int | None, workload: Workload, whose: str) -> None:
    if limit is not None and workload.new_tokens > limit:
        raise InputError(f"--new-tokens {workload.new_tokens} is more than {whose} {limit}")
