"""Files and folders that appear whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..errors import OutputError, OutputExistsError, Seq2EdgeError
from .hidden_output import Claim, hidden_beside, put_back

#: The disk takes no more, or no more of this user or of this file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Made and removed where something is to be written.
_PROBE = ".seq2edge.probe"


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
        self.directory = hidden_beside(self.destination, "partial")
        self._claim: Claim | None = None
        parent = self.directory.parent
        self._new_parents = [p for p in (parent, *parent.parents) if not p.exists()]

    def __enter__(self) -> OutputFolder:
        try:
            if not self.directory.parent.exists():
                self.directory.parent.mkdir(parents=True, exist_ok=True)
            self._claim = Claim(self.directory, folder=True)
            put_back(self.destination)
            check_folder(self.destination, *self._allowed)
        except BaseException as error:
            self._remove()
            if isinstance(error, OSError) and not isinstance(error, Seq2EdgeError):
                raise write_error(self.destination, error) from None
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()
        if isinstance(error, OSError) and not isinstance(error, Seq2EdgeError):
            names = error.filename, error.filename2  # of a copy, what is read comes first
            if error.errno in _FULL or any(map(self._is_within, names)):
                raise write_error(self.destination, error) from None
            if error.errno == errno.EIO and error.filename is None:
                raise OutputError(
                    f"cannot write {self.destination}, or read what it is made of:"
                    f" {error.strerror}; nothing was left behind"
                ) from None

    def _is_within(self, name: object) -> bool:
        """Whether a file that an error names is one of those that are written."""
        return isinstance(name, str) and self.directory in (Path(name), *Path(name).parents)

    def _remove(self) -> None:
        if self._claim is not None:
            self._claim.release()
        for folder in self._new_parents:
            with suppress(OSError):  # not empty: another program uses it by now
                folder.rmdir()

    def publish(self) -> None:
        """Flush everything to disk and put the folder in its place."""
        if self._claim is None:
            raise AssertionError("published outside its block")
        for path in (*self.directory.rglob("*"), self.directory):
            _fsync(path)
        # Again: something may have appeared there since.
        check_folder(self.destination, *self._allowed)
        self._claim.publish(self.destination)
        self._new_parents.clear()
        _fsync(self.destination.resolve().parent)


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
    # Permissions do not tell all: of root, of a quota, of /proc. The name is always the same, so
    # that what a killed run has left goes with the next one.
    probe = parent / _PROBE
    try:
        with suppress(FileExistsError):
            probe.mkdir()
        with suppress(OSError):
            probe.rmdir()
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
    claim = None
    try:
        claim = Claim(hidden_beside(path, "partial"), folder=False)
        with open(claim.descriptor, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        claim.publish(path)
    except OSError as error:
        if isinstance(error, Seq2EdgeError):
            raise
        raise write_error(path, error) from None
    finally:
        if claim is not None:
            claim.release()


def write_error(path: Path, error: OSError) -> OutputError:
    """The one-line error for a failed write of ``path``."""
    reason = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror
    return OutputError(f"cannot write {path}: {reason}; nothing was left behind")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
