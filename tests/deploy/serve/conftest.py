"""Services in processes of their own."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator

import numpy as np
import pytest

from seq2edge.runtime import Bundle

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from .process import ServerProcess


@pytest.fixture(scope="module")
def server(demo: Bundle) -> Iterator[ServerProcess]:
    """The demo model, as it is served without options."""
    with ServerProcess(demo.directory) as process:
        yield process


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
