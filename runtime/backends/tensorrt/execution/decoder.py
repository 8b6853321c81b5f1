"""Tree steps on the GPU: the cache in place, one upload, one run and one download per step.

A step that is run again and again is captured as a CUDA graph. Greedy decoding goes further: a
chain runs several steps without the host, which reads their tokens at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....bundle.manifest import TensorSpec
from ....errors import BackendError
from ...base import Ids, SlotCache, Step
from .context import Runner
from .stream_context import FOUND, STEPS_PER_LAUNCH, StreamContext
from .tensors import Block, BlockLayout, Mirror, Placed, fill


@dataclass
class TensorRTEncoderOutput:
    """Cross-attention keys and values and the source mask, on the device."""

    context: StreamContext
    batch_size: int
    length: int
    mask: Block
    cross: Block

    def numpy(self, name: str) -> NDArray[Any]:
        """See :class:`seq2edge.runtime.backends.base.EncoderOutput`."""
        with self.context.lock():
            results = self.context.results(self.cross, [name])
            results.download(self.context.device)
            self.context.device.wait()
            return results.host[name].copy()

    def tensors(self) -> dict[str, Placed]:
        return self.mask.tensors() | self.cross.tensors()

    def select_batch(self, rows: Ids) -> None:
        """Only these rows of the batch, in the same memory."""
        self.mask = self.mask.keep_rows(rows.tolist(), self.context.device)
        self.cross = self.cross.keep_rows(rows.tolist(), self.context.device)
        self.batch_size = len(rows)


class TensorRTSlots(SlotCache):
    """See :class:`seq2edge.runtime.backends.base.SlotCache`. The number of slots is fixed."""

    def __init__(self, shared: StreamContext, source: TensorRTEncoderOutput) -> None:
        super().__init__()
        self._chains: dict[Step, _Chain] = {}
        slots = np.arange(shared.limits.max_target_length, dtype=np.int64)
        self.cache_position_ids = np.tile(slots, (source.batch_size, 1))
        self._shared = shared
        self._source = source
        with shared.lock():
            self._cache = shared.block(self._layout(shared.cache_inputs))
            # Zeroed: a masked slot's weight is 0, and 0 x NaN is NaN.
            device, cache = shared.device, self._cache
            device.cuda.set_bytes(cache.address, 0, cache.size, device.stream)

    def forward_greedy(self, step: Step, count: int) -> Ids:
        """See :class:`seq2edge.runtime.backends.base.SlotCache`; at most STEPS_PER_LAUNCH steps."""
        shared, chain = self._shared, self._chains.get(step)
        if chain is None:
            with shared.lock():
                chain = _Chain(shared, self._tensors(step), step, self.cache_position_ids)
            self._chains[step] = chain
        return chain.run(count)

    def compact(self, slots: Ids) -> None:
        """See :class:`seq2edge.runtime.backends.base.SlotCache`."""
        shared = self._shared
        with shared.lock():
            self._cache.compact(slots.tolist(), shared.device)
        positions, count = self.cache_position_ids, slots.shape[1]
        positions[:, :count] = np.take_along_axis(positions, slots, axis=1)

    def _grow(self, max_cache_len: int) -> None:
        if max_cache_len > self.max_cache_len:
            raise BackendError(
                f"{max_cache_len} cache slots are more than the engine's {self.max_cache_len}"
            )

    def _select_batch(self, rows: Ids) -> None:
        """The source goes with the cache: no other cache over it can be used any more."""
        self._chains.clear()
        if len(rows) > 1 and not bool((np.diff(rows) > 0).all()):
            raise AssertionError(f"{rows}: rows are moved one after the other")
        shared = self._shared
        with shared.lock():
            self._cache = self._cache.keep_rows(rows.tolist(), shared.device)
            self._source.select_batch(rows)
        self.cache_position_ids = self.cache_position_ids[rows]

    def _bind(self, step: Step) -> Callable[[], None]:
        shared = self._shared
        with shared.lock():
            return _BoundStep(shared, self._tensors(step), step, self.cache_position_ids).run

    def _tensors(self, step: Step) -> _StepTensors:
        shared, num_tokens = self._shared, step.input_ids.shape[1]
        written = self._cache
        if shared.written is not None:
            written = shared.written.reshaped(self._cache.layout)
        return _StepTensors(
            runner=shared.runner(num_tokens),
            inputs=shared.inputs.reshaped(self._layout(shared.step_inputs, num_tokens)),
            outputs=shared.outputs.reshaped(self._layout(shared.step_outputs, num_tokens)),
            source=self._source,
            cache=self._cache,
            written=written,
        )

    def _layout(self, specs: list[TensorSpec], num_tokens: int = 1) -> BlockLayout:
        sizes = {
            "batch": self._source.batch_size,
            "source": self._source.length,
            "queries": num_tokens,
            "slots": self.max_cache_len,
        }
        return BlockLayout.of(specs, sizes)


@dataclass
class _StepTensors:
    """Everything that one shape of step reads and writes, at fixed addresses."""

    runner: Runner
    inputs: Mirror
    outputs: Block
    source: TensorRTEncoderOutput
    cache: Block
    written: Block

    @property
    def batch(self) -> int:
        return self.source.batch_size

    def bind(self, owner: object) -> None:
        """Make them the runner's."""
        written = {
            name.replace("past_", "present_", 1): tensor
            for name, tensor in self.written.tensors().items()
        }
        inputs = self.inputs.tensors() | self.source.tensors() | self.cache.tensors()
        self.runner.bind(owner, inputs, self.outputs.tensors() | written)

    def enqueue(self, shared: StreamContext) -> None:
        """One run; the cache then holds what it wrote."""
        self.runner.enqueue()
        if self.written is not self.cache:
            to, source, device = self.cache.address, self.written.address, shared.device
            for start, size in self.cache.layout.spans():
                device.cuda.copy(to + start, source + start, size, device.stream)


