"""A folder of engines: the plans, and ``engines.json``, which says what they are for."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ...bundle import write_error
from ...errors import OutputExistsError
from .profile import Limits
from .report import GraphReport

ENGINES_NAME = "engines.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class EngineFile:
    """One plan: its name in the folder, its bytes, and the report on it."""

    file: str
    size: int
    sha256: str
    report: GraphReport


@dataclass(frozen=True)
class EngineSet:
    """What ``engines.json`` says.

    Attributes:
        engine, version: the TensorRT that built them; a plan runs on no other version.
        compute_capabilities: of the GPUs that they are for; empty: of the building machine.
        limits: the largest shapes that they take.
        bundle_sha256: of the bundle's files that they were built from.
        engines: by graph, ``encoder`` and ``decoder``.
    """

    engine: str
    version: str
    compute_capabilities: tuple[str, ...]
    limits: Limits
    bundle_sha256: Mapping[str, str]
    engines: Mapping[str, EngineFile]

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``kept`` says of each GEMM whether it has the asked precision."""
        out = {"format_version": FORMAT_VERSION, **asdict(self)}
        for name, engine in self.engines.items():
            gemms = zip(out["engines"][name]["report"]["gemms"], engine.report.gemms, strict=True)
            for entry, gemm in gemms:
                entry["kept"] = gemm.kept
        return out


class EngineWriter:
    """Writes engines into a hidden sibling folder and renames it when all are there.

    ``with EngineWriter(path) as out:`` write plans, then ``out.commit``. Leaving the block
    without a commit removes everything.

    Raises:
        OutputExistsError: the output is there and ``overwrite`` is false, or it is something
            other than engines or an empty folder (which is never replaced).
        OutputError: the disk is full or not writable.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self._destination = Path(path)
        self._overwrite = overwrite
        self._check()
        parent = self._destination.resolve().parent
        token = secrets.token_hex(4)
        self._folder = parent / f".{self._destination.name}.{token}.partial"
        self._replaced = parent / f".{self._destination.name}.{token}.old"
        self._new_parents = [p for p in (parent, *parent.parents) if not p.exists()]

    def __enter__(self) -> EngineWriter:
        try:
            self._folder.mkdir(parents=True)
        except OSError as error:
            raise write_error(self._destination, error) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        for folder in self._new_parents:
            # Not empty: another program uses it by now.
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise write_error(self._destination, error) from None

    def write(self, name: str, data: Any) -> tuple[str, int, str]:
        """Write one file from a buffer and flush it; its name, size and SHA-256."""
        view = memoryview(data)
        with (self._folder / name).open("wb") as file:
            file.write(view)
            file.flush()
            os.fsync(file.fileno())
        return name, view.nbytes, hashlib.sha256(view).hexdigest()

    def commit(self, made: EngineSet) -> None:
        """Write ``engines.json`` and put the folder in its place."""
        text = json.dumps(made.to_json(), indent=2, sort_keys=True) + "\n"
        self.write(ENGINES_NAME, text.encode())
        self._check()  # something may have appeared there while TensorRT built
        try:
            if self._destination.exists():
                self._destination.rename(self._replaced)
            self._folder.rename(self._destination)
        except BaseException:
            if self._replaced.exists() and not self._destination.exists():
                self._replaced.rename(self._destination)
            raise
        self._new_parents.clear()
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _check(self) -> None:
        path = self._destination
        if not path.name:
            raise OutputExistsError(f"{path} cannot be replaced; name a new folder for the engines")
        if not (path.exists() or path.is_symlink()):
            return
        if not self._overwrite:
            raise OutputExistsError(f"{path} already exists; choose another name or pass --force")
        if path.is_symlink() or not path.is_dir():
            raise OutputExistsError(f"{path} is not a folder; choose another name")
        if any(path.iterdir()) and not (path / ENGINES_NAME).is_file():
            raise OutputExistsError(
                f"{path} is neither empty nor a folder of engines, so --force does not replace it"
            )
