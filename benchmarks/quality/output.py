"""Files and folders of results that are there whole or not at all.

Outputs are checked before long work begins (:func:`check_file`, :func:`check_folder`) and are
small enough to be held until they are complete.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from seq2edge.runtime.bundle import write_error
from seq2edge.runtime.errors import OutputError, OutputExistsError


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot or may not be written.

    Raises:
        OutputExistsError: it is there and ``overwrite`` is false, or it is a folder.
        OutputError: its folder is missing or not writable.
    """
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder; name a file")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OutputExistsError(f"{path} is not a regular file; choose another name")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} already exists; choose another name or pass --force")
    _check_parent(path, path.absolute().parent)


def check_folder(path: Path, overwrite: bool, marker: str) -> None:
    """Refuse a folder that cannot or may not be written. Missing parents are no obstacle.

    Raises:
        OutputExistsError: it holds something and ``overwrite`` is false, or it holds something
            other than an earlier result, which would contain ``marker``.
        OutputError: where it would be is not a folder, or not writable.
    """
    if not path.name:
        raise OutputExistsError(f"{path} cannot be replaced; name a new folder")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise OutputExistsError(f"{path} is not a folder; choose another name")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise OutputExistsError(
                f"{path} already exists and is not empty; choose another name or pass --force"
            )
        if not (path / marker).is_file():
            raise OutputExistsError(
                f"{path} holds no {marker}, so --force does not replace it; choose another name"
            )
    _check_parent(path, next(parent for parent in path.absolute().parents if parent.exists()))


def write_file(path: Path, data: bytes, overwrite: bool) -> None:
    """Write ``data`` beside ``path`` and put it in its place.

    Raises:
        OutputExistsError, OutputError: as :func:`check_file`, or the disk is full.
    """
    check_file(path, overwrite)
    partial = _sibling(path, "partial")
    with _errors_of(path):
        try:
            _write(partial, data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_folder(path: Path, files: Mapping[str, bytes], overwrite: bool, marker: str) -> None:
    """Write ``files`` into a folder beside ``path`` and put it in its place.

    Raises:
        OutputExistsError, OutputError: as :func:`check_folder`, or the disk is full.
    """
    check_folder(path, overwrite, marker)
    partial, replaced = _sibling(path, "partial"), _sibling(path, "old")
    parent = partial.parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    with _errors_of(path):
        try:
            partial.mkdir(parents=True)
            for name, data in files.items():
                _write(partial / name, data)
            if path.exists():
                path.rename(replaced)
            partial.rename(path)
            made.clear()
        except BaseException:
            if replaced.exists() and not path.exists():
                replaced.rename(path)
            raise
        finally:
            for folder in (partial, replaced):
                shutil.rmtree(folder, ignore_errors=True)
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()


def _check_parent(path: Path, parent: Path) -> None:
    if not parent.is_dir():
        raise OutputError(f"cannot write {path}: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: {parent} is not writable")


def _sibling(path: Path, ending: str) -> Path:
    path = path.absolute()
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{ending}")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from None
