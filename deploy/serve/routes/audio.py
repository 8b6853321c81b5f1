"""OpenAI's speech API: ``/v1/audio/transcriptions`` and ``/v1/audio/translations``.

Source: OpenAI's API reference, "Audio". Fields that are none of OpenAI's may be options of a
transcription by the names of :class:`seq2edge.runtime.TranscriptionOptions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from seq2edge.runtime import SpeechModel, Transcription, TranscriptionOptions
from seq2edge.runtime.bundle.checks.json_text import parse_json
from seq2edge.runtime.errors import BundleError
from seq2edge.runtime.speech.formats import render, segment_document
from seq2edge.runtime.speech.options import options_of

from ..bodies import check_count, form_fields
from ..errors import ApiError
from ..jobs import SpeechJob
from ..service import Service
from ..settings import Limits
from .events import event_response

_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
_GRANULARITIES = ("word", "segment")
#: OpenAI's fields that are read below, a list's with the brackets that its clients write.
_LISTS = {"timestamp_granularities[]": "timestamp_granularities", "keywords[]": "keywords"}
_FIELDS = ("file", "model", "language", "prompt", "response_format", "temperature", "stream")
#: Those that this service cannot do.
_NOT_DONE = {
    "include": "it returns no log-probabilities of tokens",
    "include[]": "it returns no log-probabilities of tokens",
    "known_speaker_names[]": "it does not tell speakers apart",
    "known_speaker_references[]": "it does not tell speakers apart",
    "languages[]": "it takes one language, or detects it",
}
#: Options that have another name in OpenAI's API, or that are no values of JSON.
_OTHERWISE = {
    *("task", "initial_prompt", "word_timestamps", "temperature", "language"),
    *("draft_model", "constraint"),
}
_OPTIONS = {spec.name for spec in fields(TranscriptionOptions)} - _OTHERWISE


def routes() -> list[BaseRoute]:
    return [
        Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
        Route("/v1/audio/translations", translations, methods=["POST"]),
    ]


async def transcriptions(request: Request) -> Response:
    """What is said, in the language that is spoken."""
    return await _respond(request, "transcribe")


async def translations(request: Request) -> Response:
    """What is said, in English."""
    return await _respond(request, "translate")


@dataclass(frozen=True)
class _Asked:
    """A request whose fields were read."""

    options: dict[str, Any]
    form: str
    granularities: tuple[str, ...]
    stream: bool


async def _respond(request: Request, task: str) -> Response:
    service: Service = request.app.state.service
    pairs = await form_fields(request)
    files = [value for _, value in pairs if isinstance(value, UploadFile)]
    try:
        fields_, several = _sorted(pairs)
        served, _model = service.find(fields_.pop("model", None), SpeechModel)
        file = fields_.pop("file", None)
        if not isinstance(file, UploadFile):
            raise ApiError(400, "file must be a recording", param="file")
        asked = _read(fields_, several, task, service.limits)
        job = SpeechJob(file.file, options_of(asked.options), timeout=service.limits.timeout)
        if asked.stream:
            response = await event_response(
                request, service, served, job, lambda kind, value: _told(kind, value)
            )
            response.background = None
            kept, files = files, []
            response.body_iterator = _closing(response.body_iterator, kept)
            return response
        found = await service.wait(request, served, job)
        return _rendered(found, asked, task)
    finally:
        for value in files:
            await value.close()


def _sorted(
    pairs: list[tuple[str, str | UploadFile]],
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Fields of one value, and those that may have several.

    Raises:
        ApiError: a field that is given twice.
    """
    single: dict[str, Any] = {}
    several: dict[str, list[str]] = {}
    for name, value in pairs:
        listed = _LISTS.get(name) or (name if name in _LISTS.values() else None)
        if isinstance(value, UploadFile) and name != "file":
            raise ApiError(400, f"{name} must be a text, not a file", param=name)
        if listed is not None:
            several.setdefault(listed, []).append(str(value))
        elif name in single:
            raise ApiError(400, f"{name} is given twice", param=name)
        else:
            single[name] = value
    return single, several


