"""The example runs from training to an int8 bundle, and its TOML file says what its code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from seq2edge.export import export_state_dict
from seq2edge.runtime import Bundle

EXAMPLE = Path(__file__).parents[2] / "examples" / "torch_transformer"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a quick run."""
    folder = tmp_path_factory.mktemp("example")
    command = [sys.executable, EXAMPLE / "run.py", "--quick", "--output", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_bundle_answers_as_pytorch_does(made: tuple[Path, str]) -> None:
    rows = dict(re.findall(r"^(PyTorch|float32 bundle|int8 bundle) .* (\d+)/100 ", made[1], re.M))
    assert rows["PyTorch"] == rows["float32 bundle"] == "100"
    # A model that was hardly trained has many near ties.
    assert int(rows["int8 bundle"]) >= 80


def test_the_toml_file_describes_the_model(made: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = made
    result = export_state_dict(
        folder / "model.pt", EXAMPLE / "model.toml", tmp_path / "bundle", validate=True
    )
    assert result.manifest.files == Bundle.open(folder / "numbers.bundle").manifest.files
