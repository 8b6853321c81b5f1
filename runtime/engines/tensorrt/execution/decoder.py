"""Tree steps on the GPU: the cache in place, one upload, one run and one download a step.

A step that is run again and again is captured as a CUDA graph. Greedy decoding goes further: a
:class:`Chain` runs several steps without the host, which reads their tokens at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ....errors import EngineError
from ....manifest import GraphInfo, TensorSpec
from ...base import Ids, Step
from ...limits import Limits
from ..cuda import Cuda, MemoryPool
from .runner import Runner
from .tensors import Block, Layout, Mirror, Placed, fill

#: Greedy steps that run without the host: its waiting and the download are paid once for all.
#: More would be lost where a text ends early.
_AHEAD = 8

_CACHE = ("past_", "cross_")


@dataclass
class Shared:
    """What an engine's decoders have in common.

    Attributes:
        stream: the CUDA stream that all work is on.
        memory, pinned: of the device and of the host.
        lock: held while work is enqueued.
        runners: by optimization profile: one token a step, several.
        info: the decoder graph.
        in_place: whether the graph writes into the cache that it reads.
    """

    cuda: Cuda
    stream: Any
    memory: MemoryPool
    pinned: MemoryPool
    lock: threading.Lock
    runners: list[Runner]
    info: GraphInfo
    limits: Limits
    in_place: bool
    closed: bool = False

    def block(self, layout: Layout) -> Block:
        return Block(layout, self.memory.take(layout.size))

    def mirror(self, layout: Layout) -> Mirror:
        return Mirror(layout, self.memory.take(layout.size), self.pinned.take(layout.size))

    def runner(self, queries: int) -> Runner:
        """The one whose profile is for steps of so many tokens."""
        return self.runners[0 if queries == 1 else -1]

    def check_open(self) -> None:
        if self.closed:
            raise EngineError("the model was closed; load it again")


@dataclass
class TensorRTSource:
    """Cross-attention keys and values and the source mask, on the device."""

    batch_size: int
    length: int
    mask: Block
    cross: Block

    def tensors(self) -> dict[str, Placed]:
        return self.mask.tensors() | self.cross.tensors()

    def rows(self, rows: Ids, shared: Shared) -> TensorRTSource:
        """These rows of the batch, copied."""
        chosen = TensorRTSource(
            len(rows),
            self.length,
            _rows_of(self.mask, rows, shared),
            _rows_of(self.cross, rows, shared),
        )
        return chosen


class TensorRTDecoder:
    """See :class:`seq2edge.runtime.engines.base.Decoder`. The number of slots is fixed."""

    cache_position_ids: Ids
    normalizes = False
    ahead = _AHEAD

    def __init__(self, shared: Shared, source: TensorRTSource) -> None:
        self._shared = shared
        self._source = source
        cache = [spec for spec in shared.info.inputs if spec.name.startswith("past_")]
        self._cache = shared.block(self._layout(cache))
        with shared.lock:
            # Zeroed: a masked slot's weight is 0, and 0 x NaN is NaN.
            shared.cuda.set_bytes(self._cache.address, 0, self._cache.size, shared.stream)
        slots = np.arange(self.capacity, dtype=np.int64)
        self.cache_position_ids = np.tile(slots, (source.batch_size, 1))

    @property
    def capacity(self) -> int:
        return self._shared.limits.max_target_length

    def grow(self, capacity: int) -> None:
        raise AssertionError(f"{capacity} slots: limits are checked before a call runs")

    def pack(self, slots: Ids) -> None:
        raise AssertionError(f"{slots.shape}: there are slots enough for the longest call")

    def keep(self, rows: Ids) -> None:
        shared = self._shared
        with shared.lock:
            self._cache = _rows_of(self._cache, rows, shared)
            self._source = self._source.rows(rows, shared)
        self.cache_position_ids = self.cache_position_ids[rows]

    def bind(self, step: Step) -> Callable[[], None]:
        return _BoundStep(self._shared, self._tensors(step), step, self.cache_position_ids).run

    def bind_chain(self, step: Step) -> Callable[[int], Ids]:
        """See :class:`seq2edge.runtime.engines.base.Decoder`."""
        tensors = self._tensors(step)
        return _Chain(self._shared, tensors, step, self.cache_position_ids).run

    def _tensors(self, step: Step) -> _StepTensors:
        shared, batch = self._shared, self._source.batch_size
        queries = step.input_ids.shape[1]
        inputs = [spec for spec in shared.info.inputs if _is_step_input(spec)]
        outputs = [s for s in shared.info.outputs if not s.name.startswith("present_")]
        written = self._cache
        if not shared.in_place:
            written = shared.block(self._cache.layout)
        return _StepTensors(
            runner=shared.runner(queries),
            inputs=shared.mirror(self._layout(inputs, queries)),
            outputs=shared.mirror(self._layout(outputs, queries)),
            fixed=self._source.tensors() | self._cache.tensors(),
            cache=self._cache,
            written=written,
            batch=batch,
        )

    def _layout(self, specs: list[TensorSpec], queries: int = 1) -> Layout:
        sizes = {
            "batch": self._source.batch_size,
            "source": self._source.length,
            "queries": queries,
            "slots": self.capacity,
        }
        return Layout.of(specs, sizes)


@dataclass
class _StepTensors:
    """Everything that one shape of step reads and writes, at fixed addresses."""

    runner: Runner
    inputs: Mirror
    outputs: Mirror
    fixed: Mapping[str, Placed]
    cache: Block
    written: Block
    batch: int

    def bind(self, owner: object) -> None:
        """Make them the runner's."""
        written = {
            name.replace("past_", "present_", 1): tensor
            for name, tensor in self.written.tensors().items()
        }
        self.runner.bind(
            owner, {**self.inputs.tensors(), **self.fixed}, self.outputs.tensors() | written
        )

    def enqueue(self, shared: Shared) -> None:
        """One run; the cache then holds what it wrote."""
        self.runner.enqueue()
        if self.written is not self.cache:
            shared.cuda.copy(
                self.cache.address, self.written.address, self.cache.size, shared.stream
            )


