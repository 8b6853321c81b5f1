"""An arm64 machine without a board: QEMU's user mode, Debian's Python, the runtime's wheels.

All of it lies in a cache folder and is unpacked, not installed: no root rights, nothing of the
host is changed. QEMU passes each system call to the host's kernel and looks for files under the
root first, so programs under it see the host's other files as well.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from debian import Mirror, Package, unpack, with_dependencies

from seq2edge.runtime.bundle.atomic_write import OutputFolder
from seq2edge.runtime.errors import Seq2EdgeError

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = REPOSITORY / "requirements" / "device.txt"

#: The root is the oldest Debian with a Python that the runtime takes (Raspberry Pi OS 12 is
#: made of it): wheels that load here load on newer ones.
ROOT_SUITE, ROOT_PACKAGES = "bookworm", ("python3.11", "libstdc++6")
PYTHON_TAG = "311"
#: ``qemu-user`` is static from here on. 7.2, bookworm's, crashes while onnxruntime is imported.
QEMU_SUITE, QEMU_PACKAGE, QEMU_MAJOR = "trixie", "qemu-user", 10
QEMU_MEMBER = "./usr/bin/qemu-aarch64"
#: What glibc 2.36 can load, newest first.
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in (34, 28, 27, 17)]

_VERSIONS = "versions.json"
#: A thread of numpy's OpenBLAS would spin beside the emulated program.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}

#: Integer arithmetic that came after the first arm64 processors: instruction -> feature.
INSTRUCTIONS = {
    "sdot": "dotprod",
    "udot": "dotprod",
    "smmla": "i8mm",
    "ummla": "i8mm",
    "usdot": "i8mm",
    "usmmla": "i8mm",
    "smopa": "sme",
    "umopa": "sme",
    "usmopa": "sme",
}


class EmulatorError(Seq2EdgeError, RuntimeError):
    """The emulated machine cannot be made, or a program on it failed."""


@dataclass(frozen=True)
class Emulator:
    """The programs and folders; ``version`` is QEMU's."""

    qemu: Path
    version: str
    root: Path
    site: Path

    def python(
        self, cpu: str, arguments: Sequence[str | Path], *, packages: Path, trace: Path | None
    ) -> None:
        """Run the emulated Python on a processor that QEMU knows, with ``packages`` installed.

        ``trace`` gets the disassembly of every block of code that is reached.

        Raises:
            EmulatorError: it failed; what it said is on stderr.
        """
        python = self.root / "usr" / "bin" / f"python3.{PYTHON_TAG[1:]}"
        log = [] if trace is None else ["-d", "in_asm", "-D", trace]
        # -S: only the standard library and what was installed for this, nothing of the host's.
        done = subprocess.run(
            [self.qemu, "-cpu", cpu, *log, "-L", self.root, python, "-S", *arguments],
            env=_ENVIRONMENT | {"PYTHONPATH": f"{packages}:{self.site}"},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        _check(done, f"Python under {cpu}")


def make_emulator(cache: Path, mirror: Callable[[], Mirror]) -> Emulator:
    """The emulator from ``cache``, or into it; ``mirror`` is asked for only in that case.

    Raises:
        UnreachableError: no answer from the mirror.
        ArchiveError: the mirror's files are not what they should be.
        EmulatorError: a wheel is missing, a program that unpacks, or a newer Python here.
    """
    for program in ("dpkg-deb", "tar"):
        if shutil.which(program) is None:
            raise EmulatorError(f"{program} is needed to unpack Debian packages; install it")
    if sys.version_info < (3, 11):
        raise EmulatorError("pip chooses wheels for this Python's version; use 3.11 or newer")
    qemu = _installed_qemu()
    if qemu is None:
        folder = _cached(cache, "qemu", QEMU_SUITE, lambda to: _get_qemu(to, mirror))
        qemu = folder / QEMU_MEMBER
    names = f"{ROOT_SUITE} {ROOT_PACKAGES}"
    root = _cached(cache, "root", names, lambda to: _get_root(to, mirror))
    site = _cached(cache, "site", PYTHON_TAG + REQUIREMENTS.read_text(), _get_site)
    return Emulator(qemu, _qemu_version(qemu), root, site)


def install_runtime(folder: Path) -> None:
    """Install this project as the lean device install does (a wheel of it, no dependencies).

    Raises:
        EmulatorError: pip failed.
    """
    import tomllib  # from Python 3.11, see make_emulator

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    folders = project["tool"]["setuptools"]["package-dir"].values()
    with tempfile.TemporaryDirectory() as temporary:
        # A copy: setuptools would leave its build folder in the source.
        for name in (*folders, "pyproject.toml", "README.md", "LICENSE"):
            copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
            copy(REPOSITORY / name, Path(temporary) / name)
        _pip_install(folder, temporary)


def count_instructions(trace: Path) -> Counter[str] | None:
    """How often each of INSTRUCTIONS is in a trace; None: this QEMU has no disassembler."""
    # An address, the instruction in hexadecimal, its name.
    pattern = re.compile(r"^0x[0-9a-f]+:\s+[0-9a-f]{8}\s+(\w+)")
    found: Counter[str] = Counter()
    lines = 0
    with trace.open(errors="replace") as file:
        for match in filter(None, map(pattern.match, file)):
            lines += 1
            if match[1] in INSTRUCTIONS:
                found[match[1]] += 1
    return found if lines else None


def _cached(cache: Path, kind: str, key: str, make: Callable[[Path], dict[str, str]]) -> Path:
    """``cache``/``kind``-HASH of ``key``; ``make`` fills it and returns versions to keep."""
    path = cache / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not (path / _VERSIONS).exists():
        print(f"making {path}", file=sys.stderr)
        with OutputFolder(path, overwrite=False, marker=_VERSIONS, kind="a cache") as out:
            versions = make(out.directory)
            (out.directory / _VERSIONS).write_text(json.dumps(versions, indent=1) + "\n")
            out.publish()
    return path


def _installed_qemu() -> Path | None:
    """A ``qemu-aarch64`` on the PATH that is new enough."""
    for name in ("qemu-aarch64", "qemu-aarch64-static"):
        found = shutil.which(name)
        if found and int(_qemu_version(Path(found)).partition(".")[0]) >= QEMU_MAJOR:
            return Path(found)
    return None


def _qemu_version(qemu: Path) -> str:
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"version (\d+(\.\d+)*)", said)
    return match[1] if match else "0"


