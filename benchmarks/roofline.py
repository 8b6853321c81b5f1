"""How near an encoder and a decoder step come to what the machine can do at most.

A step reads all weights of the decoder and the cache; the encoder reads its weights and writes what
the decoder reads of it. Both compute: :mod:`.operations` counts how much. The bound is the longer
one of moving those bytes at the memory's bandwidth (:mod:`.bandwidth`) and of computing at the
rate with which ONNX Runtime multiplies matrices (:mod:`.gemm`). All are measured in the same
rounds, by the median over the rounds (and by the best of each), so that they meet the same noise.
Of the two buffers' bandwidths the higher one counts.

Where a step stays far below, it is bound by something else, most often by unpacking 8 or 4 bits
and by the time that each operator takes. A float32 bundle of the same model, measured as a
reference in the same rounds, tells: it has four times the bytes and nothing to unpack.

A GPU's steps are timed as greedy decoding runs them: several in a row without the host, where
the engine can do that. Of a GPU the bandwidth is measured, and no rate of products. Not run on a
GPU yet: the tests' CUDA is a fake one.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from seq2edge.runtime.backends.limits import cache_bytes
from seq2edge.runtime.backends.tensorrt.cuda import load_cuda
from seq2edge.runtime.progress import CountProgress

from .bandwidth import DeviceMemory, HostMemory, Memory, Rates
from .gemm import MODELS, Gemm
from .limit import Bound
from .operations import Operations
from .report.statistics import Measurement
from .stepper import Stepper, step_operations, steps_seen
from .workload import Workload

_STEPS_A_ROUND = 8
#: Seconds after which the engine's idle threads have stopped spinning.
_SETTLE = 0.02


@dataclass(frozen=True)
class EncoderRoofline:
    """The encoder beside its bound; fields as of :class:`Roofline`.

    Attributes:
        bytes: its weights, and its outputs once.
    """

    ms: Measurement
    bytes: int
    operations: dict[str, int]
    memory_ms: float
    compute_ms: float | None
    bound_ms: float
    bound_by: str
    share: float


@dataclass(frozen=True)
class Roofline:
    """One bundle's decoder step beside what bounds it. Bytes, and bytes per second.

    Attributes:
        device: whose memory it is: ``cpu``, or the GPU's name.
        weight_bytes: that a step must read (the manifest's: a table that is only looked up does
            not count).
        plan_weight_bytes: weights that TensorRT's decoder engine holds, such tables included; None
            where that is not known. More than ``weight_bytes`` also where a layer was built with
            wider weights than the bundle's.
        cache_bytes: keys and values that a step must read, its own and the source's.
        cache_slots: slots of its own cache that the step sees: all beams share those of the tokens
            before, which is the least that they can. An engine that was built for more may read
            more, and is not excused for it.
        source_length: of the source's, in tokens or positions of sound.
        batch_size, num_beams: sources and tokens of each per step.
        threads: of the engine, the reader and the products; None on a GPU.
        step_ms: milliseconds of a step.
        step_bandwidth: all its bytes over the median step.
        memory_bandwidth: of a buffer that no cache holds (256 MB, on a GPU 512 MB).
        same_size_bandwidth: of a buffer of ``weight_bytes`` over and over.
        operations: of a step, by the precision that they are computed in; empty on a GPU.
        attention_operations: those of all that are attention's.
        not_counted: nodes by operator whose work is not known, which therefore does not count.
        gemm: operations per second of a product of matrices, by precision.
        memory_ms, compute_ms: the bounds by bytes and by operations; None: not measured.
        bound_ms, bound_by: the longer of the two, and which one it is.
        share: ``bound_ms`` over the median step: 1 is all that the machine can do.
        best_step_ms: the fastest step of all.
        best_bandwidth: the fastest reading of all, of either buffer.
        best_gemm: the fastest product of all, by precision.
        best_share: the share by these. On a machine with other work on it medians tell more about
            that work, which costs a step of many operators more than one reading.
        encoder: the same of the encoder; None on a GPU.
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
    num_beams: int = 1
    operations: dict[str, int] = field(default_factory=dict)
    attention_operations: int = 0
    not_counted: dict[str, int] = field(default_factory=dict)
    gemm: dict[str, float] = field(default_factory=dict)
    best_gemm: dict[str, float] = field(default_factory=dict)
    memory_ms: float = 0.0
    compute_ms: float | None = None
    bound_by: str = "memory"
    encoder: EncoderRoofline | None = None

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
            ``warmup`` are rounds of 8 steps and one run of the encoder a bundle.
            Where ``engine`` and ``device`` run on a GPU, the bandwidth is the GPU's, which takes
            cuda-bindings.
        progress: called after each round with how many are done and how many there are.

    Raises:
        BundleError, BackendError: a bundle cannot be loaded, or there is no GPU for it.
        InputError: the workload does not fit a model, or the engines built for it.
    """
    on_gpu = _on_gpu(workload)
    counted: list[dict[str, Operations]] = [
        {} if on_gpu else step_operations(path, workload) for path in paths
    ]
    with ExitStack() as stack:
        cuda = load_cuda() if on_gpu else None
        steppers = [Stepper.load(path, workload, cuda, stack) for path in paths]
        memories: dict[int | None, Memory] = {
            threads: DeviceMemory(cuda) if cuda else HostMemory(threads or 1)
            for threads in {stepper.threads for stepper in steppers}
        }
        for memory in memories.values():
            stack.callback(memory.close)
        precisions = {
            name for graphs in counted for one in graphs.values() for name in one.by_precision
        }
        products = {
            threads: Gemm(threads, sorted({"float32", "int8", *precisions} & MODELS.keys()))
            for threads in memories
            if threads is not None
        }
        rounds = [_Rounds() for _ in steppers]
        total = workload.warmup_rounds + workload.runs
        for number in range(total):
            for stepper, found in zip(steppers, rounds, strict=True):
                steps = [stepper.step_ms() for _ in range(_STEPS_A_ROUND)]
                encoder = None if cuda else stepper.encoder_ms()
                time.sleep(_SETTLE)
                rates = memories[stepper.threads].measure(stepper.decoder.weight_bytes)
                gemm = products[stepper.threads].measure() if stepper.threads else {}
                if number >= workload.warmup_rounds:
                    found.add(steps, encoder, rates, gemm)
            if progress is not None:
                progress(number + 1, total)
        return [
            _roofline(stepper, workload, operations, found, memories[stepper.threads].device)
            for stepper, operations, found in zip(steppers, counted, rounds, strict=True)
        ]


class _Rounds:
    """What all rounds of one bundle gave: milliseconds, and rates of the machine beside them."""

    def __init__(self) -> None:
        self.step_ms: list[float] = []
        self.encoder_ms: list[float] = []
        self._memory: list[Rates] = []
        self._same_size: list[Rates] = []
        self._gemm: list[Rates] = []

    def add(
        self,
        steps: Sequence[float],
        encoder: float | None,
        bandwidths: tuple[Rates, Rates],
        gemm: Rates,
    ) -> None:
        self.step_ms += steps
        self.encoder_ms += [] if encoder is None else [encoder]
        self._memory.append(bandwidths[0])
        self._same_size.append(bandwidths[1])
        self._gemm.append(gemm)

    def bandwidths(self) -> tuple[float, float]:
        """The fastest reader's median, of both buffers."""
        memory, same_size = (
            max(statistics.median(rates[name] for rates in rounds) for name in rounds[0])
            for rounds in (self._memory, self._same_size)
        )
        return memory, same_size

    def best_bandwidth(self) -> float:
        """The fastest reading of all."""
        return max(rate for rates in self._memory + self._same_size for rate in rates.values())

    def gemm(self, of: Callable[[Sequence[float]], float]) -> dict[str, float]:
        """The median, or the best, of each precision."""
        return {name: of([rates[name] for rates in self._gemm]) for name in self._gemm[0]}