def _read(
    given: Mapping[str, Any], several: Mapping[str, list[str]], task: str, limits: Limits
) -> _Asked:
    """The options of a transcription and how it is to be answered.

    Raises:
        ApiError: a field that does not exist, or a value that it cannot have.
    """
    form = _choice(given, "response_format", "json", _FORMATS)
    granularities = tuple(several.get("timestamp_granularities", ())) or ("segment",)
    for word in granularities:
        if word not in _GRANULARITIES:
            raise ApiError(
                400,
                f"timestamp_granularities are word and segment, not {word!r}",
                param="timestamp_granularities",
            )
    if several.get("timestamp_granularities") and form != "verbose_json":
        raise ApiError(
            400,
            "timestamp_granularities need response_format=verbose_json",
            param="timestamp_granularities",
        )
    stream = _choice(given, "stream", "false", ("true", "false", "True", "False")).lower() == "true"
    if stream and form != "json":
        raise ApiError(400, "a stream has response_format=json", param="stream")
    options: dict[str, Any] = {"task": task, "word_timestamps": "word" in granularities}
    if "keywords" in several:
        options["hotwords"] = ", ".join(several["keywords"])
    for name, value in given.items():
        if name in ("response_format", "stream"):
            continue
        if name in _NOT_DONE:
            raise ApiError(400, f"{name} is not done here: {_NOT_DONE[name]}", param=name)
        if name == "language":
            options[name] = value or None
        elif name == "prompt":
            options["initial_prompt"] = value or None
        elif name == "temperature":
            options |= _temperature(value)
        elif name == "chunking_strategy":
            if value != "auto":
                raise ApiError(400, "chunking_strategy can be auto only; see vad", param=name)
            options["vad"] = True
        elif name in _OPTIONS:
            options[name] = _value(value)
            check_count(options[name], name)
        else:
            known = sorted({*_FIELDS, *_LISTS.values(), "chunking_strategy", *_OPTIONS})
            raise ApiError(
                400, f"unknown field {name!r}; there are: {', '.join(known)}", param=name
            )
    _bound(options, limits)
    return _Asked(options, form, granularities, stream)


def _choice(given: Mapping[str, Any], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value: str = given.get(name, default)
    if value not in allowed:
        raise ApiError(
            400, f"{name} must be one of {', '.join(allowed)}, not {value!r}", param=name
        )
    return value


def _temperature(text: str) -> dict[str, float]:
    """0 is the default: several are tried until the text can be trusted, as OpenAI's model does."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ApiError(
            400, f"temperature must be a number from 0 to 1, not {text!r}", param="temperature"
        )
    return {"temperature": value} if value else {}


def _value(text: str) -> Any:
    try:
        return parse_json(text, "it")
    except BundleError:
        return text


def _bound(options: Mapping[str, Any], limits: Limits) -> None:
    most = {
        "beam_size": limits.max_beams,
        "best_of": limits.max_beams,
        "batch_size": limits.max_batch,
        "max_new_tokens": limits.max_new_tokens,
    }
    for name, limit in most.items():
        value = options.get(name)
        if isinstance(value, int) and value > limit:
            raise ApiError(400, f"{name}={value} is more than the {limit} allowed here", param=name)
    for name, value in options.items():
        if isinstance(value, str):
            check_length(value, name, limits)


def check_length(text: str, name: str, limits: Limits) -> None:
    """Refuse a text beside a recording that takes longer to read than the recording.

    Raises:
        ApiError: it has more characters than a text may have.
    """
    if len(text) > limits.max_characters:
        raise ApiError(
            413,
            f"{name} has {len(text)} characters, and may have {limits.max_characters}",
            param=name,
        )


def _rendered(found: Transcription, asked: _Asked, task: str) -> Response:
    if asked.form == "json":
        usage = {"type": "duration", "seconds": found.duration}
        return JSONResponse({"text": found.text, "usage": usage})
    if asked.form == "verbose_json":
        return JSONResponse(_verbose(found, asked, task))
    if asked.form == "text":
        return PlainTextResponse(found.text + "\n")
    kind = "text/vtt" if asked.form == "vtt" else "text/plain"
    return Response(render(found, asked.form), media_type=f"{kind}; charset=utf-8")


def _verbose(found: Transcription, asked: _Asked, task: str) -> dict[str, Any]:
    document: dict[str, Any] = {
        "task": task,
        "language": found.language or "",
        "duration": found.duration,
        "text": found.text,
        "usage": {"type": "duration", "seconds": found.duration},
    }
    if "segment" in asked.granularities:
        document["segments"] = [
            {name: value for name, value in segment_document(segment).items() if name != "words"}
            for segment in found.segments
        ]
    if "word" in asked.granularities:
        document["words"] = [
            {"word": word.word.strip(), "start": word.start, "end": word.end}
            for word in found.words
        ]
    return document


def _told(kind: str, value: Any) -> Iterable[dict[str, Any]]:
    if kind == "piece":
        return [{"type": "transcript.text.delta", "delta": value.text}]
    return [{"type": "transcript.text.done", "text": value.text}]


async def _closing(events: Any, files: list[UploadFile]) -> Any:
    """``events``, and the recording is closed at their end."""
    try:
        async for event in events:
            yield event
    finally:
        await events.aclose()
        for file in files:
            await file.close()
