"""State that all calls of an engine share: the stream, its lock, a step's tensors."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from ....bundle.manifest import GraphInfo, TensorSpec
from ....errors import BackendError
from ...limits import Limits
from ...sizes import largest_sizes
from ..cuda import Buffer, Device
from .context import Runner
from .tensors import Block, BlockLayout, Mirror, Results

#: Greedy steps that run without the host: its waiting and the download are paid once for all.
#: More would be lost where a text ends early.
STEPS_PER_LAUNCH = 8


class StreamContext:
    """Taken in turns by the threads that decode.

    What a step reads and writes besides its call's cache and source lies in memory that is
    taken once, for the largest step: a turn fills it, runs, and takes the results with it.

    Args:
        device: the stream that all work is on, and its memory.
        runners: by optimization profile: one token per step, several.
        info: the decoder graph.
        limits: the largest shapes.
        in_place: whether the graph writes into the cache that it reads.

    Attributes:
        inputs, outputs: of the largest step.
        written: where the cache is written, if not in place.
        found: [steps, batch] int64, tokens of a chain of steps.
        rows: [slots, batch] int64; row n holds position n for every source.
    """

    def __init__(
        self,
        device: Device,
        runners: list[Runner],
        info: GraphInfo,
        limits: Limits,
        *,
        in_place: bool,
    ) -> None:
        self.device, self.runners, self.info, self.limits = device, runners, info, limits
        self._lock = threading.Lock()
        self._closed = False
        self._results: Buffer | None = None
        self.cache_inputs = [spec for spec in info.inputs if spec.name.startswith("past_")]
        self.step_inputs = [spec for spec in info.inputs if _is_step_input(spec)]
        self.step_outputs = [s for s in info.outputs if not s.name.startswith("present_")]
        most = largest_sizes(limits) | {"ahead": STEPS_PER_LAUNCH}
        self.inputs = self._mirror(BlockLayout.of(self.step_inputs, most))
        self.outputs = self.block(BlockLayout.of(self.step_outputs, most))
        self.written = None if in_place else self.block(BlockLayout.of(self.cache_inputs, most))
        self.found = self._mirror(BlockLayout.of([FOUND], most))
        self.rows = self._mirror(BlockLayout.of([_ROWS], most))
        self.rows.host["rows"][:] = np.arange(limits.max_target_length)[:, None]
        self.rows.upload(device)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """This thread's turn. All that touches the stream or its memory is done in one.

        So nobody waits for a stream that is being captured, nobody's results are overwritten,
        and nothing is freed under a run. An error leaves nothing pending.

        Raises:
            BackendError: the model was closed.
        """
        with self._lock:
            if self._closed:
                raise BackendError("the model was closed; load it again")
            try:
                yield
            except BaseException:
                with contextlib.suppress(BackendError):
                    self.device.wait()
                raise

    @contextlib.contextmanager
    def close(self) -> Iterator[bool]:
        """After it there are no turns; whether it was the first last one."""
        with self._lock:
            first, self._closed = not self._closed, True
            yield first

    def block(self, layout: BlockLayout) -> Block:
        """New memory, of any content."""
        return Block(layout, self.device.memory.take(layout.size))

    def results(self, block: Block, names: Sequence[str]) -> Results:
        """For these tensors of a block, to be read in the turn that downloads them."""
        return Results(block, names, self._pinned_results)

    def runner(self, num_tokens: int) -> Runner:
        """The one whose profile is for steps of so many tokens."""
        return self.runners[0 if num_tokens == 1 else -1]

    def _mirror(self, layout: BlockLayout) -> Mirror:
        memory, pinned = self.device.memory, self.device.pinned
        return Mirror(layout, memory.take(layout.size), pinned.take(layout.size))

    def _pinned_results(self, size: int) -> Buffer:
        # As large as the largest so far: many calls never ask for logits.
        if self._results is None or self._results.size < size:
            self._results = self.device.pinned.take(size)
        return self._results


FOUND = TensorSpec("tokens", "int64", ("ahead", "batch"))
_ROWS = TensorSpec("rows", "int64", ("slots", "batch"))


def _is_step_input(spec: TensorSpec) -> bool:
    return not spec.name.startswith(("past_", "cross_")) and spec.name != "encoder_attention_mask"
