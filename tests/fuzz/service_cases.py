"""Requests of a service, of Triton and of the Wyoming protocol, each answered in this process."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import itertools
import json
import logging
import random
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from .kind import Case, Kind
from .mutations import BAD, mutate_bytes, mutate_json

_BOUNDARY = "a-boundary"
OPTIONS: dict[str, Any] = {
    **{"num_beams": 2, "max_new_tokens": 4, "do_sample": True, "temperature": 0.5, "top_k": 3},
    **{"top_p": 0.9, "seed": 1, "stop_strings": ["x"], "length_penalty": 1.0, "min_length": 1},
    **{"num_return_sequences": 1, "repetition_penalty": 1.1, "no_repeat_ngram_size": 2},
    **{"suppress_tokens": [3], "bad_words_ids": [[4]], "sequence_bias": {"5": -1.0}},
}
_TEXT: dict[str, Any] = {"model": "text", "text": ["gateway", "hello"], "stream": False}
#: Method, path and JSON body (None: none).
_ASKED: list[tuple[str, str, Any]] = [
    ("POST", "/v1/generate", {**_TEXT, **OPTIONS}),
    ("POST", "/v1/generate", {"model": "text", "text": "hello", "stream": True, "num_beams": 1}),
    ("POST", "/v1/generate", {**_TEXT, "regex": "[A-Z ]{1,4}", "max_new_tokens": 4}),
    ("POST", "/v1/generate", {**_TEXT, "choices": ["G EY", "HH"], "constraint": None}),
    ("POST", "/v1/generate", {**_TEXT, "json_schema": {"type": "array", "maxItems": 1}}),
    ("POST", "/translate", {"q": ["hello"], "source": "en", "target": "de", "format": "text"}),
    ("POST", "/translate", {"q": "hello", "source": "auto", "target": "de", "alternatives": 1}),
    ("GET", "/languages", None),
    ("GET", "/v1/models/text", None),
    ("GET", "/metrics", None),
]
_FIELDS: dict[str, Any] = {
    **{"model": "speech", "response_format": "verbose_json", "language": "en", "prompt": "a"},
    **{"temperature": "0.2", "timestamp_granularities[]": "word", "beam_size": "2", "stream": "0"},
    **{"max_new_tokens": "4", "without_timestamps": "true", "vad": "false", "hotwords": "b"},
}
_TYPES = ("application/json", "application/x-www-form-urlencoded", "text/plain", "", "a;b=\xff")


class _Errors(logging.Handler):
    """What is logged as an error, which is a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(logging.Formatter().format(record))

    def check(self) -> None:
        found, self.records = self.records, []
        if found:
            raise AssertionError("\n".join(found))


@functools.cache
def _service(folder: Path) -> tuple[Any, Any, _Errors]:
    """A service of one child, its application, and its errors."""
    from seq2edge.deploy.serve.app import build_app
    from seq2edge.deploy.serve.service import Service
    from seq2edge.deploy.serve.settings import Limits, Settings

    limits = Limits(
        **{"max_new_tokens": 8, "max_beams": 3, "max_source_tokens": 256},
        **{"max_audio_seconds": 5.0, "timeout": 20.0},
    )
    service = Service(Settings(without_keys=True, limits=limits))
    service.load({"text": folder / "text", "speech": folder / "speech"}, num_threads=1)
    service.start()
    errors = _Errors()
    logging.getLogger("seq2edge").addHandler(errors)
    return service, build_app(service), errors


def _request(work: Path, rnd: random.Random) -> tuple[Case, str]:
    method, path, value = rnd.choice(_ASKED)
    kind, body, what = "application/json", b"", "nothing"
    if value is not None and rnd.random() < 0.2:
        method, path = "POST", rnd.choice(("/v1/audio/transcriptions", "/v1/audio/translations"))
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        body, what = _multipart((work / "sound.wav").read_bytes(), rnd)
    elif value is not None:
        body, what = _json(value, rnd)
    headers = {"host": "localhost", "content-type": kind, "content-length": str(len(body))}
    if rnd.random() < 0.15:
        name = rnd.choice((*headers, "authorization", "accept", "expect", "x-request-id"))
        headers[name] = rnd.choice((*_TYPES, *(str(bad)[:9000] for bad in BAD)))
        what += f", {name}"
    if rnd.random() < 0.05:
        method = rnd.choice(("GET", "PUT", "HEAD", "OPTIONS", "POST", "x" * 100))
        path = rnd.choice(("/", "/v1/models/\xff", "/../x", "/v1/generate/", path, "/health"))
    gone = rnd.random() < 0.05
    cuts = sorted(rnd.randrange(len(body) + 1) for _ in range(rnd.choice((0, 0, 1, 3))))

    def run() -> str:
        _, app, errors = _service(work)
        status = asyncio.run(_ask(app, method, path, headers, body, cuts, gone))
        errors.check()
        if status >= 500 and status != 503:
            raise AssertionError(f"status {status}")
        return f"{status // 100}xx" if status else "gone"

    return run, f"{method} {path}: {what}"


