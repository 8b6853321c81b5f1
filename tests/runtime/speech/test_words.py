"""Times of tokens against transformers; words as openai-whisper splits them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seq2edge.runtime import InputError
from seq2edge.runtime.speech.alignment import first_columns, median_filter
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.transcription import Word
from seq2edge.runtime.speech.words import merged, split_words
from tests import whisper_models as whisper

from .conftest import Reference, sound
from .test_parity import GERMAN, PLAIN


@pytest.mark.parametrize("columns", [2, 4, 7, 40])
def test_median_filter(columns: int) -> None:
    import torch
    from transformers.models.whisper.generation_whisper import _median_filter

    rows = np.random.default_rng(columns).normal(size=(9, columns)).astype(np.float32)
    wanted = _median_filter(torch.tensor(rows)[None, None], 7)[0, 0].numpy()
    np.testing.assert_array_equal(median_filter(rows), wanted)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (6, 1), (5, 40), (30, 7), (40, 200)])
def test_dynamic_time_warping(shape: tuple[int, int]) -> None:
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping

    for seed in range(4):
        costs = np.random.default_rng(seed).normal(size=shape)
        rows, columns = _dynamic_time_warping(costs)
        wanted = [columns[np.flatnonzero(rows == row)[0]] for row in range(shape[0])]
        np.testing.assert_array_equal(first_columns(costs), wanted)


@pytest.mark.parametrize("beams", [1, 3])
def test_times_are_those_of_transformers(
    beams: int,
    speech_model: Callable[[str], SpeechModel],
    reference_of: Callable[[str], Reference],
) -> None:
    """A word begins where its first token's predecessor ends, and ends with its last one."""
    import torch

    audio = sound(30, seed=11)
    reference = reference_of("tiny")
    with torch.no_grad():
        found = reference.model.generate(
            reference.features(audio),
            attention_mask=torch.ones(1, 3000, dtype=torch.long),
            num_beams=beams,
            return_timestamps=True,
            return_token_timestamps=True,
            return_segments=True,
            **GERMAN,
        )
    ends = {}
    for segment in found["segments"][0]:
        times = segment["token_timestamps"].tolist()
        for number, token in enumerate(segment["tokens"].tolist()):
            if token < whisper.WORDS:
                ends[round(times[number - 1], 2), round(times[number], 2)] = token
    plain = speech_model("tiny").transcribe(audio, beam_size=beams, **PLAIN, **GERMAN)
    timed = speech_model("tiny").transcribe(
        audio, beam_size=beams, word_timestamps=True, **PLAIN, **GERMAN
    )
    assert [s.tokens for s in timed.segments] == [s.tokens for s in plain.segments]
    assert plain.words == [] and len(timed.words) > 3
    starts, stops = {start for start, _ in ends}, {end for _, end in ends}
    for word in timed.words:
        assert min(abs(word.start - start) for start in starts) <= 0.021
        assert min(abs(word.end - stop) for stop in stops) <= 0.021
        assert 0 < word.probability < 1
    for segment in timed.segments:
        assert "".join(word.word for word in segment.words or ()) == segment.text


def test_a_bundle_without_alignment_heads_says_so(
    whisper_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with SpeechModel.load(whisper_of("tiny").with_suffix(".bundle"), num_threads=1) as model:
        monkeypatch.delitem(model.manifest.graphs, "alignment")  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"word_timestamps need .* alignment_heads"):
            model.transcribe(sound(1), word_timestamps=True, language="en")


PIECES = [b" Hel", b"lo", b",", b" \xe4", b"\xbd\xa0", "好".encode(), b" it", b"'s", b" ", b"."]


def decode(tokens: list[int]) -> str:
    return b"".join(PIECES[token] for token in tokens).decode(errors="replace")


def test_words_are_split_by_spaces_and_signs() -> None:
    words = split_words(range(len(PIECES)), decode, "en")
    assert [word.text for word in words] == [" Hello", ",", " 你好", " it's", " ", "."]
    assert [token for word in words for token in word.tokens] == list(range(len(PIECES)))


def test_languages_without_spaces_are_split_by_characters() -> None:
    words = split_words([3, 4, 5, 5], decode, "zh")
    assert [word.text for word in words] == [" 你", "好", "好"]


def test_a_character_that_is_cut_stays() -> None:
    assert [word.tokens for word in split_words([0, 1, 3], decode, "en")] == [[0, 1], [3]]


def test_punctuation_belongs_to_its_word() -> None:
    words = [
        Word(number, number + 1, text, 0.5)
        for number, text in enumerate([' "', "Yes", ",", " he", " said", "."])
    ]
    found = merged(words, "\"'“¿([{-", "\"'.,!?:")
    assert [word.word for word in found] == [' "Yes,', " he", " said."]
    assert [(word.start, word.end) for word in found] == [(1, 2), (3, 4), (4, 5)]
