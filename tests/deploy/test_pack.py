"""The archive: whole, the same every time, and what it was made from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seq2edge.deploy import TritonModel, plan, write_pack, write_triton_model
from seq2edge.deploy.pack.wheel import device_wheel
from seq2edge.runtime import Bundle, BundleError, InputError, OutputExistsError
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME

FILES = {"README.txt", "install.sh", "manifest.json", "requirements.txt", "run.sh"}


def pack(bundle: Bundle, out: Path, target: str = "cpu", **options: object) -> dict[str, object]:
    return write_pack(bundle, plan(bundle, target), out, **options).manifest  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.zst"])
def test_an_archive_holds_one_folder_of_its_name(demo: Bundle, tmp_path: Path, suffix: str) -> None:
    if suffix == ".tar.zst":
        pytest.importorskip("zstandard")
    archive = tmp_path / f"words-1.0{suffix}"
    manifest = pack(demo, archive)
    # The tar of a device, not ours.
    done = subprocess.run(
        ["tar", "-xvf", archive, "-C", tmp_path], capture_output=True, text=True, check=False
    )
    if suffix == ".tar.zst" and "zstd" in done.stderr:
        pytest.skip("tar has no zstd here")
    names = done.stdout.split()
    assert names == sorted(names)
    assert {name.partition("/")[0] for name in names} == {"words-1.0"}
    folder = tmp_path / "words-1.0"
    assert {path.name for path in folder.iterdir()} == {*FILES, "bundle", "wheels"}
    Bundle.open(folder / "bundle").verify()
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert os.access(folder / "install.sh", os.X_OK) and os.access(folder / "run.sh", os.X_OK)


def test_the_manifest_has_every_file(unpacked: Callable[..., Path]) -> None:
    folder = unpacked("cpu")
    manifest = json.loads((folder / "manifest.json").read_text())
    there = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    del there["manifest.json"]
    assert manifest["files"] == {
        name: {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for name, path in sorted(there.items())
    }
    assert (manifest["target"], manifest["jetpack"]) == ("cpu", None)
    assert (manifest["backend"], manifest["device"]) == ("onnxruntime", "cpu")


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
def test_equal_inputs_are_equal_bytes(
    demo: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    if suffix == ".tar.zst":
        pytest.importorskip("zstandard")
    archives = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        archives.append(tmp_path / folder / f"app{suffix}")
        pack(demo, archives[-1])
    assert archives[0].read_bytes() == archives[1].read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    pack(demo, tmp_path / "app.tar")
    with tarfile.open(tmp_path / "app.tar") as tar:
        found = {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar.getmembers()}
        assert found == {(1700000000, 0, 0, "root", "root")}


def test_an_impossible_time_is_refused(
    demo: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        pack(demo, tmp_path / "app.tar")
    assert not list(tmp_path.iterdir())


def test_progress_ends_with_all_bytes(demo: Bundle, tmp_path: Path) -> None:
    seen = []
    pack(demo, tmp_path / "app.tar", progress=lambda *now: seen.append(now))
    assert seen[0][0] == "checking the bundle"
    stages, done, totals = zip(*seen[1:], strict=True)
    assert set(stages) == {"packing"}
    assert list(done) == sorted(done)
    assert {done[-1]} == set(totals)
    assert done[-1] > demo.size


def test_wheels_go_along(demo: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "downloaded"
    folder.mkdir()
    (folder / "numpy-2.4.6-cp311-none-any.whl").write_bytes(b"wheel")
    (folder / "notes.txt").write_text("not a wheel")
    ours, data = device_wheel()
    (folder / ours).write_bytes(b"an older one")
    pack(demo, tmp_path / "app.tar", wheels=folder)
    with tarfile.open(tmp_path / "app.tar") as tar:
        wheels = [Path(name).name for name in tar.getnames() if "/wheels/" in name]
        assert sorted(wheels) == sorted([ours, "numpy-2.4.6-cp311-none-any.whl"])
        packed = tar.extractfile(f"app/wheels/{ours}")
        assert packed is not None and packed.read() == data
    with pytest.raises(InputError, match="no wheels"):
        pack(demo, tmp_path / "other.tar", wheels=tmp_path / "missing")


def test_a_service_brings_its_unit_and_its_packages(demo: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "app.tar"
    deployment = plan(demo, "cpu", service=True)
    manifest = write_pack(demo, deployment, out).manifest
    assert manifest["service"] is True
    with tarfile.open(out) as tar:
        assert {*FILES, "seq2edge.service"} <= {name.partition("/")[2] for name in tar.getnames()}
        pins = tar.extractfile("app/requirements.txt")
        assert pins is not None and b"uvicorn==" in pins.read()
    folder = tmp_path / "downloaded"
    folder.mkdir()
    (folder / "numpy-2.4.6-cp311-none-any.whl").write_bytes(b"wheel")
    with pytest.raises(
        InputError, match=r"no wheels of anyio, click, .*uvicorn, which the service"
    ):
        write_pack(demo, deployment, tmp_path / "other.tar", wheels=folder)
    for pin in deployment.service_requirements:
        name, _, version = pin.partition(" ")[0].partition("==")
        (folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl").write_bytes(b"wheel")
    write_pack(demo, deployment, tmp_path / "other.tar", wheels=folder)


def test_a_changed_bundle_is_not_packed(demo: Bundle, tmp_path: Path) -> None:
    file = demo.manifest.files["weights.bin"]
    files = {**demo.manifest.files, "weights.bin": replace(file, sha256="0" * 64)}
    bundle = Bundle(demo.directory, replace(demo.manifest, files=files))
    with pytest.raises(BundleError, match=r"weights\.bin"):
        pack(bundle, tmp_path / "app.tar")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("app.zip", "must end in one of: .tar.zst, .tar.gz, .tgz, .tar"),
        (".tar.gz", "must end in"),
        ("my app.tar", "letters, digits"),
        ("-app.tar", "letters, digits"),
    ],
)
def test_impossible_names_are_refused(
    demo: Bundle, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        pack(demo, tmp_path / name)


def test_nothing_is_replaced_unasked(demo: Bundle, tmp_path: Path) -> None:
    archive = tmp_path / "app.tar"
    archive.write_text("mine")
    with pytest.raises(OutputExistsError, match="--force"):
        pack(demo, archive)
    assert archive.read_text() == "mine"
    pack(demo, archive, overwrite=True)
    assert tarfile.is_tarfile(archive)


def test_a_bundle_for_another_machine_is_told_of(demo: Bundle, tmp_path: Path) -> None:
    record = {"scheme": "fp16", "target": "tensorrt", "summary": {}}
    manifest = replace(demo.manifest, quantization=record)
    path = shutil.copytree(demo.directory, tmp_path / "bundle")
    (path / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    bundle = Bundle.open(path)
    with pytest.warns(UserWarning, match="quantized for 'tensorrt'.*more slowly"):
        pack(bundle, tmp_path / "app.tar")


@pytest.mark.parametrize("kind", ["pack", "triton"])
@pytest.mark.parametrize("change", ["cut", "other", "manifest"])
def test_a_bundle_that_changes_after_it_was_verified_is_not_published(
    kind: str, change: str, demo: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: what was copied was not what had been verified."""
    path = Path(shutil.copytree(demo.directory, tmp_path / "bundle"))
    bundle = Bundle.open(path)
    verify = Bundle.verify

    def verify_and_change(self: Bundle) -> None:
        verify(self)
        weights = path / "weights.bin"
        if change == "cut":
            os.truncate(weights, 100)
        elif change == "other":
            weights.write_bytes(bytes(weights.stat().st_size))
        else:
            manifest = replace(bundle.manifest, producer="someone else")
            (path / MANIFEST_NAME).write_bytes(manifest.to_bytes())

    monkeypatch.setattr(Bundle, "verify", verify_and_change)
    with pytest.raises(BundleError, match="has changed since"):
        if kind == "pack":
            pack(bundle, tmp_path / "app.tar")
        else:
            write_triton_model(bundle, tmp_path / "models", TritonModel("m"))
    assert {entry.name for entry in tmp_path.iterdir()} <= {"bundle", "models"}
    assert not (tmp_path / "models" / "m").exists()
