"""The bundle on disk: verified reading, atomic writing.

A bundle is a directory: ``seq2edge.json`` (the manifest), ``encoder.onnx``,
``decoder.onnx`` (graphs only), ``weights.bin`` (external data that both graphs share) and
tokenizer files. It is trusted only after it was checked, no name in it may lead out of its
directory, and it appears on disk whole or not at all.

A bundle with a concatenating KV cache (:data:`.manifest.CONCAT`) has graphs of other makers, with
their own external data. A folder that optimum wrote reads as one; its configs are its manifest.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from ..errors import BundleError
from .atomic_write import OutputFolder, check_folder, check_parent
from .checks.graphs import graph_problems
from .checks.json_text import MAX_TOKENIZER_BYTES, parse_json, read_file
from .checks.manifest_rules import manifest_problems
from .manifest import (
    CONCAT,
    DTYPE_BITS,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    FileInfo,
    Manifest,
    WeightInfo,
)
from .optimum import is_optimum_folder, read_optimum_folder

_CHUNK = 1 << 20
#: Problems of a bundle that are told.
_MOST_SHOWN = 12
#: Each is looked for. Graphs of other makers may have a file for every tensor.
_MOST_FILES = 10_000
_KIND = "a bundle"
#: Of a bundle of one stack: what it is, for callers who cannot take it.
_ALONE = {
    "encoder": "only an encoder, which gives vectors and no text: load it with"
    " seq2edge.runtime.EncoderModel, or run 'seq2edge encode'",
    "decoder": "only a decoder, which goes on with texts: run it with 'seq2edge run' or"
    " Seq2SeqModel; what was asked for takes a model with an encoder as well",
}


class Bundle:
    """A bundle whose manifest was read and whose files are there with the right sizes."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, single_stack: Collection[str] = ()) -> Bundle:
        """Read the manifest and check names, sizes and tensor offsets (not the hashes).

        Args:
            path: the bundle's folder.
            single_stack: ``encoder``, ``decoder``: bundles of only that are taken as well.

        Raises:
            BundleError: what is wrong, all of it, and what to do.
        """
        directory = Path(path)
        if not directory.exists():
            raise BundleError(f"no such bundle: {directory}")
        if not directory.is_dir():
            raise BundleError(f"{directory} is not a directory; a bundle is one")
        file = directory / MANIFEST_NAME
        if not file.is_file() and is_optimum_folder(directory):
            bundle = cls(directory, read_optimum_folder(directory))
            bundle._check()
            return bundle
        if not file.is_file():
            hint = (
                " (it looks like a checkpoint: run 'seq2edge export' on it first)"
                if (directory / "config.json").exists()
                else ""
            )
            raise BundleError(f"{directory} is not a seq2edge bundle: no {MANIFEST_NAME}{hint}")
        bundle = cls(directory, Manifest.from_bytes(read_file(file)))
        bundle._check()
        only = bundle.manifest.single_stack
        if only is not None and only not in single_stack:
            raise BundleError(f"{directory} holds {_ALONE[only]}")
        return bundle

    def path(self, name: str) -> Path:
        """The path of one of the bundle's files.

        Raises:
            BundleError: if ``name`` is not in the manifest or leads out of the directory.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.directory}: {name!r} is not listed in {MANIFEST_NAME}")
        if not _stays_inside(self.directory, name):
            raise BundleError(f"{self.directory}: {name!r} leads out of the bundle")
        return self.directory / name

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the manifest's.

        JSON beside the manifest (a vocabulary of 250,000 tokens takes half a second) is parsed here
        and not when a bundle is opened.

        Raises:
            BundleError: listing each file whose bytes changed; or JSON that has a key twice.
        """
        if not all(info.sha256 for info in self.manifest.files.values()):
            raise BundleError(
                f"{self.directory} has no hashes, because optimum wrote it; 'seq2edge import' makes"
                " a bundle of it that has"
            )
        try:
            changed = [
                name
                for name, info in self.manifest.files.items()
                if sha256_of(self.path(name)) != info.sha256
            ]
        except OSError as error:
            raise BundleError(f"cannot read {error.filename}: {error.strerror}") from None
        if changed:
            raise BundleError(
                f"{self.directory}: changed since it was written (SHA-256 differs): "
                + ", ".join(sorted(changed))
                + "; copy or export the bundle again"
            )
        for name in self.manifest.files:
            if name.endswith(".json"):
                parse_json(read_file(self.path(name), MAX_TOKENIZER_BYTES), self.path(name))

    def manifest_bytes(self) -> bytes:
        """The manifest's file, whose content is that of :attr:`manifest`.

        Raises:
            BundleError: it has changed since the bundle was opened.
        """
        path = self.directory / MANIFEST_NAME
        data = read_file(path)
        if Manifest.from_bytes(data) != self.manifest:
            raise BundleError(f"{path} has changed since it was opened; run the command again")
        return data

    def copy_file(self, name: str, target: Path) -> None:
        """Copy one of the files, hashing what is copied.

        Raises:
            BundleError: it cannot be read, or is not what the manifest says.
            OSError: ``target`` cannot be written.
        """
        import hashlib  # here: loading a model needs no OpenSSL

        info, digest, size = self.manifest.files[name], hashlib.sha256(), 0
        source = self.path(name)
        try:
            file = source.open("rb")
        except OSError as error:
            raise BundleError(f"cannot read {source}: {error.strerror}") from None
        with file, target.open("wb") as copy:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                copy.write(chunk)
        if size != info.size or info.sha256 not in ("", digest.hexdigest()):
            raise changed_while_copied(source)

    def require_slots(self, command: str) -> None:
        """Refuse a bundle with a concatenating cache where ``export``'s graphs are needed.

        Raises:
            BundleError: it is one; ``command`` is named.
        """
        if self.manifest.cache == CONCAT:
            raise BundleError(
                f"{self.directory} has graphs of another maker, with a cache that grows, and"
                f" {command} takes the graphs of 'seq2edge export'; export the checkpoint itself"
            )

    def require_text(self, command: str = "") -> None:
        """Refuse a bundle whose sources are speech where they have to be texts.

        Args:
            command: what takes texts only; "": it is what transcribes that should be used.

        Raises:
            BundleError: it is one.
        """
        if self.manifest.speech is not None:
            who = f", and {command} takes bundles that read texts" if command else ""
            raise BundleError(
                f"{self.directory} hears speech{who}: transcribe audio with 'seq2edge transcribe'"
                " or seq2edge.runtime.SpeechModel"
            )

    def require_speech(self, command: str) -> None:
        """Refuse a bundle of texts where audio is given.

        Raises:
            BundleError: it is one; ``command`` is named.
        """
        if self.manifest.speech is None:
            raise BundleError(
                f"{self.directory} reads texts, and {command} takes bundles that hear speech: give"
                " it texts with 'seq2edge run' or seq2edge.runtime.Seq2SeqModel"
            )

    def __repr__(self) -> str:
        size = f"{self.size / 1e6:.1f} MB"
        return f"Bundle({os.fspath(self.directory)!r}, {self.manifest!r}, {size})"

    @property
    def size(self) -> int:
        """Bytes of all files that the manifest lists."""
        return sum(info.size for info in self.manifest.files.values())

    def _check(self) -> None:
        """Refuse what contradicts itself: nothing is read from it before (docs/security.md)."""
        problems = self._layout_problems() or manifest_problems(self.manifest)
        problems = problems or graph_problems(self.directory, self.manifest)
        if problems:
            more = (
                f"; and {len(problems) - _MOST_SHOWN} more" if len(problems) > _MOST_SHOWN else ""
            )
            raise BundleError(f"{self.directory}: {'; '.join(problems[:_MOST_SHOWN])}{more}")

    def _layout_problems(self) -> list[str]:
        manifest = self.manifest
        problems = []
        needed = [graph.file for graph in manifest.graphs.values()]
        if manifest.cache != CONCAT:
            needed.append(WEIGHTS_NAME)
        for tokenizer in (manifest.tokenizer, manifest.target_tokenizer):
            if tokenizer is not None and tokenizer.file is not None:
                needed.append(tokenizer.file)
        for name in needed:
            if name not in manifest.files:
                problems.append(f"{name!r} is used but not listed under files")
        if len(manifest.files) > _MOST_FILES:
            return [f"{len(manifest.files)} files are listed; at most {_MOST_FILES} are possible"]
        for name, info in manifest.files.items():
            if not _stays_inside(self.directory, name):
                problems.append(f"{name!r} leads out of the bundle")
                continue
            file = self.directory / name
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif file.stat().st_size != info.size:
                problems.append(
                    f"{name} has {file.stat().st_size} bytes, the manifest says {info.size}"
                    " (incomplete copy?)"
                )
        weights = manifest.files.get(WEIGHTS_NAME)
        for name, tensor in manifest.weights.items():
            problems += _tensor_problems(name, tensor, weights.size if weights else 0)
        return problems


