"""The weights and recordings that other tests stand on are those that they are taken for."""

from __future__ import annotations

import wave

import numpy as np
import pytest

from . import real_weights


@pytest.mark.parametrize("model", real_weights.MODELS)
def test_transformers_reads_the_folder_whole(model: str) -> None:
    from transformers import WhisperForConditionalGeneration

    folder = real_weights.hugging_face_folder(model)
    loaded, info = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    # The positions of its encoder are sinusoids (Radford et al. 2022), which no file of another
    # model, and none that was read askew, would hold.
    table = loaded.model.encoder.embed_positions.weight.detach().numpy()
    half = table.shape[1] // 2
    angles = np.arange(1500)[:, None] * np.exp(-np.log(10000) / (half - 1) * np.arange(half))
    np.testing.assert_allclose(table, np.hstack([np.sin(angles), np.cos(angles)]), atol=1e-3)


@pytest.mark.parametrize("name", real_weights.RECORDINGS)
def test_recordings_hold_speech(name: str) -> None:
    with wave.open(str(real_weights.recording(name))) as file:
        assert file.getnframes() / file.getframerate() > 9


def test_the_recording_in_the_repository_is_16_khz_mono() -> None:
    with wave.open(str(real_weights.JFK)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        assert file.getnframes() == 11 * 16000
