"""Files and folders that appear whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..errors import OutputError, OutputExistsError


class OutputFolder:
    """Writes into a hidden sibling folder and renames it when it is complete.

    ``with OutputFolder(...) as out:`` write files into ``out.directory``, then call
    ``out.publish()``. Leaving the block without it, by an exception or Ctrl-C as well, removes
    everything.

    Args:
        path: the folder to write.
        overwrite: replace what an earlier run has written.
        marker: the file that tells such a folder from any other, which is never replaced.
        kind: what the folder is, as in "a bundle".

    Raises:
        OutputExistsError: see :func:`check_folder`.
        OutputError: the disk is full or not writable.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, overwrite: bool, marker: str, kind: str
    ) -> None:
        self.destination = Path(path)
        self._allowed = overwrite, marker, kind
        check_folder(self.destination, *self._allowed)
        self.directory = _sibling(self.destination, "partial")
        self._replaced = _sibling(self.destination, "old")
        parent = self.directory.parent
        self._new_parents = [p for p in (parent, *parent.parents) if not p.exists()]

    def __enter__(self) -> OutputFolder:
        try:
            self.directory.mkdir(parents=True)
        except OSError as error:
            raise write_error(self.destination, error) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        for folder in self._new_parents:
            with suppress(OSError):  # not empty: another program uses it by now
                folder.rmdir()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise write_error(self.destination, error) from None

    def publish(self) -> None:
        """Flush everything to disk and put the folder in its place."""
        for file in self.directory.iterdir():
            _fsync(file)
        _fsync(self.directory)
        # Again: something may have appeared there since.
        check_folder(self.destination, *self._allowed)
        try:
            if self.destination.exists():
                self.destination.rename(self._replaced)
            self.directory.rename(self.destination)
        except BaseException:
            if self._replaced.exists() and not self.destination.exists():
                self._replaced.rename(self.destination)
            raise
        self._new_parents.clear()
        _fsync(self.destination.resolve().parent)
        shutil.rmtree(self._replaced, ignore_errors=True)


def check_folder(path: Path, overwrite: bool, marker: str, kind: str) -> None:
    """Refuse an output folder before any work is done; missing parents are no obstacle.

    Raises:
        OutputExistsError: it is there and ``overwrite`` is false, or it is something other than
            an empty folder or one with the file ``marker``.
    """
    if not path.name:
        raise OutputExistsError(f"{path} cannot be replaced; name a new folder for {kind}")
    if not (path.exists() or path.is_symlink()) or _is_empty_folder(path):
        return
    if not overwrite:
        raise OutputExistsError(f"{path} already exists; choose another name or pass --force")
    if path.is_symlink() or not path.is_dir():
        raise OutputExistsError(f"{path} is not a folder; choose another name")
    if not (path / marker).is_file():
        raise OutputExistsError(
            f"{path} is neither empty nor {kind}, so --force does not replace it"
        )


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def check_parent(path: Path) -> None:
    """Refuse a path in a folder that cannot be written, by writing there.

    Raises:
        OutputError: the nearest folder above that exists is none, or not writable.
    """
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise OutputError(f"cannot write {path}: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: {parent} is not writable")
    try:  # permissions do not tell all: of root, of a quota, of /proc
        tempfile.TemporaryDirectory(prefix=".seq2edge-", dir=parent).cleanup()
    except OSError as error:
        reason = f"{parent} is not writable: {error.strerror}"
        raise OutputError(f"cannot write {path}: {reason}") from None


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot or may not be written, before any work is done.

    Raises:
        OutputExistsError: it is there and ``overwrite`` is false, or it is no regular file: to
            replace a device or a link is never what is meant.
        OutputError: its folder is missing or not writable, or its name is impossible.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except OSError as error:
        raise write_error(path, error) from None
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputExistsError(f"{path} is not a regular file; choose another name")
    if mode is not None and not overwrite:
        raise OutputExistsError(f"{path} already exists; choose another name or pass --force")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"cannot write {path}: {path.absolute().parent} is not a folder")
    check_parent(path)


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the block ends without an exception.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.absolute().with_name(f".seq2edge-{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        partial.unlink(missing_ok=True)


def write_error(path: Path, error: OSError) -> OutputError:
    """The one-line error for a failed write of ``path``."""
    reason = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror
    return OutputError(f"cannot write {path}: {reason}; nothing was left behind")


def _sibling(path: Path, ending: str) -> Path:
    return path.resolve().parent / f".{path.name}.{secrets.token_hex(4)}.{ending}"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
