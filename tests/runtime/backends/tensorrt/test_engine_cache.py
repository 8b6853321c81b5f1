"""Engines are found again beside their bundle, and none is used that does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from seq2edge.runtime import BackendError, Bundle
from seq2edge.runtime.backends.tensorrt import EngineKey, Limits, Options, ensure_engines
from seq2edge.runtime.backends.tensorrt.cuda import DeviceProperties
from seq2edge.runtime.backends.tensorrt.engine_cache import find_engines
from seq2edge.runtime.backends.tensorrt.engine_store import read_engines
from seq2edge.runtime.backends.tensorrt.library import Library

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

_OPTIONS = Options(limits=Limits(1, 16, 16, 2), compute_capabilities=("8.6", "8.9"))
_GPU = DeviceProperties("NVIDIA A2", "8.6", 1 << 34)


@pytest.fixture(scope="module")
def built(
    float16_bundle_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle with engines beside it."""
    bundle = tmp_path_factory.mktemp("cache") / "t5"
    shutil.copytree(float16_bundle_of("t5"), bundle)
    ensure_engines(Bundle.open(bundle), _OPTIONS)
    return bundle


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Bundle:
    for folder in built.parent.iterdir():
        shutil.copytree(folder, tmp_path / folder.name)
    return Bundle.open(tmp_path / built.name)


def engines_of(bundle: Bundle) -> Path:
    (folder,) = bundle.directory.with_name("t5.engines").iterdir()
    return folder


def library_of(bundle: Bundle) -> Library:
    key = read_engines(engines_of(bundle)).key
    return Library(key.engine, key.version, ModuleType("tensorrt_rtx"))


def test_engines_are_built_once(bundle: Bundle) -> None:
    folder, made, built = ensure_engines(bundle, _OPTIONS)
    assert (folder, built) == (engines_of(bundle), False)
    # The report is read back as it was written.
    assert made.engines["decoder"].report.cache_updates == 4
    assert made == read_engines(folder)
    _, _, built = ensure_engines(bundle, _OPTIONS, overwrite=True)
    assert built


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "tensorrt"},
        {"version": "0.9"},
        {"compute_capabilities": ("8.6",)},
        {"gpu": "Orin"},
        {"limits": Limits(1, 16, 16, 1)},
        {"workspace_bytes": 1 << 30},
        {"bundle_sha256": {"decoder.onnx": "0"}},
    ],
)
def test_a_key_changes_with_all_that_it_is_made_of(change: dict[str, Any], bundle: Bundle) -> None:
    key: EngineKey = read_engines(engines_of(bundle)).key
    assert replace(key, **change).digest() != key.digest()


def test_other_options_or_graphs_are_built_beside(bundle: Bundle) -> None:
    wider = replace(_OPTIONS, limits=Limits(2, 16, 16, 2))
    first, _, _ = ensure_engines(bundle, _OPTIONS)
    second, _, built = ensure_engines(bundle, wider)
    assert built
    assert second != first
    assert {first, second} == set(first.parent.iterdir())


def test_engines_for_this_machine_are_found(bundle: Bundle) -> None:
    folder, made = find_engines(bundle, library_of(bundle), _GPU)
    assert folder == engines_of(bundle)
    assert made.key.limits == _OPTIONS.limits


def test_engines_for_another_gpu_or_version_are_refused(bundle: Bundle) -> None:
    library = library_of(bundle)
    with pytest.raises(BackendError, match=r"built for compute capability 8.6, 8.9, and .* 8.7"):
        find_engines(bundle, library, DeviceProperties("Orin", "8.7", 1))
    newer = replace(library, version="99")
    with pytest.raises(BackendError, match=r"built by tensorrt-rtx .*, and 99 is installed"):
        find_engines(bundle, newer, _GPU)
    with pytest.raises(
        BackendError, match=r"build them here: seq2edge build .* --backend tensorrt"
    ):
        find_engines(bundle, replace(library, engine="tensorrt"), _GPU)


def test_engines_built_on_one_gpu_are_for_that_one(bundle: Bundle) -> None:
    file = engines_of(bundle) / "engines.json"
    file.write_text(file.read_text().replace('"gpu": null', '"gpu": "NVIDIA A16"'))
    with pytest.raises(BackendError, match=r"built on NVIDIA A16, and this GPU is NVIDIA A2"):
        find_engines(bundle, library_of(bundle), _GPU)


def test_engines_of_a_bundle_that_was_exported_again_are_stale(
    bundle: Bundle, tensorrt_bundle_of: Callable[[str, str], Path]
) -> None:
    library = library_of(bundle)
    shutil.rmtree(bundle.directory)
    shutil.copytree(tensorrt_bundle_of("t5", "int4"), bundle.directory)
    with pytest.raises(BackendError, match=r"built from another decoder.onnx and .*weights.bin"):
        find_engines(Bundle.open(bundle.directory), library, _GPU)


def test_a_truncated_engine_is_refused_and_built_again(bundle: Bundle) -> None:
    plan = engines_of(bundle) / "decoder.engine"
    size = plan.stat().st_size
    plan.write_bytes(plan.read_bytes()[:-100])
    with pytest.raises(BackendError, match=rf"truncated: {size - 100} of {size} bytes"):
        find_engines(bundle, library_of(bundle), _GPU)
    with pytest.warns(UserWarning, match=r"truncated.*; it is built again"):
        _, _, built = ensure_engines(bundle, _OPTIONS)
    assert built
    assert find_engines(bundle, library_of(bundle), _GPU)


def test_a_changed_engine_is_built_again(bundle: Bundle) -> None:
    plan = engines_of(bundle) / "encoder.engine"
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    with pytest.warns(UserWarning, match=r"changed since it was written"):
        _, _, built = ensure_engines(bundle, _OPTIONS)
    assert built


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"limits": 1, "limits": 2}', "has the key 'limits' twice"),
        ("[]", "of another format"),
        ('{"format_version": 1}', "malformed: limits must be an object; .*engines.decoder is mis"),
    ],
)
def test_a_garbled_description_is_refused(text: str, message: str, bundle: Bundle) -> None:
    folder = engines_of(bundle)
    (folder / "engines.json").write_text(text)
    with pytest.raises(BackendError, match=message):
        read_engines(folder)
