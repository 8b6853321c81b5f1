"""``seq2edge build``: engines and a layer report, or one line that says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Bundle

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

Cli = Callable[..., Any]
Refuses = Callable[..., str]

_SMALL = ("--max-source-length", 32, "--max-target-length", 16, "--max-num-tokens", 2)


def test_engines_appear_beside_the_bundle_with_a_report(
    cli: Cli, byte_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "model.bundle"
    shutil.copytree(byte_bundle, bundle)
    done = cli("build", bundle, "--compute-capability", "8.6", *_SMALL)
    assert done.returncode == 0, done.stderr.decode()
    (out,) = (tmp_path / "model.bundle.engines").iterdir()
    assert {"encoder.engine", "decoder.engine", "engines.json"} == {
        file.name for file in out.iterdir()
    }
    text = done.stdout.decode()
    assert text.startswith(f"{out}: tensorrt-rtx ")
    assert "at most: batch 1, source 32, slots 16, queries 2" in text
    assert "GEMMs of float32 weights, float32 inputs: as the graph asks" in text
    layers = Bundle.open(bundle).manifest.dimensions.decoder_layers
    assert f"{2 * layers} cache updates in place" in text
    assert "device memory of the largest call: " in text
    again = cli("build", bundle, "--compute-capability", "8.6", *_SMALL)
    assert again.stdout.decode().startswith(f"{out}: tensorrt-rtx ")
    assert "there already" in again.stdout.decode().splitlines()[0]
    # No progress where stderr is no terminal; what TensorRT keeps is said.
    warning = done.stderr.decode()
    assert warning.count("\n") == 1
    assert warning.startswith("seq2edge: warning: ")
    assert "float32" in warning


def test_json_names_every_gemm(cli: Cli, byte_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "engines"
    flags = ("--compute-capability", "8.6", "--compute-capability", "8.9", *_SMALL)
    done = cli("build", byte_bundle, *flags, "--output", out, "--json")
    report = json.loads(done.stdout)
    assert report["compute_capabilities"] == ["8.6", "8.9"]
    assert report["path"] == str(out)
    gemms = report["engines"]["decoder"]["report"]["gemms"]
    assert {gemm["name"].split("/")[0] for gemm in gemms} == {"decoder", "lm_head"}
    assert all(gemm["kept"] for gemm in gemms)


def test_what_cannot_be_built_is_one_line(
    refuses: Refuses, byte_bundle: Path, word_bundle: Path, tmp_path: Path
) -> None:
    out = ("--output", tmp_path / "out")
    gpu = ("--compute-capability", "8.6")
    for bundle, more, message in (
        (byte_bundle, ("--compute-capability", "3.5"), "compute capability '3.5'; it does for"),
        (byte_bundle, (*gpu, "--backend", "tpu"), "unknown engine 'tpu'"),
        (word_bundle, (*gpu, "--max-source-length", 100), "is more than the model's 80"),
        (word_bundle, (*gpu, "--max-num-tokens", 90), "do not fit into max_target_length=80"),
        (tmp_path / "none", gpu, "no such bundle"),
    ):
        assert message in refuses("build", bundle, *more, *out, parent=tmp_path)


def test_a_folder_of_something_else_is_kept(
    refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    flags = ("--compute-capability", "8.6", "--output", tmp_path / "out")
    assert "already exists" in refuses("build", byte_bundle, *flags, parent=tmp_path)
    message = refuses("build", byte_bundle, *flags, "--force", parent=tmp_path)
    assert "neither empty nor a folder of engines" in message


def test_a_bundle_quantized_for_something_else_says_what_to_do(
    cli: Cli, refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "int8"
    assert cli("quantize", byte_bundle, bundle, "--scheme", "int8").returncode == 0
    flags = ("--compute-capability", "8.6", "--output", tmp_path / "out")
    message = refuses("build", bundle, *flags, parent=tmp_path)
    assert "quantized for 'cpu': quantize the float32 bundle again with --target" in message
