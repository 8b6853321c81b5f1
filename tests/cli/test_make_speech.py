"""``seq2edge make`` of a checkpoint that hears speech."""

from __future__ import annotations

import json
import shutil
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Bundle

from .conftest import Done

pytestmark = pytest.mark.filterwarnings("ignore::seq2edge.quantize.errors.QuantizationWarning")


@pytest.fixture
def data(recordings: Path, tmp_path: Path) -> Path:
    """Recordings that a test may change."""
    folder = tmp_path / "data"
    shutil.copytree(recordings.parent, folder)
    return folder / "data.jsonl"


@pytest.fixture
def words(speaking_checkpoint: Path, tmp_path: Path) -> list[object]:
    return ["make", speaking_checkpoint, "--no-validate", "-o", tmp_path / "app.tar"]


def steps(done: Done) -> list[str]:
    """Names of the steps, in capitals those that were done now."""
    assert done.code == 0, done.err
    report: dict[str, Any] = json.loads(done.out)
    return [s["step"] if s["reused"] else s["step"].upper() for s in report["steps"]]


def test_a_checkpoint_becomes_a_pack_and_is_measured_on_recordings(
    call: Callable[..., Done], words: list[object], data: Path, tmp_path: Path
) -> None:
    words += ["--for", "raspberry-pi", "--scheme", "int8", "--texts", data.with_name("2.wav")]
    measured = [*words, "--data", data, "--metric", "wer", "--limit", 1]
    done = call(*measured)
    assert done.code == 0, done.err
    assert "next tokens agree with float32 on recordings" in done.out
    assert "wer " in done.out and " on 1 examples" in done.out
    assert done.out.splitlines()[-1].endswith("app/run.sh RECORDING")
    with tarfile.open(tmp_path / "app.tar") as tar:
        assert "app/bundle/features.onnx" in tar.getnames()
    assert steps(call(*measured, "--json")) == ["export", "quantize", "compare", "pack"]
    with wave.open(str(data.with_name("1.wav")), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(b"\1\0" * 16000)
    assert steps(call(*measured, "--json")) == ["export", "quantize", "COMPARE", "pack"]


def test_an_orin_gets_half_precision_for_tensorrt(
    call: Callable[..., Done], words: list[object], tmp_path: Path
) -> None:
    done = call(*words, "--for", "jetson-orin", "--json")
    assert steps(done) == ["EXPORT", "QUANTIZE", "DOWNGRADE", "PACK"]
    with tarfile.open(tmp_path / "app.tar") as tar:
        tar.extractall(tmp_path / "there", filter="data")
    quantized = Bundle.open(tmp_path / "there" / "app" / "bundle").manifest.quantization
    assert (quantized["scheme"], quantized["target"]) == ("fp16", "tensorrt")


def test_audio_that_cannot_be_read_is_named_before_anything_is_quantized(
    call: Callable[..., Done], words: list[object], data: Path, tmp_path: Path
) -> None:
    data.with_name("2.wav").write_text("no sound")
    done = call(*words, "--for", "cpu", "--data", data, "--metric", "wer")
    assert done.code == 2
    assert done.err.startswith(f"seq2edge: error: {data}, line 2: {data.with_name('2.wav')} is a")
    assert [path.name.partition("-")[0] for path in (tmp_path / "app.make").glob("*.bundle")] == [
        "float32"
    ]
