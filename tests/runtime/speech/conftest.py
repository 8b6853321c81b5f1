"""Whisper models made from configs, their bundles and transformers' results; recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.runtime.speech.model import SpeechModel
from tests import whisper_models as whisper
from tests.conftest import made_once

Audio = NDArray[np.float32]
RATE = 16000


class Reference:
    """transformers' Whisper and its feature extractor, of a checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

        self.model = WhisperForConditionalGeneration.from_pretrained(
            checkpoint, attn_implementation="eager"
        ).eval()
        self._extractor = WhisperFeatureExtractor.from_pretrained(checkpoint)

    def features(self, audio: Audio) -> Any:
        options = {"sampling_rate": RATE, "return_tensors": "pt"}
        if len(audio) > 30 * RATE:
            options |= {"truncation": False, "padding": "longest"}
        return self._extractor(audio, **options).input_features

    def generate(self, audio: Audio, **options: Any) -> Any:
        import torch

        with torch.no_grad():
            return self.model.generate(self.features(audio), **options)

    def segments(self, audio: Audio, **options: Any) -> list[tuple[float, float, list[int]]]:
        """Start, end and tokens of each segment that has text."""
        found = self.generate(audio, return_timestamps=True, return_segments=True, **options)
        rows = [
            (round(float(s["start"]), 3), round(float(s["end"]), 3), s["tokens"].tolist())
            for s in found["segments"][0]
        ]
        return [row for row in rows if has_text(row[2])]


def has_text(tokens: list[int]) -> bool:
    """Whether tokens of a model of :mod:`tests.whisper_models` are more than white space."""
    return any(0 < token < whisper.WORDS for token in tokens)


@pytest.fixture(scope="session")
def whisper_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From a shape of :mod:`tests.whisper_models` to its checkpoint; ``.bundle`` is beside it."""
    from seq2edge.export import export_checkpoint

    def make(shape: str, path: Path) -> None:
        whisper.make_whisper(shape, path, seed=8, speaks=True)
        whisper.write_tokenizer(path)
        export_checkpoint(path, path.with_suffix(".bundle"), validate=False)

    return made_once(tmp_path_factory.mktemp("speech"), make)


@pytest.fixture(scope="session")
def speech_model(whisper_of: Callable[[str], Path]) -> Iterator[Callable[[str], SpeechModel]]:
    """From a shape to its loaded bundle."""
    loaded: dict[str, SpeechModel] = {}

    def get(shape: str) -> SpeechModel:
        if shape not in loaded:
            bundle = whisper_of(shape).with_suffix(".bundle")
            loaded[shape] = SpeechModel.load(bundle, num_threads=1)
        return loaded[shape]

    yield get
    for model in loaded.values():
        model.close()


@pytest.fixture(scope="session")
def reference_of(whisper_of: Callable[[str], Path]) -> Callable[[str], Reference]:
    """From a shape to transformers' model of it."""
    loaded: dict[str, Reference] = {}

    def get(shape: str) -> Reference:
        if shape not in loaded:
            loaded[shape] = Reference(whisper_of(shape))
        return loaded[shape]

    return get


def sound(seconds: float, seed: int = 0) -> Audio:
    """Tones that come and go and change, in noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 200 + 40 * np.cumsum(generator.standard_normal(len(time)) * 0.01)
    tones = np.sin(2 * np.pi * pitch * time) * np.sin(2 * np.pi * 1.3 * time + seed) * 0.3
    return (tones + 0.01 * generator.standard_normal(len(time))).astype(np.float32)
