"""Answer texts over a Unix socket: a line of text in, a line of JSON out.

A pack carries this file as it is, and its systemd unit runs it. The bundle is loaded once.
A connection may ask as often as it likes:

    $ echo "a text" | nc -N -U /run/app/socket
    {"text": "its result", "finish_reason": "eos"}

A text that cannot be taken is answered with ``{"error": "why"}``, and the connection goes on.
Generations run one after the other, so memory stays that of one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import socketserver
import threading
from pathlib import Path

from seq2edge.runtime import InputError, OutputExistsError, Seq2EdgeError, Seq2SeqModel

#: Bytes of the longest line; what is longer ends the connection.
_LONGEST_LINE = 1 << 20

#: How long and how often to go on reading what follows such a line, in seconds and reads.
_PATIENCE, _MOST_PARTS = 1.0, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("socket", type=Path, help="the socket's path; every local user may use it")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--device", help="default: the engine's own")
    options = parser.parse_args()
    try:
        make_room(options.socket)
        model = Seq2SeqModel.load(options.bundle, backend=options.backend, device=options.device)
    except Seq2EdgeError as error:
        raise SystemExit(f"serve.py: error: {error}") from None
    with model, Server(options.socket, model) as server:
        notify_ready()
        server.serve_forever()


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A thread for each connection."""

    daemon_threads = True

    def __init__(self, path: Path, model: Seq2SeqModel) -> None:
        self._model = model
        self._one_at_a_time = threading.Lock()
        make_room(path)
        super().__init__(os.fspath(path), _Connection)
        path.chmod(0o666)

    def answer(self, line: bytes) -> dict[str, object]:
        """The answer to one line: text and finish reason, or an error."""
        try:
            text = line.decode()
            if not text.strip():
                raise InputError("the text is empty")
            with self._one_at_a_time:
                generation = self._model.generate(text)[0]
        except UnicodeDecodeError:
            return {"error": "the line is not UTF-8"}
        except Seq2EdgeError as error:
            return {"error": str(error)}
        answer: dict[str, object] = {
            "text": generation.text,
            "finish_reason": generation.finish_reason,
        }
        return answer if generation.score is None else {**answer, "score": generation.score}


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


class _Connection(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        try:
            while line := self.rfile.readline(_LONGEST_LINE):
                if not line.endswith(b"\n") and len(line) == _LONGEST_LINE:
                    self._say({"error": f"a line has at most {_LONGEST_LINE} bytes"})
                    self._read_the_rest()
                    return
                self._say(self.server.answer(line.rstrip(b"\r\n")))
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever asked has gone

    def _read_the_rest(self) -> None:
        """Closing a connection with bytes that nobody has read would take the answer back."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(_PATIENCE)
        with contextlib.suppress(TimeoutError):
            for _ in range(_MOST_PARTS):
                if not self.rfile.read1(_LONGEST_LINE):
                    return

    def _say(self, answer: dict[str, object]) -> None:
        self.wfile.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")


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


if __name__ == "__main__":
    main()
