"""Files of weights that are damaged, or cut while they are read: an error, not SIGBUS."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from seq2edge.export import CheckpointError
from seq2edge.export.checkpoint import Checkpoint
from seq2edge.export.checkpoint.safetensors_file import SafetensorsFile
from seq2edge.quantize.source import load_models
from seq2edge.runtime import Bundle, BundleError


def header(**entries: Any) -> bytes:
    """A file of this header and 64 bytes of data."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


def f32(shape: Any = (4, 4), offsets: Any = (0, 64), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def open_file(data: bytes, tmp_path: Path) -> SafetensorsFile:
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    with ExitStack() as stack:
        return SafetensorsFile(file, stack)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        (1 << 60).to_bytes(8, "little") + bytes(64),
        (8).to_bytes(8, "little") + b"no JSON!",
        (2).to_bytes(8, "little") + b"[]",
        (4000).to_bytes(8, "little") + b"[" * 4000,
        header(a=1),
        header(a=f32(offsets=[0])),
        header(a=f32(offsets=[0, 65])),
        header(a=f32(offsets=[-64, 0])),
        header(a=f32(offsets=[64, 0])),
        header(a=f32(shape=[4, 5])),
        header(a=f32(shape=[1 << 40, 1 << 40])),
        header(a=f32(shape=[True, 16])),
        header(a=f32(shape="4")),
        header(a=f32(dtype=None)),
    ],
    ids=lambda data: repr(data[:60]),
)
def test_a_file_that_is_none_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is truncated or not a safetensors file"):
        open_file(data, tmp_path)


def test_a_whole_file_is_read_as_the_package_writes_it(tmp_path: Path) -> None:
    arrays = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "scalar": np.array(2.5, np.float64),
        "empty": np.zeros((0, 3), np.float32),
    }
    save_file(arrays, tmp_path / "model.safetensors")
    with ExitStack() as stack:
        found = SafetensorsFile(tmp_path / "model.safetensors", stack)
        assert found.shapes() == {name: array.shape for name, array in arrays.items()}
        for name, array in arrays.items():
            assert found.load(name).dtype == np.float32
            np.testing.assert_array_equal(found.load(name), array.astype(np.float32))


@pytest.mark.parametrize("format_", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_that_is_cut_meanwhile(
    format_: str, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint_of("t5"), tmp_path / "checkpoint"))
    if format_ == "pytorch_model.bin":
        import torch
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model.safetensors"), folder / format_)
        (folder / "model.safetensors").unlink()
    with Checkpoint(folder) as checkpoint:
        name = max(checkpoint.names)
        checkpoint.load(name)
        os.truncate(folder / format_, 100)
        with pytest.raises(CheckpointError, match=f"{format_} was cut while it was read"):
            checkpoint.load(name)


def test_a_bundle_that_is_cut_meanwhile(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(bundle_of("t5"), tmp_path / "bundle"))
    models = load_models(bundle)
    tensors = [value.const_value for value in models["decoder"].graph.initializers.values()]
    last = max(tensors, key=lambda tensor: getattr(tensor, "offset", 0) or 0)
    assert last is not None
    assert last.numpy().size
    os.truncate(bundle.path("weights.bin"), 100)
    with pytest.raises(BundleError, match="was cut while it was read"):
        last.numpy()
    bundle.path("weights.bin").unlink()
    with pytest.raises(BundleError, match="cannot read"):
        last.tobytes()
