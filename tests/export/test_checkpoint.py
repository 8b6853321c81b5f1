"""Checkpoints as people have them, and broken ones, which must leave nothing behind."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration

from seq2edge.export import ExportResult

Editable = Callable[..., Path]
Export = Callable[..., ExportResult]
Refusal = Callable[..., str]
Greedy = Callable[[Path], list[list[int]]]


@pytest.fixture(scope="session")
def model(checkpoint_of: Callable[[str], Path]) -> T5ForConditionalGeneration:
    """A T5 whose weights are the same numbers in float32, float16 and bfloat16."""
    loaded = T5ForConditionalGeneration.from_pretrained(checkpoint_of("t5"))
    with torch.no_grad():
        for parameter in loaded.parameters():
            # Freshly initialized, a tied model only repeats its last token: let the layers
            # count for more and the embedding for less.
            if parameter.dim() == 2:
                parameter.mul_(0.125 if parameter is loaded.shared.weight else 2.0)
            parameter.copy_(parameter.bfloat16().half().float())
    return loaded


@pytest.fixture
def expected(
    model: T5ForConditionalGeneration, export: Export, greedy_tokens: Greedy, tmp_path: Path
) -> tuple[str, list[list[int]]]:
    """SHA-256 of weights.bin and the greedy tokens, from one float32 safetensors file."""
    model.save_pretrained(tmp_path / "float32")
    digest, tokens = outcome(export(tmp_path / "float32", "expected"), greedy_tokens)
    # Equality says little of sequences that are all alike.
    assert len({tuple(row) for row in tokens}) == len(tokens)
    assert len({token for row in tokens for token in row}) > 4
    return digest, tokens


def outcome(result: ExportResult, greedy_tokens: Greedy) -> tuple[str, list[list[int]]]:
    return result.manifest.files["weights.bin"].sha256, greedy_tokens(result.path)


def save_bin(checkpoint: Path, state: dict[str, Any], shards: int = 1, **options: Any) -> None:
    """``state`` as pytorch_model.bin, whole or in shards; other weights there are removed."""
    for file in checkpoint.glob("model*.safetensors*"):
        file.unlink()
    if shards == 1:
        torch.save(state, checkpoint / "pytorch_model.bin", **options)
        return
    names = sorted(state)
    weight_map = {}
    for number in range(shards):
        shard = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {name: state[name].clone() for name in names[number::shards]}
        torch.save(part, checkpoint / shard, **options)
        weight_map.update(dict.fromkeys(part, shard))
    index = {"metadata": {}, "weight_map": weight_map}
    (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_safetensors_give_the_float32_bundle(
    dtype: str,
    model: T5ForConditionalGeneration,
    expected: tuple[str, list[list[int]]],
    export: Export,
    greedy_tokens: Greedy,
    tmp_path: Path,
) -> None:
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / dtype, state_dict=state)
    assert outcome(export(tmp_path / dtype), greedy_tokens) == expected


def test_sharded_safetensors_give_the_bundle_of_one_file(
    model: T5ForConditionalGeneration,
    expected: tuple[str, list[list[int]]],
    export: Export,
    greedy_tokens: Greedy,
    tmp_path: Path,
) -> None:
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    assert outcome(export(tmp_path / "sharded"), greedy_tokens) == expected


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_pytorch_model_bin_gives_the_bundle_of_safetensors(
    shards: int,
    dtype: str,
    model: T5ForConditionalGeneration,
    expected: tuple[str, list[list[int]]],
    export: Export,
    greedy_tokens: Greedy,
    tmp_path: Path,
) -> None:
    model.save_pretrained(tmp_path / "bin")
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in model.state_dict().items()}
    save_bin(tmp_path / "bin", state, shards)
    assert outcome(export(tmp_path / "bin"), greedy_tokens) == expected


def test_pytorch_model_bin_in_the_format_before_torch_1_6_is_read(
    model: T5ForConditionalGeneration,
    expected: tuple[str, list[list[int]]],
    export: Export,
    greedy_tokens: Greedy,
    tmp_path: Path,
) -> None:
    """The checkpoints of 2019 and 2020 on the hub (t5-small, bart-large) are of that format."""
    model.save_pretrained(tmp_path / "bin")
    save_bin(tmp_path / "bin", model.state_dict(), _use_new_zipfile_serialization=False)
    assert outcome(export(tmp_path / "bin"), greedy_tokens) == expected


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("form", ["zip", "pickle"])
def test_a_bin_that_would_run_code_is_refused_and_does_not_run_it(
    form: str, editable: Editable, refusal: Refusal, tmp_path: Path
) -> None:
    marker = tmp_path / "it-ran"
    checkpoint = editable("t5")
    save_bin(checkpoint, {"shared.weight": Payload(marker)})
    if form == "pickle":
        data = pickle.dumps({"shared.weight": Payload(marker)}, protocol=2)
        (checkpoint / "pytorch_model.bin").write_bytes(data)
    assert "pytorch_model.bin cannot be read" in refusal(checkpoint)
    assert not marker.exists()
    if form == "zip":
        torch.load(checkpoint / "pytorch_model.bin", weights_only=False)
    else:
        pickle.loads(data)
    assert marker.exists(), "the payload is no working one"


def test_a_missing_folder_is_named(refusal: Refusal, tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")


def test_a_file_that_holds_no_weights_is_named(editable: Editable, refusal: Refusal) -> None:
    file = editable("t5") / "config.json"
    message = refusal(file)
    assert str(file) in message
    assert "not a folder" in message


def test_a_folder_without_config_is_refused(editable: Editable, refusal: Refusal) -> None:
    checkpoint = editable("t5")
    (checkpoint / "config.json").unlink()
    assert f"{checkpoint} has no config.json" in refusal(checkpoint)


def test_a_folder_without_weights_is_refused(editable: Editable, refusal: Refusal) -> None:
    checkpoint = editable("t5")
    (checkpoint / "model.safetensors").unlink()
    message = refusal(checkpoint)
    assert str(checkpoint) in message
    assert "model.safetensors" in message
    assert "pytorch_model.bin" in message


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b'{"d_model": 48,', b"", b"[1, 2]", b"\xff\xfe{}"])
def test_broken_json_is_named(
    file: str, content: bytes, editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    (checkpoint / file).write_bytes(content)
    assert str(checkpoint / file) in refusal(checkpoint)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_missing_shard_is_named(
    kind: str, model: T5ForConditionalGeneration, refusal: Refusal, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "sharded"
    model.save_pretrained(checkpoint, max_shard_size="100KB")
    if kind == "bin":
        save_bin(checkpoint, model.state_dict(), shards=3)
    gone = sorted(checkpoint.glob(f"*-00002-of-*.{kind}"))[0]
    gone.unlink()
    assert gone.name in refusal(checkpoint)


@pytest.mark.parametrize(
    "index",
    [{}, {"weight_map": None}, {"weight_map": {"a": 1, "b": "x"}}, {"weight_map": {"a": ["x"]}}],
    ids=["no map", "null", "a number for a file", "a list for a file"],
)
def test_a_broken_shard_index_is_named(
    index: dict[str, Any], editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00001.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json" in refusal(checkpoint)


@pytest.mark.parametrize("kept", [0, 4, 100, -1, -5000])
def test_truncated_safetensors_are_named(kept: int, editable: Editable, refusal: Refusal) -> None:
    checkpoint = editable("t5")
    file = checkpoint / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:kept] if kept else b"")
    assert str(file) in refusal(checkpoint)


def test_safetensors_whose_header_lies_about_its_length_are_named(
    editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    file = checkpoint / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 1 << 60) + file.read_bytes()[8:])
    assert str(file) in refusal(checkpoint)


@pytest.mark.parametrize("kept", [0, 100, -5000])
def test_truncated_bin_is_named(
    kept: int, model: T5ForConditionalGeneration, editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    save_bin(checkpoint, model.state_dict())
    file = checkpoint / "pytorch_model.bin"
    data = file.read_bytes()
    file.write_bytes(data[:kept] if kept else b"")
    assert str(file) in refusal(checkpoint)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", ["int32", "int8"])
def test_integer_tensors_are_refused_by_name(
    dtype: str,
    kind: str,
    model: T5ForConditionalGeneration,
    refusal: Refusal,
    tmp_path: Path,
) -> None:
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    state = {**model.state_dict()}
    state[name] = state[name].to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "integers", state_dict=state)
    if kind == "bin":
        save_bin(tmp_path / "integers", state)
    message = refusal(tmp_path / "integers")
    assert name in message
    assert kind in message
    assert dtype.replace("int", "") in message
