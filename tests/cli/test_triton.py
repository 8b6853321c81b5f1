"""``seq2edge triton``: a model of a Triton repository, named after its bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seq2edge.runtime import Bundle


def test_a_model_named_after_the_bundle(
    call: Callable[..., Any], byte_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "words.bundle"
    shutil.copytree(byte_bundle, bundle)
    repository = tmp_path / "models"
    done = call("triton", bundle, repository)
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        f"{repository}/words: start it with tritonserver --model-repository {repository}\n"
    )
    assert 'name: "words"' in (repository / "words" / "config.pbtxt").read_text()
    Bundle.open(repository / "words" / "1" / "bundle").verify()


def test_options_reach_the_config(
    call: Callable[..., Any], byte_bundle: Path, tmp_path: Path
) -> None:
    options = ("--backend", "tensorrt", "--instances", 2, "--max-batch-size", 3, "--name", "t5")
    report = json.loads(call("triton", byte_bundle, tmp_path, *options, "--json").out)
    assert report == {"path": str(tmp_path / "t5"), "name": "t5"}
    text = (tmp_path / "t5" / "config.pbtxt").read_text()
    for line in (
        "max_batch_size: 3",
        "count: 2 kind: KIND_GPU gpus: [ 0 ]",
        'string_value: "tensorrt"',
    ):
        assert line in text


def test_a_model_that_is_there_stays(
    refused: Callable[..., str], call: Callable[..., Any], byte_bundle: Path, tmp_path: Path
) -> None:
    command = ("triton", byte_bundle, tmp_path, "--name", "words")
    assert call(*command).code == 0
    assert "--force" in refused(*command)
    assert call(*command, "--force").code == 0


def test_a_name_that_is_none_is_refused(
    refused: Callable[..., str], byte_bundle: Path, tmp_path: Path
) -> None:
    assert "no name for a Triton model" in refused("triton", byte_bundle, tmp_path, "--name", "a/b")


def test_an_engine_or_a_device_that_is_none_is_refused(
    refused: Callable[..., str], byte_bundle: Path, tmp_path: Path
) -> None:
    command = ("triton", byte_bundle, tmp_path / "models", "--backend")
    assert "unknown engine 'tensort'; there are: onnxruntime," in refused(*command, "tensort")
    said = refused(*command, "tensorrt", "--device", "cpu")
    assert "unknown device 'cpu'; the engine tensorrt runs on: cuda" in said
    assert not (tmp_path / "models").exists()


def test_a_bundle_that_the_engine_cannot_run_is_refused(
    refused: Callable[..., str], call: Callable[..., Any], byte_bundle: Path, tmp_path: Path
) -> None:
    int8 = tmp_path / "int8"
    assert call("quantize", byte_bundle, int8, "--scheme", "int8").code == 0
    said = refused("triton", int8, tmp_path / "models", "--backend", "tensorrt")
    assert "is quantized for cpu, and tensorrt on cuda takes bundles for tensorrt" in said
    assert call("triton", int8, tmp_path / "models").code == 0
    half = tmp_path / "bf16"
    assert call("quantize", byte_bundle, half, "--scheme", "bf16", "--target", "cuda").code == 0
    assert "quantized for cuda, and onnxruntime on cpu" in refused("triton", half, tmp_path / "m")
    assert call("triton", half, tmp_path / "models", "--device", "cuda").code == 0
