"""The example of hand-written layers, from training to int8; its TOML says what its code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from seq2edge.export import export_state_dict
from seq2edge.runtime import Bundle, Seq2SeqModel

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_layers"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a run."""
    folder = tmp_path_factory.mktemp("own_layers")
    command = [sys.executable, EXAMPLE / "run.py", "--steps", "200", "--output", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_bundles_answer_as_pytorch_does(made: tuple[Path, str]) -> None:
    rows = re.findall(r"^(\w+).* (\d+) of 500 right +(\d+) as PyTorch", made[1], re.M)
    assert [name for name, *_ in rows] == ["PyTorch", "float32", "int8"]
    assert [int(same) for *_, same in rows] == [500, 500, 500]
    # The task is learned, so these are answers of a model that knows something.
    assert int(rows[0][1]) >= 480


def test_the_toml_file_describes_the_model(made: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = made
    result = export_state_dict(
        folder / "model.pt",
        EXAMPLE / "model.toml",
        tmp_path / "bundle",
        tokenizer=folder / "tokenizer.json",
        validate=True,
    )
    assert result.manifest.files == Bundle.open(folder / "reverse.bundle").manifest.files
    with Seq2SeqModel.load(tmp_path / "bundle") as loaded:
        assert loaded.generate("2718281")[0].text == "1828172"


def test_the_page_shows_the_files_as_they_are() -> None:
    page = (EXAMPLE.parents[1] / "docs" / "pytorch.md").read_text(encoding="utf-8")
    assert f"```toml\n{(EXAMPLE / 'model.toml').read_text()}```" in page
