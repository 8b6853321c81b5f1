"""Bundles that hear, quantized and downgraded: every graph runs on, the spectrogram untouched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.quantize import downgrade_opset, quantize_bundle
from seq2edge.runtime.backends import Backend, Step, load_backend, slot_backend
from seq2edge.runtime.bundle.reader import Bundle

from ..conftest import export_unvalidated, made_once
from ..moonshine_models import make_moonshine
from ..whisper_models import make_whisper

IDS = np.array([[3, 5, 8, 13, 21, 34]])
#: The largest difference, in parts of the largest value.
SCHEMES = {
    ("fp16", "cpu"): 2e-3,
    ("int8", "cpu"): 0.1,
    ("int4", "cpu"): 0.5,
    ("fp16", "cuda"): 5e-3,
    ("fp16", "tensorrt"): 5e-3,
    ("int8", "cuda"): 0.1,
}


@pytest.fixture(scope="module")
def bundle_that_hears(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("hears")
    make = {"whisper": make_whisper, "moonshine": make_moonshine}

    def export(family: str, path: Path) -> None:
        export_unvalidated(make[family]("tiny", folder / f"{family}.checkpoint"), path)

    return made_once(folder, export)


def _open(path: Path) -> tuple[Bundle, Backend]:
    bundle = Bundle.open(path)
    return bundle, load_backend(bundle, num_threads=1)


def _outputs(path: Path) -> dict[str, NDArray[Any]]:
    """Keys of the source, logits, and of Whisper the weights that word times are read from."""
    bundle, backend = _open(path)
    audio = 0.1 * np.random.default_rng(5).standard_normal((1, 40_000), np.float32)
    inputs = {"audio": audio}
    if "features" in bundle.manifest.graphs:
        inputs = {"input_features": backend.run_graph("features", inputs)["input_features"]}
    encoded = backend.encode(inputs)
    count, size = IDS.shape[1], bundle.manifest.dimensions.vocab_size
    step = Step.allocate(1, count, count, vocab_size=size)
    step.input_ids[:] = IDS
    step.position_ids[:] = np.arange(count)
    step.attention_mask[:] = np.tri(count, dtype=np.bool_)
    slot_backend(backend).new_cache(encoded, count).forward(step)
    assert step.logits is not None
    outputs: dict[str, NDArray[Any]] = {
        "key": encoded.numpy("cross_key.1").astype(np.float32),
        "logits": step.logits,
    }
    if "alignment" in bundle.manifest.graphs:
        outputs |= backend.run_graph("alignment", {"input_ids": IDS}, encoded)
    return outputs


@pytest.mark.parametrize("family", ["whisper", "moonshine"])
@pytest.mark.parametrize(("scheme", "target"), list(SCHEMES), ids="-".join)
def test_all_graphs_of_a_quantized_bundle_hear_what_float32_hears(
    bundle_that_hears: Callable[[str], Path],
    tmp_path: Path,
    family: str,
    scheme: str,
    target: str,
) -> None:
    source = bundle_that_hears(family)
    quantize_bundle(source, tmp_path / "bundle", scheme, target=target)
    wanted, found = _outputs(source), _outputs(tmp_path / "bundle")
    assert wanted.keys() == found.keys()
    for name, values in wanted.items():
        limit = SCHEMES[scheme, target] * np.abs(values).max()
        np.testing.assert_allclose(found[name], values, rtol=0, atol=limit, err_msg=name)
    if family == "whisper":
        features = (folder / "features.onnx" for folder in (source, tmp_path / "bundle"))
        assert len({file.read_bytes() for file in features}) == 1


@pytest.mark.parametrize("family", ["whisper", "moonshine"])
def test_a_downgraded_bundle_hears_the_same(
    bundle_that_hears: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    source = bundle_that_hears(family)
    downgrade_opset(source, tmp_path / "bundle")
    bundle, _ = _open(tmp_path / "bundle")
    assert all(graph.opset <= 21 for graph in bundle.manifest.graphs.values())
    for name, values in _outputs(source).items():
        found = _outputs(tmp_path / "bundle")[name]
        np.testing.assert_allclose(found, values, atol=1e-4 * np.abs(values).max(), err_msg=name)
