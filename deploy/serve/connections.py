"""Connections that may not stay for ever: idle ones, slow writers of headers, slow readers.

uvicorn limits how long a connection is kept alive between requests, and nothing else; its
``limit_concurrency`` counts idle connections too, so those would take the service away from others.
Here each connection has one timer, for whatever it is waited for, and where there are too many the
one that has been idle for longest makes room.
"""

from __future__ import annotations

import asyncio
import itertools
import select
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .metrics import Metrics
from .settings import Limits

#: Bytes.
_READ_AT_ONCE = 16 << 10
#: Idle connections of which one is looked for that may go: each look is a system call.
_LOOKED_AT = 64
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\n\r\ntoo many connections\n"
)


class Connections:
    """All open connections of a service.

    Args:
        limits: how many, and how long.
        metrics: are counted up.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self._metrics = metrics
        self._open: set[GuardedProtocol] = set()
        #: Those on which nothing is asked, the longest first.
        self._idle: dict[GuardedProtocol, None] = {}
        metrics.connections.set_function(lambda: len(self._open))

    def protocol(self) -> type[GuardedProtocol]:
        """The protocol class for uvicorn's ``http``."""
        return type("ServiceProtocol", (GuardedProtocol,), {"all": self})

    def opened(self, connection: GuardedProtocol) -> bool:
        """Take a new one; False: there is no room, even without the idle ones."""
        if len(self._open) >= self.limits.max_connections:
            longest = itertools.islice(self._idle, _LOOKED_AT)
            oldest = next((one for one in longest if not one.has_unread), None)
            if oldest is None:
                self._metrics.connections_closed.labels("too many").inc()
                return False
            oldest.end("idle")
            self.closed(oldest)
        self._open.add(connection)
        self._idle[connection] = None
        return True

    def closed(self, connection: GuardedProtocol) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def idle(self, connection: GuardedProtocol) -> None:
        self._idle[connection] = None

    def busy(self, connection: GuardedProtocol) -> None:
        self._idle.pop(connection, None)

    def count(self, reason: str) -> None:
        self._metrics.connections_closed.labels(reason).inc()


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with a time limit for headers and for clients that do not read."""

    all: Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def has_unread(self) -> bool:
        """Whether the client has sent what the loop has not handed over yet.

        Where many connect at once, all of them are accepted before anything is read.
        """
        found = self.transport.get_extra_info("socket")
        if found is None or found.fileno() < 0:
            return False
        watch = select.poll()
        watch.register(found.fileno(), select.POLLIN | select.POLLRDHUP)
        return [event for _, event in watch.poll(0)] == [select.POLLIN]

    def end(self, reason: str) -> None:
        """Close at once, whatever is not sent yet."""
        self.all.count(reason)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        # What is read at once is parsed at once, while all others wait; of tiny chunks there can be
        # ten thousand in asyncio's own 256 KiB.
        transport.max_size = _READ_AT_ONCE  # type: ignore[attr-defined]
        super().connection_made(transport)
        if not self.all.opened(self):
            transport.write(_REFUSAL)
            transport.close()
            self.loop.call_later(1, transport.abort)
            return
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel(headers=True, write=True)
        self.all.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._cancel(headers=True)
        if self.transport.is_closing() and self._unsent():
            self._watch_reader()
        if self._waits_for_request():
            self.all.idle(self)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self._unsent():
            self._watch_reader()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel(write=True)

    def _waits_for_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _unsent(self) -> bool:
        return bool(self.transport.get_write_buffer_size())

    def _look(self) -> None:
        """After something was read: a request is there, or its headers go on."""
        if self.transport.is_closing():
            return
        if self._waits_for_request():
            self._watch_headers()
        else:
            self._cancel(headers=True)
            self.all.busy(self)

    def _watch_headers(self) -> None:
        """From the first byte (or from the connection) on; what follows does not prolong it."""
        if self._headers_timer is None:
            seconds = self.all.limits.header_timeout
            self._headers_timer = self.loop.call_later(seconds, self.end, "slow headers")

    def _watch_reader(self) -> None:
        if self._write_timer is None:
            seconds = self.all.limits.write_timeout
            self._write_timer = self.loop.call_later(seconds, self.end, "slow reader")

    def _cancel(self, *, headers: bool = False, write: bool = False) -> None:
        if headers and self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None
        if write and self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
