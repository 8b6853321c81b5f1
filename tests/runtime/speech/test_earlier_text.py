"""The text before a window in its prompt: all of it, or as much of its end as has room."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.options import options_of
from seq2edge.runtime.speech.prompt import Prompting
from tests import whisper_models as whisper


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
