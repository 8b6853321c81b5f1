"""``seq2edge peers`` with a checkpoint that hears: recordings, and texts that are compared."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.benchmarks.driver import Result
from seq2edge.benchmarks.peers import comparison, run
from seq2edge.benchmarks.peers.recordings import write_windows
from seq2edge.cli.main import main
from tests.real_weights import JFK, hugging_face_folder


@pytest.fixture
def whisper(tmp_path: Path) -> Path:
    """As much of a checkpoint as is looked at before anything is made."""
    folder = tmp_path / "whisper"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "whisper", "vocab_size": 51864}')
    return folder


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], list[Any]]:
    """A function from texts that differ to the tasks of the processes that will be started."""

    def get(texts: Mapping[str, str]) -> list[Any]:
        tasks: list[Any] = []

        def alternate(baselines: Mapping[str, Any], *, rounds: int, **_: object) -> dict[str, Any]:
            results = {}
            for name, baseline in baselines.items():
                tasks.append(json.loads(baseline.command[2]))
                text = list(texts.get(name, " Ask  not what.").encode())
                results[name] = Result({"all": [5.0] * rounds}, [text], {}, 5)
            return results

        monkeypatch.setattr(comparison, "alternate", alternate)
        monkeypatch.setattr(comparison.PeerComparison, "_python", lambda *_: Path("python"))
        monkeypatch.setattr(comparison.ModelMaker, "make", lambda self, _name: self.checkpoint)
        monkeypatch.setattr(run, "manifest_hash", lambda _: None)
        monkeypatch.setattr(run.Bundle, "open", lambda _: None)
        return tasks

    return get


def test_recordings_are_windows_of_thirty_seconds(tmp_path: Path) -> None:
    (file,) = write_windows([str(JFK)], tmp_path)
    samples = np.load(file)
    assert (samples.shape, samples.dtype) == ((480_000,), np.float32)
    assert np.abs(samples[: 11 * 16_000]).max() > 0.1
    assert not samples[12 * 16_000 :].any()


def test_texts_are_compared_by_words(
    whisper: Path,
    heard: Callable[[Mapping[str, str]], list[Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tasks = heard({"openvino-genai:float32": "Ask not that.", "seq2edge:int8": "Ask what."})
    words = ["peers", str(whisper), "--audio", str(JFK), "--runs", "2"]
    assert main([*words, "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    entries = {entry["name"]: entry for entry in report["entries"]}
    assert {name.partition(":")[0] for name in entries} == {
        *("faster-whisper", "openvino-genai", "onnx-asr", "onnxruntime-genai", "whisper-cpp"),
        *("transformers", "seq2edge"),
    }
    assert entries["seq2edge:float32"]["details"]["texts"] == ["Ask not what."]
    assert entries["seq2edge:float32"]["tokens"]["verdict"] == "same"
    wrong = entries["openvino-genai:float32"]["tokens"]
    assert (wrong["verdict"], wrong["reference"]) == ("wrong", "transformers:float32")
    assert (wrong["common"], wrong["total"]) == (2, 3)
    assert entries["seq2edge:int8"]["tokens"]["verdict"] == "differs"
    assert report["settings"]["audio"] == [str(JFK)]
    files = {task["audio"][0] for task in tasks}
    assert len(files) == 1  # the same samples for all
    assert main(words) == 3
    text = capsys.readouterr().out
    assert f"30 s of {JFK}" in text
    assert "first words as" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "hears speech: name recordings with --audio"),
        (["--audio", "x.wav", "--peers", "optimum:float32"], "is not for a checkpoint that hears"),
        (["--audio", str(JFK), "--roofline"], "use seq2edge bench --roofline"),
        (["--audio", "none.wav", "--peers", "seq2edge:int8"], "none.wav"),
    ],
)
def test_what_does_not_fit_is_refused(
    whisper: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    if not options:
        options = ["--peers", "seq2edge:int8"]
    assert main(["peers", str(whisper), *options]) == 2
    assert message in capsys.readouterr().err


def test_recordings_are_not_for_texts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", "--audio", str(JFK), "--peers", "seq2edge:int8"]) == 2
    assert "--audio is for a checkpoint that hears speech" in capsys.readouterr().err
    assert main(["peers", "--peers", "faster-whisper:int8"]) == 2
    assert "is not for a checkpoint that reads texts" in capsys.readouterr().err


def test_pytorch_and_seq2edge_hear_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained weights, real processes."""
    words = (
        *("peers", hugging_face_folder("tiny.en"), "--audio", JFK, "--torch", sys.executable),
        *("--peers", "transformers:float32", "seq2edge:float32", "--runs", 1, "--warmup", 1),
        *("--cache", tmp_path / "peers", "--json"),
    )
    assert main([str(word) for word in words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [entry["tokens"]["verdict"] for entry in report["entries"]] == ["same", "same"]
    (text,) = report["entries"][1]["details"]["texts"]
    assert text.startswith("And so my fellow Americans")
