"""Live audio with OpenAI's weights: the recording's words, soon after they are spoken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.runtime.audio import open_audio
from seq2edge.runtime.speech.model import SpeechModel
from tests import real_weights
from tests.conftest import export_unvalidated

Audio = NDArray[np.float32]
OPTIONS: dict[str, Any] = {"beam_size": 1, "step_seconds": 1.5}
WORDS = (
    "and so my fellow americans ask not what your country can do for you ask what you can do for"
    " your country"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpeechModel]:
    bundle = tmp_path_factory.mktemp("trained") / "bundle"
    export_unvalidated(real_weights.hugging_face_folder("tiny.en"), bundle)
    with SpeechModel.load(bundle, num_threads=1) as loaded:
        yield loaded


def chunks(audio: Audio) -> Iterator[Audio]:
    for start in range(0, len(audio), 1600):
        yield audio[start : start + 1600]


def words(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))


def samples(path: Path) -> Audio:
    with open_audio(path) as audio:
        return audio.read(0, audio.num_samples)


def test_words_are_final_soon_and_are_the_recording_s(model: SpeechModel) -> None:
    audio = samples(real_weights.JFK)
    with model.stream(chunks(audio), **OPTIONS) as stream:
        updates = list(stream)
    assert words(stream.result.text) == WORDS
    assert words(model.transcribe(audio, beam_size=1).text) == WORDS
    assert "".join(update.text for update in updates).strip() == stream.result.text
    delays = [update.delay for update in updates if update.delay is not None]
    assert len(delays) > 3
    assert max(delays) < 5
    # Half of the words are final well before the end.
    early = "".join(update.text for update in updates if update.seconds < 8)
    assert len(early.split()) > 8


def test_silence_around_speech_says_nothing(model: SpeechModel) -> None:
    silence = np.zeros(5 * 16000, np.float32)
    audio = np.concatenate([silence, samples(real_weights.JFK)[: 5 * 16000], silence])
    with model.stream(chunks(audio), vad=True, **OPTIONS) as stream:
        updates = list(stream)
    assert words(stream.result.text).startswith("and so my fellow americans")
    assert len(stream.result.text.split()) < 10
    assert not any(update.text for update in updates if update.seconds < 5)
