"""A speech bundle as a Python model of NVIDIA's Triton Inference Server.

``seq2edge triton`` puts a copy of this file beside the bundle, as ``model.py``. A request is a
recording: the bytes of a WAV file (or of whatever else the installed packages read), or a data URL
of them. Its options are the fields of TranscriptionOptions. Requests take turns: streamed ones get
a response for each segment.
"""

from __future__ import annotations

import base64
import io
import json
from collections import deque
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seq2edge.deploy.triton.numpy_support import check_numpy
from seq2edge.deploy.triton.requests import TritonRequest, text_tensor, with_errors_sent
from seq2edge.runtime import InputError
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.options import TEXT_OPTIONS, TranscriptionOptions, options_of
from seq2edge.runtime.speech.segment_stream import SegmentStream
from seq2edge.runtime.speech.transcription import Segment

_NO_TEXTS = {spec.name for spec in fields(TranscriptionOptions)} - TEXT_OPTIONS


class TritonPythonModel:
    """The model that Triton calls; one instance is one process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle beside this file. A failure is the model's state ``UNAVAILABLE``."""
        check_numpy()
        parameters = json.loads(args["model_config"])["parameters"]
        strings = {key: value["string_value"] for key, value in parameters.items()}
        self._model = SpeechModel.load(
            Path(__file__).with_name("bundle"),
            backend=strings.get("backend", "onnxruntime"),
            device=strings.get("device"),
        )

    def execute(self, requests: list[Any]) -> None:
        """Answer all requests, each through its own sender, a segment of each in turn."""
        running: deque[tuple[_Request, SegmentStream]] = deque()
        for source in requests:
            request = _Request(source, source.get_response_sender())
            stream = with_errors_sent(request, self._start, request)
            if stream is not None:
                running.append((request, stream))
        while running:
            request, stream = running.popleft()
            if with_errors_sent(request, _advance, request, stream):
                running.append((request, stream))
            else:
                stream.close()

    def finalize(self) -> None:
        """Free the engine."""
        self._model.close()

    def _start(self, request: _Request) -> SegmentStream:
        request.stream = bool(request.value("stream", False))
        audio = io.BytesIO(_recording(bytes(request.value("audio"))))
        options = options_of(request.options(_NO_TEXTS))
        return self._model.segments(audio, options, cancelled=lambda: request.cancelled)


@dataclass
class _Request(TritonRequest):
    """A request for the text of a recording."""

    stream: bool = False


def _advance(request: _Request, stream: SegmentStream) -> bool:
    """Take the next segment; False at the end, which is a response of its own."""
    if request.end_if_cancelled():
        return False
    segment = next(stream, None)
    if segment is None:
        found = stream.result
        whole = [] if request.stream else found.segments
        tensors = [
            text_tensor("text_output", "" if request.stream else found.text),
            text_tensor("segments", json.dumps([_plain(s) for s in whole], ensure_ascii=False)),
            text_tensor("language", found.language or ""),
        ]
        request.send(tensors, final=True)
        return False
    if request.stream:
        plain = json.dumps([_plain(segment)], ensure_ascii=False)
        request.send([text_tensor("text_output", segment.text), text_tensor("segments", plain)])
    return True


def _recording(audio: bytes) -> bytes:
    """The file's bytes: ``audio``, or what it holds as a data URL (RFC 2397), for JSON.

    Raises:
        InputError: a data URL that is not base64.
    """
    if not audio.startswith(b"data:"):
        return audio
    kind, _, data = audio.partition(b",")
    try:
        if not kind.endswith(b";base64"):
            raise ValueError
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise InputError("audio is a data URL that is not base64") from None


def _plain(segment: Segment) -> dict[str, Any]:
    plain: dict[str, Any] = {"start": segment.start, "end": segment.end, "text": segment.text}
    if segment.words is not None:
        plain["words"] = [
            {"start": w.start, "end": w.end, "word": w.word, "probability": w.probability}
            for w in segment.words
        ]
    return plain
