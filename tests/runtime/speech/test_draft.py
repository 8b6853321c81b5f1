"""A draft model changes no transcription, and spares the large model steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from seq2edge.runtime import InputError
from seq2edge.runtime.backends import SlotCache
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.transcription import Transcription

from .conftest import sound

OPTIONS: dict[str, dict[str, Any]] = {
    "segments": {"language": "en"},
    "detected language, prompt": {"initial_prompt": "ab cd"},
    "no timestamps": {"language": "de", "without_timestamps": True},
    "batch": {"language": "en", "batch_size": 2},
}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Any, int]]:
    """Runs of decoders by their session."""
    counted: dict[Any, int] = {}
    forward = SlotCache.forward

    def counting(cache: Any, step: Any) -> None:
        counted[cache._session] = counted.get(cache._session, 0) + 1
        forward(cache, step)

    monkeypatch.setattr(SlotCache, "forward", counting)
    yield counted


def results(found: Transcription) -> tuple[Any, ...]:
    return found.language, [(s.start, s.end, s.tokens, s.no_speech_prob) for s in found.segments]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("draft", ["tiny", "turbo"])
def test_transcriptions_are_the_same(
    speech_model: Callable[[str], SpeechModel], draft: str, options: dict[str, Any]
) -> None:
    """The draft is the model itself, or another one that even reads other features."""
    model = speech_model("tiny")
    audio = sound(41)
    options = {"beam_size": 1, "temperature": 0.0, **options}
    plain = model.transcribe(audio, **options)
    drafted = model.transcribe(
        audio, draft_model=speech_model(draft), num_assistant_tokens=3, **options
    )
    assert results(drafted) == results(plain)
    for one, other in zip(drafted.segments, plain.segments, strict=True):
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)


def test_a_right_draft_spares_steps(
    speech_model: Callable[[str], SpeechModel], runs: dict[Any, int]
) -> None:
    model = speech_model("tiny")
    options = {"beam_size": 1, "temperature": 0.0, "language": "en"}
    with SpeechModel.load(model._bundle.directory, num_threads=1) as draft:
        model.transcribe(sound(20), **options)
        (without,) = runs.values()
        runs.clear()
        model.transcribe(sound(20), draft_model=draft, num_assistant_tokens=4, **options)
        assert min(runs.values()) < without / 2


def test_what_cannot_guess_is_refused(
    speech_model: Callable[[str], SpeechModel], byte_bundle: Any
) -> None:
    from seq2edge.runtime import Seq2SeqModel

    model, english = speech_model("tiny"), speech_model("english")
    with pytest.raises(InputError, match="greedy decoding only, not with beam_size=5"):
        model.transcribe(sound(1), draft_model=model)
    with pytest.raises(InputError, match="must be a loaded SpeechModel, not 'tiny'"):
        model.transcribe(sound(1), draft_model="tiny", beam_size=1)  # type: ignore[arg-type]
    with (
        Seq2SeqModel.load(byte_bundle) as texts,
        pytest.raises(InputError, match="it must be a SpeechModel"),
    ):
        english.transcribe(sound(1), draft_model=texts, beam_size=1)
