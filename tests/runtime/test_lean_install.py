"""The lean device install (requirements/device.txt, no dependencies) runs a bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PARTS = (
    "runtime",
    "export",
    "quantize",
    "deploy",
    "benchmarks",
    "cli",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
#: numpy, onnxruntime, tokenizers and seq2edge, without compiled files: 151 MB on x86-64.
MOST_MEGABYTES = 156
SCRIPT = """
import json, sys
from seq2edge.runtime import Seq2SeqModel
with Seq2SeqModel.load(sys.argv[1]) as model:
    found = model.generate_ids([[5, 6, 7, 1]], max_new_tokens=8)
print(json.dumps(found[0].token_ids))
"""


def pip_install(python: Path, *arguments: str) -> None:
    command = [python, "-m", "pip", "install", "-q", "--no-deps", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr or "Could not find a version" in done.stderr:
        pytest.skip("the package index cannot be reached, or has no wheel for this Python")
    assert done.returncode == 0, done.stderr


def test_lean_install_generates(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    from seq2edge.runtime import Seq2SeqModel

    environment = tmp_path / "device"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    source = tmp_path / "source"
    source.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (REPOSITORY / part).is_dir() else shutil.copy2
        copy(REPOSITORY / part, source / part)
    pip_install(python, "-r", str(REPOSITORY / "requirements" / "device.txt"))
    pip_install(python, str(source))

    bundle = bundle_of("t5")
    command = [python, "-c", SCRIPT, str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Seq2SeqModel.load(bundle) as model:
        expected = model.generate_ids([[5, 6, 7, 1]], max_new_tokens=8)[0].token_ids
    assert json.loads(done.stdout) == expected
    (packages,) = (environment / "lib").glob("python*/site-packages")
    installed = {path.name for path in packages.iterdir()}
    assert not installed & {"huggingface_hub", "google", "torch", "onnx"}
    assert _megabytes(packages, without="pip") < MOST_MEGABYTES
    assert _megabytes(packages / "seq2edge") < 4


def _megabytes(folder: Path, without: str = "") -> float:
    """What pip wrote there: its own folder and compiled files, which Python adds, not counted."""
    files = (
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not file.is_symlink()
        and file.suffix != ".pyc"
        and not (without and file.relative_to(folder).parts[0].startswith(without))
    )
    return sum(file.stat().st_size for file in files) / 1e6
