"""``seq2edge pack``: an archive, or one line that says why the target cannot run the bundle."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_an_archive_and_what_to_do_with_it(
    call: Callable[..., Any], byte_bundle: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "app.tar"
    done = call("pack", byte_bundle, "--for", "cpu", "-o", archive)
    assert (done.code, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first.startswith(f"{archive}: ")
    assert first.endswith("for cpu, engine onnxruntime on cpu")
    assert second == "on the device: tar -xf app.tar && app/install.sh && app/run.sh TEXT"
    with tarfile.open(archive) as tar:
        assert "app/bundle/seq2edge.json" in tar.getnames()


def test_json_is_the_packs_manifest(
    call: Callable[..., Any], byte_bundle: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "app.tar"
    options = ("--for", "jetson-orin", "--jetpack", "7.2", "-o", archive, "--json")
    report = json.loads(call("pack", byte_bundle, *options).out)
    with tarfile.open(archive) as tar:
        file = tar.extractfile("app/manifest.json")
        assert file is not None
        manifest = json.load(file)
    assert report == {"path": str(archive), "bytes": archive.stat().st_size, **manifest}
    assert (report["jetpack"], report["backend"], report["python"]) == ("7.2", "tensorrt", "3.12")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--for", "jetson-orin"], "(JetPack 6.2) with tensorrt: it has no"),
        (["--for", "jetson"], "unknown target 'jetson'"),
        (["--for", "cpu", "--backend", "tensorrt"], "has no engine 'tensorrt'"),
        (["--for", "cpu", "--wheels", "nowhere"], "nowhere holds no wheels"),
    ],
)
def test_what_cannot_be_done_leaves_nothing(
    refused: Callable[..., str],
    byte_bundle: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
) -> None:
    assert message in refused("pack", byte_bundle, *options, "-o", tmp_path / "app.tar")


def test_an_archive_that_is_there_stays(
    refused: Callable[..., str], call: Callable[..., Any], byte_bundle: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "app.tar"
    archive.write_text("mine")
    command = ("pack", byte_bundle, "--for", "cpu", "-o", archive)
    assert "--force" in refused(*command)
    assert call(*command, "--force").code == 0
    assert tarfile.is_tarfile(archive)


def test_without_zstandard_another_suffix_is_named(
    refused: Callable[..., str],
    byte_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    message = refused("pack", byte_bundle, "--for", "cpu", "-o", tmp_path / "app.tar.zst")
    assert message == ("app.tar.zst needs zstandard: pip install zstandard, or name a .tar.gz")


def test_a_bundle_without_a_tokenizer_is_packed_with_a_word_of_it(
    cli: Callable[..., Any], bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    done = cli("pack", bundle_of("t5"), "--for", "cpu", "-o", tmp_path / "app.tar")
    assert done.returncode == 0
    assert "has no tokenizer: run.sh and the service" in done.stderr.decode()
