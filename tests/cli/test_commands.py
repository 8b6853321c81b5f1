"""What each subcommand prints and writes, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Bundle, Seq2SeqModel

Cli = Callable[..., Any]
TEXTS = ["one text", "another, ü", "third", "4"]
LIMIT = ("--max-new-tokens", "12")


def succeed(cli: Cli, *arguments: object, **options: Any) -> str:
    """The standard output of a command that ends well and says nothing else."""
    result = cli(*arguments, **options)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stderr.decode() == ""
    output: str = result.stdout.decode()
    return output


@pytest.fixture(scope="module")
def generated(byte_bundle: Path) -> list[dict[str, Any]]:
    """What the public API makes of TEXTS, as run --json says it."""
    with Seq2SeqModel.load(byte_bundle) as model:
        found = model.generate(TEXTS, max_new_tokens=12)
    assert len({row.text for row in found}) == len(TEXTS)
    return [
        {
            "source": text,
            "text": row.text,
            "token_ids": row.token_ids,
            "finish_reason": row.finish_reason,
        }
        for text, row in zip(TEXTS, found, strict=True)
    ]


def lines(output: str) -> list[str]:
    """Lines as ``wc -l`` counts them."""
    assert output.endswith("\n")
    return output[:-1].split("\n")


def one_line(text: str) -> str:
    """A generated text as it is printed: line breaks in it become spaces."""
    return " ".join(text.splitlines())


def test_export_writes_a_bundle_and_says_what_is_in_it(
    cli: Cli, byte_checkpoint: Path, byte_bundle: Path, tmp_path: Path
) -> None:
    first, second = lines(
        succeed(cli, "export", byte_checkpoint, tmp_path / "out", "--no-validate")
    )
    assert first.startswith(f"{tmp_path / 'out'}: t5, 0.2 M parameters, ")
    assert second == "not compared with PyTorch"
    written = Bundle.open(tmp_path / "out")
    written.verify()
    assert written.manifest == Bundle.open(byte_bundle).manifest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_export_compares_with_pytorch_where_it_is_installed(
    cli: Cli, byte_checkpoint: Path, tmp_path: Path
) -> None:
    report = json.loads(succeed(cli, "export", byte_checkpoint, tmp_path / "out", "--json"))
    parity = report["parity"]
    assert parity["inputs"] == parity["exact"] == 10
    assert 0 < parity["encoder"]["maximum"] < 2e-4
    assert 0 < parity["decoder"]["maximum"] < 2e-4
    bundle = Bundle.open(tmp_path / "out")
    assert report["bundle"] == str(tmp_path / "out")
    assert report["family"] == "t5"
    assert report["parameters"] == bundle.manifest.parameters
    assert report["bytes"] == bundle.size
    assert report["seconds"] > 0


def test_export_force_replaces_a_bundle(
    cli: Cli, byte_checkpoint: Path, byte_bundle: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(byte_bundle, tmp_path / "out")
    (old / "weights.bin").write_bytes(b"broken")
    (old / "mine").write_text("old")
    report = succeed(cli, "export", byte_checkpoint, old, "--force", "--no-validate", "--json")
    assert json.loads(report)["parity"] is None
    assert not (old / "mine").exists()
    Bundle.open(old).verify()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_export_without_a_tokenizer_warns_in_one_line(
    cli: Cli, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    result = cli("export", checkpoint_of("t5"), tmp_path / "out", "--no-validate")
    assert result.returncode == 0
    (line,) = lines(result.stderr.decode())
    assert line.startswith("seq2edge: warning: ")
    assert "has no tokenizer files" in line


def test_run_prints_one_line_for_each_text(
    cli: Cli, byte_bundle: Path, generated: list[dict[str, Any]]
) -> None:
    found = lines(succeed(cli, "run", byte_bundle, *TEXTS, *LIMIT))
    assert found == [one_line(row["text"]) for row in generated]


def test_texts_may_follow_options(cli: Cli, byte_bundle: Path) -> None:
    options = ("--threads", 1, "--max-new-tokens", 4)
    expected = succeed(cli, "run", byte_bundle, "one", "two", *options)
    assert succeed(cli, "run", byte_bundle, *options, "one", "two") == expected
    assert succeed(cli, "run", byte_bundle, "one", *options, "two") == expected
    wrong = cli("run", byte_bundle, "one", *options, "--no-such-option", "two")
    assert wrong.returncode == 2
    assert b"unrecognized arguments: --no-such-option two" in wrong.stderr


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_run_reads_a_file_line_by_line(
    ending: str, cli: Cli, byte_bundle: Path, generated: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "texts"
    file.write_bytes("".join(text + ending for text in TEXTS).encode())
    found = lines(succeed(cli, "run", byte_bundle, "--input", file, "--json", *LIMIT))
    assert [json.loads(line) for line in found] == generated


def test_run_reads_standard_input(
    cli: Cli, byte_bundle: Path, generated: list[dict[str, Any]]
) -> None:
    # The last line has no newline; batches of one give the same as one batch.
    options = ("--batch-size", "1", "--threads", "1", "--json", *LIMIT)
    data = "\n".join(TEXTS).encode()
    found = lines(succeed(cli, "run", byte_bundle, "--input", "-", *options, input=data))
    assert [json.loads(line) for line in found] == generated


def test_run_takes_only_newlines_for_the_end_of_a_line(cli: Cli, byte_bundle: Path) -> None:
    texts = ["a\u2028b", "c\x0cd", "e\x85f"]
    data = "\n".join(texts).encode()
    found = lines(succeed(cli, "run", byte_bundle, "--input", "-", "--json", *LIMIT, input=data))
    assert [json.loads(line)["source"] for line in found] == texts


def test_run_on_an_empty_input_prints_nothing(cli: Cli, byte_bundle: Path) -> None:
    assert succeed(cli, "run", byte_bundle, "--input", "-", input=b"") == ""


def test_bench_reports_ordered_percentiles(cli: Cli, byte_bundle: Path) -> None:
    settings = ("--runs", 3, "--warmup", 1, "--new-tokens", 4, "--source-length", 8)
    report = json.loads(succeed(cli, "bench", byte_bundle, *settings, "--threads", 1, "--json"))
    (entry,) = report["entries"]
    assert list(entry["measurements"]) == ["encoder", "first token", "token", "all"]
    for found in entry["measurements"].values():
        assert len(found["samples"]) == 3
        assert found["p50"] <= found["p90"] <= found["p99"] <= found["max"]
        assert found["interval"]["low"] <= found["p50"] <= found["interval"]["high"]
    assert entry["measurements"]["encoder"]["p50"] > 0
    assert entry["values"]["tokens_per_second"] > 0
    assert entry["values"]["peak_bytes"] > 1_000_000
    assert entry["settings"]["threads"] == 1
    assert report["settings"] == {
        "backend": "onnxruntime",
        "source_length": 8,
        "audio_seconds": None,
        "audio": None,
        "new_tokens": 4,
        "batch_size": 1,
        "num_beams": 1,
        "runs": 3,
        "warmup": 1,
        "threads": 1,
        "device": None,
        "strict": False,
        "encoder_backend": None,
        "precision": None,
    }


def test_bench_prints_a_table(cli: Cli, byte_bundle: Path) -> None:
    settings = ("--runs", 2, "--warmup", 1, "--new-tokens", 3, "--batch-size", 2)
    found = lines(succeed(cli, "bench", byte_bundle, *settings))
    assert "batch 2, source 64, 3 new tokens" in found[0]
    assert found[1].split()[:5] == ["ms", "p50", "p90", "p99", "max"]
    assert [line[:14].strip() for line in found[2:7]] == [
        "encoder",
        "first token",
        "token",
        "all",
        "tokens/s",
    ]


@pytest.mark.parametrize("command", ["inspect", "run", "bench"])
def test_reader_that_has_gone_is_no_error(command: str, cli: Cli, byte_bundle: Path) -> None:
    arguments = {
        "inspect": (),
        "run": ("text", *LIMIT),
        "bench": ("--runs", 1, "--warmup", 1, "--new-tokens", 2),
    }
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = cli(command, byte_bundle, *arguments[command], stdout=writing)
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (0, b"")


def test_closed_standard_output_is_no_error(cli: Cli, byte_bundle: Path) -> None:
    # Some supervisors start a process without one; sys.stdout is None then.
    result = cli("inspect", byte_bundle, preexec_fn=lambda: os.close(1))
    assert (result.returncode, result.stderr) == (0, b"")
