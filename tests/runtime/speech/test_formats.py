"""Files of transcriptions as openai-whisper writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seq2edge.runtime import InputError, OutputError
from seq2edge.runtime.speech.formats import FORMATS, lines, render, timestamp, write_files
from seq2edge.runtime.speech.transcription import Segment, Transcription, Word


def segment(number: int, start: float, end: float, text: str) -> Segment:
    words = [Word(start, end, text, 0.5)] if number == 1 else None
    return Segment(number, start, end, text, [1, 2], -0.25, 1.5, 0.125, 0.0, words)


@pytest.fixture
def transcription() -> Transcription:
    segments = [
        segment(0, 0.0, 2.5, " It was the best\tof times,"),
        segment(1, 59.9996, 3661.25, " 你好 --> bye."),
    ]
    text = "".join(each.text for each in segments).strip()
    return Transcription(text, segments, "en", 0.75, {"en": 0.75}, 3700.0)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("txt", "It was the best\tof times,\n你好 --> bye.\n"),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:02,500\nIt was the best\tof times,\n\n"
            "2\n00:01:00,000 --> 01:01:01,250\n你好 -> bye.\n\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00.000 --> 00:02.500\nIt was the best\tof times,\n\n"
            "01:00.000 --> 01:01:01.250\n你好 -> bye.\n\n",
        ),
        (
            "tsv",
            "start\tend\ttext\n0\t2500\tIt was the best of times,\n60000\t3661250\t你好 --> bye.\n",
        ),
    ],
)
def test_text_formats(form: str, expected: str, transcription: Transcription) -> None:
    assert render(transcription, form) == expected


def test_json(transcription: Transcription) -> None:
    text = render(transcription, "json")
    assert "你好" in text
    found = json.loads(text)
    assert found["text"] == "It was the best\tof times, 你好 --> bye."
    assert (found["language"], found["language_probability"], found["duration"]) == (
        "en",
        0.75,
        3700,
    )
    assert found["segments"][0] == {
        "id": 0,
        "start": 0.0,
        "end": 2.5,
        "text": " It was the best\tof times,",
        "tokens": [1, 2],
        "avg_logprob": -0.25,
        "compression_ratio": 1.5,
        "no_speech_prob": 0.125,
        "temperature": 0.0,
    }
    assert found["segments"][1]["words"] == [
        {"start": 59.9996, "end": 3661.25, "word": " 你好 --> bye.", "probability": 0.5}
    ]


@pytest.mark.parametrize("form", ["txt", "srt", "vtt", "tsv"])
def test_a_segment_is_written_as_soon_as_it_is_there(
    form: str, transcription: Transcription
) -> None:
    asked = []

    def segments() -> object:
        for each in transcription.segments:
            asked.append(each.id)
            yield each

    parts = lines(segments(), form)  # type: ignore[arg-type]
    first = next(parts)
    while "best" not in first:
        first += next(parts)
    assert asked == [0]
    assert first + "".join(parts) == render(transcription, form)


@pytest.mark.parametrize("form", FORMATS)
def test_no_speech_is_an_empty_file(form: str) -> None:
    nothing = Transcription("", [], None, None, None, 1.0)
    heads = {"vtt": "WEBVTT\n\n", "tsv": "start\tend\ttext\n"}
    if form == "json":
        assert json.loads(render(nothing, form))["segments"] == []
    else:
        assert render(nothing, form) == heads.get(form, "")


def test_files_are_written_beside_each_other(tmp_path: Path, transcription: Transcription) -> None:
    (tmp_path / "a.talk.txt").write_text("before")
    paths = write_files(transcription, tmp_path / "a.talk")
    assert [path.name for path in paths] == [f"a.talk.{form}" for form in FORMATS]
    for form, path in zip(FORMATS, paths, strict=True):
        assert path.read_text(encoding="utf-8") == render(transcription, form)
    assert len(list(tmp_path.iterdir())) == len(FORMATS)


def test_an_unknown_format_writes_nothing(tmp_path: Path, transcription: Transcription) -> None:
    with pytest.raises(InputError, match="'doc' is no text format: they are txt, srt, vtt, tsv"):
        write_files(transcription, tmp_path / "talk", ["txt", "doc"])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path, transcription: Transcription) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_files(transcription, tmp_path / "none" / "talk")


def test_times() -> None:
    assert timestamp(-0.01) == "00:00.000"
    assert timestamp(3599.9994) == "59:59.999"
    assert timestamp(3599.9996) == "01:00:00.000"
