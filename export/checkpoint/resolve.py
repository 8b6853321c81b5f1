"""From what a user names (a folder, a file, a hub id) to the files that are read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .adapter_config import read_adapter_config
from .files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, WEIGHTS, inner_models, listing
from .hub import download, is_hub_id, nearest_id

if TYPE_CHECKING:
    from seq2edge.runtime.progress import StageProgress


@dataclass(frozen=True)
class ResolvedCheckpoint(os.PathLike[str]):
    """Where a checkpoint's files are on this machine; as a path it is the folder (or file) named.

    Attributes:
        path: the folder with the model, or with the adapter; or a file of weights.
        base: the folder (or file) of the model's own weights; ``path`` without an adapter.
        source: for the manifest: ``checkpoint``, and ``commit`` of a hub id; ``base`` and
            ``base_commit`` of an adapter's base model. Folders are left out.
    """

    path: Path
    base: Path
    source: Mapping[str, str] = field(default_factory=dict)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    @property
    def adapter(self) -> Path | None:
        """The folder with the adapter; None: there is none."""
        return self.path if self.path.is_dir() and has_adapter(listing(self.path)) else None


def has_adapter(names: list[str]) -> bool:
    """Whether a folder of these names holds a PEFT adapter."""
    return not set(names).isdisjoint((ADAPTER_CONFIG, *ADAPTER_WEIGHTS))


def resolve_checkpoint(
    name: str | os.PathLike[str],
    revision: str | None = None,
    base: str | os.PathLike[str] | None = None,
    progress: StageProgress | None = None,
) -> ResolvedCheckpoint:
    """Find a checkpoint on this machine, or bring it here from the hub.

    Args:
        name: a folder, a file of weights beside its config.json, or a model's id on the hub
            (``google/flan-t5-small``). What is here wins.
        revision: branch, tag or commit of a hub id; None: its main branch.
        base: the model that an adapter was trained on, as ``name``; None: a model in the
            adapter's own folder, or what its adapter_config.json names.
        progress: called while files are brought here.

    Raises:
        CheckpointError: there is no such checkpoint, it cannot be brought here, or options that
            do not fit it.
        MissingDependencyError: a hub id without huggingface_hub.
    """
    path, source = _located(name, revision, progress)
    if path.is_file() and path.name in ADAPTER_WEIGHTS:
        path = path.parent
    names = listing(path) if path.is_dir() else []
    if not has_adapter(names):
        if base is not None:
            inner = inner_models(path) if path.is_dir() else ""
            raise CheckpointError(
                f"{path} holds no adapter, so there is no base model to give; leave out"
                f" --base{inner}"
            )
        if path.is_file() and has_adapter(listing(path.parent)):
            warnings.warn(
                f"{path} is exported alone: the adapter beside it is not merged; give the folder"
                " for that",
                stacklevel=3,
            )
        return ResolvedCheckpoint(path, path, source)
    config = read_adapter_config(path)
    if base is None and any(model in names for w in WEIGHTS for model in (w, w + INDEX)):
        return ResolvedCheckpoint(path, path, source)
    if base is not None:
        found, origin = _located(base, None, progress)
    elif config.base is None:
        raise CheckpointError(
            f"{path} is an adapter, and its adapter_config.json names no base model; give it with"
            " --base"
        )
    else:
        beside = path / config.base
        try:
            found, origin = _located(
                beside if beside.is_dir() else config.base, config.revision, progress
            )
        except CheckpointError as error:
            raise CheckpointError(
                f"{path} is an adapter of {config.base}: {error}; --base gives another place of it"
            ) from None
    if found.is_dir() and has_adapter(listing(found)):
        raise CheckpointError(
            f"{found}, the base model of {path}, holds an adapter itself; merge that one first"
        )
    base_source = {"base" if key == "checkpoint" else f"base_{key}": v for key, v in origin.items()}
    return ResolvedCheckpoint(path, found, {**source, **base_source})


def _located(
    name: str | os.PathLike[str], revision: str | None, progress: StageProgress | None
) -> tuple[Path, dict[str, str]]:
    """Where it is here, and for the manifest where it is from."""
    path, text = Path(name), os.fspath(name)
    if path.exists():
        if revision is not None:
            raise CheckpointError(
                f"{path} is here, where it has no revision {revision}; leave out --revision"
            )
        return path, {}
    if not is_hub_id(text):
        can_be_path_only = path.is_absolute() or text.startswith((".", "~"))
        nor = "; nor is that a model's id on the hub, which is ORGANIZATION/NAME"
        hint = "" if can_be_path_only else f"{nor}{nearest_id(text)}"
        raise CheckpointError(f"no such checkpoint folder: {text}{hint}")
    folder, commit = download(text, revision, progress)
    return folder, {"checkpoint": text, "commit": commit}
