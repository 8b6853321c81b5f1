"""The hidden place beside a destination where its next content is written.

There is one a destination, locked while a run works in it. The system gives the lock back whatever
ends the run, so what is found there without a lock was left by one that was killed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError

try:
    import fcntl
except ImportError:  # no Unix: a destination has no lock there
    fcntl = None  # type: ignore[assignment]

#: Two runs may take turns in removing what the other has made; not so often.
_ATTEMPTS = 100
#: renameat2(2): paths are as rename(2) takes them; both change places.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: The file system (or the kernel, or the C library) cannot exchange two paths.
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EPERM)
#: The file system has no locks.
_CANNOT_LOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def hidden_beside(path: Path, ending: str) -> Path:
    """Where ``path``'s next (``partial``) or former (``old``) content lies, or ``trials``."""
    return path.resolve().parent / f".{path.name}.seq2edge.{ending}"


class Claim:
    """A locked and empty hidden folder, or file; what a killed run has left there is gone.

    Args:
        path: from :func:`hidden_beside`; it must not change its place before ``release``.
        folder: make a folder; False: a file.

    Raises:
        OutputError: another run works there, or it belongs to another user.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, *, folder: bool) -> None:
        self.path = path
        self._folder = folder
        #: Locked, the last one at ``path``.
        self._descriptors: list[int] = []
        for _ in range(_ATTEMPTS):
            descriptor, made_here = self._opened()
            try:
                _lock(descriptor, path)
                if self._is_at_path(descriptor):
                    if not made_here:
                        self._take_over(descriptor)
                    self._descriptors = [descriptor]
                    return
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # another run has removed it in between
        raise _taken(path)

    @property
    def descriptor(self) -> int:
        """Of the file, open for writing."""
        return self._descriptors[0]

    def publish(self, destination: Path) -> None:
        """Put what was written at ``destination``; the folder or file that was there is removed.

        In one system call, so that whatever ends the run, one of both is there. A file system that
        cannot exchange two folders takes two, and :func:`put_back` finishes what was begun.
        """
        if not (self._folder and _is_filled(destination)):
            self.path.replace(destination)
            return
        # What comes to lie at ``path`` is to be locked as what lay there.
        old = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._descriptors.append(old)
        with suppress(OutputError):
            _lock(old, self.path)
        try:
            exchange(self.path, destination)
        except OSError as error:
            os.close(self._descriptors.pop())
            if error.errno not in _CANNOT_EXCHANGE:
                raise
            _replace(self.path, destination)

    def release(self) -> None:
        """Remove what was not published, or what it has replaced, and let others in."""
        if self._descriptors and self._is_at_path(self._descriptors[-1]):
            _remove(self.path)
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _opened(self) -> tuple[int, bool]:
        """A descriptor of the folder or file, and whether it is new."""
        if self._folder:
            made_here = True
            try:
                self.path.mkdir()
            except FileExistsError:
                made_here = False
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(self.path, flags), made_here
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(self.path, flags | os.O_EXCL, 0o666), True
        except FileExistsError:
            return os.open(self.path, flags, 0o666), False

    def _is_at_path(self, descriptor: int) -> bool:
        """Whether what a descriptor is of lies there still."""
        try:
            there = self.path.lstat()
        except FileNotFoundError:
            return False
        info = os.fstat(descriptor)
        return (there.st_ino, there.st_dev) == (info.st_ino, info.st_dev)

    def _take_over(self, descriptor: int) -> None:
        """Empty what another run has left.

        Raises:
            OutputError: it is not ours: whoever owns it could change what is written.
        """
        info = os.fstat(descriptor)
        is_expected = stat.S_ISDIR if self._folder else stat.S_ISREG
        if info.st_uid != os.geteuid() or not is_expected(info.st_mode) or _is_link(info):
            raise OutputError(f"{self.path} is in the way, and no run of yours left it; remove it")
        if not self._folder:
            os.ftruncate(descriptor, 0)
            return
        for entry in self.path.iterdir():
            _remove(entry)


def _is_link(info: os.stat_result) -> bool:
    """Whether a file has a second name, whose content would go."""
    return stat.S_ISREG(info.st_mode) and info.st_nlink > 1


def _lock(descriptor: int, path: Path) -> None:
    """Lock it, if there are locks on this system.

    Raises:
        OutputError: another run has locked it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(path) from None
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise


def _taken(path: Path) -> OutputError:
    name = path.name[1:].partition(".seq2edge.")[0]
    return OutputError(
        f"another run is writing {path.with_name(name)}; wait for it, or choose another name"
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        import shutil  # here: readers of bundles need none of its archive formats

        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def exchange(first: Path, second: Path) -> None:
    """Let two paths of one file system change places, in one system call (renameat2(2)).

    Raises:
        OSError: it cannot be done here, or a path is not there.
    """
    call: Callable[..., int] | None = getattr(_libc(), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    paths = [os.fsencode(first.absolute()), os.fsencode(second.absolute())]
    if call(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(first))


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _replace(new: Path, destination: Path) -> None:
    old = hidden_beside(destination, "old")
    _remove(old)
    destination.rename(old)
    try:
        new.rename(destination)
    except BaseException:
        put_back(destination)
        raise
    _remove(old)


def put_back(destination: Path) -> None:
    """Undo or finish a replacement in two steps that was interrupted between them."""
    old = hidden_beside(destination, "old")
    if not old.is_dir() or old.is_symlink():
        return
    if destination.exists():
        _remove(old)
    else:
        old.rename(destination)


def _is_filled(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())
