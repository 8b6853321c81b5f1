"""The seam between generation and an inference library: one encoder run, then decoder steps.

The decoder graph of most bundles is a *tree step* (docs/design.md, section 3): the caller says
which tokens to run, where they stand, which cache slots they may see and where to write. A backend
owns the weights, a cache owns the keys and values of one call, and a :class:`Step` owns the small
host arrays of one shape of step. What a backend can do is declared in its :class:`Capabilities`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import CONCAT, SLOTS
from ..errors import InputError
from .limits import Limits
from .step import Ids as Ids
from .step import Mask as Mask
from .step import Proposals as Proposals
from .step import Step as Step

#: Arrays of a batch of sources by name: ``input_ids`` [B, S] int64 and ``attention_mask`` [B, S]
#: bool (False is padding), or ``input_features`` [B, mels, frames] float32, of which nothing is
#: padding.
EncoderInputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Capabilities:
    """Declared features of a backend.

    Attributes:
        kv_cache: ``slots``: the backend is a :class:`SlotBackend`; ``concat``: a
            :class:`ConcatBackend`.
        limits: the largest shapes that it takes; None: any.
        steps_per_launch: greedy steps that it runs without the host in between, at most.
        computes_logsumexp: whether steps fill ``Step.logsumexp``; else the caller does.
        replaces_rows: whether the backend is a :class:`RowBackend`.
        finds_best_tokens: whether a step may ask for the logits of the most probable tokens alone
            (``Step.best_token_ids``), which spares the way of all others to the host.
        encoder: version, device and precision of another library that runs the encoder; "": none.
    """

    kv_cache: str = SLOTS
    limits: Limits | None = None
    steps_per_launch: int = 1
    computes_logsumexp: bool = False
    replaces_rows: bool = False
    finds_best_tokens: bool = False
    encoder: str = ""


class EncoderOutput(Protocol):
    """The encoder's output for a batch of sources, held by the backend."""

    @property
    def batch_size(self) -> int: ...

    def numpy(self, name: str) -> NDArray[Any]:
        """One output of the encoder graph, copied to the host, e.g. ``cross_key.0`` [B, H, S, D].

        Raises:
            KeyError: the graph has no such output.
        """
        ...


class SlotCache(ABC):
    """Keys and values of one call in slots that are written in place. Not for two threads at once.

    Attributes:
        cache_position_ids: [B, T] int64, the logical position that each slot holds; 0, 1, 2 ... at
            first. Written by the caller, and read by every step.
        scores_last_tokens: whether a step may ask for the results of its last tokens only, which
            spares the head of the model the others.
    """

    cache_position_ids: Ids
    scores_last_tokens: bool = False

    def __init__(self) -> None:
        self._runs: dict[Step, Callable[[], None]] = {}
        #: How bound steps go on by one slot, where that takes less than running them anew.
        self._advances: dict[Step, Callable[[int], None]] = {}

    @property
    def max_cache_len(self) -> int:
        """T, the number of slots."""
        return int(self.cache_position_ids.shape[1])

    def step(
        self,
        num_tokens: int,
        *,
        feed_back: bool = False,
        vocab_size: int | None = None,
        logsumexp: bool = False,
        first_scored: int = 0,
        num_best: int | None = None,
    ) -> Step:
        """A zeroed step of the cache's present shape; see :meth:`.Step.allocate`."""
        return Step.allocate(
            len(self.cache_position_ids),
            num_tokens,
            self.max_cache_len,
            feed_back=feed_back,
            vocab_size=vocab_size,
            logsumexp=logsumexp,
            first_scored=first_scored,
            num_best=num_best,
        )

    def release(self) -> None:  # noqa: B027
        """Let another call have the cache and its steps; this one uses neither any more."""

    def forward(self, step: Step) -> None:
        """Run ``step`` with its arrays' contents of this moment.

        A step is bound to the graph when it is first run, so keep one step for each shape.
        """
        run = self._runs.get(step)
        if run is None:
            run = self._runs[step] = self._bind(step)
        try:
            run()
        except Exception as error:  # bindings of libraries raise several unrelated classes
            raise self._explained(error) from None

    def advance(self, step: Step, slot: int) -> None:
        """Run ``step``, of one token per source, again at the next slot, which is its position.

        It has just been run at the slot before, for all sources, and sees what it saw there and
        ``slot``. What tokens it runs is the caller's to write.
        """
        advance = self._advances.get(step)
        if advance is None:
            step.attention_mask[..., slot] = True
            step.position_ids.fill(slot)
            step.write_indices.fill(slot)
            self.forward(step)
            return
        try:
            advance(slot)
        except Exception as error:  # bindings of libraries raise several unrelated classes
            raise self._explained(error) from None

    def forward_greedy(self, step: Step, count: int) -> Ids:
        """Run ``step``, of one token per source, ``count`` times: each run's tokens are the next's.

        Every run is one position and one slot further on, for all sources alike.

        Returns:
            The tokens, [count, B] int64; ``step.next_token_ids`` holds the last ones, and what
            else the step holds is as it was.
        """
        tokens = np.empty((count, len(step.input_ids)), np.int64)
        rows = np.arange(len(step.input_ids))
        before = [a.copy() for a in (step.position_ids, step.write_indices, step.attention_mask)]
        for number in range(count):
            if number:
                step.input_ids[:] = step.next_token_ids
                step.position_ids += 1
                step.write_indices += 1
                step.attention_mask[rows, 0, 0, step.write_indices] = True
            self.forward(step)
            tokens[number] = step.next_token_ids[:, 0]
        step.position_ids[:], step.write_indices[:], step.attention_mask[:] = before
        return tokens

    def grow(self, max_cache_len: int) -> None:
        """More slots; what is cached stays."""
        self.forget_steps()
        self._grow(max_cache_len)

    def select_batch(self, rows: Ids) -> None:
        """Go on with these rows of the batch only; ``rows`` ascend."""
        self.forget_steps()
        self._select_batch(rows)

    @abstractmethod
    def compact(self, slots: Ids) -> None:
        """Move what ``slots`` [B, n] hold to slots 0..n-1.

        Keys, values and positions move; what the others held is lost. The live slots of a row
        ascend; where it has fewer than n, the rest are any whose content does not matter.
        """

    @abstractmethod
    def _bind(self, step: Step) -> Callable[[], None]:
        """A function that runs ``step``."""

    def _explained(self, error: Exception) -> Exception:
        """What a caller gets for an ``error`` of a run."""
        return error

    @abstractmethod
    def _grow(self, max_cache_len: int) -> None: ...

    @abstractmethod
    def _select_batch(self, rows: Ids) -> None: ...

    def forget_steps(self) -> None:
        """Drop bound steps: they have the addresses of arrays that are about to be replaced."""
        self._runs.clear()
        self._advances.clear()


