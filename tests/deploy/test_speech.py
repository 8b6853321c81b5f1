"""Bundles that hear, packed and as Triton's models: the same texts as the bundle's own."""

from __future__ import annotations

import importlib.util
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.deploy import TritonModel, plan, write_pack, write_triton_model
from seq2edge.runtime import Bundle
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.transcription import Transcription
from tests import whisper_models as whisper

from .fake_triton import FakeTriton, Request


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return whisper.speaking_bundle("english", tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def heard(bundle: Bundle, recording: bytes) -> Transcription:
    """What the bundle itself makes of it."""
    with SpeechModel.load(bundle.directory) as model:
        found = model.transcribe(recording)
    assert found.text
    return found


@pytest.fixture(scope="module")
def unpacked(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    write_pack(bundle, plan(bundle, "cpu", service=True), folder / "app.tar")
    with tarfile.open(folder / "app.tar") as tar:
        tar.extractall(folder, filter="data")
    return folder / "app"


def test_the_scripts_speak_of_recordings(unpacked: Path) -> None:
    assert "-m seq2edge.cli.main transcribe" in (unpacked / "run.sh").read_text()
    unit = (unpacked / "seq2edge.service").read_text()
    assert "/v1/audio/transcriptions -F file=@talk.wav" in unit and "--wyoming" in unit
    assert "wyoming==" in (unpacked / "requirements.txt").read_text()
    assert "./run.sh talk.wav" in (unpacked / "README.txt").read_text()


@pytest.fixture
def triton(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FakeTriton, Any]]:
    fake = FakeTriton()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake.module)
    monkeypatch.delitem(sys.modules, "seq2edge.deploy.triton.requests", raising=False)
    folder = write_triton_model(bundle, tmp_path / "models", TritonModel("whisper"))
    assert 'name: "audio" data_type: TYPE_STRING' in (folder / "config.pbtxt").read_text()
    spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "model", module)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize(fake.arguments(folder, backend="onnxruntime"))
    yield fake, model
    model.finalize()


def request(fake: FakeTriton, audio: bytes, *, stream: bool = False, **options: Any) -> Request:
    inputs = {"audio": np.array([[audio]], np.object_)}
    if stream:
        inputs["stream"] = np.array([[True]])
    if options:
        inputs["sampling_parameters"] = np.array([[json.dumps(options).encode()]], np.object_)
    return Request(fake.log, inputs)


def test_triton_gives_text_segments_and_language(
    triton: tuple[FakeTriton, Any], recording: bytes, heard: Transcription
) -> None:
    fake, model = triton
    whole, streamed = request(fake, recording), request(fake, recording, stream=True)
    fake.execute(model, [whole, streamed])
    assert whole.last["text_output"] == heard.text
    assert [s["text"] for s in json.loads(whole.last["segments"])] == [
        segment.text for segment in heard.segments
    ]
    assert whole.last["language"] == "en"
    assert streamed.text.strip() == heard.text
    assert len(streamed.responses) == len(heard.segments) + 1


def test_triton_answers_a_wrong_request_alone(
    triton: tuple[FakeTriton, Any], recording: bytes, heard: Transcription
) -> None:
    fake, model = triton
    wrong = [
        request(fake, b"no sound"),
        request(fake, recording, beams=3),
        request(fake, recording, beam_size=0),
    ]
    right, gone = request(fake, recording, beam_size=5), request(fake, recording, stream=True)
    gone.cancel_after = 0
    fake.execute(model, [*wrong, right, gone])
    for each, said in zip(
        wrong, ("audio", "the nearest is 'beam_size'", "at least 1"), strict=True
    ):
        assert each.error is not None
        assert each.error.code == each.error.INVALID_ARG
        assert said in str(each.error)
    assert right.text == heard.text
    assert gone.error is not None
    assert gone.error.code == gone.error.CANCELLED
