"""Bundles for TensorRT: the tiny models cast to float16, and graphs made by hand."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from seq2edge.runtime.manifest import MANIFEST_NAME

_GRAPHS = ("encoder", "decoder")


def to_float16(path: Path) -> None:
    """Cast a graph's weights, inputs and outputs to float16; the weights move into it."""
    model = ir.load(path)
    graph = model.graph
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            array = tensor.numpy()
            if tensor.dtype == ir.DataType.FLOAT:
                array = array.astype("float16")
                value.type = ir.TensorType(ir.DataType.FLOAT16)
            value.const_value = ir.tensor(array, name=value.name)
    values = [*graph.inputs, *graph.outputs, *(out for node in graph for out in node.outputs)]
    for value in values:
        if value.dtype == ir.DataType.FLOAT:
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    ir.save(model, path)


def update_manifest(bundle: Path, dtypes: dict[str, str] | None = None) -> None:
    """Put the graphs' sizes and hashes into the manifest, and other types into its specs."""
    file = bundle / MANIFEST_NAME
    manifest = json.loads(file.read_text())
    for name in _GRAPHS:
        data = (bundle / f"{name}.onnx").read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][f"{name}.onnx"] = {"size": len(data), "sha256": digest}
        for spec in [*manifest["graphs"][name]["inputs"], *manifest["graphs"][name]["outputs"]]:
            spec["dtype"] = (dtypes or {}).get(spec["dtype"], spec["dtype"])
    file.write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def float16_bundle_of(
    tmp_path_factory: pytest.TempPathFactory, bundle_of: Callable[[str], Path]
) -> Callable[[str], Path]:
    """A function from a shape's name to its float16 bundle; each is made once. Read only."""
    folder = tmp_path_factory.mktemp("float16")

    def get(shape: str) -> Path:
        path = folder / shape
        if not path.exists():
            shutil.copytree(bundle_of(shape), path)
            for name in _GRAPHS:
                to_float16(path / f"{name}.onnx")
            update_manifest(path, {"float32": "float16"})
        return path

    return get
