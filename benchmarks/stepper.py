"""A loaded bundle whose encoder and last step can be run again and again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from seq2edge.runtime.backends import Backend, Step, slot_backend
from seq2edge.runtime.backends.onnxruntime.session import cpu_graphs
from seq2edge.runtime.backends.tensorrt.cuda import Cuda
from seq2edge.runtime.backends.tensorrt.engine_cache import find_engines
from seq2edge.runtime.backends.tensorrt.library import load_library
from seq2edge.runtime.bundle.manifest import GraphInfo, Manifest
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import InputError
from seq2edge.runtime.generation.engine_limits import check_sources as check_engine

from .fixed_length import engine_version
from .operations import Operations, count_operations
from .sources import check_sources, make_batch
from .workload import Workload


def steps_seen(workload: Workload) -> int:
    """Slots of the cache that the last step of ``new_tokens`` has: one for each token before it,
    which all beams share at best, and one for each beam's own."""
    return workload.new_tokens + workload.num_beams - 1


@dataclass(frozen=True)
class Stepper:
    """See :meth:`load`.

    Attributes:
        decoder, encoder: the graphs that run.
        encoder_bytes: of the encoder's outputs; 0 on a GPU.
        plan_weight_bytes: weights that TensorRT's decoder engine holds; None: not one of those.
        threads: of the engine; None on a GPU.
        count: steps that ``run`` makes.
        source_length: positions of the encoder's output.
    """

    decoder: GraphInfo
    encoder: GraphInfo
    encoder_bytes: int
    source_length: int
    plan_weight_bytes: int | None
    threads: int | None
    count: int
    run: Callable[[], object]
    encode: Callable[[], object]

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        workload: Workload,
        cuda: Cuda | None,
        stack: ExitStack,
    ) -> Stepper:
        """Load a bundle; ``stack`` closes it.

        Raises:
            BundleError, BackendError: it cannot be loaded.
            InputError: the workload does not fit the model, or the engines built for it.
        """
        bundle = Bundle.open(path)
        check_sources(bundle, workload)
        _check_slots(
            bundle.manifest.dimensions.max_target_length, workload.new_tokens, "the model's"
        )
        backend = workload.load(bundle)
        stack.callback(backend.close)
        source = make_batch(backend, bundle, workload)
        _check_limits(backend, workload, source.positions)
        encoded = backend.encode(source.inputs)
        cache = slot_backend(backend, "a roofline").new_cache(encoded, steps_seen(workload))
        step = _last_step(bundle.manifest, backend, cache, workload)
        count = 1
        run: Callable[[], object] = partial(cache.forward, step)
        if workload.num_beams == 1:
            count = min(backend.capabilities.steps_per_launch, workload.new_tokens)
        if count > 1:
            # The last of the steps fills the last slot.
            first = workload.new_tokens - count
            step.position_ids[:] = step.write_indices[:] = first
            step.attention_mask[..., first + 1 :] = False
            run = partial(cache.forward_greedy, step, count)
        graphs = _graphs(bundle.manifest, workload, cuda)
        return cls(
            decoder=graphs["decoder"],
            encoder=graphs["encoder"],
            encoder_bytes=0
            if cuda
            else sum(encoded.numpy(spec.name).nbytes for spec in graphs["encoder"].outputs),
            source_length=source.positions,
            plan_weight_bytes=_plan_weight_bytes(bundle, workload.backend, cuda),
            threads=None if cuda else backend.num_threads or len(os.sched_getaffinity(0)),
            count=count,
            run=run,
            encode=lambda: backend.encode(source.inputs),
        )

    def step_ms(self) -> float:
        """Milliseconds of one step. Engines return when its tokens are on the host."""
        return _milliseconds(self.run) / self.count

    def encoder_ms(self) -> float:
        """Milliseconds of one run of the encoder."""
        return _milliseconds(self.encode)


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def _last_step(manifest: Manifest, backend: Backend, cache: Any, workload: Workload) -> Step:
    """The step that makes the last token: greedy, or of as many tokens as there are beams."""
    beams, last = workload.num_beams, workload.new_tokens - 1
    if beams == 1:
        step = Step.allocate(workload.batch_size, 1, cache.max_cache_len, feed_back=True)
    else:
        # Beams are chosen by probabilities, so all of them are asked for.
        step = Step.allocate(
            workload.batch_size,
            beams,
            cache.max_cache_len,
            vocab_size=manifest.dimensions.vocab_size,
            logsumexp=backend.capabilities.computes_logsumexp,
        )
    step.input_ids[:] = manifest.special_tokens.decoder_start
    step.position_ids[:] = step.write_indices[:] = last
    step.attention_mask[..., :last] = True
    for beam in range(beams):
        step.attention_mask[:, :, beam, last + beam] = True
        cache.cache_position_ids[:, last + beam] = last
    return step


def step_operations(path: str | os.PathLike[str], workload: Workload) -> dict[str, Operations]:
    """Operations of ``encoder`` and ``step`` of a bundle, which is loaded for it; on the CPU."""

    def run() -> None:
        with ExitStack() as stack:
            # Nothing is timed, so one thread is enough.
            Stepper.load(path, replace(workload, threads=1), None, stack).run()

    found = count_operations(run)
    parts = {
        "encoder": ("encoder_blocks", "encoder_cpu", "encoder"),
        "step": ("decoder_cpu", "decoder"),
    }
    return {
        part: next(found[name] for name in names if name in found)
        for part, names in parts.items()
        if any(name in found for name in names)
    }


def _graphs(manifest: Manifest, workload: Workload, cuda: Cuda | None) -> Mapping[str, GraphInfo]:
    """Those that run: one that was made for the CPU may read less than the canonical one."""
    if cuda is not None or workload.device not in (None, "cpu"):
        return manifest.graphs
    return cpu_graphs(manifest, engine_version(workload.backend))


def _plan_weight_bytes(bundle: Bundle, backend: str, cuda: Cuda | None) -> int | None:
    if cuda is None or backend.startswith("onnxruntime"):
        return None
    _, engines = find_engines(bundle, load_library(backend), cuda.gpu())
    return engines.engines["decoder"].report.weight_bytes


def _check_limits(backend: Backend, workload: Workload, source_length: int) -> None:
    limits = backend.capabilities.limits
    if limits is None:
        return
    check_engine(limits, [source_length])
    for option, value, most, build in (
        ("--batch-size", workload.batch_size, limits.max_batch, "--max-batch"),
        ("--num-beams", workload.num_beams, limits.max_num_tokens, "--max-num-tokens"),
    ):
        if value > most:
            raise InputError(
                f"{option} {value} is more than the {most} that the engine was built for; build it"
                f" with {build} {value}"
            )
    _check_slots(
        limits.max_target_length,
        steps_seen(workload),
        f"the engine's (--max-target-length){_BEAMS if workload.num_beams > 1 else ''}",
    )


#: Said where a cache has more slots than tokens.
_BEAMS = ", with a slot for each beam"


def _check_slots(limit: int | None, slots: int, whose: str) -> None:
    if limit is not None and slots > limit:
        raise InputError(f"--new-tokens {slots} is more than {whose} {limit}")
