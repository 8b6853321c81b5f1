"""The text before a window in its prompt: all of it, or as much of its end as has room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seq2edge.quantize import quantize_bundle
from seq2edge.quantize.recipe.options import Options
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends.onnxruntime import OrtBackend
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.options import options_of
from seq2edge.runtime.speech.prompt import Prompting
from seq2edge.runtime.text.tokenizer import load_tokenizer
from tests import whisper_models as whisper
from tests.conftest import export_unvalidated


@pytest.mark.parametrize("count", [1, 15, 16, 20, 30, 31, 32, 50, 62, 70])
def test_the_end_of_earlier_text_is_kept(
    speech_model: Callable[[str], SpeechModel], count: int
) -> None:
    model = speech_model("tiny")
    most = 64 // 2 - 1  # of a model with 64 positions, as transformers counts
    earlier = [1 + number % 70 for number in range(count)]
    prompting = Prompting(model.manifest, model.tokenizer, options_of({"initial_prompt": earlier}))
    prompt = prompting.of_window("en")
    assert prompt.tokens == [
        whisper.PREVIOUS,
        *earlier[-most:],
        whisper.START,
        whisper.LANGUAGES["<|en|>"],
        whisper.TASKS["transcribe"],
    ]


def test_hotwords_take_room_from_earlier_text(
    speech_model: Callable[[str], SpeechModel],
) -> None:
    model = speech_model("tiny")
    earlier = list(range(1, 31))
    options = options_of({"initial_prompt": earlier, "hotwords": "ab cd"})
    tokens = Prompting(model.manifest, model.tokenizer, options).of_window("en").tokens
    before = tokens[1 : tokens.index(whisper.START)]
    hot = model.tokenizer.encode(" ab cd", special_tokens=False)
    assert before == [*hot, *earlier[len(hot) - 31 :]]


def test_a_prompt_may_be_longer_than_a_fitted_window(tmp_path: Path) -> None:
    """Fault: int8 keys and values of 3 s of sound were refused for a prompt of 227 tokens."""
    checkpoint = whisper.make_whisper("tiny", tmp_path / "w", speaks=True, max_target_positions=448)
    whisper.write_tokenizer(checkpoint)
    export_unvalidated(checkpoint, tmp_path / "float32")
    options = Options(two_stage_head=False)
    quantize_bundle(tmp_path / "float32", tmp_path / "int8", "int8", options=options, check=False)
    bundle = Bundle.open(tmp_path / "int8")
    tokenizer = load_tokenizer(bundle)
    audio = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10
    texts = []
    for lowered in (False, True):
        backend = OrtBackend(bundle, num_threads=1, lowered=lowered)
        model = SpeechModel(bundle, backend, tokenizer)
        found = model.transcribe(audio, fit_window=True, initial_prompt=[3, 5] * 115, language="en")
        texts.append(found.text)
    assert texts[0] and texts[0] == texts[1]
