"""What every request passes: it is counted and logged, let in or not, and its body is bounded."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seq2edge.runtime import Seq2SeqModel, SpeechModel

from .errors import ApiError, as_api_error, error_response, stopping
from .keys import bearer

if TYPE_CHECKING:
    from .service import Service

_log = logging.getLogger("seq2edge.deploy.serve.requests")

#: What may be asked without a key, and while the service drains.
_OPEN = ("/health", "/ready")
#: Its key may stand in the body, where the route looks for it.
_KEY_IN_BODY = ("/translate",)
#: Recordings come here; a full queue is answered before they are read.
AUDIO = "/v1/audio/"
#: Texts come here; a full queue is answered before they are looked at.
_TEXT = ("/v1/generate", "/translate")
#: How much of a body that nobody wants is still read, in bytes and seconds: a connection that is
#: closed with unread bytes takes the response back.
_LINGER_BYTES, _LINGER_SECONDS = 32 << 20, 2.0


class Gate:
    """The outermost ASGI application.

    Args:
        app: answers what is let in.
        service: whose limits, keys and metrics are used.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service, path = self._service, scope["path"]
        exchange = _Exchange(scope, receive, send, service)
        service.active += path not in _OPEN
        try:
            try:
                self._check(scope, path)
                if path in _TEXT and self._is_admitted(scope) and service.refuses(Seq2SeqModel):
                    await exchange.skip_body()
                    raise service.overloaded(Seq2SeqModel)
                await self._app(scope, exchange.receive, exchange.send)
            except ClientDisconnect:
                pass
            except Exception as error:
                if not isinstance(error, ApiError):
                    _log.exception("a request failed", extra={"path": path})
                if exchange.is_complete:
                    return  # Starlette has answered it
                if exchange.status:
                    raise  # half of a response: the connection is closed
                response = error_response(path, as_api_error(error))
                await response(scope, exchange.receive, exchange.send)
        finally:
            service.active -= path not in _OPEN
            exchange.count()

    def _check(self, scope: Scope, path: str) -> None:
        """Refuse before anything of the body is read."""
        service, headers = self._service, Headers(scope=scope)
        if path in _OPEN:
            return
        if service.local_only and not is_loopback(_host(headers.get("host", ""))):
            raise ApiError(
                403,
                f"the request is for {headers.get('host')!r}, and without API keys this service"
                " answers those for localhost only (or all, with --without-keys)",
            )
        if service.local_only:
            _check_origin(headers.get("origin"))
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy before this service may have read the other one (request smuggling).
            raise ApiError(400, "a request has a Content-Length or a Transfer-Encoding, not both")
        if service.draining and path != "/metrics":
            raise stopping()
        if not self._is_admitted(scope) and (
            path not in _KEY_IN_BODY or bearer(headers.get("authorization")) is not None
        ):
            raise no_key()
        most = service.limits.max_audio_body if path.startswith(AUDIO) else service.limits.max_body
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise _too_large(most)
        if path.startswith(AUDIO) and service.refuses(SpeechModel):
            raise service.overloaded(SpeechModel)

    def _is_admitted(self, scope: Scope) -> bool:
        """Whether no key is needed, or the headers have one that is known."""
        return self._service.keys.admits(bearer(Headers(scope=scope).get("authorization")))


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is of this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_origin(origin: str | None) -> None:
    """Refuse a web page from elsewhere: it could not read the answer, and still have work done.

    Raises:
        ApiError: the page is not of this machine. What is no web page has no origin, or one of
            another scheme, as browser extensions have.
    """
    if origin is None or (origin != "null" and not origin.startswith(("http://", "https://"))):
        return
    if not is_loopback(_host(origin.partition("://")[2])):
        raise ApiError(
            403,
            f"the request is of a web page from {origin}, and without API keys this service"
            " answers those of this machine only (or all, with --without-keys)",
        )


def _host(header: str) -> str:
    """The host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def no_key() -> ApiError:
    return ApiError(
        401,
        "an API key is needed: 'Authorization: Bearer KEY'",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the request's body has more than {most} bytes")


class _Exchange:
    """One request and its response, which are watched."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, service: Service) -> None:
        self._scope, self._receive, self._send, self._service = scope, receive, send, service
        limits = service.limits
        path = scope["path"]
        self._most = limits.max_audio_body if path.startswith(AUDIO) else limits.max_body
        self._started = time.monotonic()
        self._read = 0
        self._whole = False
        self.status = 0
        self.is_complete = False

    async def receive(self) -> Message:
        """The next part of the body; the end of the connection after it.

        Raises:
            ApiError: it is too large, or too slow, or the service ends before it is there.
        """
        if self._whole:
            return await self._receive()
        limits, parts = self._service.limits, self._service.parts
        left = self._started + limits.timeout - time.monotonic()
        part = asyncio.ensure_future(self._receive())
        parts.add(part)
        try:
            await asyncio.wait({part}, timeout=max(0.0, min(limits.body_timeout, left)))
            if part.cancelled():
                raise stopping()
            if not part.done():
                raise ApiError(408, "the request's body came too slowly")
            message = part.result()
        finally:
            parts.discard(part)
            part.cancel()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._read > self._most:
                raise _too_large(self._most)
        else:
            self._whole = True
        return message

    async def skip_body(self) -> None:
        """Read all of it, so that the connection may be kept.

        Raises:
            ApiError: as of ``receive``.
            ClientDisconnect: the client has gone.
        """
        while not self._whole:
            if (await self.receive())["type"] == "http.disconnect":
                raise ClientDisconnect

    async def send(self, message: Message) -> None:
        """Send on. A response to a body that was not read whole ends the connection, gently."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            close = (b"connection", b"close")
            if not self._is_read() and close not in message["headers"]:
                message = {**message, "headers": [*message["headers"], close]}
        elif not message.get("more_body", False) and not self._is_read():
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)
        if message["type"] == "http.response.body":
            self.is_complete = not message.get("more_body", False)

    def _is_read(self) -> bool:
        """Whether nothing of the body is to come, as far as its headers say."""
        if self._whole:
            return True
        headers = Headers(scope=self._scope)
        return "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"

    async def _linger(self) -> None:
        until, most = time.monotonic() + _LINGER_SECONDS, _LINGER_BYTES
        while most > 0:
            try:
                message = await asyncio.wait_for(
                    self._receive(), max(0.0, until - time.monotonic())
                )
            except asyncio.TimeoutError:
                return
            if message["type"] != "http.request" or not message.get("more_body", False):
                return
            most -= len(message.get("body", b""))

    def count(self) -> None:
        seconds = time.monotonic() - self._started
        endpoint, service = self._endpoint(), self._service
        status = self.status or 499
        service.metrics.requests.labels(endpoint, str(status)).inc()
        service.metrics.request_seconds.labels(endpoint).observe(seconds)
        if status == 429:
            service.metrics.refused_seconds.observe(seconds)
        _log.log(
            logging.DEBUG if endpoint in (*_OPEN, "/metrics") else logging.INFO,
            "%s %s: %s",
            self._scope["method"],
            endpoint,
            status,
            extra={
                "method": self._scope["method"],
                "endpoint": endpoint,
                "status": status,
                "seconds": round(seconds, 4),
                "bytes_read": self._read,
                "client": (self._scope.get("client") or ("unix", 0))[0],
            },
        )

    def _endpoint(self) -> str:
        """The path, or of one that is none of ours a word: labels must not grow without end."""
        path: str = self._scope["path"]
        if path in self._service.paths:
            return path
        return "/v1/models/MODEL" if path.startswith("/v1/models/") else "other"
