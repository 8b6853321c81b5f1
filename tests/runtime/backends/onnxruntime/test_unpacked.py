"""4 bit weights are unpacked to the numbers that ONNX Runtime makes of them."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import BackendError, Bundle, Seq2SeqModel
from seq2edge.runtime.backends.onnxruntime.session import open_session
from seq2edge.runtime.backends.onnxruntime.unpacked import unpacked_model
from tests.conftest import made_once
from tests.runtime.bundle.test_graph_checks import edit_graph

IDS = np.array([[5, 20, 33, 7, 1], [8, 9, 1, 0, 0]])


@pytest.fixture(scope="module")
def bundle_by(
    tmp_path_factory: pytest.TempPathFactory, bundle_of: Callable[[str], Path]
) -> Callable[[str], Path]:
    """From the name of a shape to its bundle of 4 bits. Read only."""
    folder = tmp_path_factory.mktemp("int4")

    def make(shape: str, path: Path) -> None:
        quantize_bundle(bundle_of(shape), path, "int4", check=False)

    return made_once(folder, make)


def outputs(path: Path, model: bytes | None) -> list[NDArray[Any]]:
    """What the encoder of a bundle gives, read from its file or from ``model``."""
    bundle = Bundle.open(path)
    info = bundle.manifest.graphs["encoder"]
    session = open_session(onnxruntime, bundle, info, 1, model=model)
    mask = (IDS != 0)[:, None, None, :]
    inputs = {"input_ids": IDS, "encoder_attention_mask": mask}
    found: list[NDArray[Any]] = session.run(None, inputs)
    return found


def unpacked(path: Path) -> bytes | None:
    bundle = Bundle.open(path)
    return unpacked_model(bundle, bundle.manifest.graphs["encoder"])


def _give_zero_points(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "encoder.layers.0.ffn.up.no_zero_points":
            tensor.raw_data = bytes([3]) * len(tensor.raw_data)


def operators(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(model).graph.node)


@pytest.mark.parametrize("shape", ["t5", "bart"])
def test_outputs_are_bit_for_bit_those_of_the_file(
    bundle_by: Callable[[str], Path], shape: str
) -> None:
    path = bundle_by(shape)
    model = unpacked(path)
    assert model is not None
    assert operators(model)["QuantizeLinear"] == 0
    for ours, theirs in zip(outputs(path, model), outputs(path, None), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_bundles_without_such_weights_are_read_as_they_are(
    bundle_of: Callable[[str], Path],
) -> None:
    assert unpacked(bundle_of("t5")) is None


@pytest.mark.parametrize("scale, left", [(1e-3, 0), (0.0, 1), (float("nan"), 1), (None, 1)])
def test_what_quantize_does_not_write(
    bundle_by: Callable[[str], Path], tmp_path: Path, scale: float | None, left: int
) -> None:
    """Clipped values, impossible scales, zero points: the numbers stay ONNX Runtime's."""
    path = Path(shutil.copytree(bundle_by("t5"), tmp_path / "bundle"))
    plain = operators(unpacked(path) or b"")
    if scale is None:
        edit_graph(path, _give_zero_points, "encoder")
    else:
        place = Bundle.open(path).manifest.weights["encoder.layers.0.ffn.up.relative_scales"]
        data = np.memmap(path / "weights.bin", np.float32, "r+", place.offset, place.shape)
        data[0] = scale
        data.flush()
    model = unpacked(path)
    assert model is not None
    assert operators(model) == plain + Counter({"Cast": left, "QuantizeLinear": left})
    for ours, theirs in zip(outputs(path, model), outputs(path, None), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_that_are_cut_while_they_are_read(
    bundle_by: Callable[[str], Path], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(bundle_by("t5"), tmp_path / "bundle"))
    bundle = Bundle.open(path)
    os.truncate(path / "weights.bin", 100)
    with pytest.raises(BackendError, match="was cut while it was read; copy the bundle again"):
        unpacked_model(bundle, bundle.manifest.graphs["encoder"])


def test_a_model_of_them_outlives_its_file(
    bundle_by: Callable[[str], Path], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(bundle_by("t5"), tmp_path / "bundle"))
    with Seq2SeqModel.load(path) as model:
        before = model.generate_ids(IDS, max_new_tokens=4)
        (path / "weights.bin").rename(path / "old.bin")
        again = model.generate_ids(IDS, max_new_tokens=4)
        assert [row.token_ids for row in again] == [row.token_ids for row in before]
