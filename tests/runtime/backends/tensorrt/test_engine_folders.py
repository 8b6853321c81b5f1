"""Folders of engines that are garbled, half there or in the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import BackendError, Bundle, BundleError, InputError
from seq2edge.runtime.backends.tensorrt import Limits, Options, ensure_engines, load_library
from seq2edge.runtime.backends.tensorrt.cuda import DeviceProperties
from seq2edge.runtime.backends.tensorrt.engine_cache import find_engines
from seq2edge.runtime.errors import OutputExistsError

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

OPTIONS = Options("tensorrt-rtx", compute_capabilities=("8.6",))
GPU = DeviceProperties("GeForce", "8.6", 1 << 33)


@pytest.fixture
def built(float16_bundle_of: Callable[[str], Path], tmp_path: Path) -> tuple[Bundle, Path]:
    """A bundle and its engines."""
    path = tmp_path / "model"
    shutil.copytree(float16_bundle_of("t5"), path)
    bundle = Bundle.open(path)
    folder, _, _ = ensure_engines(bundle, OPTIONS)
    return bundle, folder


def garble(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "engines.json"
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said))


def test_garbled_descriptions_are_refused_and_built_again(built: tuple[Bundle, Path]) -> None:
    bundle, folder = built
    (folder / "engines.json").write_text("[" * 100_000)
    with pytest.raises(BackendError, match=r"engines.json is not valid JSON"):
        find_engines(bundle, load_library("tensorrt-rtx"), GPU)
    with pytest.warns(UserWarning, match=r"not valid JSON.*; it is built again"):
        ensure_engines(bundle, OPTIONS)
    garble(folder, lambda said: said["engines"].update(other=said["engines"]["encoder"]))
    with pytest.raises(BackendError, match=r"malformed: engines.other is of no graph"):
        find_engines(bundle, load_library("tensorrt-rtx"), GPU)


def test_a_changed_bundle_gets_no_engines(
    float16_bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Their key says that they are of the bytes that the manifest has hashes of."""
    path = tmp_path / "model"
    shutil.copytree(float16_bundle_of("t5"), path)
    weights = bytearray((path / "weights.bin").read_bytes())
    weights[1000] ^= 1
    (path / "weights.bin").write_bytes(weights)
    with pytest.raises(BundleError, match=r"changed since it was written.*: weights.bin"):
        ensure_engines(Bundle.open(path), OPTIONS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_folders_that_are_being_written_are_not_taken(built: tuple[Bundle, Path]) -> None:
    bundle, folder = built
    folder.rename(folder.with_name(f".{folder.name}.0123abcd.partial"))
    with pytest.raises(BackendError, match="has no engines"):
        find_engines(bundle, load_library("tensorrt-rtx"), GPU)


def test_what_is_in_the_engines_place_is_not_replaced(built: tuple[Bundle, Path]) -> None:
    bundle, folder = built
    (folder / "engines.json").unlink()
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="holds something else; delete it"):
            ensure_engines(bundle, OPTIONS, overwrite=overwrite)
    assert (folder / "encoder.engine").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workspace_bytes": 2**63}, "a workspace of 9223372036854775808 bytes must be at least"),
        (
            {"limits": Limits(10**9, 512, 256, 8)},
            r"encoder.onnx: input_ids would be of shape \[1000000000, 512\], and TensorRT takes",
        ),
        ({"limits": Limits(1, 512, 10**9, 8)}, r"decoder.onnx: .* fewer slots or fewer queries"),
    ],
)
def test_what_tensorrt_cannot_count_is_refused(
    options: dict[str, Any],
    message: str,
    float16_bundle_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / "model"
    shutil.copytree(float16_bundle_of("t5"), path)
    wanted = Options("tensorrt-rtx", compute_capabilities=("8.6",), **options)
    with pytest.raises(InputError, match=message):
        ensure_engines(Bundle.open(path), wanted)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_workspace_that_is_too_small_names_its_option(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    shutil.copytree(bundle_of("t5"), path)
    options = Options("tensorrt-rtx", compute_capabilities=("8.6",), workspace_bytes=1)
    with pytest.raises(BackendError, match="allow kernels more memory with --workspace"):
        ensure_engines(Bundle.open(path), options)
