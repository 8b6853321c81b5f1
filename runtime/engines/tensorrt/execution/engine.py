"""TensorRT on the GPU of this machine, without torch: engines that are opened and run.

All work is on one stream; the execution contexts are shared by all calls (see
:class:`.runner.Runner`), so several threads may decode at once and take turns on the GPU.
Written to NVIDIA's documented API (TensorRT, "Working with dynamic shapes", "CUDA graphs").
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ....bundle import Bundle
from ....errors import EngineError
from ....manifest import GraphInfo, TensorSpec
from ...base import EncodedSource, Ids, Mask
from ...limits import Limits
from ..cuda import Buffer, Cuda, MemoryPool
from ..library import Library, logger, recorded
from ..store import EngineSet, read_plan
from .decoder import Shared, TensorRTDecoder, TensorRTSource
from .memory import check_memory, in_place
from .runner import Runner
from .runtime_cache import RuntimeCache
from .tensors import Layout, Mirror, fill


class TensorRTEngine:
    """A bundle's engines on GPU 0.

    Args:
        bundle: the opened bundle.
        folder, engines: its engines, which are for this machine (see :mod:`.cache`).
        library: the TensorRT that built them.
        cuda: the CUDA runtime.

    Raises:
        EngineError: they do not fit into the device memory that is free, or TensorRT refuses
            them.
    """

    num_threads = None

    def __init__(
        self, bundle: Bundle, folder: Path, engines: EngineSet, library: Library, cuda: Cuda
    ) -> None:
        check_memory(bundle.manifest, engines, cuda.free_bytes())
        self.limits: Limits = engines.key.limits
        self._library = library
        self._lock = threading.Lock()
        self._closed = False
        graphs = bundle.manifest.graphs
        self._encoder_info, self._decoder_info = graphs["encoder"], graphs["decoder"]
        stream = cuda.new_stream()
        self._memory = MemoryPool(cuda.allocate, cuda.free)
        self._pinned = MemoryPool(cuda.allocate_pinned, cuda.free_pinned)
        opened = {
            name: self._open(read_plan(folder, engine), graphs[name])
            for name, engine in engines.engines.items()
        }
        # No two runs are at once, so one piece of memory serves all contexts.
        self._activations: Buffer = self._memory.take(
            max(plan.device_memory_size_v2 for plan in opened.values())
        )
        self._runtime_caches = [RuntimeCache(folder, name) for name in opened]
        runners: dict[str, list[Runner]] = {}
        for (name, plan), cache in zip(opened.items(), self._runtime_caches, strict=True):
            runners[name] = [
                Runner(library, name, self._context(plan, profile, cache, stream), stream)
                for profile in range(plan.num_optimization_profiles)
            ]
        self._plans = opened
        self._encoder = runners["encoder"][0]
        staging = _at_most(self._encoder_info.inputs, self.limits)
        self._staging = Mirror(
            staging, self._memory.take(staging.size), self._pinned.take(staging.size)
        )
        self._shared = Shared(
            cuda=cuda,
            stream=stream,
            memory=self._memory,
            pinned=self._pinned,
            lock=self._lock,
            runners=runners["decoder"],
            info=self._decoder_info,
            limits=self.limits,
            in_place=in_place(engines),
        )

    def encode(self, input_ids: Ids, attention_mask: Mask) -> TensorRTSource:
        """See :class:`seq2edge.runtime.engines.base.Engine`."""
        shared = self._open_or_raise()
        batch, length = input_ids.shape
        sizes = {"batch": batch, "source": length}
        inputs = Layout.of(self._encoder_info.inputs, sizes)
        names = {spec.name for spec in self._encoder_info.outputs}
        crossed = [spec for spec in self._decoder_info.inputs if spec.name in names]
        source = TensorRTSource(
            batch_size=batch,
            length=length,
            mask=shared.block(Layout.of([_MASK], sizes)),
            cross=shared.block(Layout.of(crossed, sizes)),
        )
        with self._lock:
            staged = self._staging.reshaped(inputs)
            fill(staged, {"input_ids": input_ids, _MASK.name: attention_mask[:, None, None, :]})
            staged.upload(shared.cuda, shared.stream)
            tensors = staged.tensors()
            mask = tensors[_MASK.name]
            shared.cuda.copy(source.mask.address, mask.address, batch * length, shared.stream)
            self._encoder.bind(object(), tensors, source.cross.tensors())
            self._encoder.enqueue()
            # The staging memory is written again by the next call.
            shared.cuda.wait(shared.stream)
        return source

    def decoder(self, source: EncodedSource, capacity: int) -> TensorRTDecoder:  # noqa: ARG002
        """See :class:`seq2edge.runtime.engines.base.Engine`.

        The cache has the engine's slots, whatever ``capacity`` says; limits are checked before.
        """
        if not isinstance(source, TensorRTSource):
            raise TypeError("source was encoded by another engine")
        return TensorRTDecoder(self._open_or_raise(), source)

    def close(self) -> None:
        """Let go of the engines and of the device's memory."""
        with self._lock:
            if self._closed:
                return
            self._closed = self._shared.closed = True
            self._shared.cuda.wait(self._shared.stream)
            for cache in self._runtime_caches:
                cache.save()
            # Contexts before their engines, memory last.
            self._shared.runners.clear()
            del self._encoder
            self._plans.clear()
            self._memory.close()
            self._pinned.close()

    def _open_or_raise(self) -> Shared:
        if self._closed:
            raise EngineError("the model was closed; load it again")
        return self._shared

    def _open(self, data: bytes, info: GraphInfo) -> Any:
        trt = self._library.module
        with recorded(self._library) as messages:
            self._runtime = trt.Runtime(logger(self._library))
            plan = self._runtime.deserialize_cuda_engine(data)
        if plan is None:
            errors = [message.text for message in messages if "ERROR" in message.severity]
            raise EngineError(
                f"{self._library.engine} {self._library.version} cannot open the engine of"
                f" {info.file}: {errors[-1] if errors else 'it gave no reason'}"
            )
        there = {plan.get_tensor_name(i) for i in range(plan.num_io_tensors)}
        expected = {spec.name for spec in (*info.inputs, *info.outputs)}
        if there != expected:
            raise EngineError(
                f"the engine of {info.file} has other inputs and outputs than the bundle:"
                f" {', '.join(sorted(there ^ expected))}; build it again"
            )
        return plan

    def _context(self, plan: Any, profile: int, cache: RuntimeCache, stream: Any) -> Any:
        trt = self._library.module
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = cache.new_context(trt, plan, strategy)
        if context is None:
            raise EngineError(f"{self._library.engine} makes no execution context")
        context.set_device_memory(self._activations.address, self._activations.size)
        if profile and not context.set_optimization_profile_async(profile, int(stream)):
            raise EngineError(f"{self._library.engine} takes no optimization profile {profile}")
        return context


_MASK = TensorSpec("encoder_attention_mask", "bool", ("batch", 1, 1, "source"))


def _at_most(specs: Iterable[TensorSpec], limits: Limits) -> Layout:
    sizes = {"batch": limits.max_batch, "source": limits.max_source_length}
    return Layout.of(specs, sizes)
