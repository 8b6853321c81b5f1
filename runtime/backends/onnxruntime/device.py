"""ONNX Runtime with all arrays on a device: an NVIDIA GPU, or the CPU's memory for tests.

The cache, the cross-attention keys and values, masks and ids live in arrays of the device whose
addresses stay; ``present_*`` is bound to the memory of ``past_*``. A step moves only what is
small: ids, positions and masks to the device, next tokens (and logits) back. Growing, packing
and dropping rows of the cache go through the host, as numpy is all there is: they move the
cache's bytes to the host and back, a few times per call.

Steps are captured as CUDA graphs, one for each shape, which spares the CPU the launching of a
hundred kernels or more. That asks for no node on the CPU but shape arithmetic, the same shapes
and addresses for the same graph id, and one thread at a time (ONNX Runtime's documentation of
the CUDA execution provider, "Using CUDA Graphs"; its pull requests 16491, 19636 and 19818). The
first run with an id is in truth several, as ONNX Runtime warms up, captures and replays, so a
run must be repeatable. The encoder is not captured: it runs once per call.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.reader import Bundle
from ...errors import BackendError
from ..base import Capabilities, EncoderInputs, EncoderOutput, Ids, SlotCache, Step
from ..sizes import sizes_of
from .assignment import RECORD, Node, assigned_nodes, describe, fallbacks
from .buffers import Pool
from .graphs import OWN_GRAPHS, OtherGraphs
from .providers import Target, check_available, check_started, explained, preload_libraries
from .session import (
    canonical_graphs,
    check_version,
    cuda_graphs,
    import_onnxruntime,
    open_session,
    quiet,
)
from .steps import (
    RUNS_BEFORE_CAPTURE,
    SOURCE_MASK,
    CacheBuffers,
    DeviceContext,
    SourceBuffers,
    SourceKey,
    StepBuffers,
    StepKey,
)
from .top_logits import open_top_logits

#: Source lengths are padded to a multiple of it where steps are captured, or nearly every text
#: would need a graph of its own.
_SOURCE_MULTIPLE = 64

#: Slots of the probe's cache: those that most texts start with, so that its graph is of use.
_PROBE_SLOTS = 64


_log = logging.getLogger(__name__)


class OrtDeviceBackend:
    """Sessions over one bundle whose arrays are on a device.

    After loading, the encoder and a few steps of the decoder are run: what does not work on
    this GPU is found then.

    Args:
        bundle: the opened bundle.
        target: which device, by which execution providers.
        strict: refuse a bundle with nodes that fall back to the CPU; else there is a warning.
        num_threads: threads of an operator that runs on the CPU; None: one.

    Attributes:
        graphs_off: why steps are not captured as CUDA graphs; None: they are.

    Raises:
        BackendError: there is no such provider, or it does not run here; a graph that it
            refuses; with ``strict``, nodes on the CPU. It says what to do.
    """

    def __init__(
        self,
        bundle: Bundle,
        target: Target,
        *,
        strict: bool = False,
        num_threads: int | None = None,
    ) -> None:
        if num_threads is not None and num_threads < 1:
            raise BackendError(f"num_threads must be at least 1, not {num_threads}")
        self.num_threads = num_threads or 1
        self._ort = import_onnxruntime()
        check_available(self._ort, target)
        check_version(self._ort.__version__, bundle.manifest)
        if target.device != "cpu":
            preload_libraries(self._ort)
        self._bundle, self._target = bundle, target
        self._context = DeviceContext(self._ort, target.device, bundle.manifest.graphs, {})
        self._others = OtherGraphs(
            self._ort, bundle, self.num_threads, lambda name: target.options(name, False)
        )
        self._graphs = canonical = canonical_graphs(bundle.manifest)
        if target.lowered:
            self._graphs = cuda_graphs(bundle.manifest, self._ort.__version__)
        failure = self._failure_to_load_at_best()
        if failure is not None and self._graphs != canonical:
            _log.warning("the canonical decoder runs: %s", failure)
            self._graphs = canonical
            failure = self._failure_to_load_at_best()
        if failure is not None:
            raise explained(self._ort, failure)
        computes_logsumexp = "logsumexp" in self._context.sessions
        self.capabilities = Capabilities(
            computes_logsumexp=computes_logsumexp,
            finds_best_tokens=computes_logsumexp,  # without a normalizer all logits are needed
        )
        self._report(strict)

    def encode(self, inputs: EncoderInputs) -> DeviceEncoderOutput:
        """See :class:`seq2edge.runtime.backends.base.Backend`."""
        arrays = dict(inputs)
        if "attention_mask" in arrays:
            arrays[SOURCE_MASK] = arrays.pop("attention_mask")[:, None, None, :]
        specs = self._bundle.manifest.graphs["encoder"].inputs
        sizes = sizes_of(specs, arrays, self._bundle.manifest.speech)
        key = SourceKey(sizes["batch"], self._padded(sizes["source"]))
        with self._context.working("encoder"):
            self._context.session("encoder")  # a closed engine has nothing to lend
            source = DeviceEncoderOutput(self._sources, key)
            for name, buffer in source.buffers.inputs.items():
                buffer.write(self._filled_up(name, arrays[name], buffer.shape))
            source.buffers.run_encoder()
        return source

    def new_cache(self, encoded: EncoderOutput, max_cache_len: int) -> DeviceSlots:
        """See :class:`seq2edge.runtime.backends.base.SlotBackend`."""
        if not isinstance(encoded, DeviceEncoderOutput) or encoded.pool is not self._sources:
            raise TypeError("the sources were encoded by another backend")
        with self._context.working("decoder"):
            return DeviceSlots(self._context, encoded, max_cache_len)

    def run_graph(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]],
        encoded: EncoderOutput | None = None,
    ) -> dict[str, NDArray[Any]]:
        """See :class:`seq2edge.runtime.backends.base.Backend`."""
        if encoded is None:
            return self._others.run(name, inputs)
        if not isinstance(encoded, DeviceEncoderOutput) or encoded.pool is not self._sources:
            raise TypeError("the sources were encoded by another backend")
        crossed = encoded.buffers.cross

        def bind(binding: Any, name: str) -> None:
            crossed[name].bind(binding.bind_input, name)

        with self._context.working(name):
            return self._others.run(name, inputs, bind)

    def close(self) -> None:
        """Let go of the sessions, their graphs and what is kept for later calls."""
        with self._context.working("decoder"):
            self._context.sessions.clear()
            self._context.top_logits = None
            self._sources.clear()
            self._others.close()

    def _failure_to_load_at_best(self) -> BackendError | None:
        """Load so that steps are captured, or else so that they are not."""
        target = self._target
        self.graphs_off = None if target.captures else f"{target.required[0]} has none here"
        failure = self._failure_to_load()
        if failure is not None and target.captures:
            # It may be the graphs; if it is not, the same happens again.
            self.graphs_off = str(failure)
            failure = self._failure_to_load()
        return failure

    def _failure_to_load(self) -> BackendError | None:
        """Load; an error without its traceback, whose frames would keep the sessions."""
        try:
            with quiet(self._ort):
                self._load()
        except BackendError as error:
            return error.with_traceback(None)
        return None

    def _load(self) -> None:
        """Open all graphs anew, look where their nodes are, and run them once."""
        capture = self.graphs_off is None
        self._context.sessions.clear()
        graphs = {name: info for name, info in self._graphs.items() if name in OWN_GRAPHS}
        sessions = {}
        for name, info in graphs.items():
            sessions[name] = open_session(
                self._ort,
                self._bundle,
                info,
                self.num_threads,
                RECORD,
                providers=self._target.options(name, capture and name == "decoder"),
            )
            if name != "logsumexp":
                check_started(self._ort, sessions[name], self._target)
        nodes = {name: assigned_nodes(session) for name, session in sessions.items()}
        #: By graph: the nodes that fell back, and how many nodes there are; None: not known.
        self._fallbacks: dict[str, tuple[list[Node], int]] | None = {}
        for name, assigned in nodes.items():
            if assigned is None or self._fallbacks is None:
                self._fallbacks = None
            else:
                self._fallbacks[name] = fallbacks(assigned, self._target.required), len(assigned)
        self._context = context = DeviceContext(
            self._ort,
            self._target.device,
            graphs,
            sessions,
            vocab_size=self._bundle.manifest.dimensions.vocab_size,
            top_logits=open_top_logits(self._ort, self._target.options("logsumexp", False)),
            speech=self._bundle.manifest.speech,
            captures=capture,
            # With capturing on, ONNX Runtime has refused every graph that reads on the CPU.
            rebinds=not capture and (self._fallbacks is None or self._fell_back()),
        )
        self._sources: Pool[SourceKey, SourceBuffers] = Pool(
            lambda key: SourceBuffers(context, key), context.budget
        )
        self._probe()

    def _probe(self) -> None:
        """Run the encoder on one token, and the same step until it is captured and replayed."""
        special = self._bundle.manifest.special_tokens
        cache = self.new_cache(self.encode(self._shortest_source()), _PROBE_SLOTS)
        step = Step.allocate(1, 1, cache.max_cache_len)
        step.input_ids[:] = special.decoder_start
        step.attention_mask[..., 0] = True
        tokens = []
        for _ in range(RUNS_BEFORE_CAPTURE + 1 if self._context.captures else 1):
            cache.forward(step)
            tokens.append(int(step.next_token_ids[0, 0]))
        if len(set(tokens)) > 1:
            raise BackendError(f"a replayed CUDA graph gives other tokens: {tokens}")

    def _shortest_source(self) -> EncoderInputs:
        speech = self._bundle.manifest.speech
        if speech is None:
            ids = np.array([[self._bundle.manifest.special_tokens.pad]])
            return {"input_ids": ids, "attention_mask": np.ones((1, 1), np.bool_)}
        sizes = {"batch": 1, "source": 1, "frames": speech.frames_per_position}
        sizes["samples"] = sizes["frames"] * speech.hop_length
        return {
            spec.name: np.zeros(
                [sizes[size] if isinstance(size, str) else size for size in spec.shape], spec.dtype
            )
            for spec in self._bundle.manifest.graphs["encoder"].inputs
        }

    def _fell_back(self) -> bool:
        return any(nodes for nodes, _ in (self._fallbacks or {}).values())

    def _report(self, strict: bool) -> None:
        """Say what runs on the CPU, and that there are no graphs."""
        version = self._ort.__version__
        if self._fallbacks is None:
            if strict:
                raise BackendError(
                    f"onnxruntime {version} does not tell which nodes are on the CPU, so strict"
                    " cannot be kept; upgrade onnxruntime-gpu, or load without strict"
                )
        elif self._fell_back():
            text = (
                f"onnxruntime {version} runs on the CPU what {self._target.required[-1]} has no"
                f" kernels for: {describe(self._fallbacks)}; quantize the float32 bundle with"
                " --target cuda, upgrade onnxruntime-gpu, or write the bundle in older operators"
                " (seq2edge downgrade)"
            )
            if strict:
                raise BackendError(text)
            warnings.warn(f"{text}; each of them waits for the GPU", stacklevel=4)
            return
        if self._target.captures and self.graphs_off is not None:
            warnings.warn(f"steps are not captured as CUDA graphs: {self.graphs_off}", stacklevel=4)

    def _filled_up(self, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """``array`` padded at the end of its axes: ids with the pad token, all else with 0."""
        if array.shape == shape:
            return array
        fill = self._bundle.manifest.special_tokens.pad if name == "input_ids" else 0
        widths = [(0, size - length) for size, length in zip(shape, array.shape, strict=True)]
        return np.pad(array, widths, constant_values=fill)

    def _padded(self, length: int) -> int:
        # Silence after a recording is something that a model hears.
        if not self._context.captures or self._bundle.manifest.speech is not None:
            return length
        padded = -(-length // _SOURCE_MULTIPLE) * _SOURCE_MULTIPLE
        limit = self._bundle.manifest.dimensions.max_source_length
        return padded if limit is None else max(length, min(padded, limit))


class DeviceEncoderOutput:
    """Cross-attention keys and values of a batch of sources on the device."""

    def __init__(self, pool: Pool[SourceKey, SourceBuffers], key: SourceKey) -> None:
        self.pool = pool
        self._key = key
        self.buffers, _ = pool.lend(key, self)

    @property
    def batch_size(self) -> int:
        return self._key.batch

    def numpy(self, name: str) -> NDArray[Any]:
        """See :class:`seq2edge.runtime.backends.base.EncoderOutput`; padded as the sources were."""
        return self.buffers.cross[name].read()

    def rows(self, rows: Ids) -> DeviceEncoderOutput:
        """These rows of the batch, copied through the host."""
        kept = DeviceEncoderOutput(self.pool, SourceKey(len(rows), self._key.length))
        if SOURCE_MASK in kept.buffers.inputs:
            kept.buffers.inputs[SOURCE_MASK].write(self.buffers.inputs[SOURCE_MASK].read()[rows])
        for name, array in kept.buffers.cross.items():
            array.write(self.buffers.cross[name].read()[rows])
        return kept


class DeviceSlots(SlotCache):
    """See :class:`seq2edge.runtime.backends.base.SlotCache`."""

    def __init__(
        self, context: DeviceContext, source: DeviceEncoderOutput, max_cache_len: int
    ) -> None:
        super().__init__()
        self._context = context
        self._source = source
        self._cache, self._give_back = source.buffers.caches.lend(max_cache_len, self)
        # A masked slot's weight is 0, and 0 x NaN is NaN, be it of new memory or an earlier call.
        for array in self._cache.arrays.values():
            array.clear()
        self.cache_position_ids = self._first_positions()

    def _grow(self, max_cache_len: int) -> None:
        positions = self.cache_position_ids
        with self._context.working("decoder"):
            old = self._replace(max_cache_len)
            for name, array in self._cache.arrays.items():
                new = np.zeros(array.shape, array.storage)
                new[:, :, : old.slots] = old.arrays[name].read()
                array.write(new)
        self.cache_position_ids = self._first_positions()
        self.cache_position_ids[:, : old.slots] = positions

    def compact(self, slots: Ids) -> None:
        count, rows = slots.shape[1], np.arange(len(slots))[:, None]
        with self._context.working("decoder"):
            for array in self._cache.arrays.values():
                host = array.read()
                host[:, :, :count] = host.swapaxes(1, 2)[rows, slots].swapaxes(1, 2)
                array.write(host)
        positions = self.cache_position_ids
        positions[:, :count] = positions[rows, slots]

    def _select_batch(self, rows: Ids) -> None:
        with self._context.working("decoder"):
            self._source = self._source.rows(rows)
            old = self._replace(self.max_cache_len)
            for name, array in self._cache.arrays.items():
                array.write(old.arrays[name].read()[rows])
        self.cache_position_ids = self.cache_position_ids[rows]

    def _bind(self, step: Step) -> Callable[[], None]:
        context, source, cache, key = self._context, self._source, self._cache, StepKey.of(step)
        with context.working("decoder"):
            if key not in cache.steps:
                cache.steps[key] = StepBuffers(context, source.buffers, cache, key)
        buffers, positions = cache.steps[key], self.cache_position_ids

        # The closure keeps the arrays that are bound by address.
        def run_step() -> None:
            with context.working("decoder"):
                buffers.run(step, positions, source.buffers, cache)

        return run_step

    def _replace(self, max_cache_len: int) -> CacheBuffers:
        """Another cache of the present source; the old one, of which it has nothing yet."""
        old, give_back = self._cache, self._give_back
        self._cache, self._give_back = self._source.buffers.caches.lend(max_cache_len, self)
        give_back()
        return old

    def _first_positions(self) -> Ids:
        row = np.arange(self._cache.slots, dtype=np.int64)
        return np.tile(row, (self._cache.batch, 1))
