"""OpenAI's speech API with OpenAI's client."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import SpeechModel, Transcription
from seq2edge.runtime.speech.formats import render

from .process import ServerProcess

openai = pytest.importorskip("openai", reason="openai is not installed")


@pytest.fixture(scope="module")
def hearing(speaking_bundle: Path) -> Iterator[ServerProcess]:
    with ServerProcess(f"whisper={speaking_bundle}", "--max-audio-seconds", "60") as process:
        yield process


@pytest.fixture(scope="module")
def client(hearing: ServerProcess) -> Iterator[Any]:
    base_url = f"{hearing.url}/v1"
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def model(speaking_bundle: Path) -> Iterator[SpeechModel]:
    with SpeechModel.load(speaking_bundle) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def heard(model: SpeechModel, recording: bytes) -> Transcription:
    found = model.transcribe(recording, language="en", seed=1)
    assert found.text and found.segments
    return found


def ask(client: Any, recording: bytes, **options: Any) -> Any:
    options = {"language": "en", **options}
    extra = {"seed": 1, **options.pop("extra_body", {})}
    return client.audio.transcriptions.create(
        model="whisper", file=("talk.wav", recording), extra_body=extra, **options
    )


def test_json_and_text(client: Any, recording: bytes, heard: Transcription) -> None:
    assert ask(client, recording).text == heard.text
    assert ask(client, recording, response_format="text") == heard.text + "\n"


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles(client: Any, recording: bytes, heard: Transcription, form: str) -> None:
    assert ask(client, recording, response_format=form) == render(heard, form)


def test_verbose_json_has_segments_and_words(
    client: Any, model: SpeechModel, recording: bytes, heard: Transcription
) -> None:
    found = ask(client, recording, response_format="verbose_json")
    assert (found.text, found.language, found.duration) == (heard.text, "en", heard.duration)
    assert [(s.start, s.end, s.text) for s in found.segments] == [
        (s.start, s.end, s.text) for s in heard.segments
    ]
    assert found.words is None
    timed = model.transcribe(recording, language="en", seed=1, word_timestamps=True)
    words = ask(
        client,
        recording,
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    assert [(w.word, w.start, w.end) for w in words.words] == [
        (w.word.strip(), w.start, w.end) for w in timed.words
    ]
    assert words.segments is None


def test_prompt_temperature_and_options_of_ours_are_read(
    client: Any, model: SpeechModel, recording: bytes
) -> None:
    options = {"temperature": 0.4, "beam_size": 2, "hotwords": "abc"}
    expected = model.transcribe(recording, language="de", initial_prompt="b c", seed=1, **options)
    found = ask(
        client,
        recording,
        language="de",
        prompt="b c",
        temperature=0.4,
        extra_body={"beam_size": 2, "hotwords": "abc"},
    )
    assert found.text == expected.text


def test_a_stream_gives_a_delta_for_each_segment(
    client: Any, recording: bytes, heard: Transcription
) -> None:
    *deltas, done = ask(client, recording, stream=True)
    assert [event.type for event in deltas] == ["transcript.text.delta"] * len(heard.segments)
    assert "".join(event.delta for event in deltas).strip() == heard.text
    assert (done.type, done.text) == ("transcript.text.done", heard.text)


def test_translations_are_into_english(client: Any, model: SpeechModel, recording: bytes) -> None:
    found = client.audio.translations.create(
        model="whisper", file=("talk.wav", recording), extra_body={"seed": 1, "language": "de"}
    )
    expected = model.transcribe(recording, language="de", task="translate", seed=1)
    assert found.text == expected.text


def test_models_are_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["whisper"]
    assert client.models.retrieve("whisper").owned_by == "seq2edge"


def silence(seconds: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 16000, 0, "NONE", ""))
        wav.writeframes(bytes(32000 * seconds))
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        (b"", {}, "is empty"),
        (b"a text", {}, "a text file, or of a format that is not known"),
        (b"RIFF\0\0\0\0WAVE", {}, "the audio"),
        (silence(61), {}, "longer than 60 s"),
        (None, {"language": "xx"}, "language"),
        (None, {"response_format": "diarized_json"}, "response_format must be one of"),
        (None, {"temperature": 2}, "temperature must be a number from 0 to 1"),
        (None, {"timestamp_granularities": ["word"]}, "need response_format=verbose_json"),
        (None, {"include": ["logprobs"]}, "no log-probabilities"),
        (None, {"chunking_strategy": {"type": "server_vad"}}, "chunking_strategy"),
        (None, {"stream": True, "response_format": "srt"}, "a stream has response_format=json"),
        (None, {"extra_body": {"beam_size": 99}}, "more than the 8 allowed"),
        (None, {"extra_body": {"beam_size": "many"}}, "beam_size must be an integer"),
        (None, {"extra_body": {"beams": 2}}, "unknown field 'beams'"),
        (None, {"extra_body": {"patience": 1e308, "beam_size": 2}}, "patience must be"),
    ],
)
def test_what_cannot_be_done_is_a_bad_request(
    client: Any, recording: bytes, file: bytes | None, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, recording if file is None else file, **options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("prompt", "hello " * 5000, "30000 characters, and may have 20000"),
        ("hotwords", "hello " * 5000, "30000 characters, and may have 20000"),
        ("suppress_tokens", str([1] * 30_000), "more than 20000 values"),
    ],
)
def test_options_that_take_longer_than_the_recording_are_refused(
    hearing: ServerProcess, recording: bytes, name: str, value: str, said: str
) -> None:
    refused = hearing.post(
        "/v1/audio/transcriptions",
        files={"file": recording},
        data={"model": "whisper", name: value},
    )
    assert refused.status_code == 413
    assert said in refused.json()["error"]["message"]


def test_a_request_without_a_recording_or_a_form(
    hearing: ServerProcess, client: Any, recording: bytes
) -> None:
    path = "/v1/audio/transcriptions"
    for fields in ({"model": (None, "whisper")}, {"file": (None, "no file")}):
        response = hearing.post(path, files=fields)
        assert response.status_code == 400
        assert "file must be a recording" in response.text
    assert hearing.post(path, json={"file": "x"}).status_code == 415
    broken = {"Content-Type": "multipart/form-data; boundary=b"}
    assert hearing.post(path, content=b"--b\r\nnonsense", headers=broken).status_code == 400
    assert (
        hearing.post(
            path, content=b"x", headers={"Content-Type": "multipart/form-data"}
        ).status_code
        == 400
    )
    with pytest.raises(openai.NotFoundError, match="no speech model named 'whisper-1'"):
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", recording))
    with pytest.raises(openai.NotFoundError, match="no text model"):
        client.post("/generate", body={"text": "a"}, cast_to=object)
