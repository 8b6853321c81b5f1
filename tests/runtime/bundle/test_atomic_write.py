"""Results are on disk whole or not at all, and replace nothing but earlier results."""

from __future__ import annotations

from pathlib import Path

import pytest

from seq2edge.runtime import OutputError, OutputExistsError
from seq2edge.runtime.bundle.atomic_write import (
    OutputFolder,
    check_file,
    check_parent,
    output_file,
)

FILES = {"marker": b"one", "other": b"two"}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write(path: Path, files: dict[str, bytes] = FILES, *, overwrite: bool = False) -> None:
    with OutputFolder(path, overwrite=overwrite, marker="marker", kind="a result") as out:
        for name, data in files.items():
            (out.directory / name).write_bytes(data)
        out.publish()


def write_file(path: Path, data: bytes, overwrite: bool) -> None:
    check_file(path, overwrite)
    with output_file(path) as file:
        file.write(data)


def test_a_folder_is_written_with_its_parents(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b")
    assert contents(tmp_path) == {"a/b/marker": b"one", "a/b/other": b"two"}


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert contents(tmp_path) == {"empty/marker": b"one", "empty/other": b"two"}


def test_an_earlier_result_is_replaced_if_asked(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with pytest.raises(OutputExistsError, match="already exists; choose another name"):
        write(tmp_path / "out")
    write(tmp_path / "out", {"marker": b"new"}, overwrite=True)
    assert contents(tmp_path) == {"out/marker": b"new"}


def test_anything_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"y")
    for path, message in (
        (tmp_path / "out", "neither empty nor a result"),
        (tmp_path / "file", "is not a folder"),
        (Path("/"), "cannot be replaced"),
    ):
        with pytest.raises(OutputExistsError, match=message):
            write(path, overwrite=True)
    with pytest.raises(OutputError, match="Not a directory"):
        write(tmp_path / "file" / "out")
    assert contents(tmp_path) == {"out/thesis": b"x", "file": b"y"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_write_changes_nothing(
    tmp_path: Path, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old" if overwrite else tmp_path / "new" / "out"
    if overwrite:
        write(path)
    before = contents(tmp_path)
    whole = Path.write_bytes

    def full_disk(file: Path, data: bytes) -> int:
        if file.name == "other":
            raise OSError(28, "No space left on device")
        return whole(file, data)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError, match="no space left on the disk; nothing was left behind"):
        write(path, overwrite=overwrite)
    assert contents(tmp_path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == (["old"] if overwrite else [])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(5, "Input/output error"), "or read what it is made of: Input/output error"),
        (OSError(5, "Input/output error", "within"), "cannot write .*out: Input/output error"),
        (OSError(30, "Read-only file system", "within"), "cannot write .*out: Read-only file"),
        # Of a copy: what is read, and what is written.
        (OSError(5, "Input/output error", "a", None, "within"), "write .*out: Input/output error"),
    ],
)
def test_a_failing_disk_is_told_by_the_name_of_the_output(
    tmp_path: Path, error: OSError, message: str
) -> None:
    with (
        pytest.raises(OutputError, match=message),
        OutputFolder(tmp_path / "out", overwrite=False, marker="marker", kind="a result") as out,
    ):
        for name in ("filename", "filename2"):
            if getattr(error, name) == "within":
                setattr(error, name, str(out.directory / "marker"))
        raise error
    assert not any(tmp_path.iterdir())


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="source"),
        OutputFolder(tmp_path / "out", overwrite=False, marker="marker", kind="a result"),
    ):
        (tmp_path / "source").read_bytes()
    assert not any(tmp_path.iterdir())


def test_the_probe_of_a_killed_run_goes_with_the_next(tmp_path: Path) -> None:
    """Fault: a folder of a random name stayed."""
    (tmp_path / ".seq2edge.probe").mkdir()
    check_parent(tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_file_is_replaced_only_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_file(file, b"one", False)
    with pytest.raises(OutputExistsError, match="already exists"):
        write_file(file, b"two", False)
    assert file.read_bytes() == b"one"
    write_file(file, b"two", True)
    assert contents(tmp_path) == {"file": b"two"}
    with pytest.raises(OutputExistsError, match="not a regular file"):
        write_file(tmp_path, b"x", True)
    with pytest.raises(OutputError, match="none is not a folder"):
        write_file(tmp_path / "none" / "file", b"x", True)
