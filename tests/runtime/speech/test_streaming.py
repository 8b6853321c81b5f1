"""Live audio: text that is final never changes, and at the end it is the recording's."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.runtime import InputError
from seq2edge.runtime.audio import read_pcm
from seq2edge.runtime.speech.agreement import Agreement, end_seconds
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.streaming import StreamUpdate

Audio = NDArray[np.float32]
Models = Callable[[str], SpeechModel]
OPTIONS: dict[str, Any] = {
    "language": "en",
    "beam_size": 1,
    "temperature": 0.0,
    "max_new_tokens": 24,
}


def chunks(audio: Audio, size: int = 1600) -> Iterator[Audio]:
    for start in range(0, len(audio), size):
        yield audio[start : start + size]


def sound(seconds: float, seed: int = 0) -> Audio:
    """Tones in noise that change, the loudest of them at the beginning."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16000)) / 16000
    tones = np.sin(2 * np.pi * (300 + 5 * time) * time) * np.sin(2 * np.pi * 1.3 * time)
    level = 0.3 * np.exp(-time / 60)
    return (level * tones + 0.003 * generator.standard_normal(len(time))).astype(np.float32)


# --- what two hypotheses agree on -----------------------------------------------------------

#: Tokens of a language with spaces, and timestamps from 90 on.
TEXTS = [" It", " was", " the", " best", "ever", ",", ".", " of", " 1", "'s", "\ufffd", "好"]
TIME = 90


def text_of(tokens: Sequence[int]) -> str:
    return "".join(TEXTS[token] for token in tokens if token < TIME)


@pytest.mark.parametrize(
    ("previous", "tokens", "expected"),
    [
        ([], [0, 1], 0),
        ([0, 1, 2], [0, 1, 3], 2),
        ([0, 1, 2], [0, 1, 2], 3),
        ([0, 1, 2], [3, 1, 2], 0),
        ([90, 0, 1, 95], [90, 0, 1, 2, 98], 3),  # timestamps may differ
        ([90, 0, 1, 95, 95, 2, 3], [92, 0, 1, 97, 97, 2, 3, 7], 7),
        ([0, 3, 4], [0, 3, 4, 1], 3),
        ([0, 3], [0, 3, 4], 1),  # within a word
        ([0, 3, 9], [0, 3, 9, 1], 3),
        ([0, 3], [0, 3, 9, 1], 1),  # "best's" is one word
        ([0, 1, 6], [0, 1, 6], 2),  # a full stop at the end waits
        ([0, 1, 6], [0, 1, 6, 0], 3),
        ([0, 1, 5], [0, 1, 6], 2),
        ([6], [6], 0),
        ([0, 10], [0, 10, 4], 0),  # within a character
    ],
)
def test_agreement_ends_with_a_whole_word(
    previous: list[int], tokens: list[int], expected: int
) -> None:
    assert Agreement(text_of, TIME, "en").length(previous, tokens) == expected


def test_a_language_without_spaces_agrees_on_characters() -> None:
    agreement = Agreement(text_of, TIME, "zh")
    assert agreement.length([11, 11], [11, 11, 4]) == 2
    assert agreement.length([11, 10], [11, 10, 11]) == 1


def test_the_end_of_a_text_is_between_its_timestamps() -> None:
    tokens = [90, 0, 1, 2, 3, 140, 140, 0, 1]  # 0 s, four words, 1 s twice, two words
    times = [end_seconds(tokens, count, 2.0, TIME, 0.02) for count in range(1, 10)]
    assert times == sorted(times)
    assert times[0] < 0.3
    assert times[4] <= 1.0 == times[5]
    assert times[-1] == 2.0
    assert end_seconds([0, 1], 1, 3.0, None, 0.02) == 1.5


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.005, 3, 30, 47])
def test_without_steps_it_is_the_recording_s_transcription(
    seconds: float, speech_model: Models
) -> None:
    """Windows that are full, and the one at the end, are those of a recording."""
    model, audio = speech_model("tiny"), sound(seconds)
    expected = model.transcribe(audio, **OPTIONS)
    with model.stream(chunks(audio, 7777), step_seconds=1000, **OPTIONS) as stream:
        updates = list(stream)
    assert stream.result.segments == expected.segments
    assert stream.result == expected
    assert "".join(update.text for update in updates).strip() == expected.text


