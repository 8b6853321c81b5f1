"""A server that holds two models: the demo in two processes, and one that hears."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from seq2edge.deploy import TritonModel, write_triton_model
from seq2edge.deploy.token_limit import MAX_NEW_TOKENS
from seq2edge.runtime import Bundle
from tests import whisper_models as whisper

from .server import Server, running

TEXT, SPEECH = "g2p", "whisper"
#: New tokens that config.pbtxt of the text model is made to allow.
ENDLESS = 1_000_000


@pytest.fixture(scope="session")
def speech_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return whisper.speaking_bundle("english", tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="session")
def repository(
    demo: Bundle, speech_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("models")
    text = write_triton_model(demo, folder, TritonModel(TEXT, instances=2)) / "config.pbtxt"
    # As whoever runs the server may: a request that would not end by itself in a test's time.
    allowed = text.read_text().replace(f'"{MAX_NEW_TOKENS}"', f'"{ENDLESS}"')
    text.write_text(allowed)
    write_triton_model(speech_bundle, folder, TritonModel(SPEECH))
    return folder


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(repository, tmp_path_factory.mktemp("log") / "log") as found:
        yield found
