"""``seq2edge eval``: one number with its interval, and what it was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Refuses = Callable[..., str]

SHORT = ("--max-new-tokens", 6)


@pytest.fixture
def data(cli: Cli, byte_bundle: Path, tmp_path: Path) -> Path:
    """Four sources; the bundle's own outputs as targets of the first two."""
    sources = ["a text", "another", "a third one", "last"]
    done = cli("run", byte_bundle, *sources, "--json", *SHORT)
    outputs = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    assert all(text.strip() for text in outputs)
    targets = [outputs[0], ["wrong", outputs[1]], "wrong", "wrong"]
    path = tmp_path / "data.jsonl"
    path.write_text(
        "".join(
            json.dumps({"source": source, "target": target}) + "\n"
            for source, target in zip(sources, targets, strict=True)
        )
    )
    return path


def test_a_value_and_its_interval_are_printed(cli: Cli, byte_bundle: Path, data: Path) -> None:
    done = cli("eval", byte_bundle, "--data", data, "--metric", "exact", *SHORT)
    assert done.returncode == 0, done.stderr.decode()
    assert f"{byte_bundle}: exact 50.00 % (95 % interval 0.00 to 100.00), 4 examples" in (
        done.stdout.decode()
    )
    assert done.stderr == b""  # progress is for terminals


def test_programs_read_json(cli: Cli, byte_bundle: Path, data: Path) -> None:
    flags = ("--limit", 3, "--batch-size", 2, "--json", *SHORT)
    done = cli("eval", byte_bundle, "--data", data, "--metric", "cer", *flags)
    report = json.loads(done.stdout)
    assert report["metric"] == "cer"
    assert report["examples"] == 3
    assert report["lower_is_better"] is True
    low, high = report["interval"]["low"], report["interval"]["high"]
    assert 0 <= low <= report["value"] <= high


def test_predictions_are_written(
    cli: Cli, refuses: Refuses, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "predictions.jsonl"
    command = ("eval", byte_bundle, "--data", data, "--metric", "exact", *SHORT)
    assert cli(*command, "--predictions", file).returncode == 0
    records = [json.loads(line) for line in file.read_text().splitlines()]
    given = [json.loads(line) for line in data.read_text().splitlines()]
    assert [{**record, "prediction": None} for record in records] == [
        {**example, "prediction": None} for example in given
    ]
    assert records[0]["prediction"].strip() == records[0]["target"].strip()
    assert records[2]["prediction"] != "wrong"

    message = refuses(*command, "--predictions", file, parent=tmp_path)
    assert message == f"{file} already exists; choose another name or pass --force"
    file.write_text("old")
    assert cli(*command, "--predictions", file, "--force").returncode == 0
    assert len(file.read_text().splitlines()) == 4


def test_what_cannot_be_evaluated_is_one_line(
    refuses: Refuses, byte_bundle: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.jsonl"

    def message(file: Path = data, metric: str = "exact", *more: object) -> str:
        flags = ("--data", file, "--metric", metric, "--predictions", out, *more)
        return refuses("eval", byte_bundle, *flags, parent=tmp_path)

    assert message(metric="accuracy").startswith("unknown metric 'accuracy'; there are wer,")
    assert message(tmp_path / "none").startswith(f"cannot read {tmp_path / 'none'}: No such file")
    broken = tmp_path / "broken.jsonl"
    broken.write_text(data.read_text() + '{"source": "x"}\n')
    assert message(broken).startswith(f"{broken}, line 5 has no 'target'; expected")
    beams = message(data, "exact", "--num-beams", 1000)
    assert beams.startswith("num_beams=1000 is more than")
    same = refuses(
        "eval", byte_bundle, "--data", data, "--metric", "exact", "--predictions", data, "--force",
        parent=tmp_path,
    )  # fmt: skip
    assert same == f"--predictions {data} would replace --data"
