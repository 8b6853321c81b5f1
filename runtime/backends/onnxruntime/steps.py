"""The arrays of a source, of a cache and of a step on a device, and how a step is run.

Each kind is made once a shape and kept (buffers.py): a source has the pool of its caches, a
cache the steps that were bound to it. So a step's addresses, and with them its CUDA graph,
are the same in each call of the same shapes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import GraphInfo
from ...bundle.speech_info import SpeechInfo
from ...errors import BackendError
from ..base import Ids, Step
from .buffers import Budget, DeviceArray, PackedInputs, Pool
from .session import run_error
from .top_logits import TopLogits

#: One thread at a time works on the device: while a CUDA graph is captured, allocations and
#: copies of any other thread of the process fail (cudaStreamCaptureModeGlobal).
_DEVICE_LOCK = threading.RLock()

#: A step is captured when its shape has been run so often: capturing costs about three runs.
RUNS_BEFORE_CAPTURE = 4

#: Kept for later calls at most: bytes of the device (a Jetson shares them with the CPU), and
#: captured graphs, which take a few MB each.
_KEPT_BYTES, _KEPT_GRAPHS = 256_000_000, 64


@dataclass
class DeviceContext:
    """An opened bundle on a device.

    Attributes:
        ort: the onnxruntime module.
        device: ``cuda`` or ``cpu``.
        graphs: the manifest's, by name.
        sessions: by the graph's name; emptied when the engine is closed.
        vocab_size: V.
        top_logits: a session of :mod:`.top_logits`; None: the device has none.
        speech: what the bundle says of sound; None: it reads texts.
        captures: whether steps are captured as CUDA graphs.
        rebinds: whether inputs are bound before each run. ONNX Runtime copies an input that a
            node on the CPU reads when it is bound, not when it is run.
    """

    ort: Any
    device: str
    graphs: Mapping[str, GraphInfo]
    sessions: dict[str, Any]
    vocab_size: int = 0
    top_logits: Any = None
    speech: SpeechInfo | None = None
    captures: bool = False
    rebinds: bool = False
    budget: Budget = field(default_factory=lambda: Budget(_KEPT_BYTES, _KEPT_GRAPHS))
    #: Ids of graphs; 0 is ONNX Runtime's own.
    graph_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def array(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        return DeviceArray(self.ort, self.device, shape, dtype)

    def session(self, graph: str) -> Any:
        if not self.sessions:
            raise BackendError("the model was closed; load it again")
        return self.sessions[graph]

    @contextmanager
    def working(self, graph: str) -> Iterator[None]:
        """The device for one thread alone; its errors say in which graph they were."""
        with _DEVICE_LOCK:
            try:
                yield
            except BackendError:
                raise
            except Exception as error:  # the bindings raise several unrelated classes
                raise run_error(graph, error) from None


#: [B, 1, 1, S] bool, which both graphs may read.
SOURCE_MASK = "encoder_attention_mask"


class SourceKey(NamedTuple):
    batch: int
    length: int


class SourceBuffers:
    """The encoder's inputs and outputs for sources of S positions.

    ``inputs`` are the graph's own, and the mask [B, 1, 1, S] that the decoder reads.
    """

    kept = False

    def __init__(self, context: DeviceContext, key: SourceKey) -> None:
        self._context = context
        self.batch, self.length = key
        sizes = {"batch": self.batch, "source": self.length}
        if context.speech is not None:
            sizes["frames"] = self.length * context.speech.frames_per_position
        masks = [s for s in context.graphs["decoder"].inputs if s.name == SOURCE_MASK]
        self.inputs = {
            spec.name: context.array(_shape(spec.shape, sizes), spec.dtype)
            for spec in (*context.graphs["encoder"].inputs, *masks)
        }
        self.cross = {
            spec.name: context.array(_shape(spec.shape, sizes), spec.dtype)
            for spec in context.graphs["encoder"].outputs
        }

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.inputs.values(), *self.cross.values()))

    @cached_property
    def caches(self) -> Pool[int, CacheBuffers]:
        """By T. What is bound to arrays that go with their owner is not worth keeping."""
        context, batch = self._context, self.batch
        budget = context.budget if self.kept else Budget(0, 0)
        return Pool(lambda slots: CacheBuffers(context, batch, slots), budget)

    def run_encoder(self) -> None:
        """Fill ``cross`` from ``inputs``."""
        session = self._context.session("encoder")
        binding = session.io_binding()
        for spec in self._context.graphs["encoder"].inputs:
            self.inputs[spec.name].bind(binding.bind_input, spec.name)
        for name, array in self.cross.items():
            array.bind(binding.bind_output, name)
        session.run_with_iobinding(binding)


class CacheBuffers:
    """Keys and values of [B, H, T, Dh] each."""

    kept = False

    def __init__(self, context: DeviceContext, batch: int, slots: int) -> None:
        self.batch, self.slots = batch, slots
        sizes = {"batch": batch, "slots": slots}
        inputs = context.graphs["decoder"].inputs
        self.arrays = {
            spec.name: context.array(_shape(spec.shape, sizes), spec.dtype)
            for spec in inputs
            if spec.name.startswith(("past_key.", "past_value."))
        }
        self.steps: dict[StepKey, StepBuffers] = {}

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


class StepKey(NamedTuple):
    """The shape of a step: Q tokens, and which results are read."""

    num_tokens: int
    logits: bool
    logsumexp: bool
    num_best: int | None

    @classmethod
    def of(cls, step: Step) -> StepKey:
        return cls(
            step.input_ids.shape[1],
            step.logits is not None,
            step.logits is not None and step.logsumexp is not None,
            None if step.best_token_ids is None else step.best_token_ids.shape[2],
        )


class StepBuffers:
    """The small arrays of a step of one shape, bound together with its source and cache.

    It holds no reference to them, as the cache refers to it.
    """

    def __init__(
        self, context: DeviceContext, source: SourceBuffers, cache: CacheBuffers, key: StepKey
    ) -> None:
        self._context = context
        batch, num_tokens = cache.batch, key.num_tokens
        rows = (batch, num_tokens)
        self._inputs = PackedInputs(
            context.ort,
            context.device,
            {
                "input_ids": (rows, "int64"),
                "position_ids": (rows, "int64"),
                "attention_mask": ((batch, 1, num_tokens, cache.slots), "bool"),
                "write_indices": ((batch,), "int64"),
                "cache_position_ids": ((batch, cache.slots), "int64"),
            },
        )
        # Not the memory of the ids, as in the CPU's engine: a first run may be several.
        self._next_token_ids = context.array(rows, "int64")
        self._logits = context.array((*rows, context.vocab_size), "float32") if key.logits else None
        scored = key.logsumexp and "logsumexp" in context.sessions
        self._logsumexp = context.array(rows, "float32") if scored else None
        self._best = (
            None
            if key.num_best is None or self._logits is None
            else TopLogits(
                context.ort, context.device, context.top_logits, self._logits, key.num_best
            )
        )
        self._session = context.session("decoder")
        self._binding = self._session.io_binding()
        self._bind_inputs(source, cache)
        for name, array in cache.arrays.items():
            array.bind(self._binding.bind_output, name.replace("past_", "present_", 1))
        self._next_token_ids.bind(self._binding.bind_output, "next_token_ids")
        if self._logits is not None:
            self._logits.bind(self._binding.bind_output, "logits")
        self._runs = 0
        self._capturable = context.captures and source.kept and cache.kept
        self._options = context.ort.RunOptions()
        if context.captures:
            self._options.add_run_config_entry("gpu_graph_id", "-1")  # run, and capture nothing
        if cache.kept:
            context.budget.bytes -= self._nbytes

    def run(self, step: Step, positions: Ids, source: SourceBuffers, cache: CacheBuffers) -> None:
        """Copy what ``step`` holds to the device, run it, and copy its results back."""
        values = self._inputs.values
        values["input_ids"][...] = step.input_ids
        values["position_ids"][...] = step.position_ids
        values["attention_mask"][...] = step.attention_mask
        values["write_indices"][...] = step.write_indices
        values["cache_position_ids"][...] = positions
        self._inputs.write()
        if self._context.rebinds:
            self._bind_inputs(source, cache)
        self._prepare_capture()
        self._session.run_with_iobinding(self._binding, self._options)
        if step.logsumexp is None:
            step.next_token_ids[...] = self._next_token_ids.read()
        if step.logits is not None and self._logits is not None:
            if self._best is not None and step.best_token_ids is not None:
                step.logits[...], step.best_token_ids[...] = self._best.find()
            else:
                step.logits[...] = self._logits.read()
        if step.logsumexp is not None and self._logsumexp is not None:
            step.logsumexp[...] = self._normalize()

    @property
    def _nbytes(self) -> int:
        arrays = (self._inputs, self._next_token_ids, self._logits, self._best)
        return sum(array.nbytes for array in arrays if array is not None)

    def _bind_inputs(self, source: SourceBuffers, cache: CacheBuffers) -> None:
        arrays: dict[str, DeviceArray | PackedInputs] = {
            **dict.fromkeys(self._inputs.values, self._inputs),
            **{name: array for name, array in source.inputs.items() if name == SOURCE_MASK},
            **source.cross,
            **cache.arrays,
        }
        for name in self._context.graphs["decoder"].input_names():
            arrays[name].bind(self._binding.bind_input, name)

    def _prepare_capture(self) -> None:
        """Give the step a graph of its own, once it has proved to be a common one."""
        self._runs += 1
        budget = self._context.budget
        if self._runs != RUNS_BEFORE_CAPTURE or not self._capturable or budget.graphs <= 0:
            return
        budget.graphs -= 1
        self._options = self._context.ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(next(self._context.graph_ids)))

    def _normalize(self) -> NDArray[np.float32]:
        if self._logits is None or self._logsumexp is None:
            raise AssertionError("both are there where a normalizer is asked for")
        session = self._context.session("logsumexp")
        binding = session.io_binding()
        self._logits.bind(binding.bind_input, "logits")
        self._logsumexp.bind(binding.bind_output, "logsumexp")
        session.run_with_iobinding(binding)
        return self._logsumexp.read()


def _shape(shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else sizes[size] for size in shape)
