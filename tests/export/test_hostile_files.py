"""Files of a checkpoint that no one writes: none is waited for or taken in whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from seq2edge.export.checkpoint.ctranslate2.folder import find_model
from seq2edge.export.checkpoint.ctranslate2.vocabulary import read_vocabulary
from seq2edge.export.checkpoint.reader import Checkpoint
from seq2edge.export.errors import CheckpointError
from seq2edge.export.tokenizers.pieces import read_pieces
from seq2edge.runtime.errors import Seq2EdgeError


def hole(file: Path) -> Path:
    """A terabyte that takes no room."""
    with file.open("wb") as made:
        made.truncate(1 << 40)
    return file


def test_named_pipes_are_no_weights(tmp_path: Path) -> None:
    """Fault: they were waited for, without end."""
    os.mkfifo(tmp_path / "model.bin")
    assert find_model(tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="it is no file"), Checkpoint(tmp_path):
        pass


@pytest.mark.parametrize("name", ["shared_vocabulary.json", "shared_vocabulary.txt"])
def test_a_vocabulary_of_a_terabyte_is_refused(tmp_path: Path, name: str) -> None:
    """Fault: a MemoryError."""
    hole(tmp_path / name)
    with pytest.raises(CheckpointError, match="has more than"):
        read_vocabulary(tmp_path, "shared_vocabulary")


def test_pieces_of_a_terabyte_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Seq2EdgeError, match="has more than"):
        read_pieces(hole(tmp_path / "spiece.model"))


def test_few_of_many_missing_shards_are_named(tmp_path: Path) -> None:
    """Fault: an error of two million letters."""
    (tmp_path / "config.json").write_text("{}")
    shards = {f"tensor-{n}": f"shard-{n}.safetensors" for n in range(10_000)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(CheckpointError, match="and 9988 more") as caught, Checkpoint(tmp_path):
        pass
    assert len(str(caught.value)) < 1000