def _roofline(
    stepper: Stepper,
    workload: Workload,
    counted: Mapping[str, Operations],
    found: _Rounds,
    device: str,
) -> Roofline:
    spread = Measurement.of(found.step_ms)
    cache = cache_bytes(
        stepper.decoder, workload.batch_size, steps_seen(workload), stepper.source_length
    )
    memory, same_size = found.bandwidths()
    bandwidth, gemm = max(memory, same_size), found.gemm(statistics.median)
    read = stepper.decoder.weight_bytes + cache
    work = counted.get("step", Operations({}))
    bound = Bound.of(read, bandwidth, work.by_precision, gemm)
    best_bandwidth, best_gemm = found.best_bandwidth(), found.gemm(max)
    best = Bound.of(read, best_bandwidth, work.by_precision, best_gemm)
    return Roofline(
        device=device,
        weight_bytes=stepper.decoder.weight_bytes,
        plan_weight_bytes=stepper.plan_weight_bytes,
        cache_bytes=cache,
        cache_slots=steps_seen(workload),
        source_length=stepper.source_length,
        batch_size=workload.batch_size,
        num_beams=workload.num_beams,
        threads=stepper.threads,
        step_ms=spread,
        step_bandwidth=1e3 * read / spread.p50,
        memory_bandwidth=memory,
        same_size_bandwidth=same_size,
        operations=work.by_precision,
        attention_operations=work.attention,
        not_counted=work.not_counted,
        gemm=gemm,
        memory_ms=bound.memory_ms,
        compute_ms=bound.compute_ms,
        bound_ms=bound.ms,
        bound_by=bound.bound_by,
        share=bound.ms / spread.p50,
        best_step_ms=min(found.step_ms),
        best_bandwidth=best_bandwidth,
        best_gemm=best_gemm,
        best_share=best.ms / min(found.step_ms),
        encoder=_encoder(stepper, counted, found, bandwidth, gemm),
    )


def _encoder(
    stepper: Stepper,
    counted: Mapping[str, Operations],
    found: _Rounds,
    bandwidth: float,
    gemm: Mapping[str, float],
) -> EncoderRoofline | None:
    if not found.encoder_ms:
        return None
    spread = Measurement.of(found.encoder_ms)
    moved = stepper.encoder.weight_bytes + stepper.encoder_bytes
    operations = counted.get("encoder", Operations({})).by_precision
    bound = Bound.of(moved, bandwidth, operations, gemm)
    return EncoderRoofline(
        ms=spread,
        bytes=moved,
        operations=operations,
        memory_ms=bound.memory_ms,
        compute_ms=bound.compute_ms,
        bound_ms=bound.ms,
        bound_by=bound.bound_by,
        share=bound.ms / spread.p50,
    )


def _on_gpu(workload: Workload) -> bool:
    return workload.device == "cuda" or (
        workload.device is None and workload.backend != "onnxruntime"
    )
