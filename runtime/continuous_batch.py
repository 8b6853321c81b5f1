"""Requests that come at any time, decoded together: the engine of a service."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import InputError
from .generation import GenerationConfig
from .generation.batch import Hypothesis
from .generation.continuous import Ticket
from .generation.options import GenerationOptions
from .generation.prepared import PreparedCall
from .generation.result import Generation
from .generation.stopping import CANCELLED
from .generation.validation import is_integer
from .model import Seq2SeqModel
from .text.detokenizer import Detokenizer

if TYPE_CHECKING:  # typing has it from Python 3.11 on
    from typing_extensions import Unpack


@dataclass(eq=False)
class Request:
    """One source that was submitted.

    Attributes:
        results: what :meth:`.Seq2SeqModel.generate` gives for the source alone; empty before the
            end and after an error.
        error: why there is no result: an InputError of the options, a BackendError of the engine,
            or whatever the caller's own processor has raised; None: there is one.
        done: whether it has ended; no event follows.
    """

    results: tuple[Generation, ...] = ()
    error: Exception | None = None
    done: bool = False


@dataclass(eq=False)
class _Entry:
    """What is kept of a request until it is done."""

    request: Request
    call: PreparedCall
    detokenizer: Detokenizer | None
    skip_special_tokens: bool
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.ticket = Ticket(self.call, cancelled=lambda: self.cancelled)


@dataclass(frozen=True)
class Event:
    """Something that a step has brought for one request.

    Attributes:
        request: which; if it is ``done`` now, its results or its error are there.
        piece: text that has become final, of a request with ``stream``; joined, the pieces are
            the first result's text.
    """

    request: Request
    piece: str = ""


class ContinuousBatch:
    """Decodes requests together, each of which begins and ends on its own (continuous batching).

    A request that ends makes room for the next one at once. What it gives does not depend on what
    runs beside it: it is what ``generate`` gives for its source alone, but for rounding (near
    ties) and for ``int8-dynamic``, whose decoder has one scale for all of a step's inputs.

    >>> batch = ContinuousBatch(model, max_rows=16)
    >>> request = batch.submit("a text", max_new_tokens=64)
    >>> while not batch.idle:
    ...     for event in batch.step():
    ...         if event.request.done: ...

    ``submit`` and ``cancel`` may be called from any thread, ``step`` from one at a time (it holds
    no lock of Python's while the engine runs). Other calls of the model may go on beside it.

    Args:
        model: a loaded model, which stays the caller's to close.
        max_rows: requests that run at once, at most; others wait in the order they came. Each
            takes a row of the cache, whatever its beams and samples are.

    Raises:
        InputError: ``max_rows`` below 1, or a model whose backend cannot replace rows (a
            concatenating cache, TensorRT, ONNX Runtime on a GPU).
    """

    def __init__(self, model: Seq2SeqModel, max_rows: int = 16) -> None:
        if not is_integer(max_rows) or max_rows < 1:
            raise InputError(f"max_rows must be an integer of at least 1, not {max_rows!r}")
        decoder = model.generator.continuous(int(max_rows))
        if decoder is None:
            raise InputError(
                f"{type(model.backend).__name__} cannot give a row of a running batch to another"
                " source; a bundle of 'seq2edge export' can on ONNX Runtime's CPU"
            )
        self._model, self._decoder = model, decoder
        self._entries: dict[Request, _Entry] = {}
        self._by_ticket: dict[Ticket, _Entry] = {}
        #: Requests that were cancelled before they had a row.
        self._dropped: deque[_Entry] = deque()

    @property
    def running(self) -> int:
        """Requests that have a row."""
        return self._decoder.running

    @property
    def waiting(self) -> int:
        """Requests that wait for a row."""
        return self._decoder.waiting

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do: every request has had its last event."""
        return not self._entries

    def submit(
        self,
        source: str | Sequence[int],
        config: GenerationConfig | None = None,
        *,
        stream: bool = False,
        skip_special_tokens: bool = True,
        **options: Unpack[GenerationOptions],
    ) -> Request:
        """Have a source decoded.

        All options may differ between requests. ``max_time`` counts from when a request gets its
        row.

        Args:
            source: a text, or token ids of one.
            config: as in :meth:`.Seq2SeqModel.generate`.
            stream: whether events bring its text piece by piece, as :meth:`.Seq2SeqModel.stream`
                does.
            skip_special_tokens: as in :meth:`.Seq2SeqModel.generate`.
            options: as in :meth:`.Seq2SeqModel.generate`.

        Raises:
            InputError: as ``generate``; ``prompt_lookup_num_tokens`` or ``draft_model``, which
                guess for a batch of their own; ``stream`` without a tokenizer or with several
                results. Nothing was submitted then.
        """
        call = self._model.prepared(source, config, **options)
        for name in ("prompt_lookup_num_tokens", "draft_model"):
            if getattr(call.config, name) is not None:
                raise InputError(
                    f"{name} guesses tokens for a batch of its own and cannot run beside other"
                    " requests; leave it out, or use generate"
                )
        results, detokenizer = call.config.num_return_sequences, None
        if stream:
            if results != 1:
                raise InputError(
                    f"a stream has one result: num_return_sequences={results} must be 1"
                )
            detokenizer = self._model.detokenizer(skip_special_tokens=skip_special_tokens)
        entry = _Entry(Request(), call, detokenizer, skip_special_tokens)
        self._entries[entry.request] = self._by_ticket[entry.ticket] = entry
        self._decoder.add(entry.ticket)
        return entry.request

    def cancel(self, request: Request) -> None:
        """End a request with what it has: its ``finish_reason`` is ``cancelled``.

        The next step brings its last event. One that waits has no tokens, and one that is done
        stays as it is.
        """
        entry = self._entries.get(request)
        if entry is None:
            return
        entry.cancelled = True
        if self._decoder.drop(entry.ticket):
            self._dropped.append(entry)

    def step(self) -> list[Event]:
        """Advance all that run by one token, and let those that wait have the rows that are free.

        An error of one request, of its options or of its encoder's run, is in its event and hurts
        no other. Where the decoder's run fails, all requests that ran in it have that error; those
        that waited go on.

        Returns:
            Pieces of streams and requests that are done, in no particular order; none where the
            batch is idle.
        """
        events = []
        while self._dropped:
            entry = self._dropped.popleft()
            left = Hypothesis([*entry.call.config.decoder_prefix], finish_reason=CANCELLED)
            entry.ticket.sequences = [left]
            events.append(self._ended(entry))
        for ticket in self._decoder.step():
            events.append(self._ended(self._by_ticket[ticket]))
        for entry in list(self._entries.values()):
            if entry.detokenizer is not None and entry.ticket.sequences:
                piece = entry.detokenizer.push(entry.ticket.sequences[0].token_ids)
                if piece:
                    events.append(Event(entry.request, piece))
        return events

    def close(self) -> None:
        """Forget all requests, which get no event any more, and free their memory."""
        self._decoder.clear()
        self._entries.clear()
        self._by_ticket.clear()
        self._dropped.clear()

    def _ended(self, entry: _Entry) -> Event:
        request, ticket = entry.request, entry.ticket
        del self._entries[request], self._by_ticket[ticket]
        piece, request.error = "", ticket.error
        if ticket.error is None:
            request.results = tuple(
                self._model.generations(
                    [ticket.sequences], entry.call.config, entry.skip_special_tokens
                )
            )
            if entry.detokenizer is not None:
                piece = entry.detokenizer.finish(ticket.sequences[0].token_ids)
        request.done = True
        return Event(request, piece)
