"""Rules for timestamp tokens, and the pieces that they cut a window into."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from seq2edge.runtime.bundle.speech_info import SpeechInfo
from seq2edge.runtime.generation.processor import Rows
from seq2edge.runtime.speech.timestamps import Piece, TimestampRules, split
from tests import whisper_models as whisper

BEGIN = whisper.NO_TIMESTAMPS + 1
SPEECH = SpeechInfo(
    sampling_rate=16000,
    mel_bins=80,
    hop_length=160,
    window_frames=3000,
    frames_per_position=2,
    no_timestamps=whisper.NO_TIMESTAMPS,
    timestamp_begin=BEGIN,
)


@pytest.mark.parametrize("most", [None, 50])
@pytest.mark.parametrize("seed", range(6))
def test_scores_are_those_of_transformers(seed: int, most: int | None) -> None:
    """Of sequences that follow the rules and of others, after a prompt with timestamps in it."""
    import torch
    from transformers import WhisperTimeStampLogitsProcessor

    generator = np.random.default_rng(seed)
    config = SimpleNamespace(
        no_timestamps_token_id=whisper.NO_TIMESTAMPS,
        eos_token_id=whisper.EOS,
        bos_token_id=whisper.EOS,
        max_initial_timestamp_index=most,
    )
    prompt = 3
    theirs = WhisperTimeStampLogitsProcessor(config, begin_index=prompt)
    ours = TimestampRules(SPEECH, whisper.EOS, prompt, most)
    for length in range(7):
        tokens = generator.integers(0, 60, (12, prompt + length))
        is_time = generator.random(tokens.shape) < 0.5
        tokens = np.where(
            is_time, BEGIN + np.sort(generator.integers(0, 900, tokens.shape)), tokens
        )
        scores = generator.normal(0, 3, (12, whisper.VOCABULARY)).astype(np.float32)
        scores[generator.random(scores.shape) < 0.1] = -np.inf
        scores[::2, BEGIN:] -= 8
        wanted = theirs(torch.tensor(tokens), torch.tensor(scores)).numpy()
        found = ours(Rows(tokens, np.arange(12)), scores.copy())
        np.testing.assert_array_equal(found, wanted)


def at(seconds: float) -> int:
    return BEGIN + round(seconds / 0.02)


@pytest.mark.parametrize(
    ("tokens", "pieces", "advance"),
    [
        # Nobody speaks after a lone timestamp at the end.
        (
            [at(0), 5, at(2), at(2.5), 6, at(4)],
            [(0, 2, [at(0), 5, at(2)]), (2.5, 4, [at(2.5), 6, at(4)])],
            30,
        ),
        # What is cut by the window's end is heard again.
        ([at(1), 5, at(2), at(2), 6, 7], [(1, 2, [at(1), 5, at(2), at(2)])], 2),
        ([at(1), 5, at(2), at(2)], [(1, 2, [at(1), 5, at(2), at(2)])], 2),
        ([at(0), 5, 6], [(0, 30, [at(0), 5, 6])], 30),
        ([at(1), 5, at(7)], [(0, 7, [at(1), 5, at(7)])], 30),
        ([5, 6], [(0, 30, [5, 6])], 30),
        ([], [], 30),
    ],
)
def test_pieces(
    tokens: list[int], pieces: list[tuple[float, float, list[int]]], advance: float
) -> None:
    found, seconds = split(tokens, 30.0, BEGIN)
    assert [(p.start, p.end, p.tokens) for p in found] == [
        (pytest.approx(start), pytest.approx(end), part) for start, end, part in pieces
    ]
    assert seconds == pytest.approx(advance)


def test_the_rest_is_a_piece_of_a_window_that_nothing_follows() -> None:
    tokens = [at(1), 5, at(2), at(2.5), 6, 7]
    found, seconds = split(tokens, 30.0, BEGIN, rest=True)
    assert [piece.tokens for piece in found] == [tokens[:3], tokens[3:]]
    assert [(piece.start, piece.end) for piece in found] == [
        pytest.approx((1, 2)),
        pytest.approx((2.5, 30)),
    ]
    assert seconds == 30


def test_a_model_without_timestamps_has_one_piece() -> None:
    assert split([5, BEGIN + 3], 12.0, None) == ([Piece(0.0, 12.0, [5, BEGIN + 3])], 12.0)
