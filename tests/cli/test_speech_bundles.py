"""Commands for texts and a bundle that hears; and what inspect and the doctor say of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seq2edge.runtime import Bundle, BundleError, EncoderModel, Seq2SeqModel

from ..conftest import export_unvalidated
from ..whisper_models import make_whisper
from .conftest import Cli, Refuses


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearing")
    export_unvalidated(make_whisper("tiny", folder / "checkpoint"), folder / "bundle")
    return folder / "bundle"


@pytest.mark.parametrize(
    "command",
    [
        ["run", "{}", "a text"],
        ["encode", "{}", "a text"],
    ],
    ids=lambda command: command[0],
)
def test_commands_for_texts_name_what_to_use(
    refuses: Refuses, hearing: Path, tmp_path: Path, command: list[str]
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"source": "a", "target": "b"}\n')
    names = {"texts": texts, "out": tmp_path / "out"}
    message = refuses(*(word.format(hearing, **names) for word in command))
    assert "hears speech" in message and "seq2edge transcribe" in message


@pytest.mark.parametrize("model", [Seq2SeqModel, EncoderModel])
def test_models_of_texts_name_the_model_of_speech(hearing: Path, model: type) -> None:
    with pytest.raises(BundleError, match="SpeechModel"):
        model.load(hearing)  # type: ignore[attr-defined]


def test_a_bundle_of_texts_is_refused_where_speech_is_asked_for(bundle_of: object) -> None:
    bundle = Bundle.open(bundle_of("t5"))  # type: ignore[operator]
    bundle.require_text("run")
    with pytest.raises(BundleError, match="transcribe takes bundles that hear speech"):
        bundle.require_speech("transcribe")


def test_inspect_says_what_it_hears(cli: Cli, hearing: Path) -> None:
    shown = cli("inspect", hearing).stdout.decode()
    assert "16000 Hz, in windows of 30 s; the encoder reads 80 mels" in shown
    assert "2 languages: de, en" in shown
    assert "tasks: transcribe, translate; times: of segments and of words" in shown
    report = json.loads(cli("inspect", hearing, "--json").stdout)["speech"]
    assert report["word_timestamps"] and report["alignment_heads"] == [[0, 1], [1, 0], [1, 3]]


def test_the_doctor_says_how_to_transcribe(cli: Cli, hearing: Path) -> None:
    shown = cli("doctor", "--bundle", hearing).stdout.decode()
    assert f"seq2edge transcribe {hearing} recording.wav" in shown
    shown = cli("doctor", "--bundle", hearing, "--program", "/app/run.sh").stdout.decode()
    assert "/app/run.sh recording.wav" in shown
