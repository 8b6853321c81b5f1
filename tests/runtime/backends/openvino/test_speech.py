"""Trained Whisper weights, their encoder on OpenVINO in its default precision: the same words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("openvino")

from seq2edge.cli.main import main
from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import SpeechModel
from seq2edge.runtime.audio import open_audio
from tests import real_weights
from tests.conftest import export_unvalidated


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny.en in int8. Read only."""
    folder = tmp_path_factory.mktemp("trained")
    export_unvalidated(real_weights.ctranslate2_folder("tiny.en"), folder / "float32")
    quantize_bundle(folder / "float32", folder / "int8", "int8", check=False)
    return folder / "int8"


def test_words_are_the_same(trained: Path) -> None:
    """Punctuation may differ."""
    sounds = []
    for path in (real_weights.recording("two_cities"), real_weights.JFK):
        with open_audio(path) as file:
            sounds.append(file.read(0, min(30 * 16000, file.num_samples)))
    texts = []
    for encoder_backend in (None, "openvino"):
        with SpeechModel.load(trained, num_threads=2, encoder_backend=encoder_backend) as model:
            texts.append([words(model, audio) for audio in sounds])
    assert texts[0] == texts[1]
    assert len(texts[0][0]) > 80


def words(model: SpeechModel, audio: NDArray[np.float32]) -> list[str]:
    found = model.transcribe(audio, beam_size=1, temperature=0.0, without_timestamps=True)
    return re.findall(r"[\w']+", found.text.lower())


def test_the_command_line_transcribes_and_says_which_encoder_is_faster(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = ["--encoder-backend", "openvino", "--precision", "f32"]
    assert main(["transcribe", str(trained), str(real_weights.JFK), *encoder]) == 0
    assert "ask not what your country can do for you" in capsys.readouterr().out
    few = ["--runs", "1", "--warmup", "1", "--new-tokens", "2", "--audio-seconds", "4"]
    assert main(["bench", str(trained), *few, *encoder, "--output", str(tmp_path / "report")]) == 0
    said = r"^encoder on openvino \S+ on cpu, f32: [\d.]+ x onnxruntime's time here, all [\d.]+ x$"
    assert re.search(said, capsys.readouterr().out, re.MULTILINE)
    ours, theirs = json.loads((tmp_path / "report").read_text())["entries"]
    assert ours["versions"]["openvino (encoder)"].endswith(" on cpu, f32")
    assert "openvino (encoder)" not in theirs["versions"]
    assert theirs["name"] == f"{ours['name']}, encoder on onnxruntime"
