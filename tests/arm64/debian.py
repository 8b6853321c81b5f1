"""Packages of a Debian archive without changing the host: signed index, dependencies, files.

Formats: https://wiki.debian.org/DebianRepository/Format (InRelease, Packages) and Debian Policy
5.6.12 (order of versions) and 7.1 (relations).
"""

from __future__ import annotations

import hashlib
import http.client
import lzma
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seq2edge.runtime.errors import Seq2EdgeError

#: Where Debian's own keyring lies on a Debian host (package debian-archive-keyring).
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_MIRROR = "https://deb.debian.org/debian"

_TIMEOUT_S = 30
#: Answers of a proxy or a mirror that is down, rather than of an archive without the file.
_NOT_THE_ARCHIVE = {403, 407, 429, 500, 502, 503, 504}


class ArchiveError(Seq2EdgeError, RuntimeError):
    """The archive answered, but not with what was asked for, or not with what it had signed."""


class UnreachableError(ArchiveError):
    """No answer from the archive."""


@dataclass(frozen=True)
class Package:
    """A paragraph of a Packages index, as far as it is needed here.

    ``depends`` holds the names of each relation's alternatives, without versions: a suite is
    consistent in itself. ``provides`` are other names that the package answers to.
    """

    name: str
    version: str
    filename: str
    sha256: str
    depends: tuple[tuple[str, ...], ...]
    provides: tuple[str, ...]


Index = dict[str, Package]


def parse_packages(text: str) -> Index:
    """The packages of an index by name; of one that is listed twice the newest version."""
    found: Index = {}
    for paragraph in re.split(r"\n\n+", text.strip()):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.MULTILINE))
        relations = [fields[key] for key in ("Pre-Depends", "Depends") if key in fields]
        package = Package(
            name=fields["Package"],
            version=fields["Version"],
            filename=fields["Filename"],
            sha256=fields["SHA256"],
            depends=tuple(_alternatives(", ".join(relations))),
            provides=tuple(name for (name,) in _alternatives(fields.get("Provides", ""))),
        )
        known = found.get(package.name)
        if known is None or version_key(known.version) < version_key(package.version):
            found[package.name] = package
    return found


def _alternatives(relations: str) -> Iterator[tuple[str, ...]]:
    """Names in ``a (>= 1) | b, c:any``: ("a", "b"), ("c",)."""
    for relation in filter(None, map(str.strip, relations.split(","))):
        yield tuple(
            re.split(r"[\s:(]", name.strip(), maxsplit=1)[0] for name in relation.split("|")
        )


