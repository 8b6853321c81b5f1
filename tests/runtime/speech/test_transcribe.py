"""What the options of a transcription do, one by one, on a model made from a config."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import Choices, InputError, Regex
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.transcription import Segment
from tests import whisper_models as whisper
from tests.runtime.audio.conftest import wav_bytes

from .conftest import sound
from .test_parity import GERMAN, PLAIN, rows

Options = dict[str, Any]
FAST: Options = {**PLAIN, "beam_size": 1, **GERMAN}
TEXT: Options = {**FAST, "without_timestamps": True}


@pytest.fixture
def model(speech_model: Callable[[str], SpeechModel]) -> SpeechModel:
    return speech_model("tiny")


def tokens_of(model: SpeechModel, seconds: float = 20, **options: Any) -> list[int]:
    found = model.transcribe(sound(seconds, seed=2), **{**TEXT, **options})
    return [token for segment in found.segments for token in segment.tokens]


def test_tokens_that_are_suppressed_do_not_come(model: SpeechModel) -> None:
    plain = tokens_of(model)
    common = max(set(plain), key=plain.count)
    assert common not in tokens_of(model, suppress_tokens=[-1, common])
    # 1 and 2 are those of the checkpoint, which -1 stands for.
    assert not {1, 2} & set(plain)
    free = tokens_of(model, suppress_tokens=None, repetition_penalty=50.0)
    assert {1, 2} & set(free)


def test_repetition(model: SpeechModel) -> None:
    def pairs(tokens: list[int]) -> list[tuple[int, int]]:
        return list(pairwise(tokens))

    plain, bare = pairs(tokens_of(model)), pairs(tokens_of(model, no_repeat_ngram_size=2))
    assert len(plain) > len(set(plain))
    assert len(bare) == len(set(bare))


def test_limits(model: SpeechModel) -> None:
    assert len(tokens_of(model, max_new_tokens=5)) == 5
    assert len(tokens_of(model, max_new_tokens=5000)) <= 64


def test_a_prefix_begins_the_text(model: SpeechModel) -> None:
    found = model.transcribe(sound(20), prefix="abc", **FAST)
    assert found.text.startswith("abc")
    assert found.segments[0].tokens[0] == whisper.NO_TIMESTAMPS + 1
    assert tokens_of(model, prefix="abc")[:4] == [0, 1, 2, 3]


def test_hotwords_are_in_the_prompt_of_each_window(model: SpeechModel) -> None:
    """With them alone, each window is decoded as with an initial prompt of its own."""
    audio = sound(50, seed=9)
    hot = model.transcribe(audio, hotwords="xyz", **TEXT)
    for number, segment in enumerate(hot.segments):
        window = audio[number * 480000 : (number + 1) * 480000]
        alone = model.transcribe(window, initial_prompt="xyz", **TEXT)
        # A window of its own is clamped by its own loudest, so all need not be the same.
        assert segment.tokens[:3] == alone.segments[0].tokens[:3]
    assert rows(hot) != rows(model.transcribe(audio, **TEXT))


def test_earlier_text_is_cut_to_less_than_half_of_the_positions(model: SpeechModel) -> None:
    long = list(np.random.default_rng(0).integers(3, 60, 200))
    assert rows(model.transcribe(sound(5), initial_prompt=long, **FAST)) == rows(
        model.transcribe(sound(5), initial_prompt=long[-31:], **FAST)
    )


def test_clips(model: SpeechModel) -> None:
    found = model.transcribe(sound(40), clip_timestamps="5,8,20,32", **TEXT)
    assert [(s.start, s.end) for s in found.segments] == [(5, 8), (20, 32)]
    open_ended = model.transcribe(sound(40), clip_timestamps=[35], **TEXT)
    assert [(s.start, s.end) for s in open_ended.segments] == [(35, 40)]


def test_commands(model: SpeechModel) -> None:
    choices = ("on", "off", "stop")
    assert model.transcribe(sound(2), constraint=Choices(choices), **TEXT).text in choices
    assert model.transcribe(sound(2), constraint=Regex("[0-9]{3}!"), **TEXT).text[3:] == "!"


def test_samples_are_repeatable(model: SpeechModel) -> None:
    options = {**TEXT, "temperature": 1.0, "best_of": 3}
    first, again = (model.transcribe(sound(9), seed=4, **options) for _ in range(2))
    assert rows(first) == rows(again)
    assert rows(first) != rows(model.transcribe(sound(9), seed=5, **options))
    assert first.segments[0].temperature == 1.0


def test_the_best_of_several_samples_is_taken(model: SpeechModel) -> None:
    options = {**TEXT, "temperature": 1.0, "seed": 1}
    few, many = (model.transcribe(sound(9), best_of=n, **options) for n in (1, 8))
    assert many.segments[0].avg_logprob > few.segments[0].avg_logprob


def test_a_batch_of_windows_is_decoded_as_one_window_after_the_other(model: SpeechModel) -> None:
    audio = sound(75, seed=12)
    for options in (TEXT, {**TEXT, "beam_size": 2, "multilingual": True, "max_new_tokens": 20}):
        one = model.transcribe(audio, **options)
        assert rows(model.transcribe(audio, batch_size=3, **options)) == rows(one)


def test_a_batch_keeps_the_text_after_the_last_timestamp(model: SpeechModel) -> None:
    audio = sound(65, seed=13)
    found = model.transcribe(audio, batch_size=2, word_timestamps=True, **FAST)
    assert found.segments[-1].end == pytest.approx(65, abs=0.05) or found.segments[-1].end < 65
    starts = [segment.start for segment in found.segments]
    assert starts == sorted(starts)
    for segment in found.segments:
        assert "".join(word.word for word in segment.words or ()) == segment.text


def speech_and_silence() -> Any:
    silence = np.zeros(16000 * 6, np.float32)
    return np.concatenate([silence, sound(5, seed=1), silence, sound(4, seed=2), silence])


@pytest.mark.parametrize("batch", [{}, {"batch_size": 2}])
def test_silence_is_cut_out_and_times_are_put_back(model: SpeechModel, batch: Options) -> None:
    found = model.transcribe(
        speech_and_silence(), vad=True, vad_detector="energy", word_timestamps=True, **FAST, **batch
    )
    assert found.duration == pytest.approx(27)
    assert found.segments
    for segment in found.segments:
        assert 5 <= segment.start <= segment.end <= 22
    for word in found.words:
        in_first = 5 <= word.start <= word.end <= 12
        assert in_first or 16 <= word.start <= word.end <= 22


@pytest.mark.parametrize("detector", ["energy", "auto"])
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_no_text_comes_out_of_silence(model: SpeechModel, detector: str, noise: float) -> None:
    audio = noise * np.random.default_rng(0).standard_normal(16000 * 40).astype(np.float32)
    found = model.transcribe(audio, vad=True, vad_detector=detector, **FAST)
    assert (found.text, found.segments, found.duration) == ("", [], 40)
    assert model.transcribe(audio, vad=True, vad_detector=detector, beam_size=1).language is None


def test_a_fitted_window_that_loops_is_read_whole(model: SpeechModel) -> None:
    """Models of random weights never end: the fitted window is cut, and the whole one decoded."""
    audio = sound(3)
    found = model.transcribe(audio, fit_window=True, **TEXT)
    assert rows(found) == rows(model.transcribe(audio, **TEXT))


def test_segments_come_as_they_are_final(model: SpeechModel) -> None:
    audio, seen, done = sound(70, seed=1), [], []
    found = model.transcribe(
        audio, on_segment=seen.append, progress=lambda *times: done.append(times), **FAST
    )
    assert seen == found.segments
    assert [segment.id for segment in seen] == list(range(len(seen)))
    assert done[-1] == (70, 70) and len(done) > 2
    assert [time for time, _ in done] == sorted(time for time, _ in done)
    with model.segments(audio, **FAST) as stream:
        first = next(stream)
        assert (stream.duration, stream.language) == (70, "de")
    assert first == found.segments[0]
    assert stream.result.segments == [first]


def test_a_cancelled_call_ends_with_what_is_final(model: SpeechModel) -> None:
    seen: list[Segment] = []
    found = model.transcribe(
        sound(65, seed=1), on_segment=seen.append, cancelled=lambda: len(seen) > 0, **TEXT
    )
    assert found.segments == seen
    assert [(segment.start, segment.end) for segment in seen] == [(0, 30)]


def test_threads_share_a_model(model: SpeechModel) -> None:
    audios = [sound(12, seed=seed) for seed in range(3)]
    wanted = [rows(model.transcribe(audio, **FAST)) for audio in audios]
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        found[number] = rows(model.transcribe(audios[number], **FAST))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(3)] == wanted


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ("tiny", {"language": "xx"}, "no language 'xx'; the nearest code is"),
        ("tiny", {"task": "summarize"}, "task must be 'transcribe' or 'translate'"),
        ("english", {"language": "de"}, "knows English only, not language='de'"),
        ("english", {"task": "translate"}, "only transcribes"),
        ("english", {"multilingual": True}, "knows English only"),
        ("tiny", {"initial_prompt": [99999]}, "initial_prompt holds .99999., outside the"),
        ("tiny", {"suppress_tokens": [99999]}, "suppress_tokens holds .99999., outside the"),
        ("tiny", {"vad": True, "clip_timestamps": "1,2"}, "do not go with vad=True"),
        ("tiny", {"vad": True, "vad_parameters": {"treshold": 1}}, "nearest is 'threshold'"),
        ("tiny", {"vad": True, "vad_detector": "ear"}, "vad_detector must be one of"),
    ],
)
def test_what_the_model_cannot_do_is_refused(
    shape: str, options: Options, message: str, speech_model: Callable[[str], SpeechModel]
) -> None:
    with pytest.raises(InputError, match=message):
        speech_model(shape).transcribe(sound(1), **options)


def test_an_english_model_detects_no_language(speech_model: Callable[[str], SpeechModel]) -> None:
    assert speech_model("english").languages == ("en",)
    assert speech_model("tiny").languages == ("de", "en")
    with pytest.raises(InputError, match="cannot detect a language"):
        speech_model("english").detect_language(sound(1))


@pytest.mark.parametrize("samples", [1, 160, 1600])
def test_very_short_audio(model: SpeechModel, samples: int) -> None:
    found = model.transcribe(sound(1)[:samples], **FAST)
    assert found.duration == samples / 16000
    assert all(segment.end <= found.duration for segment in found.segments)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_hours_of_silence_are_no_text_and_take_no_memory(
    batch_size: int | None, speech_model: Callable[[str], SpeechModel], tmp_path: Path
) -> None:
    path = tmp_path / "silence.wav"
    size = 2 * 3600 * 16000 * 2
    with path.open("wb") as file:  # a sparse file
        file.write(wav_bytes(np.zeros(0, np.int16), size=size))
        file.truncate(44 + size)
    tracemalloc.start()
    found = speech_model("tiny").transcribe(path, language="en", batch_size=batch_size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.text, found.segments, found.duration) == ("", [], 7200)
    assert peak < 32 << 20
