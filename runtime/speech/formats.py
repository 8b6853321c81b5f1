"""Transcriptions as files: openai-whisper's txt, srt, vtt, tsv and json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..bundle.atomic_write import output_file
from ..errors import InputError
from .transcription import Segment, Transcription

#: Names of formats, which are files' extensions too.
FORMATS = ("txt", "srt", "vtt", "tsv", "json")
#: Formats that can be written a segment at a time.
TEXT_FORMATS = ("txt", "srt", "vtt", "tsv")


def lines(segments: Iterable[Segment], form: str) -> Iterator[str]:
    """Parts of a text in one of :data:`TEXT_FORMATS`, one as soon as its segment is there.

    Joined they are the file. WebVTT and tsv begin with a part of their own.

    Raises:
        InputError: another format.
    """
    if form not in TEXT_FORMATS:
        raise InputError(f"{form!r} is no text format: they are {', '.join(TEXT_FORMATS)}")
    return _WRITERS[form](segments)


def render(transcription: Transcription, form: str) -> str:
    """The whole text of a file in one of :data:`FORMATS`.

    Raises:
        InputError: another format.
    """
    if form == "json":
        return json.dumps(document(transcription), ensure_ascii=False) + "\n"
    return "".join(lines(transcription.segments, form))


def document(transcription: Transcription) -> dict[str, Any]:
    """openai-whisper's JSON: ``text``, ``segments``, ``language``; times are in seconds.

    ``duration`` is here as well, ``language_probability`` where the language was detected, and a
    segment has ``words`` where times of words were asked for.
    """
    found: dict[str, Any] = {
        "text": transcription.text,
        "segments": [segment_document(segment) for segment in transcription.segments],
        "language": transcription.language,
        "duration": transcription.duration,
    }
    if transcription.language_probability is not None:
        found["language_probability"] = transcription.language_probability
    return found


def segment_document(segment: Segment) -> dict[str, Any]:
    """A segment's part of :func:`document`."""
    found = asdict(segment)
    if segment.words is None:
        del found["words"]
    return found


def write_files(
    transcription: Transcription, stem: Path, forms: Sequence[str] = FORMATS
) -> list[Path]:
    """Write ``stem`` + ``.FORMAT`` for each of ``forms``; gives the paths.

    A file is there whole or not at all, and takes the place of one that was there.

    Raises:
        InputError: an unknown format; nothing is written.
        OutputError: a file cannot be written.
    """
    texts = {form: render(transcription, form) for form in forms}
    paths = []
    for form, text in texts.items():
        path = stem.with_name(f"{stem.name}.{form}")
        with output_file(path) as file:
            file.write(text.encode())
        paths.append(path)
    return paths


def timestamp(seconds: float, *, always_hours: bool = False, point: str = ".") -> str:
    """``MM:SS.mmm``, with ``HH:`` before it from an hour on."""
    milliseconds = round(max(0.0, seconds) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours:02d}:" if always_hours or hours else ""
    return f"{start}{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"


def _txt(segments: Iterable[Segment]) -> Iterator[str]:
    for segment in segments:
        yield f"{_line(segment)}\n"


def _srt(segments: Iterable[Segment]) -> Iterator[str]:
    for number, segment in enumerate(segments, start=1):
        times = (
            timestamp(time, always_hours=True, point=",") for time in (segment.start, segment.end)
        )
        yield f"{number}\n{' --> '.join(times)}\n{_cue(segment)}\n\n"


def _vtt(segments: Iterable[Segment]) -> Iterator[str]:
    yield "WEBVTT\n\n"
    for segment in segments:
        times = (timestamp(time) for time in (segment.start, segment.end))
        yield f"{' --> '.join(times)}\n{_cue(segment)}\n\n"


def _tsv(segments: Iterable[Segment]) -> Iterator[str]:
    """Times in milliseconds."""
    yield "start\tend\ttext\n"
    for segment in segments:
        start, end = (round(time * 1000) for time in (segment.start, segment.end))
        text = _line(segment).replace("\t", " ")
        yield f"{start}\t{end}\t{text}\n"


def _line(segment: Segment) -> str:
    """A segment's text, which is one line whatever the model wrote."""
    return " ".join(segment.text.split("\n")).strip()


def _cue(segment: Segment) -> str:
    """The text of a subtitle, in which an arrow would be taken for times."""
    return _line(segment).replace("-->", "->")


_WRITERS: dict[str, Callable[[Iterable[Segment]], Iterator[str]]] = {
    "txt": _txt,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
}
