"""The demo model's bundle, and Triton's side of a Python model."""

from __future__ import annotations

import importlib.util
import io
import sys
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.deploy import TritonModel, plan, write_pack, write_triton_model
from seq2edge.export import export_checkpoint
from seq2edge.runtime import Bundle, Seq2SeqModel

from .fake_triton import FakeTriton

ROOT = Path(__file__).parents[2]
WORDS = ["keyboard", "february", "humanoid"]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo model, which answers with several words. Read only."""
    path = tmp_path_factory.mktemp("demo") / "g2p.bundle"
    export_checkpoint(ROOT / "examples" / "g2p" / "model", path, validate=False)
    return Bundle.open(path)


@pytest.fixture(scope="session")
def spoken(demo: Bundle) -> dict[str, str]:
    """What the bundle itself makes of each of WORDS."""
    with Seq2SeqModel.load(demo.directory) as model:
        return {word: model.generate(word)[0].text or "" for word in WORDS}


@pytest.fixture(scope="session")
def recording() -> bytes:
    """3 s of tones, as a WAV file's bytes."""
    time = np.arange(48000) / 16000
    samples = np.sin(2 * np.pi * (300 + 80 * time) * time) * np.sin(9 * time) * 20000
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(16000)
        wav.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


@pytest.fixture
def unpacked(demo: Bundle, tmp_path: Path) -> Callable[..., Path]:
    """A function that packs the demo for a target and gives the unpacked folder."""

    def get(target: str, **choices: Any) -> Path:
        archive = tmp_path / "app.tar"
        write_pack(demo, plan(demo, target, **choices), archive, overwrite=True)
        with tarfile.open(archive) as tar:
            tar.extractall(tmp_path / "there", filter="data")
        return tmp_path / "there" / "app"

    return get


@pytest.fixture
def triton(
    demo: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[FakeTriton, Any]]:
    """A function that writes the demo as a Triton model and loads its model.py.

    Gives what stands for the server, and the model as the server holds it.
    """
    fake = FakeTriton()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake.module)
    # What it has imported is of the stand-in before.
    monkeypatch.delitem(sys.modules, "seq2edge.deploy.triton.requests", raising=False)

    def load(**parameters: str) -> tuple[FakeTriton, Any]:
        folder = write_triton_model(demo, tmp_path / "models", TritonModel("g2p"))
        spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # A dataclass asks for its module's namespace.
        monkeypatch.setitem(sys.modules, "model", module)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize(fake.arguments(folder, backend="onnxruntime", **parameters))
        return fake, model

    return load
