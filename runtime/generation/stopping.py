"""When a sequence ends, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

#: ``Generation.finish_reason``: an end token, ``max_new_tokens``, one of ``stop_strings``,
#: ``max_time``, or the caller's own cancellation.
EOS, LENGTH, STOP_STRING, TIME, CANCELLED = "eos", "length", "stop_string", "time", "cancelled"

#: Tokens looked at beyond one for each byte of the longest stop string: special tokens have
#: no text.
_SPARE_TOKENS = 8


class StoppingRule:
    """The rules of one batch.

    Args:
        eos: tokens any of which ends a sequence.
        stop_strings: texts any of which ends a sequence.
        decode: token ids to text, for the stop strings.
        max_time: seconds from now; None: no limit.
        cancelled: polled once a step; None: never.
    """

    def __init__(
        self,
        eos: Sequence[int],
        *,
        stop_strings: Sequence[str] = (),
        decode: Callable[[Sequence[int]], str] | None = None,
        max_time: float | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self._eos = frozenset(eos)
        self._strings = tuple(stop_strings)
        self._tail = _SPARE_TOKENS + max((len(s.encode()) for s in self._strings), default=0)
        self._decode = decode
        self._deadline = None if max_time is None else time.monotonic() + max_time
        self._cancelled = cancelled

    def interrupted(self) -> str | None:
        """Why every sequence must end now, if so. To be asked once a step."""
        if self._cancelled is not None and self._cancelled():
            return CANCELLED
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return TIME
        return None

    def reason_after(self, tokens: Sequence[int], token: int) -> str | None:
        """:meth:`reason` of ``tokens`` and one more; they are put together only if need be."""
        if token in self._eos:
            return EOS
        return self.reason([*tokens[-self._tail :], token]) if self._strings else None

    def reason(self, tokens: Sequence[int]) -> str | None:
        """Why a sequence ends with the last of ``tokens``, if it does."""
        if tokens[-1] in self._eos:
            return EOS
        if self._strings and self._decode is not None:
            text = self._decode(tokens[-self._tail :])
            found = [string for string in self._strings if string in text]
            if found:
                # Only what the last token completes: a prefix may hold the string already.
                before = self._decode(tokens[-self._tail : -1])
                if any(text.count(string) > before.count(string) for string in found):
                    return STOP_STRING
        return None
