"""Bundles that hear speech are compared on sound, and layers with outliers are kept from int8."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from seq2edge.quantize import (
    CalibrationFiles,
    DistributionCheck,
    Options,
    QuantizationError,
    quantize_bundle,
)
from seq2edge.runtime import InputError
from tests import whisper_models as whisper
from tests.conftest import export_unvalidated, made_once

#: A layer whose second feed-forward product reads outliers, as those of trained models do.
LOUD = "encoder.layers.1.ffn.down"


@pytest.fixture(scope="module")
def speech_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A Whisper's float32 bundle: ``plain``, or ``loud`` with outliers in one layer. Read only."""

    def make(kind: str, path: Path) -> None:
        checkpoint = path.with_suffix(".checkpoint")
        whisper.make_whisper("tiny", checkpoint)
        if kind == "loud":
            tensors = load_file(checkpoint / "model.safetensors")
            tensors["model.encoder.layers.1.fc1.weight"][3] *= 3000
            tensors["model.encoder.layers.1.fc2.weight"][:, 3] /= 3000
            save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
        export_unvalidated(checkpoint, path)

    return made_once(tmp_path_factory.mktemp("speech"), make)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "two tones.wav"
    time = np.arange(12000) / 8000
    tones = np.sin(2 * np.pi * 300 * time) * (time < 0.7) + np.sin(2 * np.pi * 900 * time)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((tones * 9000).astype("<i2").tobytes())
    return path


def quantized(source: Path, out: Path, **options: Any) -> tuple[DistributionCheck, dict[str, Any]]:
    result = quantize_bundle(source, out, "int8", overwrite=True, **options)
    assert isinstance(result.check, DistributionCheck)
    return result.check, dict(result.manifest.quantization)


def test_the_copy_is_compared_on_a_synthetic_voice(
    speech_of: Callable[[str], Path], tmp_path: Path
) -> None:
    check, record = quantized(speech_of("plain"), tmp_path / "int8")
    assert (check.prompts, check.sequences, check.positions) == ("synthetic sound", 2, 64)
    assert 0 < check.mean_kl < 0.05
    assert check.agreement > 0.8
    assert (record["sounds"], record["outliers"]) == ("synthetic sound", {})
    assert record["check"]["prompts"] == "synthetic sound"


def test_recordings_take_the_place_of_it(
    speech_of: Callable[[str], Path], recording: Path, tmp_path: Path
) -> None:
    files = CalibrationFiles((recording, recording))
    check, record = quantized(speech_of("plain"), tmp_path / "int8", calibration=files)
    assert (check.prompts, check.sequences, record["sounds"]) == ("recordings", 2, "recordings")
    one, _ = quantized(
        speech_of("plain"), tmp_path / "int8", calibration=CalibrationFiles(recording)
    )
    assert one.sequences == 1
    assert one.mean_kl == pytest.approx(check.mean_kl, abs=1e-7)  # two windows share a batch


def test_a_layer_with_outliers_gets_blocks(
    speech_of: Callable[[str], Path], tmp_path: Path
) -> None:
    check, record = quantized(speech_of("loud"), tmp_path / "int8")
    assert set(record["outliers"]) == {LOUD}
    assert record["outliers"][LOUD] < 20
    assert record["layers"][LOUD].startswith("int8 weights, blocks of")
    other = LOUD.replace("1", "0")
    assert record["layers"][other].endswith("dynamic int8 inputs")
    assert check.mean_kl < 0.05


def test_what_is_no_recording_is_refused(
    speech_of: Callable[[str], Path], recording: Path, tmp_path: Path
) -> None:
    source, out = speech_of("plain"), tmp_path / "out"

    def refused(match: str, error: type[Exception] = QuantizationError, **more: Any) -> None:
        scheme = more.pop("scheme", "int8")
        with pytest.raises(error, match=match):
            quantize_bundle(source, out, scheme, **more)
        assert not out.exists()

    text = tmp_path / "texts.txt"
    text.write_text("words that nobody speaks\n" * 9)
    refused("texts.txt", InputError, calibration=CalibrationFiles(text))
    saving = CalibrationFiles(recording, save=tmp_path / "saved")
    refused("recordings leave no calibration to save", calibration=saving)
    refused("calibrates on text, and .* hears speech", scheme="int8-qdq")
    refused("hears speech", scheme="int4", options=Options(algorithm="gptq"))


def test_texts_come_from_one_file(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"input_ids": [5, 6, 1]}\n')
    files = CalibrationFiles((tmp_path / "a.jsonl", tmp_path / "b.jsonl"))
    with pytest.raises(QuantizationError, match="comes from one file"):
        quantize_bundle(bundle_of("t5"), tmp_path / "out", "int8-qdq", calibration=files)
