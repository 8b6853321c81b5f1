"""Run a service: sockets, signals, and an end at which nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from seq2edge.runtime.errors import BackendError, OutputExistsError

from .app import build_app
from .connections import Connections
from .service import THREAD_SECONDS, Service
from .settings import Limits, Settings

_log = logging.getLogger(__name__)

#: File descriptors that are no connections: models, sockets, recordings on disk.
_OTHER_FILES = 128
#: Bytes of a request's headers.
_LONGEST_HEADERS = 16 << 10
_BACKLOG = 1024
#: Seconds for connections that still send when all is answered, and for all of the end.
_LAST_BYTES, _AFTER_DRAIN = 5, 10
#: Beside those that uvicorn takes: a terminal that is closed, and Ctrl-\.
_MORE_SIGNALS = (signal.SIGHUP, signal.SIGQUIT)


def run_service(settings: Settings, bundles: Mapping[str, Path], **options: Any) -> None:
    """Load bundles and answer until the process is told to end.

    SIGTERM (or SIGINT, SIGHUP, SIGQUIT) lets what was accepted be finished, for ``drain_timeout``
    seconds, and refuses what is new; a second one ends at once.

    Args:
        settings: where and how.
        bundles: by the names that requests call them.
        options: of :meth:`seq2edge.runtime.Seq2SeqModel.load`.

    Raises:
        InputError: a bundle that this service cannot use.
        BundleError, BackendError: one cannot be loaded, or the address cannot be used.
        OutputExistsError: the Unix socket's path is a file, or of a service that answers.
    """
    settings = replace(settings, limits=_within_files(settings.limits))
    opened = open_socket(settings)  # before the models: a port in use is known at once
    try:
        service = Service(settings)
        service.load(bundles, **options)
        asyncio.run(_serve(service, opened))
    finally:
        opened.close()
        if settings.unix_socket is not None:
            Path(settings.unix_socket).unlink(missing_ok=True)


async def _serve(service: Service, opened: socket.socket) -> None:
    settings, limits = service.settings, service.limits
    config = uvicorn.Config(
        build_app(service),
        loop="asyncio",
        http=Connections(limits, service.metrics).protocol(),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(limits.keep_alive),
        timeout_graceful_shutdown=_LAST_BYTES,
        h11_max_incomplete_event_size=_LONGEST_HEADERS,
        backlog=_BACKLOG,
    )
    wyoming = None
    if settings.wyoming is not None:
        from .wyoming_server import WyomingServer

        wyoming = WyomingServer(service, *settings.wyoming)
    service.start()
    try:
        if wyoming is not None:
            await wyoming.start()
        server = _Server(config, service)
        await server.serve(sockets=[opened])
    finally:
        if wyoming is not None:
            await wyoming.stop()
        service.stop()
    _log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn's server, which drains before it stops."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        for number in _MORE_SIGNALS:
            self._loop.add_signal_handler(number, self.handle_exit, number, None)
        where = [_address(opened) for opened in sockets or ()]
        _log.info("ready", extra={"addresses": where, "models": list(self._service.models)})
        notify("READY=1")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """In the handler of a signal. uvicorn would raise it again when all is done."""
        if self._loop is None or self._service.draining:
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        self._loop.call_soon_threadsafe(self._begin_to_drain)

    def _begin_to_drain(self) -> None:
        self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        """Wait for what was accepted; the listening socket stays, to say that nothing new is."""
        service = self._service
        seconds = service.limits.drain_timeout
        _log.info("draining", extra={"requests": service.active})
        # systemd kills what takes longer than TimeoutStopSec, whatever drain_timeout is here.
        whole = seconds + _AFTER_DRAIN + len(service.models) * THREAD_SECONDS
        notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={whole * 1e6:.0f}")
        until = asyncio.get_running_loop().time() + seconds
        while service.active and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.05)
        if service.active:
            cut = service.cut_off()
            _log.warning("what was left after %g s was cut off", seconds, extra={"requests": cut})
            await asyncio.sleep(0.2)  # its clients are told
        self.should_exit = True


def open_socket(settings: Settings) -> socket.socket:
    """The listening socket.

    Raises:
        BackendError: the address cannot be used.
        OutputExistsError: the path of a Unix socket is taken.
    """
    if settings.unix_socket is not None:
        path = Path(settings.unix_socket)
        make_room(path)
        opened = socket.socket(socket.AF_UNIX)
        try:
            opened.bind(os.fspath(path))
        except OSError as error:
            opened.close()
            raise BackendError(f"cannot listen at {path}: {error.strerror or error}") from None
        path.chmod(0o666)  # every local user may ask; the folder's mode may say otherwise
        return opened
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        opened = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise BackendError(f"cannot listen at {host}:{port}: {error.strerror or error}") from None
    # Its connections inherit it. asyncio sets it where a socket names its protocol, which this one
    # does not: the second part of a response waited up to 40 ms for the client's acknowledgement.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def make_room(path: Path) -> None:
    """Remove the socket of a run that was killed, and nothing else.

    Raises:
        OutputExistsError: another file, or a service that answers.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_socket():
        raise OutputExistsError(f"{path} is not a socket; choose another name")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OutputExistsError(f"{path} is the socket of a service that is running; choose another")


def notify(state: str) -> None:
    """Tell systemd how the service is (sd_notify(3)); nothing where it did not start us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract names start with a zero byte
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.connect(address)
        manager.sendall(state.encode())


def _within_files(limits: Limits) -> Limits:
    """As many connections as the process may have files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.max_connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(1, min(limits.max_connections, soft - _OTHER_FILES))
    if soft == resource.RLIM_INFINITY or most == limits.max_connections:
        return limits
    _log.warning("at most %d connections: the process may have %d files", most, soft)
    return replace(limits, max_connections=most)


def _address(opened: socket.socket) -> str:
    name = opened.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"
