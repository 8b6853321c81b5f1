"""Bundles for TensorRT, as ``seq2edge quantize --target tensorrt`` makes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seq2edge.quantize import CalibrationFiles, quantize_bundle


@pytest.fixture(scope="session")
def tensorrt_bundle_of(
    tmp_path_factory: pytest.TempPathFactory, bundle_of: Callable[[str], Path]
) -> Callable[[str, str], Path]:
    """A function from a shape's name and a scheme to its bundle; each is made once. Read only."""
    folder = tmp_path_factory.mktemp("tensorrt")
    random = np.random.default_rng(0)
    text = folder / "calibration.jsonl"
    sources = [random.integers(3, 380, size).tolist() for size in (12, 7, 20, 3)]
    text.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in sources))

    def get(shape: str, scheme: str) -> Path:
        path = folder / f"{shape}.{scheme}"
        if not path.exists():
            calibration = CalibrationFiles(text)
            quantize_bundle(
                bundle_of(shape), path, scheme, target="tensorrt", calibration=calibration
            )
        return path

    return get


@pytest.fixture(scope="session")
def float16_bundle_of(tensorrt_bundle_of: Callable[[str, str], Path]) -> Callable[[str], Path]:
    """A function from a shape's name to its float16 bundle."""
    return lambda shape: tensorrt_bundle_of(shape, "fp16")
