"""``seq2edge compare``: a table of variants, and a report of five files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Refuses = Callable[..., str]


@pytest.fixture
def command(byte_bundle: Path, tmp_path: Path) -> tuple[object, ...]:
    """Compares a bundle with a copy of it that says it is of another scheme."""
    data, variant = tmp_path / "data.jsonl", tmp_path / "variant"
    data.write_text('{"source": "a text", "target": "x y"}\n{"source": "b", "target": ["z"]}\n')
    shutil.copytree(byte_bundle, variant)
    manifest = json.loads((variant / "seq2edge.json").read_text())
    manifest["quantization"] = {"scheme": "int5", "target": "cpu", "summary": {}}
    (variant / "seq2edge.json").write_text(json.dumps(manifest))
    return (
        "compare", byte_bundle, variant, "--data", data, "--metric", "chrf",
        "--max-new-tokens", 5, "--speed-texts", 1,
    )  # fmt: skip


def test_variants_are_listed_after_the_reference(cli: Cli, command: tuple[object, ...]) -> None:
    done = cli(*command)
    assert done.returncode == 0, done.stderr.decode()
    headline, _, first, second = done.stdout.decode().splitlines()
    assert headline.startswith("2 examples of data.jsonl, chrf (higher is better)")
    assert first.split()[:2] == ["bundle", "float32"]
    assert second.split()[:2] == ["variant", "int5"]
    assert done.stderr == b""


def test_a_report_replaces_an_earlier_one_if_asked(
    cli: Cli, refuses: Refuses, command: tuple[object, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.json").write_text("{}")
    message = refuses(*command, "--output", folder, parent=tmp_path)
    assert message.startswith(f"{folder} already exists; choose another name")

    done = cli(*command, "--output", folder, "--force", "--json")
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert json.loads((folder / "report.json").read_text()) == report
    assert {file.name for file in folder.iterdir()} == {
        f"report.{form}" for form in ("json", "html", "md", "csv", "svg")
    }
    reference, variant = report["entries"]
    assert (reference["name"], variant["name"]) == ("bundle", "variant")
    quality = variant["quality"]
    assert (quality["identical"], quality["prefix"], quality["divergence"]) == (1.0, 1.0, 0)


def test_what_cannot_be_compared_is_one_line(
    refuses: Refuses, command: tuple[object, ...], word_bundle: Path, tmp_path: Path
) -> None:
    out = ("--output", tmp_path / "report")
    name, reference, _, *flags = command
    message = refuses(name, reference, word_bundle, *flags, *out, parent=tmp_path)
    assert message.startswith(f"{reference} and {word_bundle} do not share a vocabulary")
    missing = tmp_path / "none"
    message = refuses(name, reference, missing, *flags, *out, parent=tmp_path)
    assert message == f"no such bundle: {missing}"