class _Work:
    """Something that is enqueued again and again: plainly at first, then as a CUDA graph.

    TensorRT wants one plain run with the shapes and addresses of a graph before it is captured.
    A graph is good for as long as nobody else has bound the runner.
    """

    def __init__(self, shared: Shared, tensors: _StepTensors) -> None:
        self._shared, self._tensors = shared, tensors
        self._graph: Any = None

    def __call__(self, enqueue: Callable[[], None]) -> None:
        shared, runner = self._shared, self._tensors.runner
        if not runner.is_bound_to(self):
            self._drop_graph()
            self._tensors.bind(self)
            enqueue()
            return
        if self._graph is None and runner.capturable:
            with shared.cuda.captured(shared.stream) as found:
                enqueue()
            (self._graph,) = found
        if self._graph is None:
            enqueue()
        else:
            shared.cuda.launch(self._graph, shared.stream)

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self._shared.cuda.free_graph(graph)

    def __del__(self) -> None:
        self._drop_graph()


class _BoundStep:
    """A step of the caller's own making, run when it says so."""

    def __init__(
        self, shared: Shared, tensors: _StepTensors, step: Step, cache_position_ids: Ids
    ) -> None:
        self._shared, self._tensors, self._step = shared, tensors, step
        self._values = _step_values(tensors, step, cache_position_ids)
        self._work = _Work(shared, tensors)

    def run(self) -> None:
        shared, step, tensors = self._shared, self._step, self._tensors
        fill(tensors.inputs, self._values)
        with shared.lock:
            shared.check_open()
            self._work(self._enqueue)
        shared.cuda.wait(shared.stream)
        step.next_ids[:] = tensors.outputs.host["next_ids"]
        if step.logits is not None:
            step.logits[:] = tensors.outputs.host["logits"]

    def _enqueue(self) -> None:
        shared, tensors = self._shared, self._tensors
        tensors.inputs.upload(shared.cuda, shared.stream)
        tensors.enqueue(shared)
        if self._step.logits is not None:
            tensors.outputs.download(shared.cuda, shared.stream)
        else:
            tensors.outputs.download_only("next_ids", shared.cuda, shared.stream)