class _Work:
    """Something that is enqueued again and again: plainly at first, then as a CUDA graph.

    It does not hold what it enqueues: the cycle would keep memory of the device until the
    garbage collector comes by.
    """

    def __init__(self, tensors: _StepTensors) -> None:
        self._tensors = tensors
        self._owner = object()

    def run(self, enqueue: Callable[[], None]) -> None:
        runner = self._tensors.runner
        if runner.is_bound_to(self._owner):
            runner.repeat(enqueue)
        else:
            self._tensors.bind(self._owner)
            enqueue()


class _BoundStep:
    """A step of the caller's own making, run when it says so."""

    def __init__(
        self, shared: StreamContext, tensors: _StepTensors, step: Step, cache_position_ids: Ids
    ) -> None:
        self._shared, self._tensors, self._step = shared, tensors, step
        self._values = _step_values(tensors, step, cache_position_ids)
        names = ["next_token_ids"] if step.logits is None else ["next_token_ids", "logits"]
        self._results = shared.results(tensors.outputs, names)
        self._work = _Work(tensors)

    def run(self) -> None:
        shared, step = self._shared, self._step
        with shared.lock():
            fill(self._tensors.inputs, self._values)
            self._work.run(self._enqueue)
            shared.device.wait()
            step.next_token_ids[:] = self._results.host["next_token_ids"]
            if step.logits is not None:
                step.logits[:] = self._results.host["logits"]

    def _enqueue(self) -> None:
        shared, tensors = self._shared, self._tensors
        tensors.inputs.upload(shared.device)
        tensors.enqueue(shared)
        self._results.download(shared.device)


class _Chain:
    """Greedy steps of one token per source: masks, positions and tokens stay on the device."""

    def __init__(
        self, shared: StreamContext, tensors: _StepTensors, step: Step, cache_position_ids: Ids
    ) -> None:
        self._shared, self._tensors, self._step = shared, tensors, step
        self._values = _step_values(tensors, step, cache_position_ids)
        self._inputs = tensors.inputs.tensors()
        self._next_ids = tensors.outputs.tensors()["next_token_ids"]
        self._found = shared.found.reshaped(
            BlockLayout.of([FOUND], {"ahead": STEPS_PER_LAUNCH, "batch": tensors.batch})
        )
        self._work = _Work(tensors)

    def run(self, count: int) -> Ids:
        shared, step = self._shared, self._step
        first = int(step.write_indices[0])
        with shared.lock():
            fill(self._tensors.inputs, self._values)
            self._tensors.inputs.upload(shared.device)
            for number in range(count):
                if number:
                    self._move_on(first + number)
                self._work.run(self._enqueue)
                self._keep_tokens(number)
            self._found.download(shared.device)
            shared.device.wait()
            tokens: Ids = self._found.host["tokens"][:count].copy()
        step.next_token_ids[:] = tokens[-1][:, None]
        return tokens

    def _enqueue(self) -> None:
        """A run whose tokens are the next one's."""
        self._tensors.enqueue(self._shared)
        self._copy(self._next_ids, "input_ids")

    def _move_on(self, slot: int) -> None:
        """The next run writes ``slot`` and sees it."""
        shared, batch = self._shared, self._tensors.batch
        row = shared.rows.address + slot * shared.limits.max_batch * 8
        self._copy(Placed(row, (batch,)), "position_ids")
        self._copy(Placed(row, (batch,)), "write_indices")
        mask = self._inputs["attention_mask"]
        device = shared.device
        device.cuda.set_column(mask.address + slot, mask.shape[-1], 1, batch, device.stream)

    def _keep_tokens(self, number: int) -> None:
        size = prod(self._next_ids.shape) * 8
        device = self._shared.device
        to = self._found.address + number * size
        device.cuda.copy(to, self._next_ids.address, size, device.stream)

    def _copy(self, source: Placed, name: str) -> None:
        """From elsewhere into an int64 input, if the graph has it."""
        if name in self._inputs:
            size = prod(source.shape) * 8
            device = self._shared.device
            device.cuda.copy(self._inputs[name].address, source.address, size, device.stream)


def _step_values(tensors: _StepTensors, step: Step, cache_position_ids: Ids) -> Mapping[str, Any]:
    values = {
        "input_ids": step.input_ids,
        "position_ids": step.position_ids,
        "cache_position_ids": cache_position_ids,
        "attention_mask": step.attention_mask,
        "write_indices": step.write_indices,
    }
    return {name: values[name] for name in tensors.inputs.host}
