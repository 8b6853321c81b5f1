"""The Wyoming protocol with its own client."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import SpeechModel, Transcription

from ...whisper_models import speaking_bundle
from .process import ServerProcess

pytest.importorskip("wyoming", reason="wyoming is not installed")

with contextlib.suppress(ImportError):
    from wyoming.asr import Transcribe, Transcript
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient
    from wyoming.error import Error
    from wyoming.info import Describe, Info


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose text takes no sampling, so it is the same every time."""
    return speaking_bundle("english", tmp_path_factory.mktemp("whisper")).directory


@pytest.fixture(scope="module")
def hearing(bundle: Path, speaking_bundle: Path) -> Iterator[ServerProcess]:
    arguments = ("--wyoming", "127.0.0.1:0", "--max-audio-seconds", "60")
    with ServerProcess(f"english={bundle}", f"other={speaking_bundle}", *arguments) as process:
        yield process


@pytest.fixture(scope="module")
def heard(bundle: Path, recording: bytes) -> Transcription:
    with SpeechModel.load(bundle) as model:
        found = model.transcribe(recording)
    assert found.text
    return found


async def say(port: int, recording: bytes, **asked: Any) -> Any:
    """The answer to a recording, as Home Assistant sends one."""
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Transcribe(**asked).event())
        with wave.open(io.BytesIO(recording)) as wav:
            form = {"rate": wav.getframerate(), "width": 2, "channels": 1}
            await client.write_event(AudioStart(**form).event())
            while frames := wav.readframes(1024):
                await client.write_event(AudioChunk(**form, audio=frames).event())
        await client.write_event(AudioStop().event())
        return await asyncio.wait_for(client.read_event(), 60)


def test_it_describes_what_is_served(hearing: ServerProcess) -> None:
    async def described() -> Info:
        async with AsyncTcpClient("127.0.0.1", hearing.wyoming_port) as client:
            await client.write_event(Describe().event())
            event = await client.read_event()
            assert event is not None and Info.is_type(event.type)
            return Info.from_event(event)

    [program] = asyncio.run(described()).asr
    assert [(m.name, m.languages) for m in program.models] == [
        ("english", ["en"]),
        ("other", ["de", "en"]),
    ]


@pytest.mark.parametrize("name", [None, "english"])
def test_a_recording_becomes_a_transcript(
    hearing: ServerProcess, recording: bytes, heard: Transcription, name: str | None
) -> None:
    event = asyncio.run(say(hearing.wyoming_port, recording, name=name, language="en-US"))
    assert Transcript.is_type(event.type)
    found = Transcript.from_event(event)
    assert (found.text, found.language) == (heard.text, "en")


def test_a_client_is_told_what_is_wrong(hearing: ServerProcess, recording: bytes) -> None:
    for asked, said in (({"name": "third"}, "no speech model"), ({"language": "xx"}, "language")):
        event = asyncio.run(say(hearing.wyoming_port, recording, **asked))
        assert Error.is_type(event.type)
        assert said in Error.from_event(event).text
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 16000, 0, "NONE", ""))
        wav.writeframes(bytes(32000 * 61))
    event = asyncio.run(say(hearing.wyoming_port, file.getvalue(), language="en"))
    assert "at most 60 s" in Error.from_event(event).text


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xfe\n",
        b"[1]\n",
        b"{}\n",
        b'{"type": "describe", "data_length": "9"}\n',
        b'{"type": "audio-chunk", "payload_length": 999999999999}\n' + b"x" * 2000,
        b'{"type": "audio-start", "data": {"rate": 0, "width": 9, "channels": -1}}\n',
        b"[" * 60_000 + b"\n",
        b"x" * 200_000,
    ],
)
def test_what_is_no_event_ends_its_connection_only(hearing: ServerProcess, sent: bytes) -> None:
    address = ("127.0.0.1", hearing.wyoming_port)
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10_000) == b""
    assert hearing.get("/health").status_code == 200
    assert not [line for line in hearing.lines if line["level"] in ("error", "plain")]