class _Chain:
    """Greedy steps of one token a source: masks, positions and tokens stay on the device."""

    def __init__(
        self, shared: Shared, tensors: _StepTensors, step: Step, cache_position_ids: Ids
    ) -> None:
        self._shared, self._tensors, self._step = shared, tensors, step
        self._values = _step_values(tensors, step, cache_position_ids)
        self._work = _Work(shared, tensors)
        slots, batch = shared.limits.max_target_length, tensors.batch
        sizes = {"slots": slots, "batch": batch, "ahead": _AHEAD}
        self._found = shared.mirror(
            Layout.of([TensorSpec("tokens", "int64", ("ahead", "batch"))], sizes)
        )
        # Row n holds position n for every source: positions and slots are the same in a chain.
        self._rows = shared.mirror(
            Layout.of([TensorSpec("rows", "int64", ("slots", "batch"))], sizes)
        )
        self._rows.host["rows"][:] = np.arange(slots)[:, None]
        with shared.lock:
            self._rows.upload(shared.cuda, shared.stream)

    def run(self, count: int) -> Ids:
        shared, tensors, step = self._shared, self._tensors, self._step
        first = int(step.write_index[0])
        fill(tensors.inputs, self._values)
        with shared.lock:
            shared.check_open()
            tensors.inputs.upload(shared.cuda, shared.stream)
            for number in range(count):
                if number:
                    self._move_on(first + number)
                self._work(self._enqueue)
                self._keep_tokens(number)
            self._found.download(shared.cuda, shared.stream)
        shared.cuda.wait(shared.stream)
        tokens: Ids = self._found.host["tokens"][:count].copy()
        step.next_ids[:] = tokens[-1][:, None]
        return tokens

    def _enqueue(self) -> None:
        """A run whose tokens are the next one's."""
        self._tensors.enqueue(self._shared)
        self._copy(self._tensors.outputs.tensors()["next_ids"], "input_ids")

    def _move_on(self, slot: int) -> None:
        """The next run writes ``slot`` and sees it."""
        shared, batch = self._shared, self._tensors.batch
        rows = self._rows.address + slot * batch * 8
        self._copy(Placed(rows, (batch,)), "position_ids")
        self._copy(Placed(rows, (batch,)), "write_index")
        mask = self._tensors.inputs.tensors()["attention_mask"]
        slots = mask.shape[-1]
        shared.cuda.set_column(mask.address + slot, slots, 1, batch, shared.stream)

    def _keep_tokens(self, number: int) -> None:
        next_ids = self._tensors.outputs.tensors()["next_ids"]
        size = prod(next_ids.shape) * 8
        to = self._found.address + number * size
        self._shared.cuda.copy(to, next_ids.address, size, self._shared.stream)

    def _copy(self, source: Placed, name: str) -> None:
        inputs = self._tensors.inputs.tensors()
        if name in inputs:
            size = prod(source.shape) * 8
            shared = self._shared
            shared.cuda.copy(inputs[name].address, source.address, size, shared.stream)


def _step_values(tensors: _StepTensors, step: Step, cache_position_ids: Ids) -> dict[str, Any]:
    values = {
        "input_ids": step.input_ids,
        "position_ids": step.position_ids,
        "cache_position_ids": cache_position_ids,
        "attention_mask": step.attention_mask,
        "write_index": step.write_index,
    }
    return {name: values[name] for name in tensors.inputs.host}


def _is_step_input(spec: TensorSpec) -> bool:
    return not spec.name.startswith(_CACHE) and spec.name != "encoder_attention_mask"


def _rows_of(block: Block, rows: Ids, shared: Shared) -> Block:
    chosen = shared.block(block.layout.of_batch(len(rows)))
    block.copy_rows(rows.tolist(), chosen, shared.cuda, shared.stream)
    return chosen
