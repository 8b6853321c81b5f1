"""Pack a bundle with all that a device needs to run it, into one archive."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seq2edge.runtime.bundle.atomic_write import check_file
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME
from seq2edge.runtime.bundle.reader import Bundle, sha256_of
from seq2edge.runtime.bundle.version import package_version
from seq2edge.runtime.errors import InputError
from seq2edge.runtime.progress import StageProgress

from ..targets import Deployment
from . import scripts
from .archive import NAME, Entry, check_compression, split_name, write_archive
from .wheel import device_wheel

PACK_NAME = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Pack:
    """A written archive.

    Attributes:
        name: the archive's one top folder.
        size: bytes of the archive.
        manifest: what its ``manifest.json`` says.
    """

    path: Path
    name: str
    size: int
    manifest: dict[str, Any] = field(repr=False)


def write_pack(
    bundle: Bundle,
    deployment: Deployment,
    out: str | Path,
    *,
    wheels: Path | None = None,
    overwrite: bool = False,
    progress: StageProgress | None = None,
) -> Pack:
    """Write an archive: bundle, runtime, pins and scripts in one top folder.

    For a service (``deployment.service``) a systemd unit as well.

    Equal inputs give equal bytes. A bundle that was quantized for another kind of machine than
    the deployment's, but runs there, is packed with a ``UserWarning``.

    Args:
        deployment: from :func:`.targets.plan`.
        out: ends in .tar.zst, .tar.gz, .tgz or .tar; the top folder has its name.
        wheels: a folder of wheels for a device without a network; for a service it must hold the
            packages of one, which no system brings.
        overwrite: replace a file that is there.

    Raises:
        InputError: an impossible name, or no wheels in ``wheels``, or none for the service.
        BundleError: the bundle's files are not what its manifest says.
        MissingDependencyError: ``out`` asks for zstd, and zstandard is not installed.
        OutputExistsError, OutputError: see :mod:`seq2edge.runtime.bundle.atomic_write`.
    """
    out = Path(out)
    name, _ = split_name(out)
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r} becomes the name of a folder and a service: use letters, digits, '.', '_'"
            " and '-' only"
        )
    check_compression(out)
    check_file(out, overwrite)
    others = find_wheels(wheels) if wheels is not None else []
    if wheels is not None and deployment.service:
        _check_service(others, deployment, wheels)
    _tell(progress, "checking the bundle", 0, 0)
    bundle.verify()
    wheel, data = device_wheel()
    entries = [
        *_bundle(bundle),
        *(Entry(f"wheels/{path.name}", path) for path in others if path.name != wheel),
        Entry(f"wheels/{wheel}", data),
        *_texts(name, deployment, wheel, speech=bundle.manifest.speech is not None),
    ]
    entries = [replace(entry, sha256=entry.sha256 or _sha256(entry)) for entry in entries]
    manifest = _manifest(name, bundle, deployment, entries)
    entries.append(Entry(PACK_NAME, (json.dumps(manifest, indent=2) + "\n").encode()))
    write_archive(
        out,
        [replace(entry, name=f"{name}/{entry.name}") for entry in entries],
        lambda done, total: _tell(progress, "packing", done, total),
    )
    _warn_of_target(bundle, deployment)  # not of what failed: the error is enough
    return Pack(out, name, out.stat().st_size, manifest)


def _bundle(bundle: Bundle) -> list[Entry]:
    return [
        Entry(f"bundle/{MANIFEST_NAME}", bundle.manifest_bytes()),
        *(
            Entry(f"bundle/{name}", bundle.path(name), sha256=info.sha256)
            for name, info in bundle.manifest.files.items()
        ),
    ]


def find_wheels(folder: Path) -> list[Path]:
    """The wheels in a folder.

    Raises:
        InputError: there are none.
    """
    wheels = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if not wheels:
        raise InputError(f"{folder} holds no wheels (*.whl); fill it with 'pip download'")
    return wheels


def _check_service(there: Sequence[Path], deployment: Deployment, folder: Path) -> None:
    """Refuse wheels of which the service's are not there.

    Raises:
        InputError: which, and how to get them.
    """
    names = {_normalized(path.name.partition("-")[0]) for path in there}
    pins = [pin.partition(" ; ") for pin in deployment.service_requirements]
    needed = {pin.partition("==")[0] for pin, _, marker in pins if "<" not in marker}
    missing = sorted(name for name in needed if _normalized(name) not in names)
    if missing:
        raise InputError(
            f"{folder} has no wheels of {', '.join(missing)}, which the service needs: pack"
            " without --wheels, and fill it with 'pip download' of that archive's requirements.txt"
        )


def _normalized(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def _texts(name: str, deployment: Deployment, wheel: str, *, speech: bool) -> list[Entry]:
    usage = scripts.RECORDINGS if speech else scripts.TEXTS
    pins = "\n".join([*deployment.requirements, f"./wheels/{wheel}", ""])
    entries = [
        Entry("README.txt", scripts.readme(name, deployment, usage).encode()),
        Entry("requirements.txt", pins.encode()),
        Entry(
            "install.sh", scripts.install_script(name, deployment, usage).encode(), executable=True
        ),
        Entry("run.sh", scripts.run_script(deployment, usage).encode(), executable=True),
    ]
    if deployment.service:
        unit = scripts.unit(name, deployment, usage)
        entries.append(Entry("seq2edge.service", unit.encode()))
    return entries


def _manifest(
    name: str, bundle: Bundle, deployment: Deployment, entries: Sequence[Entry]
) -> dict[str, Any]:
    done = bundle.manifest.quantization
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "seq2edge": package_version(),
        "target": deployment.target.name,
        "jetpack": deployment.jetpack.version if deployment.jetpack else None,
        "backend": deployment.backend,
        "device": deployment.device,
        "service": deployment.service,
        "python": ".".join(map(str, deployment.python)),
        "family": bundle.manifest.family,
        "quantization": f"{done['scheme']} for {done['target']}" if done else None,
        "files": {
            entry.name: {"size": entry.size, "sha256": entry.sha256}
            for entry in sorted(entries, key=lambda entry: entry.name)
        },
    }


def _sha256(entry: Entry) -> str:
    if isinstance(entry.source, Path):
        return sha256_of(entry.source)
    return hashlib.sha256(entry.source).hexdigest()


def _warn_of_target(bundle: Bundle, deployment: Deployment) -> None:
    made_for = bundle.manifest.quantization.get("target")
    fits = {"cpu"} if deployment.device == "cpu" else {"cuda", "tensorrt"}
    # What is not quantized says nothing; a downgraded bundle that is not says "any".
    if made_for not in {None, "any", *fits}:
        warnings.warn(
            f"{bundle.directory} was quantized for {made_for!r} and will run on"
            f" {deployment.device} more slowly than one quantized for it",
            stacklevel=3,
        )


def _tell(progress: StageProgress | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(stage, done, total)
