"""``seq2edge bench --roofline --memory``: more of the report for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]
Refuses = Callable[..., str]

QUICK = ("--runs", 1, "--warmup", 1, "--source-length", 4, "--new-tokens", 4, "--threads", 1)


def test_json_has_what_was_asked_for(cli: Cli, byte_bundle: Path, word_bundle: Path) -> None:
    flags = ("--roofline", "--reference", word_bundle, "--memory", "--json")
    done = cli("bench", byte_bundle, *QUICK, *flags)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""  # progress is for terminals
    report = json.loads(done.stdout)
    assert report["milliseconds"]["all"]["p50"] > 0
    assert report["roofline"]["weight_bytes"] != report["reference"]["weight_bytes"]
    assert report["roofline"]["share"] > 0
    assert list(report["memory"]["stages"]) == ["interpreter", "imports", "loaded", "generated"]


def test_json_has_no_more_than_that(cli: Cli, byte_bundle: Path) -> None:
    report = json.loads(cli("bench", byte_bundle, *QUICK, "--json").stdout)
    assert not {"roofline", "reference", "memory"} & set(report)


def test_people_see_it_too(cli: Cli, byte_bundle: Path, word_bundle: Path) -> None:
    flags = ("--roofline", "--reference", word_bundle, "--memory")
    text = cli("bench", byte_bundle, *QUICK, *flags).stdout.decode()
    assert "tokens/s" in text
    for bundle in (byte_bundle, word_bundle):
        assert f"roofline of {bundle}: a step reads" in text
    assert "GB/s from a buffer of the weights' size" in text
    assert "memory of a fresh process" in text
    assert "loading adds" in text


def test_a_reference_that_cannot_be_measured_is_refused(
    refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    message = refuses("bench", byte_bundle, *QUICK, "--reference", byte_bundle)
    assert message == "--reference is for --roofline: give both, or neither"
    missing = tmp_path / "none"
    message = refuses("bench", byte_bundle, *QUICK, "--roofline", "--reference", missing)
    assert message == f"no such bundle: {missing}"
