"""Trained Whisper weights on recordings, against transformers and against what is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime.audio import open_audio
from seq2edge.runtime.speech.model import SpeechModel
from tests import real_weights
from tests.conftest import export_unvalidated, made_once

from .conftest import RATE, Audio, Reference
from .test_parity import PLAIN


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], SpeechModel]]:
    """From a model's name to its loaded float32 bundle."""
    loaded: dict[str, SpeechModel] = {}
    bundle_of = made_once(
        tmp_path_factory.mktemp("trained"),
        lambda name, path: export_unvalidated(real_weights.hugging_face_folder(name), path),
    )

    def get(name: str) -> SpeechModel:
        if name not in loaded:
            loaded[name] = SpeechModel.load(bundle_of(name), num_threads=2)
        return loaded[name]

    yield get
    for model in loaded.values():
        model.close()


@pytest.fixture(scope="module")
def reference() -> Callable[[str], Reference]:
    loaded: dict[str, Reference] = {}

    def get(name: str) -> Reference:
        if name not in loaded:
            loaded[name] = Reference(real_weights.hugging_face_folder(name))
        return loaded[name]

    return get


def recording(name: str) -> Audio:
    with open_audio(real_weights.recording(name)) as audio:
        return audio.read(0, audio.num_samples)


def window(name: str) -> Audio:
    """The first 30 s, or all and then silence."""
    audio = recording(name)[: 30 * RATE]
    return np.pad(audio, (0, 30 * RATE - len(audio)))


def spoken(model: str) -> dict[str, str]:
    return {} if model == "tiny.en" else {"language": "en", "task": "transcribe"}


@pytest.mark.parametrize(
    ("model", "name", "beams", "timestamps"),
    [
        ("tiny.en", "two_cities", 1, True),
        ("tiny.en", "beckett", 5, True),
        ("tiny.en", "beckett", 5, False),
        ("base", "beckett", 1, False),
        ("base", "beckett", 5, True),
    ],
)
def test_a_window(
    model: str,
    name: str,
    beams: int,
    timestamps: bool,
    trained: Callable[[str], SpeechModel],
    reference: Callable[[str], Reference],
) -> None:
    loaded, audio = trained(model), window(name)
    wanted = reference(model).generate(
        audio, num_beams=beams, return_timestamps=timestamps, **spoken(model)
    )
    end = loaded.manifest.special_tokens.eos[0]
    found = loaded.transcribe(
        audio, beam_size=beams, without_timestamps=not timestamps, **PLAIN, **spoken(model)
    )
    tokens = [token for segment in found.segments for token in segment.tokens]
    assert tokens == [token for token in wanted[0].tolist() if token != end]


def test_a_long_recording_and_its_words(
    trained: Callable[[str], SpeechModel], reference: Callable[[str], Reference]
) -> None:
    """Segments of 44 s, and when their words begin and end."""
    audio, theirs = recording("two_cities"), reference("tiny.en")
    found = theirs.generate(
        audio, return_timestamps=True, return_segments=True, return_token_timestamps=True
    )["segments"][0]
    ours = trained("tiny.en").transcribe(audio, beam_size=1, word_timestamps=True, **PLAIN)
    assert [segment.tokens for segment in ours.segments] == [s["tokens"].tolist() for s in found]
    differences: list[float] = []
    for segment, wanted in zip(ours.segments, found, strict=True):
        assert segment.start == pytest.approx(float(wanted["start"]), abs=1e-3)
        assert segment.end == pytest.approx(float(wanted["end"]), abs=1e-3)
        ends = wanted["token_timestamps"].numpy()
        for word in segment.words or ():
            differences += [np.abs(ends - word.start).min(), np.abs(ends - word.end).min()]
    assert len(differences) > 200
    assert np.median(differences) <= 0.02
    assert max(differences) <= 0.2
    assert wrong_words(ours.text, real_weights.TEXTS["two_cities"]) <= 2


def test_the_language_is_heard(trained: Callable[[str], SpeechModel]) -> None:
    found = trained("base").detect_language(recording("beckett"))
    assert found.language == "en" and found.probability > 0.8
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("model", real_weights.MODELS)
def test_what_is_said(model: str, trained: Callable[[str], SpeechModel]) -> None:
    """With the defaults, in one batch, and with fitted windows."""
    audio, text = recording("beckett"), real_weights.TEXTS["beckett"]
    options: list[dict[str, Any]] = [{}, {"vad": True, "batch_size": 2}, {"fit_window": True}]
    for each in options:
        found = trained(model).transcribe(audio, **each, **spoken(model))
        assert wrong_words(found.text, text) <= 1, found.text


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_nothing_is_heard_in_silence(noise: float, trained: Callable[[str], SpeechModel]) -> None:
    audio = noise * np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32)
    assert trained("tiny.en").transcribe(audio, vad=True, beam_size=1).segments == []


def wrong_words(found: str, text: str) -> int:
    """Words to change, add or leave out."""
    ours, theirs = (re.findall(r"[\w']+", each.lower()) for each in (found, text))
    costs = np.arange(len(theirs) + 1)
    for place, word in enumerate(ours, 1):
        above, costs = costs, np.empty_like(costs)
        costs[0] = place
        for number, other in enumerate(theirs, 1):
            costs[number] = min(
                above[number - 1] + (word != other), above[number] + 1, costs[number - 1] + 1
            )
    return int(costs[-1])
