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


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("1" + "0" * 400, r"config\.json .*an integer has 401 digits"),
        ("NaN", "layer_norm_epsilon is no finite number"),
        ("Infinity", "layer_norm_epsilon is no finite number"),
    ],
)
def test_a_number_that_no_float_holds(
    value: str, told: str, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Found by mutated configs: the first was an OverflowError."""
    checkpoint = Path(shutil.copytree(checkpoint_of("t5"), tmp_path / "checkpoint"))
    file = checkpoint / "config.json"
    changed = {**json.loads(file.read_text()), "layer_norm_epsilon": 0.125}
    file.write_text(json.dumps(changed).replace("0.125", value))
    with pytest.raises(CheckpointError, match=told):
        export_checkpoint(checkpoint, tmp_path / "out", validate=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_fft": 2**53}, "n_fft is more than 4096"),
        ({"n_fft": 10**400}, "an integer has 401 digits"),
        ({"sampling_rate": 10**9}, "sampling_rate is more than 192000"),
        ({"hop_length": 2}, "hop_length=2 and n_fft=400"),
        ({"hop_length": 401}, "hop_length=401 and n_fft=400"),
    ],
)
def test_features_of_impossible_sizes(
    changes: dict[str, int], message: str, speaking_checkpoint: Path, tmp_path: Path
) -> None:
    """Found by mutated configs: products of all samples of a frame took all memory and time."""
    checkpoint = Path(shutil.copytree(speaking_checkpoint, tmp_path / "checkpoint"))
    file = checkpoint / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(checkpoint, tmp_path / "out", validate=False)
