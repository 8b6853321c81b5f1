"""The output of the last step: an archive, or a folder with an archive's contents."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

from seq2edge.deploy.pack.archive import NAME, SUFFIXES, check_compression, split_name
from seq2edge.runtime.bundle.atomic_write import (
    OutputFolder,
    check_file,
    check_folder,
    check_parent,
)
from seq2edge.runtime.errors import InputError

from .workspace import fingerprint

#: A folder with this file is a pack.
_MARKER = "manifest.json"
_KIND = "a pack"
#: Suffixes of archives that are not written: no folder is meant by them.
_OTHER_ARCHIVES = (".zip", ".7z", ".rar", ".zst", ".gz", ".xz", ".bz2")


class Output:
    """The archive or folder that was asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_archive = path.name.endswith(tuple(SUFFIXES))
        if not self.is_archive and path.suffix in _OTHER_ARCHIVES:
            raise InputError(
                f"{path.name!r} is an archive of no kind that is written here; those are"
                f" {', '.join(SUFFIXES)}, and any other name is a folder's"
            )
        self.name = split_name(path)[0] if self.is_archive else path.resolve().name
        if not NAME.fullmatch(self.name):
            raise InputError(
                f"{self.name!r} becomes the name of a folder and a service: use letters, digits,"
                " '.', '_' and '-' only"
            )

    def archive(self, folder: Path) -> Path:
        """The archive that ``pack`` writes; for a folder an intermediate one in ``folder``."""
        return self.path if self.is_archive else folder / f"{self.name}.tar"

    def check(self, overwrite: bool) -> None:
        """Refuse what may not or cannot be written, before any work.

        Raises:
            OutputExistsError, OutputError, MissingDependencyError.
        """
        if self.is_archive:
            check_compression(self.path)
            check_file(self.path, overwrite)
        else:
            check_folder(self.path, overwrite, _MARKER, _KIND)
            check_parent(self.path)

    def state(self) -> Any:
        """A fingerprint of the output, compared with the one that was written; None: no output."""
        if self.is_archive:
            return fingerprint(self.path) if self.path.is_file() else None
        marker = self.path / _MARKER
        return hashlib.sha256(marker.read_bytes()).hexdigest() if marker.is_file() else None

    def is_ours(self, state: Any) -> bool:
        """Whether it may be replaced unasked: it was written here, and nothing was added to it."""
        if state is None or self.state() != state:
            return False
        if self.is_archive:
            return True
        import json

        listed = {*json.loads((self.path / _MARKER).read_bytes())["files"], _MARKER}
        files = {str(f.relative_to(self.path)) for f in self.path.rglob("*") if not f.is_dir()}
        return files <= listed

    def unpack(self, archive: Path) -> None:
        """Put an archive's one folder in the place of the output, whole or not at all."""
        with OutputFolder(self.path, overwrite=True, marker=_MARKER, kind=_KIND) as out:
            with tarfile.open(archive) as tar:
                tar.extractall(out.directory / ".unpacked", filter="data")
            unpacked = out.directory / ".unpacked" / self.name
            for entry in list(unpacked.iterdir()):
                entry.rename(out.directory / entry.name)
            unpacked.rmdir()
            unpacked.parent.rmdir()
            out.publish()
