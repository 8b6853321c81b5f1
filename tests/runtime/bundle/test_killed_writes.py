"""A run that is killed leaves the old result or the new one, and the next run cleans up."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seq2edge.runtime import OutputError, OutputExistsError
from seq2edge.runtime.bundle.atomic_write import OutputFolder, output_file

from . import killed_writes


@pytest.mark.parametrize("kind", ["folder", "file", "in-two-steps"])
def test_killed_before_each_change_of_the_file_system(kind: str, tmp_path: Path) -> None:
    """Fault: between two renames there was neither the old result nor the new one."""
    done = subprocess.run(
        [sys.executable, killed_writes.__file__, kind, tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [run["killed"] for run in runs] == [-9] * (len(runs) - 1) + [0]
    assert len(runs) > 2
    found = [run["found"] for run in runs]
    # In two steps, there is a moment without a result: the next run puts the old one back.
    between = [None] if kind == "in-two-steps" else []
    order = [*dict.fromkeys(found)]
    assert order == ["old", *between, "new"]
    assert {run["next"] for run in runs} == {"next"}


def test_what_was_put_back_is_not_replaced_unasked(tmp_path: Path) -> None:
    folder = tmp_path / ".out.seq2edge.old"
    folder.mkdir()
    (folder / "marker").write_bytes(b"old")
    with (
        pytest.raises(OutputExistsError, match="already exists"),
        OutputFolder(tmp_path / "out", overwrite=False, marker="marker", kind="a result"),
    ):
        pass
    assert (tmp_path / "out" / "marker").read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_two_runs_do_not_write_the_same_result(tmp_path: Path) -> None:
    """Each waits for none and spoils none: the second is refused."""
    refused = []

    def second() -> None:
        with pytest.raises(OutputError, match=f"another run is writing {tmp_path / 'out'}"):
            _write(tmp_path / "out", b"second")
        with (
            pytest.raises(OutputError, match=f"another run is writing {tmp_path / 'file'}"),
            output_file(tmp_path / "file"),
        ):
            pass
        refused.append(True)

    with (
        OutputFolder(tmp_path / "out", overwrite=True, marker="marker", kind="a result") as out,
        output_file(tmp_path / "file") as file,
    ):
        (out.directory / "marker").write_bytes(b"first")
        file.write(b"first")
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        out.publish()
    assert refused
    assert (tmp_path / "out" / "marker").read_bytes() == b"first"
    assert (tmp_path / "file").read_bytes() == b"first"
    _write(tmp_path / "out", b"third")
    assert (tmp_path / "out" / "marker").read_bytes() == b"third"


def test_what_is_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis").write_bytes(b"x")
    (tmp_path / ".out.seq2edge.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot write"):
        _write(tmp_path / "out", b"new")
    (tmp_path / ".file.seq2edge.partial").hardlink_to(tmp_path / "elsewhere" / "thesis")
    with pytest.raises(OutputError, match="is in the way"), output_file(tmp_path / "file"):
        pass
    assert (tmp_path / "elsewhere" / "thesis").read_bytes() == b"x"


def _write(path: Path, data: bytes) -> None:
    with OutputFolder(path, overwrite=True, marker="marker", kind="a result") as out:
        (out.directory / "marker").write_bytes(data)
        out.publish()
