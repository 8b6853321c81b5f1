"""Options of a transcription are refused before anything runs, with what is allowed."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import BundleError, Choices, InputError, JsonSchema
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.options import (
    TranscriptionKeywords,
    TranscriptionOptions,
    options_of,
)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("beams", "beam_size"),
        ("num_beams", "beam_size"),
        ("vad_filter", "vad"),
        ("logprob_threshold", "log_prob_threshold"),
        ("word_timestamp", "word_timestamps"),
        ("condition_on_prev_tokens", "condition_on_previous_text"),
    ],
)
def test_an_unknown_option_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"no transcription option '{name}'.* '{nearest}'"):
        options_of({name: 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size must be at least 1, not 0"),
        ({"beam_size": 2.5}, "beam_size must be an integer"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"temperature": -0.2}, "temperature must be a number of at least 0"),
        ({"temperature": ()}, "temperature must be a number of at least 0"),
        ({"temperature": "0"}, "temperature must be a number of at least 0"),
        ({"log_prob_threshold": 1.0}, "log_prob_threshold must be a number of at most 0"),
        ({"no_speech_threshold": 2}, "no_speech_threshold must be a number from 0 to 1"),
        ({"patience": 0}, "patience must be a number from 0.001 to 1e\\+06"),
        ({"language_detection_threshold": float("nan")}, "language_detection_threshold must be"),
        ({"vad": 1}, "vad must be True or False"),
        ({"language": 5}, "language must be a text"),
        ({"suppress_tokens": "1,2"}, "suppress_tokens must be a list of token ids"),
        ({"initial_prompt": 3.5}, "initial_prompt must be a text or a list"),
        ({"clip_timestamps": "a,b"}, "clip_timestamps must be seconds that ascend"),
        ({"clip_timestamps": (3.0, 1.0)}, "clip_timestamps must be seconds that ascend"),
        ({"constraint": JsonSchema({})}, "constraint must be Choices or Regex"),
        ({"constraint": Choices(("on",))}, "needs without_timestamps=True"),
        ({"hallucination_silence_threshold": 2.0}, "no transcription option .*: vad=True cuts"),
        ({"beam_size": 0, "best_of": 0}, "beam_size.*; best_of"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        options_of(options)


def test_values_in_several_spellings_are_one() -> None:
    options = options_of({"temperature": 0, "clip_timestamps": "1.5,3", "initial_prompt": (1, 2)})
    assert options.temperature == (0.0,)
    assert options.clip_timestamps == (1.5, 3.0)
    assert options.initial_prompt == [1, 2]


def test_keywords_replace_single_options() -> None:
    base = options_of({"beam_size": 2, "language": "de"})
    assert options_of({"language": "fr"}, base).beam_size == 2


def test_type_checkers_know_every_option() -> None:
    """Names and types."""
    there = {spec.name: spec.type for spec in fields(TranscriptionOptions)}
    known = {k: v.__forward_arg__ for k, v in TranscriptionKeywords.__annotations__.items()}
    assert known == there


def test_times_without_the_token_that_turns_them_off_are_refused(
    speaking_bundle: Path, tmp_path: Path
) -> None:
    """Found by mutated manifests: AssertionError."""
    bundle = tmp_path / "bundle"
    shutil.copytree(speaking_bundle, bundle)
    manifest = json.loads((bundle / "seq2edge.json").read_text())
    manifest["speech"]["no_timestamps"] = None
    (bundle / "seq2edge.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"speech\.no_timestamps is missing"):
        SpeechModel.load(bundle)


@pytest.mark.parametrize("wrong", [1.5, [[], 1], ["a"], "all"])
def test_a_bundles_own_tokens_are_checked(
    speaking_bundle: Path, tmp_path: Path, wrong: object
) -> None:
    """Found by mutated manifests: what a bundle suppresses was read before it was looked at."""
    bundle = tmp_path / "bundle"
    shutil.copytree(speaking_bundle, bundle)
    manifest = json.loads((bundle / "seq2edge.json").read_text())
    manifest["generation"]["suppress_tokens"] = wrong
    (bundle / "seq2edge.json").write_text(json.dumps(manifest))
    with (
        pytest.raises(InputError, match="suppress_tokens"),
        SpeechModel.load(bundle, num_threads=1) as model,
    ):
        model.transcribe(np.zeros(1600, np.float32), language="en")
