"""Answer texts over a Unix socket: a line of text in, a line of JSON out.

A pack carries this file as it is, and its systemd unit runs it. The bundle is loaded once.
A connection may ask as often as it likes:

    $ echo "a text" | nc -N -U /run/app/socket
    {"text": "its result", "finish_reason": "eos"}

A text that cannot be taken is answered with ``{"error": "why"}``, and the connection goes on.
Generations run one after the other, so memory stays that of one.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
from pathlib import Path
from typing import cast

from seq2edge.deploy.serve.socket_server import Server, run_server, say
from seq2edge.runtime import InputError, Seq2EdgeError, Seq2SeqModel

#: Bytes of the longest line; what is longer ends the connection.
_LONGEST_LINE = 1 << 20

#: How long and how often to go on reading what follows such a line, in seconds and reads.
_PATIENCE, _MOST_PARTS = 1.0, 1000


def answer(server: Server[Seq2SeqModel], line: bytes) -> dict[str, object]:
    """The answer to one line: text and finish reason, or an error."""
    try:
        text = line.decode()
        if not text.strip():
            raise InputError("the text is empty")
        with server.turn:
            generation = server.model.generate(text)[0]
    except UnicodeDecodeError:
        return {"error": "the line is not UTF-8"}
    except Seq2EdgeError as error:
        return {"error": str(error)}
    found: dict[str, object] = {"text": generation.text, "finish_reason": generation.finish_reason}
    return found if generation.score is None else {**found, "score": generation.score}


class Lines(socketserver.StreamRequestHandler):
    """A connection that asks line by line."""

    def handle(self) -> None:
        try:
            while line := self.rfile.readline(_LONGEST_LINE):
                if not line.endswith(b"\n") and len(line) == _LONGEST_LINE:
                    say(self.wfile, {"error": f"a line has at most {_LONGEST_LINE} bytes"})
                    self._read_the_rest()
                    return
                server = cast("Server[Seq2SeqModel]", self.server)
                say(self.wfile, answer(server, line.rstrip(b"\r\n")))
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


def load(bundle: Path, backend: str, device: str | None) -> Seq2SeqModel:
    """The model of a bundle."""
    return Seq2SeqModel.load(bundle, backend=backend, device=device)


if __name__ == "__main__":
    run_server(__doc__ or "", load, Lines)
