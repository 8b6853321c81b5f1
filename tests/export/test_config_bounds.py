"""Numbers of config.json that no tensors have are refused before a graph is built of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.export import CheckpointError, export_checkpoint


@pytest.mark.parametrize(
    ("shape", "name", "value"),
    [
        ("t5", "num_layers", 10**6),
        ("t5", "num_decoder_layers", 10**9),
        ("t5", "num_heads", 10**9),
        ("t5", "d_kv", 2**31),
        ("t5", "relative_attention_max_distance", 10**9),
        ("marian", "max_position_embeddings", 10**9),
        ("marian", "decoder_layers", 10**30),
        ("marian", "d_model", 10**30),
    ],
)
def test_more_than_the_tensors_are(
    shape: str, name: str, value: int, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(checkpoint_of(shape), tmp_path / "checkpoint"))
    file = checkpoint / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(
        CheckpointError, match=rf"config\.json says {name}.*weights are \d+ tensors"
    ):
        export_checkpoint(checkpoint, tmp_path / "out", validate=False)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
