"""``make bench``: tasks in processes that are made up here, and the pages that they fill."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seq2edge.benchmarks import suite
from seq2edge.benchmarks.report.headline import BEGIN, END

from .test_headline import report as report  # a fixture

Run = Callable[..., tuple[int, list[list[str]], str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Any) -> Run:
    """A function from exit codes by words of a command to exit code, commands and the page."""
    (tmp_path / "results").mkdir()
    page = tmp_path / "results" / "README.md"
    page.write_text(f"{BEGIN}\n{END}\n")

    def get(codes: Mapping[str, int], *words: str) -> tuple[int, list[list[str]], str]:
        commands: list[list[str]] = []

        def process(command: list[str], **options: Any) -> Any:
            words = command[4:]
            commands.append(words)
            code = next((code for word, code in codes.items() if word in " ".join(words)), 0)
            if code < 0:
                raise subprocess.TimeoutExpired(command, options["timeout"])
            if "--prepare" not in words and words[0] == "peers" and code in (0, 3):
                settings = {"checkpoint": "/home/me/x", "audio": ["/home/me/a.wav"]}
                document = json.dumps(replace(report, settings=settings).to_json())
                Path(words[words.index("--output") + 1]).write_text(document)
            return subprocess.CompletedProcess(command, code, stdout="")

        monkeypatch.setattr(suite.subprocess, "run", process)
        given = (str(tmp_path / "results"), "--work", str(tmp_path / "work"), *words)
        code = suite.main([*given, "--pages", str(page)])
        return code, commands, page.read_text()

    return get


def test_models_are_made_before_anything_is_measured(run: Run, tmp_path: Path) -> None:
    plots = tmp_path / "results" / "g2p" / "report.html"
    plots.parent.mkdir(parents=True)
    plots.write_text("as compare writes it")
    code, commands, page = run({}, "--demo", "model", "data.jsonl", "--cache", "there")
    assert code == 0
    assert not plots.exists()
    assert (tmp_path / "work" / "g2p.html").read_text() == "as compare writes it"
    peers = [words for words in commands if words[0] == "peers"]
    assert len(peers) == 7
    # Greedy and beam 4 have the same models.
    assert ["--prepare" in words for words in peers] == [True] * 3 + [False] * 4
    assert all(words[words.index("--cache") + 1] == "there" for words in peers)
    assert [words[0] for words in commands[7:]] == ["export", "quantize", "quantize", "compare"]
    assert all(
        f"\n| [{name}]({name}.md) | int8 80.0" in page for name in ("t5-small", "marian-base")
    )
    assert "- t5-small-beam4: time, float32: openvino:float32 200 ms" in page


def test_what_fails_or_hangs_is_named_and_the_rest_goes_on(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    code, commands, page = run({"marian-base": 2, "bart-base": -1})
    assert code == 1
    assert "- marian-base: `seq2edge peers` ended with 2" in page
    assert "- bart-base: stopped after 7200 s" in page
    assert "| [t5-small-beam4](t5-small-beam4.md) |" in page
    assert "not measured: marian-base: `seq2edge peers` ended with 2" in capsys.readouterr().err
    assert len([words for words in commands if "--prepare" not in words]) == 2


def test_wrong_tokens_are_told_by_the_exit_code(run: Run, tmp_path: Path) -> None:
    code, _, page = run({"marian-base": 3}, "--tasks", "marian-base")
    assert code == 3
    results = tmp_path / "results"
    (kept,) = results.glob("*.json")
    assert "/home/me" not in kept.read_text() + kept.with_suffix(".md").read_text()
    assert "make bench 'BENCH=--tasks marian-base'" in kept.with_suffix(".md").read_text()
    assert "| [marian-base](marian-base.md) |" in page


def test_speech_that_cannot_be_had_is_named(run: Run, tmp_path: Path) -> None:
    speech = tmp_path / "speech.json"
    speech.write_text(
        json.dumps({"models": {"tiny.en": "w"}, "missing": {"base": "no index"}, "recording": "r"})
    )
    code, commands, page = run({}, "--speech", str(speech), "--tasks", "whisper-tiny.en")
    assert code == 1
    assert "- whisper-base: no index" in page
    assert "| [whisper-tiny.en](whisper-tiny.en.md) |" in page
    (measured,) = [words for words in commands if "--prepare" not in words]
    assert measured[:4] == ["peers", "w", "--audio", "r"]


def test_an_unknown_task_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run({}, "--tasks", "t6")
    assert "no such task: t6; there are: t5-small, t5-small-beam4" in capsys.readouterr().err


def test_pages_of_this_tree_have_their_place(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for name in ("README.md", "docs/results/README.md", "docs/results/bench/README.md"):
        page = Path(shutil.copy(root / name, tmp_path / "page.md"))
        suite.update_page(page, "new")
        assert f"{BEGIN}\nnew\n{END}" in page.read_text(encoding="utf-8")
