"""Features in pieces are those that transformers extracts from the whole recording."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.runtime import BundleError
from seq2edge.runtime.audio import AudioSource, open_audio
from seq2edge.runtime.backends import Backend, load_backend
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.bundle.speech_info import SpeechInfo
from seq2edge.runtime.speech import features
from seq2edge.runtime.speech.features import LogMel
from tests import real_weights
from tests.conftest import export_unvalidated
from tests.whisper_models import make_whisper

FloatArray = NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("features")
    make_whisper("tiny", folder / "checkpoint")
    export_unvalidated(folder / "checkpoint", folder / "bundle")
    return Bundle.open(folder / "bundle")


def test_a_speech_bundle_without_an_end_token_is_refused(
    bundle: Bundle, copy_of: Callable[[Path], Path]
) -> None:
    """Found by mutated bundles: it was looked for in an empty list, at the first window."""
    copy = copy_of(bundle.directory)
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    manifest["special_tokens"]["eos"] = []
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"special_tokens\.eos is empty"):
        Bundle.open(copy)


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> Iterator[Backend]:
    loaded = load_backend(bundle, num_threads=1)
    yield loaded
    loaded.close()


@pytest.fixture
def speech(bundle: Bundle) -> SpeechInfo:
    assert bundle.manifest.speech is not None
    return bundle.manifest.speech


def sound(samples: int) -> FloatArray:
    """Noise that becomes louder and quieter, with its loudest part late."""
    level = 0.02 + 0.5 * np.sin(np.arange(samples) / 40000) ** 8 * np.arange(samples) / samples
    noise = np.random.default_rng(samples).standard_normal(samples)
    return (level * noise).astype(np.float32)


def extracted(samples: FloatArray, *, padding: str | bool) -> FloatArray:
    from transformers import WhisperFeatureExtractor

    found: FloatArray = WhisperFeatureExtractor()(
        samples, sampling_rate=16000, padding=padding, truncation=False, return_tensors="np"
    ).input_features[0]
    return found


@pytest.mark.parametrize("samples", [1, 160, 8000, 16_077, 479_999, 480_000])
def test_a_short_recording_is_padded_as_audio(
    samples: int, backend: Backend, speech: SpeechInfo
) -> None:
    audio = sound(samples)
    mel = LogMel(backend, speech, open_audio(audio))
    assert mel.num_frames == samples // 160
    wanted = extracted(audio, padding="max_length")
    found = mel.window(0, 3000, pad="audio")
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    np.testing.assert_allclose(mel.window(2, 70, pad="audio"), wanted[:, 2:72], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [480_001, 480_321, 960_000, 1_000_123])
def test_a_long_recording_is_extracted_as_a_whole(
    samples: int, backend: Backend, speech: SpeechInfo
) -> None:
    audio = sound(samples)
    mel = LogMel(backend, speech, open_audio(audio))
    wanted = extracted(audio, padding=False)
    frames = wanted.shape[1]
    assert mel.num_frames == frames == samples // 160
    for start, count in ((0, 3000), (1234, 3000), (2990, 20), (frames - 100, 100)):
        stop = min(start + count, frames)
        found = mel.window(start, stop - start)
        np.testing.assert_allclose(found, wanted[:, start:stop], rtol=0, atol=1e-4)
    last = mel.window(frames - 7, 3000)
    np.testing.assert_allclose(last[:, :7], wanted[:, -7:], rtol=0, atol=1e-4)
    assert last.shape == (80, 3000)
    assert not last[:, 7:].any()


def test_silence_may_follow_a_long_recording(backend: Backend, speech: SpeechInfo) -> None:
    audio = sound(500_077)
    wanted = extracted(np.pad(audio, (0, 100_000)), padding=False)
    mel = LogMel(backend, speech, open_audio(audio))
    found = mel.window(3000, 600, pad="audio")
    np.testing.assert_allclose(found, wanted[:, 3000:3600], rtol=0, atol=1e-4)
    # Asking for silence does not change what is read without it.
    assert not mel.window(3000, 600)[:, 125:].any()


def test_a_recording_of_speech(backend: Backend, speech: SpeechInfo) -> None:
    with open_audio(real_weights.recording("two_cities")) as audio:
        wanted = extracted(audio.read(0, audio.num_samples), padding=False)
        mel = LogMel(backend, speech, audio)
        parts = [mel.window(start, 500) for start in range(0, wanted.shape[1] - 500, 500)]
    found = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(found, wanted[:, : found.shape[1]], rtol=0, atol=1e-4)


def test_the_graph_gets_ten_seconds_at_once_and_gives_the_same(
    backend: Backend, speech: SpeechInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes 34 MB for 30 s."""
    lengths = []

    class Watched:
        def run_graph(self, name: str, inputs: dict[str, FloatArray]) -> dict[str, FloatArray]:
            lengths.append(inputs["audio"].shape[1])
            return backend.run_graph(name, inputs)

    audio = np.random.default_rng(5).standard_normal(31 * 16000).astype(np.float32)
    for pad in ("features", "audio"):
        found = []
        for frames in (1000, 3000):
            monkeypatch.setattr(features, "_AT_ONCE", frames)
            with open_audio(audio) as source:
                mel = LogMel(cast("Backend", Watched()), speech, source)
                found.append(mel.window(100, 3000, pad=pad))
            assert max(lengths) <= (frames + 4) * speech.hop_length
            lengths.clear()
        np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("changes", [{"hop_length": 3}, {"hop_length": 9_000}, {"mel_bins": 40}])
def test_a_manifest_that_promises_other_features_is_named(
    changes: dict[str, int], backend: Backend, speech: SpeechInfo
) -> None:
    """Found by mutated bundles: numpy's error of shapes that do not fit."""
    audio = np.random.default_rng(5).standard_normal(31 * 16000).astype(np.float32)
    with open_audio(audio) as source:
        mel = LogMel(backend, replace(speech, **changes), source)
        with pytest.raises(BundleError, match=r"gives 80 x \d+ values .* promise"):
            mel.window(0, 100)


class Silence:
    """A recording that is nowhere."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def read(self, start: int, stop: int) -> FloatArray:
        return np.zeros(min(stop, self.num_samples) - start, np.float32)


def test_length_takes_no_memory(backend: Backend, speech: SpeechInfo) -> None:
    quarter_hour: AudioSource = Silence(15 * 60 * 16000)
    mel = LogMel(backend, speech, quarter_hour)
    tracemalloc.start()
    for start in range(0, mel.num_frames, 2700):
        assert mel.window(start, 3000).shape == (80, 3000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20  # the audio alone would take 58 MB
