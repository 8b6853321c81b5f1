"""Bundles to calibrate and to quantize, and what they compute."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.export.serialize import tensor_spec
from seq2edge.quantize.calibration import Calibration, calibrate, linear_inputs
from seq2edge.quantize.recipe.layers import find_layers
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends import Step, load_backend
from seq2edge.runtime.bundle.reader import sha256_of

from ..conftest import export_unvalidated, made_once

BundleOf = Callable[[str], Path]
CalibrationOf = Callable[[str], Calibration]

#: Widths that no block divides, and odd vocabularies: (shape that it changes, what it changes).
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "t5-odd": ("t5", {"vocab_size": 383, "d_model": 40, "d_ff": 100}),
    "bart-odd": ("bart", {"vocab_size": 401, "encoder_ffn_dim": 100}),
    # A head of its own.
    "t5-v1.1-odd": ("t5-v1.1", {"vocab_size": 383}),
}
#: So that calibration takes a few steps and not all that the model allows.
NEW_TOKENS = 12


@pytest.fixture(scope="session")
def short_of(
    tmp_path_factory: pytest.TempPathFactory,
    bundle_of: BundleOf,
    checkpoint_of: Callable[[str], Path],
) -> BundleOf:
    """A bundle of one of SHAPES or of ODD that generates ``NEW_TOKENS`` tokens. Read only."""
    folder = tmp_path_factory.mktemp("short")

    def make(shape: str, path: Path) -> None:
        if shape in ODD:
            _export_odd(shape, checkpoint_of, path)
        else:
            shutil.copytree(bundle_of(shape), path)
        manifest = json.loads((path / "seq2edge.json").read_text())
        manifest["generation"] = {"max_new_tokens": NEW_TOKENS}
        (path / "seq2edge.json").write_text(json.dumps(manifest))

    return made_once(folder, make)


def _export_odd(shape: str, checkpoint_of: Callable[[str], Path], out: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    base, changes = ODD[shape]
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(checkpoint_of(base), **changes)
    model = AutoModelForSeq2SeqLM.from_config(config)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    checkpoint = out.with_name(f"{shape}-checkpoint")
    model.save_pretrained(checkpoint)
    export_unvalidated(checkpoint, out)


@pytest.fixture(scope="session")
def calibration_of(short_of: BundleOf) -> CalibrationOf:
    """The calibration of a bundle of ``short_of`` over random sources, with moments."""
    made: dict[str, Calibration] = {}

    def get(shape: str) -> Calibration:
        if shape not in made:
            made[shape] = calibrated(short_of(shape), moments=True)
        return made[shape]

    return get


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A function from a bundle to a copy of it whose weights the test may change."""

    def get(bundle: Path) -> Path:
        return Path(shutil.copytree(bundle, tmp_path / "copy"))

    return get


def calibrated(bundle: Path, sources: Sequence[list[int]] = (), **options: Any) -> Calibration:
    """The calibration over ``sources`` or over a few random ones."""
    opened = Bundle.open(bundle)
    size = opened.manifest.dimensions.vocab_size
    chosen = list(sources) or random_sources(size)
    return calibrate(opened, chosen, linear_inputs(find_layers(models(bundle))), **options)


def random_sources(vocab_size: int, count: int = 12) -> list[list[int]]:
    generator = np.random.default_rng(5)
    lengths = generator.integers(4, 12, count)
    return [generator.integers(3, vocab_size, int(length)).tolist() for length in lengths]


def models(bundle: Path) -> dict[str, Any]:
    """The bundle's graphs as ``onnx_ir`` has them."""
    import onnx_ir as ir

    opened = Bundle.open(bundle)
    graphs = opened.manifest.graphs
    return {name: ir.load(opened.path(info.file)) for name, info in graphs.items()}


def write_graphs(bundle: Path, graphs: dict[str, Any]) -> None:
    """Put changed graphs in the place of a copy's own; weights that are new go into them."""
    import onnx_ir as ir

    path = bundle / "seq2edge.json"
    manifest = json.loads(path.read_text())
    manifest["weights"] = {}
    for name, model in graphs.items():
        info = manifest["graphs"][name]
        file = info["file"]
        for key, value in model.graph.initializers.items():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                manifest["weights"][key] = {
                    "dtype": str(tensor.dtype.numpy()),
                    "shape": list(tensor.shape.numpy()),
                    "offset": tensor.offset,
                    "length": tensor.length,
                }
        info["opset"] = model.graph.opset_imports[""]
        info["operators"] = Counter(node.op_type for node in model.graph)
        info["inputs"] = [asdict(tensor_spec(value)) for value in model.graph.inputs]
        info["outputs"] = [asdict(tensor_spec(value)) for value in model.graph.outputs]
        ir.save(model, bundle / file)
        size, sha256 = (bundle / file).stat().st_size, sha256_of(bundle / file)
        manifest["files"][file] = {"size": size, "sha256": sha256}
    path.write_text(json.dumps(manifest))


def keep_weights(bundle: Path) -> None:
    """Take a copy's changed weights for its own: their hash is in the manifest then."""
    path = bundle / "seq2edge.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["weights.bin"]["sha256"] = sha256_of(bundle / "weights.bin")
    path.write_text(json.dumps(manifest))


def logits(path: Path) -> np.ndarray:
    """Teacher-forced logits [2, 9, V] of two padded sources and random targets."""
    bundle = Bundle.open(path)
    generator = np.random.default_rng(3)
    size = bundle.manifest.dimensions.vocab_size
    ids = generator.integers(3, size, (2, 12))
    mask = np.arange(12) < np.array([[12], [7]])
    backend = load_backend(bundle, num_threads=1)
    step = Step.allocate(2, 9, 16, vocab_size=size)
    step.input_ids[:] = generator.integers(3, size, (2, 9))
    step.position_ids[:] = np.arange(9)
    step.attention_mask[..., :9] = np.tri(9, dtype=np.bool_)
    backend.new_cache(backend.encode({"input_ids": ids, "attention_mask": mask}), 16).forward(step)
    assert step.logits is not None
    return step.logits


@cache
def reference(path: Path) -> np.ndarray:
    """:func:`logits` of a bundle that does not change."""
    return logits(path)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean |difference| in standard deviations of what is expected."""
    return float(np.abs(found - expected).mean() / expected.std())


def scale_weight(bundle: Path, name: str, factor: float, channel: int | None = None) -> None:
    """Multiply a float32 weight in a copy's ``weights.bin``, or one channel of a norm's."""
    place = Bundle.open(bundle).manifest.weights[name]
    weights = np.memmap(
        bundle / "weights.bin", np.float32, "r+", place.offset, (place.length // 4,)
    )
    weights[slice(None) if channel is None else channel] *= factor
    weights.flush()
    keep_weights(bundle)


def read_weight(bundle: Path, name: str) -> np.ndarray:
    """A weight of at least a byte an element, bfloat16 as float32."""
    place = Bundle.open(bundle).manifest.weights[name]
    data = (bundle / "weights.bin").read_bytes()[place.offset : place.offset + place.length]
    if place.dtype == "bfloat16":
        halves = np.frombuffer(data, np.uint16).astype(np.uint32)
        return (halves << 16).view(np.float32).reshape(place.shape)
    return np.frombuffer(data, place.dtype).reshape(place.shape)