def _get_qemu(folder: Path, mirror: Callable[[], Mirror]) -> dict[str, str]:
    archive = mirror()
    package = archive.index(QEMU_SUITE, "amd64")[QEMU_PACKAGE]
    return _unpacked(archive, [package], folder, QEMU_MEMBER)


def _get_root(folder: Path, mirror: Callable[[], Mirror]) -> dict[str, str]:
    archive = mirror()
    packages = with_dependencies(archive.index(ROOT_SUITE, "arm64"), ROOT_PACKAGES)
    return _unpacked(archive, packages, folder)


def _unpacked(
    archive: Mirror, packages: list[Package], folder: Path, *members: str
) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as temporary:
        for package in packages:
            unpack(archive.download(package, Path(temporary)), folder, *members)
    return {package.name: package.version for package in packages}


def _get_site(folder: Path) -> dict[str, str]:
    platforms = [option for name in PLATFORMS for option in ("--platform", name)]
    wheels = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON_TAG}"]
    _pip_install(folder, *wheels, *platforms, "-r", REQUIREMENTS)
    names = (path.stem.split("-", 1) for path in folder.glob("*.dist-info"))
    return dict(sorted(names))


def _pip_install(folder: Path, *arguments: str | Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    # Not compiled: the host's Python may be another one.
    target = ["--no-deps", "--no-compile", "--target", folder]
    done = subprocess.run(
        [*pip, *target, *arguments], stderr=subprocess.PIPE, text=True, check=False
    )
    _check(done, "pip")


def _check(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise EmulatorError(f"{what} failed with exit status {done.returncode}; see above")
