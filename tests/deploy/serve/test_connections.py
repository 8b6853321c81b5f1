"""Clients that do nothing, or do it slowly, take the service from nobody."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.requests import ClientDisconnect
from uvicorn.server import ServerState

from seq2edge.deploy.serve.connections import Connections
from seq2edge.deploy.serve.errors import as_api_error
from seq2edge.deploy.serve.metrics import Metrics
from seq2edge.deploy.serve.settings import Limits
from seq2edge.runtime import Bundle

from .process import ServerProcess
from .test_load import wait_until


@pytest.fixture(scope="module")
def crowded(demo: Bundle) -> Iterator[ServerProcess]:
    """A service whose process may have 400 files."""
    with ServerProcess(demo.directory, "--max-connections", "1000", files=400) as process:
        yield process


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def test_a_client_that_goes_while_it_sends_is_no_error_of_the_service() -> None:
    """Found by mutated requests: it was counted as a 500."""
    assert as_api_error(ClientDisconnect()).status == 499


def test_a_thousand_idle_clients_do_not_stop_others(
    crowded: ServerProcess, spoken: dict[str, str]
) -> None:
    """Fault: each idle connection was a thread, and no new client was answered."""
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connect(crowded))
        found = crowded.generate("keyboard").json()
        assert found["results"][0]["text"] == spoken["keyboard"]
        assert crowded.metric("seq2edge_connections") <= 400 - 128
        assert crowded.metric("seq2edge_connections_closed_total", reason="idle") >= 600
    assert any("at most 272 connections" in line["message"] for line in crowded.lines)


@contextlib.contextmanager
def stopped(server: ServerProcess) -> Iterator[None]:
    """What connects meanwhile is accepted at once, before anything is read of the first."""
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def test_connections_that_work_are_not_closed_for_new_ones(crowded: ServerProcess) -> None:
    body = json.dumps({"text": "keyboard", "min_new_tokens": 1000, "max_new_tokens": 1000}).encode()
    head = f"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        with stopped(crowded):
            working = stack.enter_context(connect(crowded))
            working.sendall(head.encode() + body)
            for _ in range(400):
                stack.enter_context(connect(crowded))
        assert working.recv(100).startswith(b"HTTP/1.1 200")


def drip(client: socket.socket, parts: list[bytes], pause: float) -> bytes:
    """Send parts slowly until the service has enough; what it says."""
    client.settimeout(pause)
    said = b""
    for part in parts:
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            client.sendall(part)
            received = client.recv(4096)
            said += received
            if not received:
                break
    return said


@pytest.fixture(scope="module")
def impatient(demo: Bundle) -> Iterator[ServerProcess]:
    """A service with short limits of time, which have no options."""
    code = (
        "import sys; from pathlib import Path;"
        "from seq2edge.deploy.serve.logs import log_as_json;"
        "from seq2edge.deploy.serve.run import run_service;"
        "from seq2edge.deploy.serve.settings import Limits, Settings;"
        "log_as_json('info');"
        "limits = Limits(header_timeout=0.6, body_timeout=0.6, write_timeout=0.6, keep_alive=1,"
        " max_new_tokens=100000, max_body=8 << 20);"
        "run_service(Settings(port=0, limits=limits), {'g2p': Path(sys.argv[1])})"
    )
    with ServerProcess.of_code(code, demo.directory) as process:
        yield process


def test_slow_clients_are_given_up(impatient: ServerProcess) -> None:
    """Slow headers, and slow bodies."""
    with connect(impatient) as slow:
        assert drip(slow, head_of(100), 0.2) == b""
    assert impatient.metric("seq2edge_connections_closed_total", reason="slow headers") >= 1
    with connect(impatient) as slow:
        head = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        assert drip(slow, [head, b"{", b" ", b" "], 1.0).startswith(b"HTTP/1.1 408")
    # A second request on the same connection may not be slow either.
    with connect(impatient) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in slow.recv(4096)
        assert b"HTTP" not in drip(slow, head_of(100), 0.2)


def head_of(lines: int) -> list[bytes]:
    return [b"GET /health HTTP/1.1\r\n", *[b"X-%d: 1\r\n" % n for n in range(lines)]]


def test_a_client_that_does_not_read_is_given_up(impatient: ServerProcess) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", impatient.port))
        client.settimeout(30)
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000)
        wait_until(
            lambda: impatient.metric("seq2edge_connections_closed_total", reason="slow reader") > 0,
            "it is given up",
        )


def test_idle_connections_end_after_a_while(impatient: ServerProcess) -> None:
    with connect(impatient) as idle, connect(impatient) as kept:
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(100) == b""
        with kept.makefile("rb") as answer:  # to its end
            assert answer.read().startswith(b"HTTP/1.1 200 OK")


def test_a_body_of_two_lengths_is_refused(impatient: ServerProcess) -> None:
    """What a proxy before the service takes for the next request may be this one's body."""
    lengths = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    head = f"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\n{lengths}\r\n"
    hidden = "0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(impatient) as client:
        client.sendall(head.encode() + hidden.encode())
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"not both" in answer
    assert answer.count(b"HTTP/1.1") == 1  # and the connection is closed


def test_little_is_read_from_a_connection_at_once() -> None:
    """Others wait while it is parsed, and chunks of a byte take a thousand times a file's time."""
    sizes: list[int] = []
    done = asyncio.Event()
    body = b"1\r\n \r\n" * 40_000

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        done.set()

    class Seen(Connections(Limits(), Metrics()).protocol()):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            sizes.append(len(data))
            super().data_received(data)

    async def run() -> None:
        config = uvicorn.Config(app, log_config=None)
        config.load()
        made = functools.partial(Seen, config=config, server_state=ServerState(), app_state={})
        server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + body + b"0\r\n\r\n")
        await asyncio.wait_for(done.wait(), 30)
        writer.close()
        server.close()

    asyncio.run(run())
    assert sum(sizes) > len(body)
    assert max(sizes) <= 1 << 14


def test_what_is_no_http_is_refused(impatient: ServerProcess) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"x" * 100_000):
        with connect(impatient) as client, contextlib.suppress(ConnectionError):
            client.sendall(sent)
            assert client.recv(4096)[:12] in (b"HTTP/1.1 400", b"")
    assert impatient.get("/health").status_code == 200