def version_key(version: str) -> tuple[int, list[object], list[object]]:
    """Versions compare as these do (Policy 5.6.12: epoch, upstream version, revision)."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch), _parts(upstream), _parts(revision)


def _parts(version: str) -> list[object]:
    return [
        ((*map(_rank, text), 0), int(number or 0))
        for text, number in re.findall(r"(\D*)(\d*)", version)
    ]


def _rank(character: str) -> int:
    """A tilde sorts before the end of a part (0), letters before all other characters."""
    if character == "~":
        return -1
    return ord(character) + (0 if character.isalpha() else 0x110000)


def with_dependencies(index: Index, names: Iterable[str]) -> list[Package]:
    """The named packages and all that they depend on, each once.

    Raises:
        ArchiveError: a name that the index does not have.
    """
    providers = {name: package for package in index.values() for name in package.provides}
    found: Index = {}
    wanted: list[tuple[str, ...]] = [(name,) for name in names]
    while wanted:
        alternatives = wanted.pop()
        there = [name for name in alternatives if name in index or name in providers]
        if not there:
            raise ArchiveError(f"the archive has no package {' or '.join(alternatives)}")
        package = index.get(there[0]) or providers[there[0]]
        if package.name not in found:
            found[package.name] = package
            wanted.extend(package.depends)
    return sorted(found.values(), key=lambda package: package.name)


def signed_hash(release: str, name: str) -> str:
    """SHA-256 of the file ``name`` in a Release file.

    Raises:
        ArchiveError: the release does not list it.
    """
    _, _, hashes = release.partition("\nSHA256:\n")
    found = re.search(rf"^ ([0-9a-f]{{64}}) +\d+ {re.escape(name)}$", hashes, re.MULTILINE)
    if not found:
        raise ArchiveError(f"the archive's release does not list {name}")
    return found[1]


def _host_mirror() -> str:
    """The Debian mirror in the host's apt sources, else Debian's own."""
    try:
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return DEFAULT_MIRROR
    mirrors = [url.rstrip("/") for url in listed if url.startswith("http")]
    return next((url for url in mirrors if url.endswith("/debian")), DEFAULT_MIRROR)


def _can_check_signatures() -> bool:
    return shutil.which("gpgv") is not None and KEYRING.exists()


class Mirror:
    """A Debian archive whose release files carry Debian's signature.

    Args:
        url: of the folder with ``dists`` and ``pool``. Where the host has no gpgv or not
            Debian's keyring it must be https, which is then what the files' origin rests on.

    Raises:
        ArchiveError: neither a signature can be checked nor is the address https.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._checks_signature = _can_check_signatures()
        if not self._checks_signature and not url.startswith("https://"):
            raise ArchiveError(
                f"what {url} sends cannot be trusted: install gpgv and debian-archive-keyring, or"
                f" name an https mirror (--mirror {DEFAULT_MIRROR})"
            )

    @classmethod
    def of_host(cls) -> Mirror:
        """The mirror in the host's apt sources, or Debian's own where that cannot be trusted."""
        url = _host_mirror()
        trusted = _can_check_signatures() or url.startswith("https://")
        return cls(url if trusted else DEFAULT_MIRROR)

    def index(self, suite: str, architecture: str) -> Index:
        """The main packages of a suite such as ``bookworm`` for ``arm64``.

        Raises:
            UnreachableError: no answer.
            ArchiveError: a bad signature or hash, or no such suite.
        """
        name = f"main/binary-{architecture}/Packages.xz"
        wanted = signed_hash(self._release(suite), name)
        folder, _, _ = name.rpartition("/")
        # By hash: the plain name may already be that of a newer release.
        path = f"dists/{suite}/{folder}/by-hash/SHA256/{wanted}"
        return parse_packages(lzma.decompress(self._fetch(path, wanted)).decode())

    def download(self, package: Package, folder: Path) -> Path:
        """The .deb file in ``folder``; errors as in :meth:`index`."""
        path = folder / Path(package.filename).name
        path.write_bytes(self._fetch(package.filename, package.sha256))
        return path

    def _release(self, suite: str) -> str:
        signed = self._fetch(f"dists/{suite}/InRelease")
        if not self._checks_signature:
            return signed.decode()
        done = subprocess.run(
            ["gpgv", "--keyring", str(KEYRING), "--output", "-"], input=signed, capture_output=True
        )
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1]
            raise ArchiveError(f"{self.url} {suite}: the signature does not hold: {reason}")
        return done.stdout.decode()

    def _fetch(self, path: str, sha256: str | None = None) -> bytes:
        url = f"{self.url}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
                data: bytes = answer.read()
        except urllib.error.HTTPError as error:
            kind = UnreachableError if error.code in _NOT_THE_ARCHIVE else ArchiveError
            raise kind(f"{url}: {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{url}: {error}") from None
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ArchiveError(f"{url} is not the file that the archive's index describes")
        return data


def unpack(deb: Path, folder: Path, *members: str) -> None:
    """Unpack a .deb, or only some ``members`` such as ``./usr/bin/ls``, into ``folder``.

    Raises:
        ArchiveError: it cannot be unpacked, or has no such member.
    """
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as files:
        command = ["tar", "-x", "-C", folder, "--no-same-owner", *members]
        done = subprocess.run(command, stdin=files.stdout, stderr=subprocess.PIPE, check=False)
    if done.returncode or files.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise ArchiveError(f"{deb.name} cannot be unpacked: {' | '.join(reason[-2:])}")
