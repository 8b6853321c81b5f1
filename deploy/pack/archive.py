"""Write an archive in one pass: equal contents are equal bytes, and little is held in memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from seq2edge.runtime.bundle.atomic_write import output_file
from seq2edge.runtime.bundle.reader import changed_while_copied
from seq2edge.runtime.dependencies import needs
from seq2edge.runtime.errors import InputError
from seq2edge.runtime.progress import CountProgress

#: Names of packs and of Triton's models: they stand in paths, shell scripts and systemd units.
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")

#: Suffixes of archives, and what compresses them.
SUFFIXES = {".tar.zst": "zstd", ".tar.gz": "gzip", ".tgz": "gzip", ".tar": "none"}

#: On the demo model's weights zstd's 15 took ten times as long and saved nothing.
_ZSTD_LEVEL = 10
#: gzip's own choice; 9, Python's, took twice as long and saved 1 %.
_GZIP_LEVEL = 6


@dataclass(frozen=True)
class Entry:
    """A file of the archive: its path there, and its bytes or the file that holds them.

    ``sha256`` is what the file must have while it is packed; "": whatever it has.
    """

    name: str
    source: bytes | Path
    executable: bool = False
    sha256: str = ""

    @property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def open(self) -> BinaryIO:
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")


def split_name(path: Path) -> tuple[str, str]:
    """The archive's name without its suffix, and how it is compressed.

    Raises:
        InputError: another suffix.
    """
    for suffix, compression in SUFFIXES.items():
        if path.name.endswith(suffix) and path.name != suffix:
            return path.name[: -len(suffix)], compression
    raise InputError(f"{path.name!r} must end in one of: {', '.join(SUFFIXES)}")


def check_compression(path: Path) -> None:
    """Refuse a compression that is not installed.

    Raises:
        InputError: an unknown suffix.
        MissingDependencyError: zstd is asked for, and there is no zstandard.
    """
    if split_name(path)[1] != "zstd":
        return
    with needs(path.name, instead=", or name a .tar.gz"):
        import zstandard  # noqa: F401


def write_archive(
    path: Path, entries: Sequence[Entry], progress: CountProgress | None = None
) -> None:
    """Write ``entries`` to ``path``, sorted by name, whole or not at all.

    Owners are root and times are SOURCE_DATE_EPOCH's (reproducible-builds.org), or 1970.

    Raises:
        InputError: an unknown suffix, or an impossible SOURCE_DATE_EPOCH.
        BundleError: a file is not what it was when its hash was taken.
        OutputError: it cannot be written.
    """
    compression = split_name(path)[1]
    time = _time()
    total = sum(entry.size for entry in entries)
    done = 0

    def count(amount: int) -> None:
        nonlocal done
        done += amount
        if progress is not None:
            progress(done, total)

    with (
        output_file(path) as file,
        _compressor(file, compression, time) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in sorted(entries, key=lambda entry: entry.name):
            info = tarfile.TarInfo(entry.name)
            info.size = entry.size
            info.mtime = time
            info.mode = 0o755 if entry.executable else 0o644
            info.uname = info.gname = "root"
            with entry.open() as source:
                counted = _Counted(source, count)
                try:
                    tar.addfile(info, counted)
                except OSError as error:
                    if error.errno is not None or counted.size == info.size:
                        raise  # the disk; tarfile's own error of a short file has no number
                    raise changed_while_copied(Path(entry.name)) from None
            if entry.sha256 not in ("", counted.digest.hexdigest()):
                raise changed_while_copied(Path(entry.name))


def _time() -> int:
    """Seconds since 1970 that files are given."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"SOURCE_DATE_EPOCH is {text!r}, and must be seconds since 1970")
    return int(text)


@contextmanager
def _compressor(file: BinaryIO, compression: str, time: int) -> Iterator[Any]:
    """A file object that ``tarfile`` can write to; what it is depends on the library."""
    if compression == "none":
        yield file
    elif compression == "gzip":
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, time) as stream:
            yield stream
    else:
        import zstandard

        # All cores; how many there are does not show in the bytes.
        zstd = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=-1, write_checksum=True)
        with zstd.stream_writer(file, closefd=False) as stream:
            yield stream


class _Counted(io.RawIOBase):
    """A file that tells how much was read of it, and its hash."""

    def __init__(self, file: BinaryIO, count: Callable[[int], None]) -> None:
        self._file = file
        self._count = count
        self.size = 0
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._count(len(data))
        self.size += len(data)
        self.digest.update(data)
        return data
