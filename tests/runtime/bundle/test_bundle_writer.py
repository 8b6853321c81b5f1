"""A bundle appears whole or not at all, and replaces only what it may replace."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seq2edge.runtime import Bundle, Manifest, OutputError, OutputExistsError
from seq2edge.runtime.bundle import hidden_output
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME, WEIGHTS_NAME
from seq2edge.runtime.bundle.reader import BundleWriter


@pytest.fixture(scope="module")
def source(bundle_of: Callable[[str], Path]) -> Bundle:
    """The bundle that is written again in these tests."""
    return Bundle.open(bundle_of("t5"))


@pytest.fixture
def old(source: Bundle, tmp_path: Path) -> Path:
    """A bundle at the destination, with a file of its own that shows if it is replaced."""
    path = Path(shutil.copytree(source.directory, tmp_path / "out"))
    (path / "mine").write_text("old")
    return path


def fill(out: BundleWriter, source: Bundle) -> Manifest:
    """Write the files of ``source``; the manifest to commit."""
    for name in source.manifest.files:
        out.write(name, source.path(name).read_bytes())
    return source.manifest


def everything(folder: Path) -> dict[str, bytes | None]:
    """All paths under ``folder``, with the files' bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Check that nothing under ``folder`` is added, changed or lost."""
    before = everything(folder)
    yield
    assert everything(folder) == before


def test_committed_bundle_is_complete_and_alone(source: Bundle, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as out:
        manifest = fill(out, source)
        assert out.files() == manifest.files
        assert not (tmp_path / "out").exists()
        out.commit(manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    bundle = Bundle.open(tmp_path / "out")
    bundle.verify()
    assert bundle.manifest == source.manifest


def test_missing_parents_are_made(source: Bundle, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "a" / "b" / "out") as out:
        out.commit(fill(out, source))
    Bundle.open(tmp_path / "a" / "b" / "out").verify()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_exception(
    error: type[BaseException], source: Bundle, tmp_path: Path
) -> None:
    with (
        unchanged(tmp_path),
        pytest.raises(error, match="stop"),
        BundleWriter(tmp_path / "out") as out,
    ):
        fill(out, source)
        raise error("stop")


def test_nothing_is_left_without_a_commit(source: Bundle, tmp_path: Path) -> None:
    with unchanged(tmp_path), BundleWriter(tmp_path / "out") as out:
        fill(out, source)


def test_parents_that_were_made_are_removed_after_an_exception(tmp_path: Path) -> None:
    with (
        unchanged(tmp_path),
        pytest.raises(RuntimeError, match="stop"),
        BundleWriter(tmp_path / "a" / "b" / "out"),
    ):
        raise RuntimeError("stop")


def test_existing_output_is_refused_without_overwrite(old: Path) -> None:
    with (
        unchanged(old.parent),
        pytest.raises(OutputExistsError, match=r"out already exists; .*--force"),
    ):
        BundleWriter(old)


def test_overwrite_replaces_a_bundle(old: Path, source: Bundle) -> None:
    with BundleWriter(old, overwrite=True) as out:
        manifest = fill(out, source)
        assert (old / "mine").exists()
        out.commit(manifest)
    assert not (old / "mine").exists()
    assert [path.name for path in old.parent.iterdir()] == ["out"]
    Bundle.open(old).verify()


def test_overwrite_replaces_an_empty_directory(source: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with BundleWriter(tmp_path / "out", overwrite=True) as out:
        out.commit(fill(out, source))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    Bundle.open(tmp_path / "out").verify()


@pytest.mark.parametrize("kind", ["folder", "file", "link to a bundle", "broken link"])
def test_overwrite_refuses_what_is_no_bundle(kind: str, source: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if kind == "folder":
        path.mkdir()
        (path / "thesis.txt").write_text("precious")
    elif kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(source.directory if kind == "link to a bundle" else tmp_path / "absent")
    with unchanged(tmp_path), pytest.raises(OutputExistsError, match="out is n"):
        BundleWriter(path, overwrite=True)
    assert path.is_symlink() == ("link" in kind)


@pytest.mark.parametrize("path", [".", "/"])
def test_path_without_a_name_is_refused(path: str) -> None:
    with pytest.raises(OutputExistsError, match="name a new folder"):
        BundleWriter(path, overwrite=True)


def test_parent_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with (
        unchanged(tmp_path),
        pytest.raises(OutputError, match=r"cannot write .*out: Not a directory"),
        BundleWriter(tmp_path / "file" / "out"),
    ):
        pass


def test_full_disk_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        unchanged(tmp_path),
        pytest.raises(OutputError, match=r"cannot write .*out: no space left on the disk"),
        BundleWriter(tmp_path / "out") as out,
    ):
        out.write("decoder.onnx", b"graph")
        # Every write to /dev/full fails with ENOSPC (full(4)).
        (out.directory / WEIGHTS_NAME).symlink_to("/dev/full")
        out.write(WEIGHTS_NAME, b"data")


def test_disk_that_is_full_at_the_manifest_keeps_the_old_bundle(old: Path, source: Bundle) -> None:
    with (
        unchanged(old.parent),
        pytest.raises(OutputError, match="no space left"),
        BundleWriter(old, overwrite=True) as out,
    ):
        manifest = fill(out, source)
        (out.directory / MANIFEST_NAME).symlink_to("/dev/full")
        out.commit(manifest)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_failed_rename_puts_the_old_bundle_back(
    error: BaseException, old: Path, source: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that cannot exchange two paths."""
    rename = Path.rename

    def cannot(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(hidden_output, "exchange", cannot)

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with (
        unchanged(old.parent),
        pytest.raises(type(error)),
        BundleWriter(old, overwrite=True) as out,
    ):
        out.commit(fill(out, source))


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_that_appears_while_writing_is_not_replaced(
    overwrite: bool, source: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "out"
    with (
        pytest.raises(OutputExistsError, match="out "),
        BundleWriter(path, overwrite=overwrite) as out,
    ):
        manifest = fill(out, source)
        path.mkdir()
        (path / "thesis.txt").write_text("precious")
        out.commit(manifest)
    assert everything(tmp_path) == {"out": None, "out/thesis.txt": b"precious"}
