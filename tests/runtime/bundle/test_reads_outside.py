"""What a bundle of somebody else names outside its folder is not opened: strace saw every open."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .test_graph_checks import edit_graph, edit_manifest, entry

#: Uses each bundle as a user does, and says which were refused.
_USE = """
import sys
from seq2edge.runtime import Seq2SeqModel
from seq2edge.runtime.errors import Seq2EdgeError
for path in sys.argv[1:]:
    try:
        with Seq2SeqModel.load(path, num_threads=1) as model:
            model.generate("a", max_new_tokens=2)
        print("used", path)
    except Seq2EdgeError as error:
        print("refused", path)
"""
_OPENS = "open,openat,openat2,execve"


def _rename_file(old: str, new: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        def edit(raw: Any) -> None:
            raw["files"][new] = raw["files"].pop(old)
            for graph in raw["graphs"].values():
                graph["file"] = new if graph["file"] == old else graph["file"]

        edit_manifest(bundle, edit)

    return change


def _link(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        (bundle / name).unlink()
        (bundle / name).symlink_to(f"../outside/{name}")

    return change


def _location(value: str) -> Callable[[Path], None]:
    return lambda bundle: edit_graph(bundle, entry("location", value))


_HOSTILE: dict[str, Callable[[Path], None]] = {
    "upwards": _location("../outside/weights.bin"),
    "absolute": lambda bundle: _location(str(bundle.parent / "outside" / "weights.bin"))(bundle),
    "through a folder": _location("x/../../outside/weights.bin"),
    "graph": _rename_file("decoder.onnx", "../outside/decoder.onnx"),
    "weights": _rename_file("weights.bin", "../outside/weights.bin"),
    "linked weights": _link("weights.bin"),
    "linked graph": _link("encoder.onnx"),
}


@pytest.fixture
def strace(tmp_path: Path) -> str:
    """The program, where this process may use it."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "probe"
    done = subprocess.run([program, "-o", log, "true"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("strace may not trace here (ptrace is forbidden)")
    return program


def test_nothing_outside_the_folder_is_opened(
    strace: str, byte_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(byte_bundle, tmp_path / "outside")
    bundles = []
    for name, change in {"as it was": lambda _: None, **_HOSTILE}.items():
        bundles.append(tmp_path / name)
        shutil.copytree(byte_bundle, bundles[-1])
        change(bundles[-1])
    log = tmp_path / "opens"
    # -y: a descriptor with the file that it is of, whatever links led there.
    command = [strace, "-f", "-qq", "-y", "-e", f"trace={_OPENS}", "-o", log, sys.executable]
    done = subprocess.run(
        [*command, "-c", _USE, *bundles],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
    )
    opened = set(re.findall(r"= \d+<([^>]*)>", log.read_text()))
    assert str(tmp_path / "as it was" / "weights.bin") in opened, "the log has what is opened"
    assert not [path for path in opened if path.startswith(str(tmp_path / "outside"))]
    said = done.stdout.splitlines()
    assert said == [
        f"{'used' if bundle.name == 'as it was' else 'refused'} {bundle}" for bundle in bundles
    ]
