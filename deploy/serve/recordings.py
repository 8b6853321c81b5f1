"""Answer recordings over a Unix socket: a file's bytes in, a line of JSON out.

The pack of a speech bundle carries this file as it is, and its systemd unit runs it. The bundle is
loaded once; a connection is one recording, WAV or whatever else the installed packages read:

    $ nc -N -U /run/app/socket < talk.wav
    {"text": "its words", "language": "en", "segments": [{"start": 0.0, "end": 2.5, "text": ...}]}

A recording that cannot be taken is answered with ``{"error": "why"}``. Recordings are transcribed
one after the other, so memory stays that of one.
"""

from __future__ import annotations

import socketserver
import tempfile
from pathlib import Path
from typing import Any, cast

from seq2edge.deploy.serve.socket_server import Server, run_server, say
from seq2edge.runtime import InputError, Seq2EdgeError
from seq2edge.runtime.speech.model import SpeechModel

#: Bytes of the longest recording (an hour of 16 kHz 16 bit mono is 115 MB), and of one read.
_LONGEST_RECORDING, _PART = 1 << 28, 1 << 16


def answer(model: SpeechModel, recording: Any) -> dict[str, object]:
    """The transcription of an open file, or an error."""
    try:
        found = model.transcribe(recording)
    except Seq2EdgeError as error:
        return {"error": str(error)}
    segments = [{"start": s.start, "end": s.end, "text": s.text} for s in found.segments]
    return {"text": found.text, "language": found.language, "segments": segments}


class Recording(socketserver.StreamRequestHandler):
    """A connection that sends one recording."""

    def handle(self) -> None:
        try:
            # On disk: a slow client must not keep a recording in memory while it sends.
            with tempfile.TemporaryFile() as file:
                size = 0
                while part := self.rfile.read1(_PART):
                    size += len(part)
                    if size > _LONGEST_RECORDING:
                        error = InputError(f"a recording has at most {_LONGEST_RECORDING} bytes")
                        say(self.wfile, {"error": str(error)})
                        return
                    file.write(part)
                file.seek(0)
                server = cast("Server[SpeechModel]", self.server)
                with server.turn:
                    found = answer(server.model, file)
            say(self.wfile, found)
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever asked has gone


def load(bundle: Path, backend: str, device: str | None) -> SpeechModel:
    """The model of a bundle."""
    return SpeechModel.load(bundle, backend=backend, device=device)


if __name__ == "__main__":
    run_server(__doc__ or "", load, Recording)