async def _ask(
    app: Any,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    cuts: list[int],
    gone: bool,
) -> int:
    """The status that a client gets, whose body comes in parts; ``gone``: it leaves then."""
    edges = [0, *cuts, len(body)]
    parts = [body[a:b] for a, b in itertools.pairwise(edges)]
    statuses: list[int] = []
    ended = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts) or gone}
        if not gone:
            await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        elif not message.get("more_body"):
            ended.set()

    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method},
        **{"scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b""},
        **{"root_path": "", "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 80)},
        "headers": [(n.encode(), v.encode("utf-8", "replace")) for n, v in headers.items()],
    }
    await app(scope, receive, send)
    return statuses[0] if statuses else 0


def _json(value: Any, rnd: random.Random) -> tuple[bytes, str]:
    data = json.dumps(value).encode()
    if rnd.random() < 0.15:
        return mutate_bytes(data, rnd)
    changed, what = mutate_json(data, rnd)
    return json.dumps(changed).encode(), what


def _multipart(sound: bytes, rnd: random.Random) -> tuple[bytes, str]:
    """A form with a recording; its fields, its bytes or the recording's are changed."""
    fields, what = dict(_FIELDS), "nothing"
    for name in rnd.sample(sorted(fields), rnd.randrange(len(fields))):
        del fields[name]
    which = rnd.randrange(3)
    if which == 0 and fields:
        what = rnd.choice(sorted(fields))
        bad = rnd.choice(BAD)
        fields[what] = bad if isinstance(bad, str) else json.dumps(bad)
    if which == 1:
        sound, what = mutate_bytes(sound, rnd, within=60)
    parts = [
        f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    data = "".join((*parts, head)).encode() + sound + f"\r\n--{_BOUNDARY}--\r\n".encode()
    if which == 2:
        data, what = mutate_bytes(data, rnd, within=1000)
    return data, what


def _wyoming(work: Path, rnd: random.Random) -> tuple[Case, str]:
    form = {"rate": 16000, "width": 2, "channels": 1}
    sound = bytes(3200)
    events: list[tuple[dict[str, Any], bytes]] = [
        ({"type": "describe"}, b""),
        ({"type": "transcribe", "data": {"name": "speech", "language": "en"}}, b""),
        ({"type": "audio-start", "data": form}, b""),
        ({"type": "audio-chunk", "data": form, "payload_length": len(sound)}, sound),
        ({"type": "audio-chunk", "data": form, "payload_length": len(sound)}, sound),
        ({"type": "audio-stop", "data": {}}, b""),
    ]
    changed = rnd.randrange(len(events))
    sent, what = b"", "nothing"
    for number, (head, payload) in enumerate(events):
        line = json.dumps(head).encode()
        if number == changed:
            line, what = _json(head, rnd)
        sent += line + b"\n" + payload
        if rnd.random() < 0.05:
            sent += line + b"\n" + payload
    if rnd.random() < 0.1:
        sent, what = mutate_bytes(sent, rnd)

    def run() -> str:
        service, _, errors = _service(work)
        answer = asyncio.run(_speak(service, sent))
        errors.check()
        return "answered" if b"transcript" in answer else "refused"

    return run, f"event {changed}: {what}"


async def _speak(service: Any, sent: bytes) -> bytes:
    """What a client that sends this and nothing more gets."""
    from seq2edge.deploy.serve.wyoming_server import WyomingServer

    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        handler = WyomingServer(service, "127.0.0.1", 0)._new_handler(reader, writer)
        running = asyncio.ensure_future(handler.run())
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(theirs, sent)
            theirs.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was refused before all was read
        answer = b"".join([part async for part in _received(theirs, running)])
        await running
        writer.close()
    return answer


async def _received(end: socket.socket, running: asyncio.Future[None]) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    while not running.done():
        try:
            part = await asyncio.wait_for(loop.sock_recv(end, 1 << 16), 0.01)
        except asyncio.TimeoutError:
            continue
        except OSError:
            return
        if not part:
            return
        yield part


@functools.cache
def _triton_model(folder: Path) -> tuple[Any, Any]:
    """What stands for the server in one child, and the model."""
    from tests.deploy.fake_triton import FakeTriton

    fake = FakeTriton()
    sys.modules["triton_python_backend_utils"] = fake.module
    spec = importlib.util.spec_from_file_location("model", folder / "g2p" / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model"] = module
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize(fake.arguments(folder / "g2p", backend="onnxruntime"))
    return fake, model


def _triton(work: Path, rnd: random.Random) -> tuple[Case, str]:
    options, what = _json(OPTIONS, rnd)
    text: Any = rnd.choice(("hello", "gateway", b"\xff", "", "x" * 300, "\0", "\U0001f600"))
    given = {
        name: json.dumps(value) if isinstance(value, (list, dict)) else value
        for name, value in OPTIONS.items()
        if rnd.random() < 0.2
    }
    if given and rnd.random() < 0.8:
        name = rnd.choice(sorted(given))
        bad = rnd.choice([bad for bad in BAD if isinstance(bad, (bool, int, float, str))])
        given[name] = bad
        what += f", {name}"

    def run() -> str:
        fake, model = _triton_model(work)
        request = fake.request(text, stream=rnd.random() < 0.3)
        if rnd.random() < 0.6:
            request.inputs["sampling_parameters"] = _string(options)
        request.given = given
        fake.execute(model, [request])
        last = request.responses[-1]
        if last.error is None:
            return "answered"
        if last.error.code != type(last.error).INVALID_ARG:
            raise AssertionError(f"not the client's error: {last.error}")
        return "refused"

    return run, what


def _string(data: bytes) -> Any:
    import numpy as np

    return np.array([[data]], np.object_)


_SERVED = ("seq2edge.runtime", "seq2edge.deploy.serve.app", "seq2edge.runtime.speech.model")
SERVICE_KINDS = {
    "request": Kind("served", _request, _SERVED, needs="starlette"),
    "wyoming": Kind("served", _wyoming, (*_SERVED, "wyoming.server"), 2, needs="wyoming"),
    "triton": Kind("triton", _triton, ("seq2edge.runtime", "seq2edge.deploy")),
}
