"""A model that reads audio of any length and says no times: Moonshine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from seq2edge.runtime.errors import InputError
from seq2edge.runtime.generation.source import collate
from seq2edge.runtime.speech.fallback import WindowSource
from seq2edge.runtime.speech.model import SpeechModel
from tests.conftest import export_unvalidated
from tests.moonshine_models import make_moonshine, write_tokenizer

from .conftest import sound
from .test_parity import PLAIN

#: Nothing but what the tokens need.
GREEDY = {**PLAIN, "beam_size": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_moonshine("tiny", tmp_path_factory.mktemp("moonshine") / "checkpoint", seed=10)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Iterator[SpeechModel]:
    bundle = checkpoint.with_suffix(".bundle")
    export_unvalidated(checkpoint, bundle)
    with SpeechModel.load(bundle, num_threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("seconds", [0.5, 2.0, 7.3])
def test_tokens_are_those_of_transformers(
    checkpoint: Path, model: SpeechModel, seconds: float, beams: int
) -> None:
    import torch
    from transformers import MoonshineForConditionalGeneration

    theirs = MoonshineForConditionalGeneration.from_pretrained(checkpoint).eval()
    audio = sound(seconds)
    with torch.no_grad():
        wanted = theirs.generate(
            torch.tensor(audio)[None], num_beams=beams, do_sample=False, max_length=24
        )[0].tolist()
    found = model.transcribe(audio, **{**GREEDY, "beam_size": beams, "max_new_tokens": 23})
    tokens = [token for segment in found.segments for token in segment.tokens]
    assert tokens == [token for token in wanted if token > 2]
    assert found.duration == pytest.approx(seconds)


def test_audio_that_is_shorter_than_the_convolutions_is_padded(model: SpeechModel) -> None:
    assert model.transcribe(sound(0.01), **GREEDY).duration == pytest.approx(0.01)


def test_live_audio(model: SpeechModel) -> None:
    audio = sound(3)
    with model.stream([audio[:20000], audio[20000:]], step_seconds=1000, **GREEDY) as stream:
        updates = list(stream)
    assert stream.result == model.transcribe(audio, **GREEDY)
    with model.stream([audio[:20000], audio[20000:]], **GREEDY) as stream:
        updates = list(stream)
    assert "".join(update.text for update in updates).strip() == stream.result.text


def test_what_it_cannot_say_is_refused(model: SpeechModel) -> None:
    with pytest.raises(InputError, match="word"):
        model.transcribe(sound(1), word_timestamps=True)
    with pytest.raises(InputError, match=r"[Ee]nglish"):
        model.transcribe(sound(1), language="de")


def test_audio_of_several_lengths_does_not_share_a_batch() -> None:
    sources = [WindowSource("audio", sound(seconds), 1) for seconds in (1, 2)]
    with pytest.raises(InputError, match="different lengths cannot share a batch"):
        collate(sources, 0)
    assert collate([sources[0]] * 2, 0)["audio"].shape == (2, 16000)