class RowSlotCache(SlotCache):
    """A cache whose rows are given to other sources while the others go on.

    A step may have fewer rows than the cache: it runs the first of them.
    """

    @property
    @abstractmethod
    def source_positions(self) -> int:
        """S, the source positions that there is room for; 0: there is no encoder."""

    @abstractmethod
    def place(self, row: int, encoded: EncoderOutput, index: int = 0) -> None:
        """Give ``row`` to a source of ``encoded``; what it has cached is to be overwritten.

        There is room for the source: only padding may lie beyond ``source_positions``.
        """

    @abstractmethod
    def move(self, source: int, target: int) -> None:
        """Let the row ``target`` hold what the row ``source`` does."""

    @abstractmethod
    def pack(self, row: int, slots: Ids, start: int) -> None:
        """Move what the ``slots`` [n] of a row hold, which ascend, to n slots from ``start`` on."""

    @abstractmethod
    def rows(self, first: int, count: int) -> RowSlotCache:
        """A cache of these rows alone, in the same memory. It is good until :meth:`resize`."""

    @abstractmethod
    def resize(
        self, *, rows: int | None = None, slots: int | None = None, positions: int | None = None
    ) -> None:
        """Have so many rows, slots and source positions (or a few more); None: as many as now.

        What is cached stays, as far as there is room, in new memory. Steps that were run are
        forgotten.
        """


class ConcatCache(Protocol):
    """Keys and values of one call, longer with every step: each hypothesis is a row of the batch.

    Not for use by two threads at once.
    """

    def forward(self, tokens: Ids) -> NDArray[np.float32]:
        """Append ``tokens`` [R, Q] to the R rows: logits [R, V] after the last of them.

        The first call takes the prompt, the others one token per row. The logits are the caller's.
        """
        ...

    def index_select(self, rows: Ids) -> None:
        """Go on with these rows, in this order; each may be there any number of times."""
        ...

    def reorder(self, rows: Ids) -> None:
        """:meth:`index_select`, where each row takes the place of one of the same source."""
        ...


class Backend(Protocol):
    """A loaded bundle: a :class:`SlotBackend` or a :class:`ConcatBackend`. Threads may share it."""

    @property
    def num_threads(self) -> int | None:
        """Threads that an operator may use; None where the library chooses."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    def encode(self, inputs: EncoderInputs) -> EncoderOutput:
        """Run the encoder on a batch of sources.

        Raises:
            BackendError: the run failed, or the backend was closed.
        """
        ...

    def run_graph(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]],
        encoded: EncoderOutput | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run another of the bundle's graphs, ``features`` or ``alignment``; all outputs by name.

        It is opened when it is first run, so a bundle costs nothing for the graphs that are not.

        Args:
            name: the graph's name in the manifest.
            inputs: arrays by the graph's input names.
            encoded: gives the inputs that are outputs of the encoder.

        Raises:
            BackendError: there is no such graph, an input is missing, or the run failed.
        """
        ...

    def close(self) -> None: ...


class SlotBackend(Backend, Protocol):
    """Its decoder graph writes a cache of slots in place."""

    def new_cache(self, encoded: EncoderOutput, max_cache_len: int) -> SlotCache:
        """An empty cache over ``encoded`` with so many slots, or as many as it has fixed."""
        ...


class RowBackend(SlotBackend, Protocol):
    """Its caches can take other sources while they are decoded."""

    def new_cache(self, encoded: EncoderOutput, max_cache_len: int) -> RowSlotCache:
        """See :meth:`SlotBackend.new_cache`."""
        ...


class ConcatBackend(Backend, Protocol):
    """Its decoder graph takes past keys and values and returns them longer."""

    def new_cache(self, encoded: EncoderOutput) -> ConcatCache:
        """An empty cache over ``encoded``, a row for each of its sources."""
        ...


def slot_backend(backend: Backend, what: str = "this") -> SlotBackend:
    """``backend``, if it declares a cache of slots.

    Raises:
        InputError: it declares another; the message says that ``what`` needs slots.
    """
    if backend.capabilities.kv_cache != SLOTS:
        raise InputError(
            f"{what} needs a decoder whose cache has slots, and these graphs concatenate theirs;"
            " export the checkpoint with 'seq2edge export'"
        )
    return cast("SlotBackend", backend)


def row_backend(backend: Backend) -> RowBackend | None:
    """``backend``, if it declares that it replaces rows."""
    return cast("RowBackend", backend) if backend.capabilities.replaces_rows else None


def concat_backend(backend: Backend) -> ConcatBackend | None:
    """``backend``, if it declares a concatenating cache."""
    concat = backend.capabilities.kv_cache == CONCAT
    return cast("ConcatBackend", backend) if concat else None
