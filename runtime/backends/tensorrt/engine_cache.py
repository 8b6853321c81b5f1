"""Engines are cached next to their bundle, one folder per key, and refused with the reason.

``BUNDLE.engines/`` holds a folder for each :class:`.store.EngineKey`. An engine is used only
where its key agrees with the bundle, the TensorRT and the GPU at hand; one that was built from
other bytes, by another version or for another GPU is never loaded.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ...bundle.manifest import WEIGHTS_NAME
from ...bundle.reader import Bundle
from ...errors import BackendError
from .cuda import DeviceProperties
from .engine_store import (
    ENGINES_NAME,
    EngineKey,
    EngineSet,
    engine_graphs,
    read_engines,
    read_plan,
)
from .library import Library

#: Reasons in one message.
_MOST_REASONS = 3


def cache_folder(bundle: Bundle) -> Path:
    """Where a bundle's engines are kept."""
    folder = bundle.directory.resolve()
    return folder.with_name(f"{folder.name}.engines")


def folder_of(bundle: Bundle, key: EngineKey) -> Path:
    """The place of one set of engines in it."""
    return cache_folder(bundle) / f"{key.engine}-{key.digest()}"


def graph_hashes(bundle: Bundle) -> dict[str, str]:
    """SHA-256 of all that engines are made of, by file."""
    manifest = bundle.manifest
    files = [manifest.graphs[name].file for name in engine_graphs(manifest)] + [WEIGHTS_NAME]
    return {file: manifest.files[file].sha256 for file in files}


def sound_engines(folder: Path) -> EngineSet:
    """Read a set of engines and every byte of its plans.

    Raises:
        BackendError: it is incomplete, truncated or changed.
    """
    engines = read_engines(folder)
    for engine in engines.engines.values():
        read_plan(folder, engine)
    return engines


def find_engines(bundle: Bundle, library: Library, gpu: DeviceProperties) -> tuple[Path, EngineSet]:
    """The newest of a bundle's engines that this machine can run.

    Raises:
        BackendError: there are none; with what is wrong with those that are there.
    """
    refused = []
    for folder in _folders(cache_folder(bundle)):
        try:
            engines = read_engines(folder)
        except BackendError as error:
            refused.append(str(error))
            continue
        reasons = mismatches(engines.key, bundle, library, gpu)
        if not reasons:
            return folder, engines
        refused.append(f"{folder.name}: {', '.join(reasons)}")
    others = (
        "" if not refused else " (there are others: " + "; ".join(refused[:_MOST_REASONS]) + ")"
    )
    raise BackendError(
        f"{bundle.directory} has no engines of {library.engine} {library.version} for this"
        f" {gpu.name} (compute capability {gpu.compute_capability}){others}; build them here:"
        f" seq2edge build {bundle.directory} --backend {library.engine}"
    )


def _folders(cache: Path) -> list[Path]:
    """Folders of engines, the newest first; hidden ones are being written or taken away."""
    folders = []
    for file in cache.glob(f"*/{ENGINES_NAME}"):
        with contextlib.suppress(OSError):  # a build has just replaced it
            if not file.parent.name.startswith("."):
                folders.append((file.stat().st_mtime, file.parent))
    return [folder for _, folder in sorted(folders, reverse=True)]


def mismatches(
    key: EngineKey, bundle: Bundle, library: Library, gpu: DeviceProperties
) -> list[str]:
    """Why engines of that key are none for this bundle, TensorRT and GPU; empty: they are."""
    reasons = []
    if key.engine != library.engine:
        reasons.append(f"built by {key.engine}, not {library.engine}")
    elif key.version != library.version:
        reasons.append(f"built by {key.engine} {key.version}, and {library.version} is installed")
    if gpu.compute_capability not in key.compute_capabilities:
        reasons.append(
            f"built for compute capability {', '.join(key.compute_capabilities)}, and this GPU"
            f" has {gpu.compute_capability}"
        )
    elif key.gpu not in (None, gpu.name):
        reasons.append(f"built on {key.gpu}, and this GPU is {gpu.name}")
    hashes = graph_hashes(bundle)
    changed = sorted(name for name in hashes if key.bundle_sha256.get(name) != hashes[name])
    if changed:
        reasons.append(f"built from another {' and '.join(changed)} than the bundle's")
    return reasons
