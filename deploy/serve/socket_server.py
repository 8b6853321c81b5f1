"""What both services of a pack are: one loaded model behind a Unix socket."""

from __future__ import annotations

import argparse
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Generic, TypeVar

from seq2edge.runtime import OutputExistsError, Seq2EdgeError

M = TypeVar("M", bound=AbstractContextManager[Any])


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer, Generic[M]):
    """A thread for each connection, and a model that they take turns with.

    Attributes:
        model: the loaded model.
        turn: held while the model works, so that memory stays that of one call.
    """

    daemon_threads = True

    def __init__(
        self, path: Path, model: M, connection: type[socketserver.StreamRequestHandler]
    ) -> None:
        self.model = model
        self.turn = threading.Lock()
        make_room(path)
        super().__init__(os.fspath(path), connection)
        path.chmod(0o666)


def run_server(
    description: str,
    load: Callable[[Path, str, str | None], M],
    connection: type[socketserver.StreamRequestHandler],
) -> None:
    """The program: load a bundle and answer until it is stopped.

    Args:
        description: its documentation; the first line is its help.
        load: from a bundle's folder, a backend's name and a device to the model.
        connection: answers those who connect.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("socket", type=Path, help="the socket's path; every local user may use it")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--device", help="default: the engine's own")
    options = parser.parse_args()
    try:
        make_room(options.socket)
        model = load(options.bundle, options.backend, options.device)
    except Seq2EdgeError as error:
        raise SystemExit(f"serve.py: error: {error}") from None
    with model, Server(options.socket, model, connection) as server:
        notify_ready()
        server.serve_forever()


def say(file: BufferedIOBase, answer: dict[str, object]) -> None:
    """Send a line of JSON."""
    file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")


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


def notify_ready() -> None:
    """Tell systemd that the model is loaded (sd_notify(3)); nothing where it did not start us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract names start with a zero byte
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(address)
        notify.sendall(b"READY=1")
