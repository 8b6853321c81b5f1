"""Triton's own server, on the CPU: tritonserver 24.10 as the package nvidia-pytriton holds it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import uuid
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.package_cache import made_once, wheel

_PYTRITON = "nvidia-pytriton==0.7.0"
_PYTRITON_SHA = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
#: The last numpy 1: this server's stub works with no newer one. A wheel for each Python.
_NUMPY = "numpy==1.26.4"
_NUMPY_SHA = {
    "3.10": "ffa75af20b44f8dba823498024771d5ac50620e6915abac414251bd971b4529f",
    "3.11": "666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5",
    "3.12": "675d61ffbfa78604709862923189bad94014bef562cc35cf61d3a07bba02a7ed",
}
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_START_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A running server: its addresses and what it has written."""

    http: str
    grpc: str
    log: Path


@contextlib.contextmanager
def running(
    repository: Path, log: Path, *, numpy_1: bool = True, ready: bool = True
) -> Iterator[Server]:
    """Start the server on a repository; it ends with the block.

    Args:
        numpy_1: give its Python numpy 1.26.4, and else the numpy of this environment.
        ready: wait until all models are, and else until the server lives.
    """
    server = made_once(f"tritonserver-24.10-{_PYTHON}", _unpack)
    environment = _environment(server, log.with_name("python"), numpy_1)
    _check_stub(server, environment)
    http, grpc = _free_ports(2)
    command = [server / "bin" / "tritonserver", "--model-repository", repository]
    command += ["--backend-directory", server / "backends", "--cache-directory", server / "caches"]
    command += ["--http-address", "127.0.0.1", "--http-port", http, "--allow-metrics", "false"]
    command += ["--grpc-address", "127.0.0.1", "--grpc-port", grpc, "--exit-timeout-secs", "5"]
    command += ["--exit-on-error", "false", "--pinned-memory-pool-byte-size", "0"]
    region = f"seq2edge-{uuid.uuid4().hex[:12]}"
    command += ["--backend-config", f"python,shm-region-prefix-name={region}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=output, stderr=output
        )
        try:
            address = f"http://127.0.0.1:{http}"
            _wait(process, f"{address}/v2/health/live", log)
            if ready:  # models are loaded before it lives
                _check_ready(address, log)
            yield Server(address, f"127.0.0.1:{grpc}", log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _unpack(folder: Path) -> None:
    """The server, its libraries, and the Python backend with the stub of this Python."""
    with zipfile.ZipFile(
        wheel(_PYTRITON, _PYTRITON_SHA, "--platform", "manylinux_2_35_x86_64")
    ) as archive:
        archive.extractall(folder)
    inside = folder / "pytriton" / "tritonserver"
    stub = inside / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.exists():
        pytest.skip(f"{_PYTRITON} has no stub for Python {_PYTHON}")
    stub.rename(inside / "backends" / "python" / stub.name)
    for name in ("bin", "backends", "caches"):
        (inside / name).rename(folder / name)
    (folder / "nvidia_pytriton.libs").rename(folder / "libraries")
    shutil.rmtree(folder / "pytriton")
    for program in (folder / "bin" / "tritonserver", folder / "backends" / "python" / stub.name):
        program.chmod(0o755)


def _unpack_numpy(folder: Path) -> None:
    with zipfile.ZipFile(wheel(_NUMPY, _NUMPY_SHA[_PYTHON])) as archive:
        archive.extractall(folder)


def _environment(server: Path, python: Path, numpy_1: bool) -> dict[str, str]:
    """For a stub whose Python finds numpy 1.26.4, if asked for, before all that is installed here.

    The stub's Python is the one that PATH finds; it does not look at PYTHONPATH.
    """
    venv.create(python, symlinks=True)
    (site_packages,) = python.glob("lib/python*/site-packages")
    lines = [f"import site; site.addsitedir({folder!r})" for folder in site.getsitepackages()]
    if numpy_1:
        if _PYTHON not in _NUMPY_SHA:
            pytest.skip(f"{_NUMPY}, which this Triton needs, has no wheel for Python {_PYTHON}")
        lines.insert(0, str(made_once(f"numpy-1.26.4-{_PYTHON}", _unpack_numpy)))
    (site_packages / "packages.pth").write_text("\n".join(lines))
    libraries = [str(server / "libraries"), sysconfig.get_config_var("LIBDIR") or ""]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(python / "bin"), os.environ["PATH"]]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }


def _check_stub(server: Path, environment: dict[str, str]) -> None:
    """Skip where it cannot be started: it links Python's shared library."""
    stub = server / "backends" / "python" / "triton_python_backend_stub"
    done = subprocess.run(
        ["ldd", stub], env=environment, capture_output=True, text=True, check=False
    )
    missing = [line.split()[0] for line in done.stdout.splitlines() if "not found" in line]
    if missing:
        pytest.skip(
            f"Triton's Python backend needs {', '.join(missing)} (Debian: libpython{_PYTHON})"
        )


def _free_ports(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.1)
    pytest.fail(f"the server does not start:\n{log.read_text(errors='replace')[-6000:]}")


def _check_ready(address: str, log: Path) -> None:
    try:
        urllib.request.urlopen(f"{address}/v2/health/ready", timeout=5).close()
    except OSError:
        pytest.fail(f"a model is not ready:\n{log.read_text(errors='replace')[-6000:]}")
