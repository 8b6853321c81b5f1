"""A disk without room for the output: one line, exit code 2, nothing left."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Refuses = Callable[..., str]


def test_export_to_a_full_disk_leaves_nothing(
    byte_checkpoint: Path, environment: dict[str, str], program: list[str], tmp_path: Path
) -> None:
    # A tiny file system in a namespace of its own: it needs no root and goes with the process.
    disk = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = 'mount -t tmpfs -o size=200k tmpfs "$1"'
    try:
        usable = subprocess.run([*disk, mount, "sh", tmp_path], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if usable.returncode:
        pytest.skip(f"no file system can be mounted here: {usable.stderr.decode().strip()}")
    script = f'{mount}; folder=$1; shift; "$@"; code=$?; ls -A "$folder"; exit $code'
    command = [*program, "export", byte_checkpoint, tmp_path / "out", "--no-validate"]
    result = subprocess.run(
        [*disk, script, "sh", tmp_path, *command], env=environment, capture_output=True, check=False
    )
    message = result.stderr.decode()
    assert message == (
        f"seq2edge: error: cannot write {tmp_path / 'out'}: no space left on the disk;"
        " nothing was left behind\n"
    )
    assert result.returncode == 2
    assert result.stdout == b""  # what ls found


def test_export_beyond_the_file_size_limit_leaves_nothing(
    refuses: Refuses, byte_checkpoint: Path, tmp_path: Path
) -> None:
    message = refuses(
        "export",
        byte_checkpoint,
        tmp_path / "out",
        "--no-validate",
        parent=tmp_path,
        # Python ignores SIGXFSZ, so that a write fails with EFBIG.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert message.startswith(f"cannot write {tmp_path / 'out'}: File too large")


def test_a_pack_that_does_not_fit_is_told_so(
    refuses: Refuses, byte_bundle: Path, tmp_path: Path
) -> None:
    """Found by injected faults: it said that the bundle had changed while it was copied."""
    message = refuses(
        *("pack", byte_bundle, "--for", "cpu", "-o", tmp_path / "out.tar"),
        parent=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert message.startswith(f"cannot write {tmp_path / 'out.tar'}: File too large")


@pytest.mark.parametrize("command", ["inspect", "run"])
def test_output_to_a_full_disk_is_an_error(
    command: str, refuses: Refuses, byte_bundle: Path
) -> None:
    texts = ["text", "--max-new-tokens", "2"] if command == "run" else []
    with Path("/dev/full").open("wb") as full:
        assert "No space left on device" in refuses(command, byte_bundle, *texts, stdout=full)
