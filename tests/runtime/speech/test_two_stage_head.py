"""A head of two stages, in transcriptions: they are those of the whole head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.quantize import Options, quantize_bundle
from seq2edge.runtime.audio import open_audio
from seq2edge.runtime.backends import Step
from seq2edge.runtime.backends.onnxruntime import OrtBackend
from seq2edge.runtime.speech.model import SpeechModel
from tests import whisper_models as whisper
from tests.conftest import export_unvalidated
from tests.real_weights import JFK, ctranslate2_folder

from .conftest import sound
from .test_parity import GERMAN, PLAIN

GREEDY: dict[str, Any] = {**PLAIN, "beam_size": 1, **GERMAN}


@pytest.fixture(scope="module")
def both(
    whisper_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SpeechModel, SpeechModel]]:
    """int8 models with a whole head and with two stages."""
    folder, models = tmp_path_factory.mktemp("heads"), []
    for two_stages in (False, True):
        quantize_bundle(
            whisper_of("tiny").with_suffix(".bundle"),
            folder / str(two_stages),
            "int8",
            options=Options(two_stage_head=two_stages, block_size=32),
            check=False,
        )
        models.append(SpeechModel.load(folder / str(two_stages), num_threads=1))
    yield models[0], models[1]
    for model in models:
        model.close()


def step_after(backend: OrtBackend, tokens: list[int]) -> tuple[Any, Step]:
    """A step of the last of ``tokens``, run with the best tokens only."""
    features = np.random.default_rng(1).standard_normal((1, 80, 200), np.float32)
    cache = backend.new_cache(backend.encode({"input_features": features}), 16)
    step = Step.allocate(1, 1, 16, vocab_size=whisper.VOCABULARY, only_best=True)
    for place, token in enumerate(tokens):
        step.input_ids[:] = token
        step.position_ids[:] = step.write_indices[:] = place
        step.attention_mask[..., place] = True
        cache.forward(step)
    return cache, step


def test_proposals_and_the_last_tokens_have_the_whole_heads_logits(
    both: tuple[SpeechModel, SpeechModel],
) -> None:
    backend = both[1].backend
    assert isinstance(backend, OrtBackend)
    cache, step = step_after(backend, [whisper.START, 5, 6])
    proposals = step.proposals
    assert proposals is not None
    assert step.logits is not None
    assert proposals.count == 64
    assert (proposals.token_ids[:64] < whisper.EOS).all()
    last = np.arange(whisper.EOS, whisper.VOCABULARY)
    np.testing.assert_array_equal(proposals.token_ids[64:], last)
    scored, estimate = step.logits[0, 0].copy(), float(proposals.unscored_logsumexp[0])
    assert set(np.flatnonzero(scored > -np.inf)) == set(proposals.token_ids)
    step.only_best = False
    cache.forward(step)
    assert step.proposals is None
    whole = step.logits[0, 0]
    np.testing.assert_allclose(scored[proposals.token_ids], whole[proposals.token_ids], atol=1e-4)
    # 1, 2 and the start token are never proposed.
    others = np.setdiff1d(np.arange(3, whisper.EOS), proposals.token_ids)
    assert 0 < len(others) < 16
    expected = np.log(np.exp(whole[others].astype(np.float64)).sum())
    assert abs(estimate - expected) < 0.3 * whole.std()


@pytest.mark.parametrize("options", [{}, {"without_timestamps": True}], ids=["times", "text"])
@pytest.mark.parametrize(
    "more",
    [{}, {"suppress_tokens": [-1, 20, 21]}, {"suppress_tokens": None}, {"no_repeat_ngram_size": 2}],
    ids=["plain", "suppressed", "nothing suppressed", "no repetition"],
)
def test_transcriptions_are_the_whole_heads(
    options: dict[str, Any], more: dict[str, Any], both: tuple[SpeechModel, SpeechModel]
) -> None:
    for seed in range(3):
        whole, proposed = (
            model.transcribe(sound(40, seed=seed), **{**GREEDY, **options, **more})
            for model in both
        )
        assert len(whole.segments) == len(proposed.segments) > 0
        for expected, found in zip(whole.segments, proposed.segments, strict=True):
            assert found.tokens == expected.tokens
            assert (found.start, found.end) == (expected.start, expected.end)
            assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, rel=1e-3)
            assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=0.02)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SpeechModel, SpeechModel]]:
    """tiny.en in int8, with a whole head and with two stages."""
    folder = tmp_path_factory.mktemp("tiny.en")
    export_unvalidated(ctranslate2_folder("tiny.en"), folder / "float32")
    models = []
    for name, two_stages in (("whole", False), ("two", None)):
        options = Options(two_stage_head=two_stages)
        quantize_bundle(folder / "float32", folder / name, "int8", options=options, check=False)
        models.append(SpeechModel.load(folder / name, num_threads=1))
    yield models[0], models[1]
    for model in models:
        model.close()


@pytest.mark.parametrize("noise", [0, 0.03])
@pytest.mark.parametrize("text", [True, False], ids=["text", "times"])
def test_trained_weights_hear_the_same(
    noise: float, text: bool, trained: tuple[SpeechModel, SpeechModel]
) -> None:
    with open_audio(JFK) as opened:
        audio = opened.read(0, opened.num_samples)
    audio = audio + noise * np.random.default_rng(0).standard_normal(len(audio))
    options = {"beam_size": 1, "temperature": 0.0, "without_timestamps": text}
    (whole, proposed) = (model.transcribe(audio, **options) for model in trained)
    assert proposed.text == whole.text != ""
    for expected, found in zip(whole.segments, proposed.segments, strict=True):
        assert found.tokens == expected.tokens
        assert (found.start, found.end) == (expected.start, expected.end)
        assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=0.02)


def test_near_the_threshold_log_probabilities_are_exact(
    trained: tuple[SpeechModel, SpeechModel],
) -> None:
    options: dict[str, Any] = {"beam_size": 1, "temperature": 0.0}
    (expected, *_) = trained[0].transcribe(JFK, **options).segments
    (found, *_) = trained[1].transcribe(JFK, **options).segments
    assert found.avg_logprob != pytest.approx(expected.avg_logprob, abs=1e-6)
    options["log_prob_threshold"] = expected.avg_logprob - 0.01
    (exact, *_) = trained[1].transcribe(JFK, **options).segments
    assert exact.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-6)
    assert exact.tokens == expected.tokens
