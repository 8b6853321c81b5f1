"""TensorRT on the GPU of this machine, without torch: engines that are opened and run.

All work is on one stream; the execution contexts are shared by all calls (see
:class:`.runner.Runner`), so several threads may decode at once and take turns on the GPU.
Written to NVIDIA's documented API (TensorRT, "Working with dynamic shapes", "CUDA graphs").
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ....bundle.manifest import GraphInfo, TensorSpec
from ....bundle.reader import Bundle
from ....errors import BackendError
from ...base import Capabilities, EncoderInputs, EncoderOutput
from ...sizes import largest_sizes, sizes_of
from ..cuda import Buffer, Cuda, Device
from ..engine_store import GRAPHS, EngineSet, read_plan
from ..library import Library, deferred_interrupts, logger, recorded
from .context import Runner
from .decoder import TensorRTEncoderOutput, TensorRTSlots
from .device_memory import check_memory, in_place
from .other_engines import OtherEngines
from .runtime_cache import RuntimeCache
from .stream_context import STEPS_PER_LAUNCH, StreamContext
from .tensors import BlockLayout, Mirror, fill


class TensorRTBackend:
    """A bundle's engines on GPU 0.

    Args:
        bundle: the opened bundle.
        folder, engines: its engines, which are for this machine (see :mod:`.cache`).
        library: the TensorRT that built them.
        cuda: the CUDA runtime.

    Raises:
        BackendError: they do not fit into the device memory that is free, or TensorRT refuses
            them.
    """

    num_threads = None

    def __init__(
        self, bundle: Bundle, folder: Path, engines: EngineSet, library: Library, cuda: Cuda
    ) -> None:
        check_memory(bundle.manifest, engines, cuda.free_bytes())
        self.capabilities = Capabilities(
            limits=engines.key.limits, steps_per_launch=STEPS_PER_LAUNCH
        )
        self._limits = engines.key.limits
        self._library = library
        graphs = bundle.manifest.graphs
        self._encoder_info, self._decoder_info = graphs["encoder"], graphs["decoder"]
        self._manifest, self._folder, self._engines = bundle.manifest, folder, engines
        self._device = Device(cuda)
        try:
            self._load(graphs, folder, engines)
        except BaseException:
            self._device.close()
            raise

    def _load(self, graphs: Mapping[str, GraphInfo], folder: Path, engines: EngineSet) -> None:
        device = self._device
        opened = {
            name: self._open(read_plan(folder, engines.engines[name]), graphs[name])
            for name in GRAPHS
        }
        # No two runs are at once, so one piece of memory serves all contexts.
        self._activations: Buffer = device.memory.take(
            max(plan.device_memory_size_v2 for plan in opened.values())
        )
        self._runtime_caches = [RuntimeCache(folder, name) for name in opened]
        runners: dict[str, list[Runner]] = {}
        for (name, plan), cache in zip(opened.items(), self._runtime_caches, strict=True):
            runners[name] = [
                Runner(
                    self._library,
                    name,
                    self._context(plan, profile, cache, self._activations),
                    device,
                )
                for profile in range(plan.num_optimization_profiles)
            ]
        self._plans = opened
        self._encoder = runners["encoder"][0]
        most = largest_sizes(self._limits, self._manifest.speech)
        staging = BlockLayout.of(self._encoder_info.inputs, most)
        self._staging = Mirror(
            staging, device.memory.take(staging.size), device.pinned.take(staging.size)
        )
        self._shared = StreamContext(
            device,
            runners["decoder"],
            self._decoder_info,
            self._limits,
            in_place=in_place(engines),
        )
        self._others = OtherEngines(self._manifest, self._shared, self._open_other)
        # Of a model that nobody has closed; what still decodes holds ``Shared``.
        self._free = weakref.finalize(self._shared, device.close)
        self._free.atexit = False

    def encode(self, inputs: EncoderInputs) -> TensorRTEncoderOutput:
        """See :class:`seq2edge.runtime.backends.base.Backend`."""
        shared, device = self._shared, self._device
        specs = self._encoder_info.inputs
        arrays = dict(inputs)
        if _MASK in specs:
            arrays[_MASK.name] = inputs["attention_mask"][:, None, None, :]
        sizes = sizes_of(specs, arrays, self._manifest.speech)
        batch, length = sizes["batch"], sizes["source"]
        layout = BlockLayout.of(specs, sizes)
        names = {spec.name for spec in self._encoder_info.outputs}
        masks = [_MASK] if _MASK in self._decoder_info.inputs else []
        crossed = [spec for spec in self._decoder_info.inputs if spec.name in names]
        with shared.lock():
            source = TensorRTEncoderOutput(
                context=shared,
                batch_size=batch,
                length=length,
                mask=shared.block(BlockLayout.of(masks, sizes)),
                cross=shared.block(BlockLayout.of(crossed, sizes)),
            )
            staged = self._staging.reshaped(layout)
            fill(staged, {spec.name: arrays[spec.name] for spec in specs})
            staged.upload(device)
            tensors = staged.tensors()
            if masks and _MASK in specs:
                staged_mask = tensors[_MASK.name].address
                device.cuda.copy(source.mask.address, staged_mask, batch * length, device.stream)
            self._encoder.bind(object(), tensors, source.cross.tensors())
            self._encoder.enqueue()
            # The staging memory is written again by the next call.
            device.wait()
        return source

    def new_cache(
        self,
        encoded: EncoderOutput,
        max_cache_len: int,  # noqa: ARG002
    ) -> TensorRTSlots:
        """See :class:`seq2edge.runtime.backends.base.SlotBackend`.

        The cache has the engine's slots, whatever ``max_cache_len`` says.
        """
        if not isinstance(encoded, TensorRTEncoderOutput):
            raise TypeError("the sources were encoded by another backend")
        return TensorRTSlots(self._shared, encoded)

    def run_graph(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]],
        encoded: EncoderOutput | None = None,
    ) -> dict[str, NDArray[Any]]:
        """See :class:`seq2edge.runtime.backends.base.Backend`."""
        if name in GRAPHS or name not in self._engines.engines:
            raise BackendError(f"there is no engine of a graph {name!r} to run by itself")
        if not isinstance(encoded, (TensorRTEncoderOutput, type(None))):
            raise TypeError("the sources were encoded by another backend")
        return self._others.run(name, inputs, encoded)

    def close(self) -> None:
        """Let go of the engines and of the device's memory, once a run that is on has ended."""
        with self._shared.close() as first:
            if not first:
                return
            for cache in self._runtime_caches:
                cache.save()
            # Contexts before their engines, memory last.
            for runner in (self._encoder, *self._shared.runners):
                runner.close()
            self._others.close()
            self._plans.clear()
            self._free()

    def _open_other(self, name: str) -> tuple[Runner, Buffer]:
        """The runner of a graph beside the two, and the memory of its activations."""
        plan = self._open(
            read_plan(self._folder, self._engines.engines[name]), self._manifest.graphs[name]
        )
        activations = self._device.memory.take(plan.device_memory_size_v2)
        cache = RuntimeCache(self._folder, name)
        self._plans[name] = plan
        self._runtime_caches.append(cache)
        context = self._context(plan, 0, cache, activations)
        return Runner(self._library, name, context, self._device), activations

    def _open(self, data: bytes, info: GraphInfo) -> Any:
        trt = self._library.module
        with recorded(self._library) as messages, deferred_interrupts():
            self._runtime = trt.Runtime(logger(self._library))
            plan = self._runtime.deserialize_cuda_engine(data)
        if plan is None:
            errors = [message.text for message in messages if "ERROR" in message.severity]
            raise BackendError(
                f"{self._library.engine} {self._library.version} cannot open the engine of"
                f" {info.file}: {errors[-1] if errors else 'it gave no reason'}"
            )
        names = {plan.get_tensor_name(i) for i in range(plan.num_io_tensors)}
        expected = {spec.name for spec in (*info.inputs, *info.outputs)}
        if names != expected:
            raise BackendError(
                f"the engine of {info.file} has other inputs and outputs than the bundle:"
                f" {', '.join(sorted(names ^ expected))}; build it again"
            )
        return plan

    def _context(self, plan: Any, profile: int, cache: RuntimeCache, activations: Buffer) -> Any:
        trt, stream = self._library.module, self._device.stream
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = cache.new_context(trt, plan, strategy)
        if context is None:
            raise BackendError(f"{self._library.engine} makes no execution context")
        context.set_device_memory(activations.address, activations.size)
        if profile and not context.set_optimization_profile_async(profile, int(stream)):
            raise BackendError(f"{self._library.engine} takes no optimization profile {profile}")
        return context


_MASK = TensorSpec("encoder_attention_mask", "bool", ("batch", 1, 1, "source"))
