"""The part of seq2edge that a device needs, as a wheel of this installation's own files."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from seq2edge.runtime.bundle.version import package_version
from seq2edge.runtime.errors import MissingDependencyError

#: What a device runs. The command line imports the rest only inside commands that it lacks.
PACKAGES = ("runtime", "deploy", "benchmarks", "cli")

#: The earliest that a zip file can say.
_TIME = (1980, 1, 1, 0, 0, 0)


def device_wheel() -> tuple[str, bytes]:
    """File name and bytes of a pure Python wheel (PEP 427) with :data:`PACKAGES`.

    Equal sources give equal bytes. It names no dependencies: it is installed beside pins, and
    tokenizers alone would bring packages that the runtime never imports.

    Raises:
        MissingDependencyError: a package of ours is not installed here.
    """
    version = package_version().partition(" ")[0]
    info = f"seq2edge-{version}.dist-info"
    files = {name: path.read_bytes() for name, path in _sources()}
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: seq2edge\nVersion: {version}\nRequires-Python: >=3.10\n"
    ).encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: seq2edge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nseq2edge = seq2edge.cli.main:main\n"
    record = [f"{name},{_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    return f"seq2edge-{version}-py3-none-any.whl", _zip(files)


def _sources() -> Iterator[tuple[str, Path]]:
    """Name in the wheel and path of each file of the packages, sorted."""
    for package in PACKAGES:
        spec = find_spec(f"seq2edge.{package}")
        if spec is None or spec.origin is None:
            raise MissingDependencyError(
                f"seq2edge.{package} is not installed here, so it cannot be packed"
            )
        root = Path(spec.origin).parent
        for file in sorted(root.rglob("*")):
            # Folders without __init__.py hold scripts of the repository.
            if (file.suffix == ".py" or file.name == "py.typed") and (
                file.parent / "__init__.py"
            ).is_file():
                yield f"seq2edge/{package}/{file.relative_to(root).as_posix()}", file


def _digest(data: bytes) -> str:
    code = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={code.decode()}"


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()
