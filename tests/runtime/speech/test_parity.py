"""Tokens and times are those of transformers' generate, on models made from configs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.transcription import Segment, Transcription
from tests import whisper_models as whisper

from .conftest import Reference, has_text, sound

#: Nothing that transformers does not do by default.
PLAIN: dict[str, Any] = {
    "temperature": 0,
    "compression_ratio_threshold": None,
    "log_prob_threshold": None,
    "no_speech_threshold": None,
    "condition_on_previous_text": False,
}
GERMAN = {"language": "de", "task": "translate"}


def rows(found: Transcription) -> list[tuple[float, float, list[int]]]:
    return [(segment.start, segment.end, segment.tokens) for segment in found.segments]


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize(
    ("shape", "spoken"), [("tiny", GERMAN), ("english", {}), ("turbo", GERMAN)]
)
def test_a_window_without_timestamps(
    shape: str,
    spoken: dict[str, str],
    beams: int,
    speech_model: Callable[[str], SpeechModel],
    reference_of: Callable[[str], Reference],
) -> None:
    audio = sound(30, seed=beams)
    wanted = reference_of(shape).generate(audio, num_beams=beams, **spoken)[0].tolist()
    wanted = [token for token in wanted if token < whisper.EOS]
    found = speech_model(shape).transcribe(
        audio, beam_size=beams, without_timestamps=True, **PLAIN, **spoken
    )
    assert [segment.tokens for segment in found.segments] == [wanted]
    assert (found.segments[0].start, found.segments[0].end) == (0, 30)


@pytest.mark.parametrize(
    ("shape", "spoken", "beams", "seconds", "condition"),
    [
        ("tiny", GERMAN, 1, 30, False),
        ("tiny", GERMAN, 5, 30, True),
        ("tiny", GERMAN, 1, 71.37, True),
        ("tiny", GERMAN, 5, 71.37, False),
        ("english", {}, 1, 71.37, False),
        ("english", {}, 3, 50, True),
    ],
)
def test_segments(
    shape: str,
    spoken: dict[str, str],
    beams: int,
    seconds: float,
    condition: bool,
    speech_model: Callable[[str], SpeechModel],
    reference_of: Callable[[str], Reference],
) -> None:
    audio = sound(seconds, seed=beams)
    wanted = reference_of(shape).segments(
        audio, num_beams=beams, condition_on_prev_tokens=condition, **spoken
    )
    found = speech_model(shape).transcribe(
        audio, beam_size=beams, **{**PLAIN, "condition_on_previous_text": condition}, **spoken
    )
    assert len(wanted) > (1 if seconds > 30 else 0)
    assert [row[2] for row in rows(found)] == [row[2] for row in wanted]
    for ours, theirs in zip(rows(found), wanted, strict=True):
        # Theirs may end after the recording.
        assert ours[:2] == pytest.approx([min(t, seconds) for t in theirs[:2]], abs=0.02)


def test_the_language_is_detected(
    speech_model: Callable[[str], SpeechModel], reference_of: Callable[[str], Reference]
) -> None:
    import torch

    audio = sound(12, seed=3)
    reference = reference_of("tiny")
    with torch.no_grad():
        logits = reference.model(
            reference.features(audio), decoder_input_ids=torch.tensor([[whisper.START]])
        ).logits[0, 0]
    wanted = torch.softmax(logits[list(whisper.LANGUAGES.values())], 0).tolist()
    found = speech_model("tiny").transcribe(audio, beam_size=1)
    assert found.language_probabilities is not None
    assert dict(found.language_probabilities) == pytest.approx(
        dict(zip(["en", "de"], wanted, strict=True)), abs=1e-4
    )
    assert found.language == max(found.language_probabilities, key=found.language_probabilities.get)
    assert found.language_probability == max(found.language_probabilities.values())
    detected = speech_model("tiny").detect_language(audio)
    assert (detected.language, detected.probability) == (
        found.language,
        found.language_probability,
    )


@pytest.mark.parametrize("beams", [1, 3])
def test_an_initial_prompt(
    beams: int,
    speech_model: Callable[[str], SpeechModel],
    reference_of: Callable[[str], Reference],
) -> None:
    import torch

    audio, prompt = sound(50, seed=4), [5, 6, 7, 30, 31]
    wanted = reference_of("tiny").segments(
        audio,
        num_beams=beams,
        prompt_ids=torch.tensor([whisper.PREVIOUS, *prompt]),
        condition_on_prev_tokens=True,
        **GERMAN,
    )
    found = speech_model("tiny").transcribe(
        audio,
        beam_size=beams,
        initial_prompt=prompt,
        **{**PLAIN, "condition_on_previous_text": True},
        **GERMAN,
    )
    assert [row[2] for row in rows(found)] == [row[2] for row in wanted]
    other = speech_model("tiny").transcribe(audio, beam_size=beams, **PLAIN, **GERMAN)
    assert rows(other) != rows(found)


#: At so low a temperature a sample is what greedy decoding gives, whatever is drawn.
COLD = 1e-4


@pytest.mark.parametrize(("least", "falls_back"), [(-50.0, False), (-1e-3, True)])
def test_temperature_fallback_by_log_probability(
    least: float,
    falls_back: bool,
    speech_model: Callable[[str], SpeechModel],
    reference_of: Callable[[str], Reference],
) -> None:
    """Beam search first, then a sample, where transformers finds the average too low as well.

    Where no text passes it takes the last one, and we the most probable one.
    """
    audio, window = sound(30, seed=5), {**PLAIN, "without_timestamps": True, **GERMAN}
    temperatures = (0.0, COLD)
    wanted = reference_of("turbo").generate(
        audio,
        num_beams=4,
        temperature=temperatures,
        logprob_threshold=least,
        return_dict_in_generate=True,
        **GERMAN,
    )

    def transcribe(**options: Any) -> Segment:
        options = {**window, "beam_size": 4, "best_of": 1, **options}
        (segment,) = speech_model("turbo").transcribe(audio, **options).segments
        return segment

    alone = [transcribe(temperature=each) for each in temperatures]
    tokens = [token for token in wanted.sequences[0].tolist() if token < whisper.EOS]
    assert alone[falls_back].tokens == tokens
    assert alone[0].tokens != alone[1].tokens
    found = transcribe(temperature=temperatures, log_prob_threshold=least)
    best = max(alone, key=lambda one: one.avg_logprob) if falls_back else alone[0]
    assert found == best


@pytest.mark.parametrize("beams", [1, 4])
def test_average_log_probability(
    beams: int,
    speech_model: Callable[[str], SpeechModel],
    reference_of: Callable[[str], Reference],
) -> None:
    """What transformers compares with logprob_threshold: between two thresholds it changes its
    mind, and so do we."""
    audio = sound(30, seed=6)
    options = {**PLAIN, "without_timestamps": True}
    (segment,) = (
        speech_model("tiny").transcribe(audio, beam_size=beams, **options, **GERMAN).segments
    )
    calls: list[bool] = []
    reference = reference_of("tiny")
    whole = type(reference.model)._need_fallback

    def noted(*arguments: Any, **keywords: Any) -> Any:
        found = whole(reference.model, *arguments, **keywords)
        calls.append(found[0])
        return found

    reference.model._need_fallback = noted
    try:
        for least in (segment.avg_logprob - 1e-3, segment.avg_logprob + 1e-3):
            reference.generate(
                audio,
                num_beams=beams,
                temperature=(0.0,),
                logprob_threshold=least,
                return_dict_in_generate=True,
                **GERMAN,
            )
    finally:
        del reference.model._need_fallback
    assert calls == [False, True]


def test_a_window_of_silence_is_skipped(
    speech_model: Callable[[str], SpeechModel], reference_of: Callable[[str], Reference]
) -> None:
    """Both thresholds on one side or the other of what the model says."""
    audio = sound(45, seed=7)
    plain = speech_model("tiny").transcribe(audio, beam_size=1, **PLAIN, **GERMAN)
    probabilities = [s.no_speech_prob for s in plain.segments if s.no_speech_prob is not None]
    assert probabilities and 0 < min(probabilities) < 1
    for threshold, is_silence in ((min(probabilities) / 2, True), (0.999, False)):
        wanted = reference_of("tiny").segments(
            audio,
            temperature=(0.0,),
            logprob_threshold=-1e-3,
            no_speech_threshold=threshold,
            return_dict_in_generate=True,
            **GERMAN,
        )
        options = {**PLAIN, "log_prob_threshold": -1e-3, "no_speech_threshold": threshold}
        found = speech_model("tiny").transcribe(audio, beam_size=1, **options, **GERMAN)
        assert [row[2] for row in rows(found)] == [row[2] for row in wanted]
        assert bool(found.segments) is not is_silence
        assert all(has_text(segment.tokens) for segment in found.segments)