def _stays_inside(directory: Path, name: str) -> bool:
    # A name is one plain component; resolving catches a symbolic link that points elsewhere.
    if not name or name != PurePosixPath(name).name or "\\" in name or name in (".", ".."):
        return False
    try:
        path = (directory / name).resolve()
        path.is_file()
    except (OSError, RuntimeError, ValueError):  # an impossible name, or a link to itself
        return False
    return path.parent == directory.resolve()


def _tensor_problems(name: str, tensor: WeightInfo, file_size: int) -> list[str]:
    count = 1
    for size in tensor.shape:
        count *= size
    problems = []
    if tensor.length != -(-count * DTYPE_BITS[tensor.dtype] // 8):
        problems.append(f"tensor {name}: {tensor.length} bytes do not fit its shape and dtype")
    if tensor.offset + tensor.length > file_size:
        problems.append(f"tensor {name} ends outside {WEIGHTS_NAME}")
    return problems


def changed_while_copied(path: Path) -> BundleError:
    """The error about a file that is not what the manifest says of it."""
    return BundleError(f"{path} has changed since it was read first; copy the bundle again")


def sha256_of(path: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class BundleWriter(OutputFolder):
    """Writes a bundle that is there whole or not at all.

    ``with BundleWriter(path) as out:`` write files into ``out.directory``, then call
    ``out.commit(manifest)``.

    Raises:
        OutputExistsError, OutputError: see :class:`.output.OutputFolder`.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        super().__init__(path, overwrite=overwrite, marker=MANIFEST_NAME, kind=_KIND)
        self._hashes: dict[str, str] = {}

    def __enter__(self) -> BundleWriter:
        super().__enter__()
        return self

    def write(self, name: str, data: bytes) -> None:
        """Write one small file."""
        (self.directory / name).write_bytes(data)

    def known_hash(self, name: str, sha256: str) -> None:
        """Take the hash of a file that the caller computed while writing it."""
        self._hashes[name] = sha256

    def files(self) -> Mapping[str, FileInfo]:
        """Size and hash of every file written so far."""
        infos = {}
        for file in sorted(self.directory.iterdir()):
            digest = self._hashes.get(file.name) or sha256_of(file)
            infos[file.name] = FileInfo(file.stat().st_size, digest)
        return infos

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest and put the bundle in its place."""
        self.write(MANIFEST_NAME, manifest.to_bytes())
        self.publish()


def check_destination(path: Path, overwrite: bool) -> None:
    """Refuse a bundle's path before any work is done.

    Raises:
        OutputExistsError: see :func:`.check_folder`.
        OutputError: see :func:`.check_parent`.
    """
    check_folder(path, overwrite, MANIFEST_NAME, _KIND)
    check_parent(path)
