"""Engines that cannot run the bundle are an BackendError that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import BackendError, Bundle, BundleError, Seq2SeqModel
from seq2edge.runtime.backends.onnxruntime import check_version

BundleOf = Callable[[str], Path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "openvino"}, "unknown engine 'openvino'; this version has: onnxruntime"),
        ({"device": "npu"}, "unknown device 'npu'; the engine onnxruntime runs on: cpu, cuda"),
        (
            {"backend": "onnxruntime-tensorrt", "device": "cpu"},
            "unknown device 'cpu'; the engine onnxruntime-tensorrt runs on: cuda",
        ),
        ({"num_threads": 0}, "num_threads must be at least 1, not 0"),
        ({"num_threads": -2}, "num_threads must be at least 1, not -2"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str, bundle_of: BundleOf) -> None:
    with pytest.raises(BackendError, match=message):
        Seq2SeqModel.load(bundle_of("t5"), **options)


def test_too_old_onnxruntime_names_both_versions_and_python(bundle_of: BundleOf) -> None:
    manifest = Bundle.open(bundle_of("t5")).manifest
    with pytest.raises(BackendError, match=r">= 1\.25, and 1\.23\.2 is installed; .*Python 3\.11"):
        check_version("1.23.2", manifest)


@pytest.mark.parametrize("version", ["1.25.0", "1.32.0", "2.0.0", "1.26.0.dev20260101"])
def test_new_enough_onnxruntime_is_taken(version: str, bundle_of: BundleOf) -> None:
    check_version(version, Bundle.open(bundle_of("t5")).manifest)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx"])
def test_corrupted_graph_is_named(
    name: str, bundle_of: BundleOf, copy_of: Callable[[Path], Path]
) -> None:
    bundle = copy_of(bundle_of("t5"))
    file = bundle / name
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        Seq2SeqModel.load(bundle)
