"""The service of a pack: one process that answers lines over a Unix socket."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from seq2edge.deploy.serve import server as serve
from seq2edge.deploy.serve import socket_server
from seq2edge.runtime import Bundle, Generation, OutputExistsError

from .conftest import WORDS

Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def address(demo: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a service that has told its manager that it is ready."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as killed:  # as a run that was killed leaves it
        killed.bind(os.fspath(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(os.fspath(folder / "notify"))
        manager.settimeout(60)
        process = subprocess.Popen(
            [sys.executable, serve.__file__, demo.directory, path],
            env={**os.environ, "NOTIFY_SOCKET": os.fspath(folder / "notify")},
        )
        try:
            assert manager.recv(100) == b"READY=1"
            yield path
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def ask(address: Path) -> Ask:
    """Sends lines over one connection and gives the answers."""

    def send(*lines: bytes) -> list[dict[str, Any]]:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(address))
            client.sendall(b"".join(lines))
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as answers:
                return [json.loads(line) for line in answers]

    return send


def test_a_line_is_answered_by_a_line(ask: Ask, spoken: dict[str, str]) -> None:
    answers = ask(*(f"{word}\n".encode() for word in WORDS))
    assert answers == [{"text": spoken[word], "finish_reason": "eos"} for word in WORDS]


def test_the_last_line_needs_no_end(ask: Ask, spoken: dict[str, str]) -> None:
    assert [answer["text"] for answer in ask(b"keyboard")] == [spoken["keyboard"]]


def test_a_wrong_line_leaves_the_connection_open(ask: Ask, spoken: dict[str, str]) -> None:
    empty, binary, right = ask(b"  \n", b"\xff\n", b"keyboard\r\n")
    assert "empty" in empty["error"]
    assert "UTF-8" in binary["error"]
    assert right["text"] == spoken["keyboard"]


def test_an_endless_line_is_given_up(ask: Ask) -> None:
    (answer,) = ask(b"a" * ((1 << 20) + 10))
    assert "at most" in answer["error"]


def test_connections_do_not_wait_for_one_that_is_idle(
    ask: Ask, address: Path, spoken: dict[str, str]
) -> None:
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(os.fspath(address))
        assert ask(b"keyboard\n")[0]["text"] == spoken["keyboard"]


def test_generations_run_one_after_the_other(tmp_path: Path) -> None:
    running, most = 0, 0

    class Model:
        def generate(self, text: str) -> list[Generation]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            time.sleep(0.02)
            running -= 1
            return [Generation(text, [], None, "eos")]

    model: Any = Model()
    with (
        socket_server.Server(tmp_path / "socket", model, serve.Lines) as server,
        ThreadPoolExecutor(3) as pool,
    ):
        answers = list(pool.map(lambda line: serve.answer(server, line), [b"a", b"b", b"c"]))
    assert [answer["text"] for answer in answers] == ["a", "b", "c"]
    assert most == 1


def test_every_local_user_may_ask(address: Path) -> None:
    assert stat.S_IMODE(address.stat().st_mode) == 0o666


def test_a_missing_bundle_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, serve.__file__, tmp_path / "missing", tmp_path / "socket"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"serve.py: error: no such bundle: {tmp_path / 'missing'}\n"


def test_only_a_socket_that_nobody_answers_is_replaced(address: Path, tmp_path: Path) -> None:
    """Fault: whatever lay at the socket's path was deleted."""
    file = tmp_path / "precious"
    file.write_text("precious")
    with pytest.raises(OutputExistsError, match="precious is not a socket"):
        socket_server.make_room(file)
    assert file.read_text() == "precious"
    with pytest.raises(OutputExistsError, match="a service that is running"):
        socket_server.make_room(address)
    assert address.is_socket()
