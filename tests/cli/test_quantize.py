"""``seq2edge quantize``: a smaller bundle that runs, or one line that says why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Bundle

Cli = Callable[..., Any]
Refuses = Callable[..., str]


def size(bundle: Path) -> int:
    return sum(file.size for file in Bundle.open(bundle).manifest.files.values())


def test_a_quantized_bundle_is_smaller_and_runs(
    cli: Cli, byte_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = cli("quantize", byte_bundle, out, "--scheme", "int8", "--exclude", "lm_head", "--json")
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert report["layers"]["lm_head"] == "float32"
    assert report["bytes"] == size(out) < 0.6 * size(byte_bundle)
    assert cli("run", out, "a text", "--max-new-tokens", 5).returncode == 0
    text = cli("inspect", out).stdout.decode()
    assert "quantized     int8 for cpu" in text
    assert " 1 layers: float32" in text
    record = json.loads(cli("inspect", out, "--json").stdout)["quantization"]
    assert record["layers"] == report["layers"]


def test_what_was_done_is_said(cli: Cli, byte_bundle: Path, tmp_path: Path) -> None:
    flags = ("--scheme", "int4", "--algorithm", "k-quant", "--block-size", 32)
    done = cli("quantize", byte_bundle, tmp_path / "out", *flags)
    assert b"int4 weights, blocks of 32, asymmetric, k-quant" in done.stdout
    assert done.stderr == b""


def test_how_far_it_is_from_float32_is_said(call: Cli, byte_bundle: Path, tmp_path: Path) -> None:
    flags = ("quantize", byte_bundle, tmp_path / "out", "--scheme", "int8", "--force")
    done = call(*flags)
    assert done.code == 0, done.err
    assert re.search(
        r"^next token agrees at [\d.]+% \[[\d.]+%, [\d.]+%\] of \d+ positions"
        r" \(random prompts\), KL mean \S+, max \S+$",
        done.out,
        re.MULTILINE,
    )
    check = json.loads(call(*flags, "--json").out)["check"]
    assert check["positions"] > 100
    assert check["mean_kl"] <= check["max_kl"]
    assert call(*flags, "--no-check").out.endswith("not checked: not asked for\n")
    with pytest.raises(SystemExit, match="2"):
        call(*flags, "--block-size", "wide")


def test_what_cannot_be_quantized_is_one_line(
    refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for scheme, more, message in (
        ("int9", (), "unknown scheme 'int9' for 'cpu'"),
        ("int8", ("--exclude", "no.*"), "matches no layer"),
        ("int4", ("--block-size", 7), "block size 7; allowed"),
    ):
        assert message in refuses(
            "quantize", byte_bundle, out, "--scheme", scheme, *more, parent=tmp_path
        )
    missing = tmp_path / "none"
    message = refuses("quantize", missing, out, "--scheme", "int8", parent=tmp_path)
    assert message == f"no such bundle: {missing}"
