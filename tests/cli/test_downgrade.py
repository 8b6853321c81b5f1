"""``seq2edge downgrade``: a bundle for old runtimes, what was replaced, or one line of why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seq2edge.runtime import Bundle

Cli = Callable[..., Any]
Refuses = Callable[..., str]


def test_what_was_replaced_is_said_and_the_text_is_the_same(
    cli: Cli, byte_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = cli("downgrade", byte_bundle, out)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    text = done.stdout.decode()
    assert text.startswith(f"{out}: opset 20, ")
    counts = Bundle.open(byte_bundle).manifest.graphs["decoder"].operators
    assert f"    {counts['TensorScatter']} TensorScatter: now ScatterND\n" in text
    assert "Attention: now MatMul, Add, Softmax, MatMul\n" in text
    assert text.endswith("for TensorRT 10.3 (JetPack 6) or newer, and ONNX Runtime 1.20 or newer\n")
    texts = [cli("run", bundle, "a text", "--max-new-tokens", 8) for bundle in (byte_bundle, out)]
    assert texts[0].returncode == texts[1].returncode == 0
    assert texts[0].stdout == texts[1].stdout
    shown = cli("inspect", out, "--verify")
    assert b"ScatterND" in shown.stdout and b"TensorScatter" not in shown.stdout


def test_json_and_force(cli: Cli, byte_bundle: Path, tmp_path: Path) -> None:
    quantized, out = tmp_path / "int8", tmp_path / "out"
    assert cli("quantize", byte_bundle, quantized, "--scheme", "int8").returncode == 0
    assert cli("downgrade", byte_bundle, out).returncode == 0
    report = json.loads(cli("downgrade", quantized, out, "--force", "--json").stdout)
    bundle = Bundle.open(out)
    assert (report["bundle"], report["bytes"]) == (str(out), bundle.size)
    assert "MatMulNBits" in report["unknown_to_tensorrt"]
    record = bundle.manifest.quantization
    assert record["scheme"] == "int8"
    assert {key: report[key] for key in record["opset_downgrade"]} == record["opset_downgrade"]
    text = cli("downgrade", quantized, out, "--force").stdout.decode()
    assert "for ONNX Runtime 1.23 or newer; TensorRT does not know" in text


def test_what_cannot_be_lowered_is_one_line(
    cli: Cli, refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    downgraded = tmp_path / "downgraded"
    assert cli("downgrade", byte_bundle, downgraded).returncode == 0
    for bundle, out, message in (
        (downgraded, tmp_path / "out", "was downgraded already"),
        (byte_bundle, downgraded, "already exists"),
        (tmp_path / "none", tmp_path / "out", "no such bundle"),
    ):
        assert message in refuses("downgrade", bundle, out, parent=tmp_path)


def test_a_changed_bundle_is_not_lowered(
    refused: Callable[..., str], byte_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "changed"
    shutil.copytree(byte_bundle, bundle)
    weights = bytearray((bundle / "weights.bin").read_bytes())
    weights[100] ^= 1
    (bundle / "weights.bin").write_bytes(weights)
    said = refused("downgrade", bundle, tmp_path / "downgraded")
    assert "changed since it was written (SHA-256 differs): weights.bin" in said
    assert not (tmp_path / "downgraded").exists()
