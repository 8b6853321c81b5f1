"""``--source-lang`` and ``--target-lang`` of ``seq2edge run`` and ``eval``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..multilingual import CLASSES, FIRST, export_multilingual

Cli = Callable[..., Any]
Refuses = Callable[..., str]

KIND = "M2M100Tokenizer"


@pytest.fixture(scope="module")
def bundle(checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("languages")
    return export_multilingual(KIND, checkpoint_of(CLASSES[KIND][0]), folder)


def result(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_run_translates_from_and_to_the_languages_that_are_named(cli: Cli, bundle: Path) -> None:
    # A random model may write the same whatever it reads; how probable that is differs.
    run = ("run", bundle, "the cat", "--json", "--max-new-tokens", 6, "--num-beams", 2)
    named = cli(*run, "--source-lang", "zu", "--target-lang", "fr")
    assert result(named)["token_ids"][0] == FIRST + 1
    assert named.stderr == b""
    from_english = cli(*run, "--target-lang", "fr")
    assert result(from_english)["score"] != result(named)["score"]


def test_run_says_that_no_target_is_named(cli: Cli, bundle: Path) -> None:
    done = cli("run", bundle, "the cat", "--max-new-tokens", 4)
    assert done.returncode == 0
    assert b"--target-lang names none" in done.stderr


def test_eval_takes_the_languages(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    data, predictions = tmp_path / "data.jsonl", tmp_path / "predictions.jsonl"
    data.write_text('{"source": "the cat", "target": "x"}\n')
    languages = ("--source-lang", "zu", "--target-lang", "fr")
    quick = ("--max-new-tokens", 6)
    options = ("--data", data, "--metric", "exact", "--predictions", predictions)
    done = cli("eval", bundle, *options, *quick, *languages)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    text = json.loads(cli("run", bundle, "the cat", "--json", *quick, *languages).stdout)["text"]
    assert json.loads(predictions.read_text())["prediction"] == text


@pytest.mark.parametrize("command", ["run", "eval"])
def test_an_unknown_language_is_refused_with_the_nearest(
    command: str, refuses: Refuses, bundle: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"source": "the cat", "target": "x"}\n')
    sources = ("the cat",) if command == "run" else ("--data", data, "--metric", "exact")
    message = refuses(command, bundle, *sources, "--target-lang", "french")
    assert "target_lang='french' is none of the model's 3 languages" in message
    assert "fr" in message.partition("the nearest: ")[2].split(", ")


def test_a_bundle_without_languages_says_so(refuses: Refuses, byte_bundle: Path) -> None:
    message = refuses("run", byte_bundle, "a text", "--source-lang", "en")
    assert "source_lang is for models of several languages" in message