@pytest.mark.parametrize("shape", ["tiny", "english"])
@pytest.mark.parametrize("without_timestamps", [False, True])
def test_final_text_is_the_segments_text(
    without_timestamps: bool, shape: str, speech_model: Models
) -> None:
    audio = sound(40, seed=2)
    options = {**OPTIONS, "without_timestamps": without_timestamps}
    with speech_model(shape).stream(chunks(audio), step_seconds=5, **options) as stream:
        updates = list(stream)
    text = "".join(update.text for update in updates)
    assert text.strip() == stream.result.text != ""
    segments = [segment for update in updates for segment in update.segments]
    assert stream.result.segments == segments
    assert [segment.id for segment in segments] == list(range(len(segments)))
    assert all(0 <= each.start <= 40 and each.end <= 40 for each in segments)
    assert [update.seconds for update in updates] == sorted(u.seconds for u in updates)
    for update in updates:
        assert (update.delay is None) == (not update.text)
        assert update.delay is None or 0 <= update.delay <= 35
    assert updates[-1].pending == ""


def test_the_language_is_heard(speech_model: Models) -> None:
    options = {**OPTIONS, "language": None}
    with speech_model("tiny").stream(chunks(sound(4)), **options) as stream:
        assert stream.language is None
        list(stream)
    assert stream.detected is not None
    assert stream.language == stream.detected.language == stream.result.language
    assert stream.result.language_probability == stream.detected.probability


def test_nothing_is_heard_in_silence(speech_model: Models) -> None:
    silence = np.zeros(8 * 16000, np.int16)
    asked: list[StreamUpdate] = []
    with speech_model("tiny").stream([silence[:64000], silence[64000:]], vad=True, **OPTIONS) as s:
        asked += s
    # What is left at the end is decoded; it is a second, whatever came before.
    assert all(update.seconds == 8 for update in asked[-1:])
    assert all(segment.start >= 7 for update in asked for segment in update.segments)


def test_other_rates_and_types(speech_model: Models) -> None:
    model = speech_model("tiny")
    samples = (sound(2) * 32767).astype(np.int16)
    loud = np.repeat(samples, 3)  # 48 kHz
    with model.stream(chunks(loud), sampling_rate=48000, **OPTIONS) as stream:
        list(stream)
    assert stream.result.duration == 2
    with model.stream(read_pcm(io.BytesIO(samples.tobytes())), **OPTIONS) as stream:
        list(stream)
    assert stream.result.duration == 2


def test_a_draft_model_changes_nothing(speech_model: Models) -> None:
    model, audio = speech_model("tiny"), sound(6)
    plain, drafted = (
        model.stream(chunks(audio), step_seconds=3, draft_model=draft, **OPTIONS)
        for draft in (None, model)
    )
    assert [update.text for update in plain] == [update.text for update in drafted]
    with pytest.raises(InputError, match="reads the model's own features"):
        model.stream([], draft_model=speech_model("turbo"), **OPTIONS)


def test_no_audio_is_no_text(speech_model: Models) -> None:
    with speech_model("tiny").stream([], **OPTIONS) as stream:
        assert list(stream) == []
    assert (stream.result.text, stream.result.duration) == ("", 0)


def test_it_can_be_cancelled(speech_model: Models) -> None:
    stops = iter([False] * 30)
    with speech_model("tiny").stream(
        chunks(sound(20)), cancelled=lambda: next(stops, True), **OPTIONS
    ) as stream:
        list(stream)
    assert stream.result.segments == []


def test_closing_ends_it(speech_model: Models) -> None:
    stream = speech_model("tiny").stream(chunks(sound(20)), **OPTIONS)
    next(stream)
    stream.close()
    assert list(stream) == []


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros((2, 100)), r"an array \[samples\] of integers or floats, not \[2, 100\]"),
        (np.full(100, np.nan), "the live audio holds a sample that is no sound"),
        (["a"], "integers or floats"),
    ],
)
def test_a_chunk_that_is_no_audio(chunk: Any, message: str, speech_model: Models) -> None:
    with pytest.raises(InputError, match=message):
        list(speech_model("tiny").stream([chunk], **OPTIONS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_timestamps": "1,2"}, "live audio has no clip_timestamps"),
        ({"batch_size": 4}, "live audio has no batch_size"),
        ({"multilingual": True}, "live audio has no multilingual"),
        ({"step_seconds": 0}, "step_seconds must be above 0, not 0"),
        ({"sampling_rate": 7}, "a sampling rate of 7 Hz"),
        ({"language": "xx"}, "the model knows no language 'xx'"),
    ],
)
def test_options_that_live_audio_cannot_have(
    options: dict[str, Any], message: str, speech_model: Models
) -> None:
    with pytest.raises(InputError, match=message):
        speech_model("tiny").stream([], **{**OPTIONS, **options})
