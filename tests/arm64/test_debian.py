"""Debian's archive is read, ordered, resolved and verified as its own tools would do it."""

from __future__ import annotations

import functools
import http.server
import itertools
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import HERE

PACKAGES = """\
Package: python3.11
Version: 3.11.2-6
Depends: libc6 (>= 2.34), mail-agent | media-types:any (>= 2), libssl
Pre-Depends: base
Filename: pool/python3.11.deb
Description: an interpreter
 Depends: on nothing, this line goes on from the one before
SHA256: aa

Package: base
Version: 1
Filename: pool/base-old.deb
SHA256: bb

Package: base
Version: 1.1
Filename: pool/base-new.deb
SHA256: cc

Package: base
Version: 1.1~rc1
Filename: pool/base-candidate.deb
SHA256: dd

Package: libc6
Version: 2.36-9
Depends: libgcc
Filename: pool/libc6.deb
SHA256: ee

Package: libgcc
Version: 12
Depends: libc6
Filename: pool/libgcc.deb
SHA256: ff

Package: media-types
Version: 10
Filename: pool/media-types.deb
SHA256: 11

Package: libssl3
Version: 1:3.0-1
Provides: libssl (= 3), crypto
Filename: pool/libssl3.deb
SHA256: 22

Package: unrelated
Version: 1
Filename: pool/unrelated.deb
SHA256: 33
"""

#: Each is older than the next.
VERSIONS = [
    "0.9-10",
    "1.0~~a",
    "1.0~",
    "1.0~bpo12+1",
    "1.0",
    "1.0-1~deb12u1",
    "1.0-1",
    "1.0-1+b1",
    "1.0a",
    "1.0+dfsg-1",
    "1.0.9",
    "1.0.10-1",
    "1:0.1",
]


def test_dependencies_are_followed_to_the_newest_of_each_package(debian: ModuleType) -> None:
    found = debian.with_dependencies(debian.parse_packages(PACKAGES), ["python3.11"])
    assert {package.name: package.filename for package in found} == {
        "base": "pool/base-new.deb",  # listed three times
        "libc6": "pool/libc6.deb",
        "libgcc": "pool/libgcc.deb",
        "libssl3": "pool/libssl3.deb",  # by a name that it provides
        "media-types": "pool/media-types.deb",  # the alternative that is there
        "python3.11": "pool/python3.11.deb",
    }


def test_a_package_that_is_not_there_is_named(debian: ModuleType) -> None:
    index = debian.parse_packages(PACKAGES.replace("Package: media-types", "Package: other"))
    with pytest.raises(debian.ArchiveError, match="no package mail-agent or media-types"):
        debian.with_dependencies(index, ["python3.11"])


def test_versions_are_ordered_as_dpkg_orders_them(debian: ModuleType) -> None:
    mixed = VERSIONS[1::2] + VERSIONS[::2]
    assert sorted(mixed, key=debian.version_key) == VERSIONS
    if shutil.which("dpkg") is not None:
        for older, newer in itertools.pairwise(VERSIONS):
            subprocess.run(["dpkg", "--compare-versions", older, "lt", newer], check=True)


def test_hashes_are_read_from_the_strong_list(debian: ModuleType) -> None:
    name, strong = "main/binary-arm64/Packages.xz", "0" * 63 + "1"
    release = f"Suite: x\nMD5Sum:\n {'2' * 32} 10 {name}\nSHA256:\n {strong}  10 {name}\n"
    assert debian.signed_hash(release, name) == strong
    with pytest.raises(debian.ArchiveError, match="does not list"):
        debian.signed_hash(release, "main/binary-arm64/Packages")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server over ``tmp_path``."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def mirror(
    debian: ModuleType, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> object:
    if shutil.which("gpgv") is None:
        pytest.skip("no gpgv")
    keyring = tmp_path / "nobody.gpg"
    keyring.touch()
    monkeypatch.setattr(debian, "KEYRING", keyring)
    return debian.Mirror(server)


def test_a_package_with_another_hash_is_refused(
    debian: ModuleType, mirror: object, tmp_path: Path
) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "base-new.deb").write_bytes(b"something else")
    package = debian.parse_packages(PACKAGES)["base"]
    with pytest.raises(debian.ArchiveError, match=r"base-new\.deb is not the file"):
        mirror.download(package, tmp_path)  # type: ignore[attr-defined]


def test_a_release_without_a_known_signature_is_refused(
    debian: ModuleType, mirror: object, tmp_path: Path
) -> None:
    suite = tmp_path / "dists" / "bookworm"
    suite.mkdir(parents=True)
    (suite / "InRelease").write_text(f"SHA256:\n {'0' * 64} 1 main/binary-arm64/Packages.xz\n")
    with pytest.raises(debian.ArchiveError, match="the signature does not hold"):
        mirror.index("bookworm", "arm64")  # type: ignore[attr-defined]


def test_plain_http_without_debians_keyring_is_refused(
    debian: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "KEYRING", tmp_path / "missing.gpg")
    with pytest.raises(debian.ArchiveError, match="install gpgv and debian-archive-keyring"):
        debian.Mirror("http://deb.debian.org/debian")
    assert debian.Mirror.of_host().url.startswith("https://")


@pytest.mark.skipif(
    platform.machine() != "x86_64"
    or shutil.which("dpkg-deb") is None
    or sys.version_info < (3, 11),
    reason="make test-arm64 runs on x86-64 with dpkg-deb and Python 3.11",
)
@pytest.mark.parametrize(("options", "code"), [([], 2), (["--skip-unreachable"], 0)])
def test_without_a_mirror_the_test_fails_or_says_that_it_was_skipped(
    options: list[str], code: int, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    command = [sys.executable, HERE / "main.py", "--cache", cache, *options]
    command += ["--mirror", "https://127.0.0.1:9/debian"]  # nobody listens there
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("skipped, nothing was tested" in done.stdout) == (code == 0)
    assert "https://127.0.0.1:9/debian" in done.stdout + done.stderr
    assert not cache.exists()
