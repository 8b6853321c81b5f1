"""``seq2edge bench --roofline --memory``: more of the report for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Refuses = Callable[..., str]

QUICK = ("--runs", 2, "--warmup", 1, "--source-length", 4, "--new-tokens", 4, "--threads", 1)


def test_json_has_what_was_asked_for(cli: Cli, byte_bundle: Path, word_bundle: Path) -> None:
    done = cli("bench", byte_bundle, word_bundle, *QUICK, "--roofline", "--memory", "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""  # progress is for terminals
    report = json.loads(done.stdout)
    first, second = report["entries"]
    assert first["measurements"]["all"]["p50"] > 0
    rooflines = [entry["details"]["roofline"] for entry in (first, second)]
    assert rooflines[0]["weight_bytes"] != rooflines[1]["weight_bytes"]
    assert report["limit"]["memory_bandwidth"] >= rooflines[0]["memory_bandwidth"]
    assert report["limit"]["gemm"]["threads"] == 1
    for found in rooflines:  # what is said follows from what was measured
        bandwidth = max(found["memory_bandwidth"], found["same_size_bandwidth"])
        encoder, read = found["encoder"], found["weight_bytes"] + found["cache_bytes"]
        for moved, ms, part in (
            (read, found["step_ms"]["p50"], found),
            (encoder["bytes"], encoder["ms"]["p50"], encoder),
        ):
            computes = [count / found["gemm"][name] for name, count in part["operations"].items()]
            bounds = {"memory": moved / bandwidth, "compute": sum(computes)}
            assert part["bound_by"] == max(bounds, key=lambda name, of=bounds: of[name])
            assert part["bound_ms"] == pytest.approx(1e3 * max(bounds.values()))
            assert part["share"] == pytest.approx(1e3 * max(bounds.values()) / ms)
    stages = first["details"]["memory"]["stages"]
    assert list(stages) == ["interpreter", "imports", "loaded", "generated"]


def test_json_has_no_more_than_that(cli: Cli, byte_bundle: Path) -> None:
    report = json.loads(cli("bench", byte_bundle, *QUICK, "--json").stdout)
    (entry,) = report["entries"]
    assert list(entry["details"]) == ["positions"]


def test_people_see_it_too(cli: Cli, byte_bundle: Path, word_bundle: Path) -> None:
    flags = ("--roofline", "--memory")
    text = cli("bench", byte_bundle, word_bundle, *QUICK, *flags).stdout.decode()
    assert "tokens/s" in text
    for bundle in (byte_bundle, word_bundle):
        assert f"roofline of {bundle}: a step reads" in text
    assert "GB/s from a buffer of the weights' size" in text
    assert "limit of 1 threads: " in text
    assert text.count("million operations in float32; bound by ") == 2
    assert text.count("the encoder takes ") == 2
    assert "memory of a fresh process" in text
    assert "loading adds" in text


def test_a_grid_has_an_entry_for_each_combination(cli: Cli, byte_bundle: Path) -> None:
    grid = ("--batch-size", 1, 2, "--source-length", 4, 6)
    done = cli("bench", byte_bundle, *QUICK, *grid, "--json")
    report = json.loads(done.stdout)
    names = [entry["name"].partition(" ")[2] for entry in report["entries"]]
    assert names == [
        f"(source_length {source}, batch_size {batch})" for source in (4, 6) for batch in (1, 2)
    ]
    assert report["settings"]["batch_size"] == [1, 2]
    assert [entry["settings"]["source_length"] for entry in report["entries"]] == [4, 4, 6, 6]
    assert [len(entry["tokens"]["ids"]) for entry in report["entries"]] == [1, 2, 1, 2]


def test_what_cannot_be_measured_is_refused_at_once(
    refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "none"
    out = ("--output", tmp_path / "report.json")
    message = refuses("bench", byte_bundle, missing, *QUICK, *out, parent=tmp_path)
    assert message == f"no such bundle: {missing}"
    (tmp_path / "report.json").write_text("mine")
    message = refuses("bench", byte_bundle, *QUICK, *out, parent=tmp_path)
    assert message.startswith(f"{tmp_path / 'report.json'} already exists")


def test_an_error_of_the_fresh_process_is_one_line(
    refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    """What only the engine knows is said as if there were one process."""
    backend = ("--backend", "tensorrt")
    message = refuses("bench", byte_bundle, *QUICK, *backend, parent=tmp_path)
    assert "tensorrt" in message.lower()


def test_a_report_has_as_many_forms_as_are_named(
    cli: Cli, refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    forms = {"--output": "r.json", "--html": "r.html", "--markdown": "r.md", "--csv": "r.csv"}
    files = [part for option, name in forms.items() for part in (option, tmp_path / name)]
    done = cli("bench", byte_bundle, *QUICK, *files)
    assert done.returncode == 0, done.stderr.decode()
    assert {file.name for file in tmp_path.iterdir()} == set(forms.values())
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["command"][:2] == ["seq2edge", "bench"]
    assert (
        f"<h2>Repeat it</h2><pre>seq2edge bench {byte_bundle}" in (tmp_path / "r.html").read_text()
    )
    twice = ("--html", tmp_path / "r", "--csv", tmp_path / "r")
    message = refuses("bench", byte_bundle, *QUICK, *twice, parent=tmp_path)
    assert message == f"{tmp_path / 'r'} is named twice; name a file for each form of the report"


def test_growth_over_threads_and_targets_is_said(cli: Cli, byte_bundle: Path) -> None:
    grid = ("--threads", 1, 2, "--new-tokens", 2, 4, 8)
    quick = QUICK[: QUICK.index("--new-tokens")]
    done = cli("bench", byte_bundle, *quick, *grid)
    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    for threads in (1, 2):
        assert f", threads {threads}: time grows as new tokens^" in text
        assert f", threads {threads}: peak memory grows as new tokens^" in text
    assert "grows as threads" not in text  # two values are no curve


def test_bench_diff_is_two_words_as_well(
    cli: Cli, refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    assert cli("bench", byte_bundle, *QUICK, "--runs", 8, "--output", report).returncode == 0
    one, two = cli("bench-diff", report, report), cli("bench", "diff", report, report)
    assert (two.returncode, two.stdout) == (one.returncode, one.stdout)
    assert one.returncode == 0
    assert b"no difference" in one.stdout
    (tmp_path / "diff").mkdir()  # a bundle of that name
    assert "diff" in refuses("bench", "diff", cwd=tmp_path)
