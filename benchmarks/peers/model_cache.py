"""Models that were made, kept by what they were made of."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from seq2edge.runtime.errors import InputError

from ..driver import PeerError
from .lock import locked

#: Of a key in a folder's name.
_DIGITS = 16
#: Seconds after which a model of another version goes: another tree may be timing it until then.
_UNUSED = 86_400.0
_ROOT = Path(__file__).resolve().parents[2]
#: What makes a bundle of a checkpoint, and the packages that take part.
_ROOMS, _PACKAGES = ("export", "quantize", "runtime"), ("onnx-ir", "onnxruntime", "numpy")


@dataclass(frozen=True)
class ModelCache:
    """A folder of models. A model is there whole or not at all.

    Attributes:
        folder: made when it is needed.
    """

    folder: Path

    def of_checkpoint(self, checkpoint: Path) -> ModelCache:
        """The cache of the models that are made of a checkpoint.

        Raises:
            InputError: a file of it cannot be read.
        """
        try:
            digest = _files_digest(checkpoint, checkpoint.rglob("*"))
        except OSError as error:
            raise InputError(f"cannot read {error.filename}: {error.strerror}") from None
        return ModelCache(self.folder / f"{checkpoint.resolve().name}-{digest}")

    def get(self, name: str, parts: Iterable[object], make: Callable[[Path], None]) -> Path:
        """The model of that name that was made of ``parts``.

        One of the same name that was made of something else is removed when nobody has asked for
        it for a day. ``make`` is given a folder that is not there, and writes it.

        Raises:
            PeerError: the folder cannot be written; or as ``make``.
        """
        path = self.folder / f"{name}-{digest(*parts)}"
        try:
            with locked(self.folder / name):
                if not path.exists():
                    self._make(name, path, make)
                os.utime(path)
        except OSError as error:
            raise PeerError(f"cannot write {path}: {error.strerror}") from None
        return path

    def _make(self, name: str, path: Path, make: Callable[[Path], None]) -> None:
        unfinished = self.folder / f"{name}.unfinished"
        others = self.folder.glob(f"{name}-{'?' * _DIGITS}")
        unused = [other for other in others if time.time() - other.stat().st_mtime > _UNUSED]
        for old in [unfinished, *unused]:
            shutil.rmtree(old, ignore_errors=True)
        try:
            make(unfinished)
            unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def digest(*parts: object) -> str:
    """A name for what these are, by their text."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:_DIGITS]


@cache
def seq2edge_parts() -> tuple[str, ...]:
    """What bundles depend on besides the checkpoint: our code and the packages that it calls."""
    files = [file for room in _ROOMS for file in (_ROOT / room).rglob("*.py")]
    return (_files_digest(_ROOT, files), *(f"{name} {_version(name)}" for name in _PACKAGES))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _files_digest(folder: Path, files: Iterable[Path]) -> str:
    """Of names and contents."""
    found = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        with file.open("rb") as stream:
            contents = hashlib.file_digest(stream, "sha256").hexdigest()
        found.update(f"{file.relative_to(folder)} {contents}\n".encode())
    return found.hexdigest()[:_DIGITS]
