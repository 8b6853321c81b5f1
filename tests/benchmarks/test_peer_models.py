"""What is run to make the baselines' models."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.benchmarks.driver import PeerError
from seq2edge.benchmarks.peers import models
from seq2edge.benchmarks.peers.environments import Environments
from seq2edge.benchmarks.peers.model_cache import ModelCache
from seq2edge.benchmarks.peers.names import Name
from seq2edge.benchmarks.peers.workload import PeerWorkload


@pytest.fixture
def made(
    checkpoint_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., list[list[str]]]:
    """A function from names to the commands of `seq2edge` that make their models."""
    commands: list[list[str]] = []

    def call(command: list[Any], *_: object) -> str:
        words = [re.sub(r"\.unfinished$|-[0-9a-f]{16}$", "", str(part)) for part in command]
        if words[-2] == "--calibration":
            shutil.copy(words[-1], tmp_path)
        commands.append([Path(word).name for word in words][4:])
        if "build" not in command:
            Path(command[6]).mkdir()
        return ""

    def get(*wanted: str) -> list[list[str]]:
        work = PeerWorkload(source_length=9, new_tokens=12, num_beams=3, threads=1, runs=1)
        checkpoint = checkpoint_of("t5")
        cache = ModelCache(tmp_path)
        maker = models.ModelMaker(cache, checkpoint, Environments(tmp_path / "peers"), work)
        for name in wanted:
            maker.make(Name.parse(name))
        return commands

    monkeypatch.setattr(models, "call", call)
    return get


def test_a_bundle_is_for_where_it_runs(made: Callable[..., list[list[str]]]) -> None:
    commands = made("seq2edge:fp16@cuda", "seq2edge:int4", "seq2edge:fp16:onnxruntime-tensorrt")
    assert commands[0][0] == "export"
    assert [(command[2], *command[3:]) for command in commands[1:]] == [
        ("seq2edge.fp16.cuda", "--target", "cuda", "--scheme", "fp16"),
        ("seq2edge.int4.cpu", "--target", "cpu", "--scheme", "int4"),
        ("seq2edge.fp16.tensorrt", "--target", "tensorrt", "--scheme", "fp16"),
    ]


def test_engines_are_built_for_the_workload(made: Callable[..., list[list[str]]]) -> None:
    commands = made("seq2edge:fp16:tensorrt", "seq2edge:fp16:tensorrt-rtx")
    assert [command[0] for command in commands] == ["export", "quantize", "build", "build"]
    limits = ["--max-source-length", "9", "--max-target-length", "36", "--max-num-tokens", "3"]
    assert [command[1:] for command in commands[2:]] == [
        ["seq2edge.fp16.tensorrt", "--backend", backend, *limits]
        for backend in ("tensorrt", "tensorrt-rtx")
    ]


def test_static_ranges_come_from_other_sources_than_those_timed(
    made: Callable[..., list[list[str]]],
    checkpoint_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    (_, command) = made("seq2edge:int8-qdq:onnxruntime-tensorrt")
    assert command[-2:] == ["--calibration", "calibration.jsonl"]  # a copy of which is looked at
    lines = (tmp_path / "calibration.jsonl").read_text().splitlines()
    texts = [json.loads(line)["input_ids"] for line in lines]
    timed = models.random_sources(checkpoint_of("t5"), 16, 9)
    assert {len(ids) for ids in texts} == {9}
    assert not [ids for ids in texts if ids in timed]
    assert all(3 <= token < 384 for ids in texts for token in ids)


def test_models_are_made_once(made: Callable[..., list[list[str]]]) -> None:
    assert len(made("seq2edge:int8")) == 2
    assert len(made("seq2edge:int8", "seq2edge:float32")) == 2


def test_a_model_is_kept_for_what_it_was_made_of(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "models")
    made: list[str] = []

    def get(name: str, *parts: str) -> Path:
        def make(folder: Path) -> None:
            folder.mkdir()
            made.append(name)

        return cache.get(name, parts, make)

    first = get("x.int8", "1.0")
    assert (get("x.int8", "1.0"), made) == (first, ["x.int8"])
    other = get("x.int8.cpu", "1.0")
    second = get("x.int8", "1.1")
    assert made == ["x.int8", "x.int8.cpu", "x.int8"]
    # Another tree may be timing it.
    assert first.exists()
    for path in (first, other):
        os.utime(path, (0, 0))
    third = get("x.int8", "1.2")
    assert {path for path in cache.folder.iterdir() if path.is_dir()} == {second, third, other}


def test_nothing_half_made_is_kept(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "models")

    def fail(folder: Path) -> None:
        folder.mkdir()
        raise PeerError("the disk is full")

    with pytest.raises(PeerError, match="the disk is full"):
        cache.get("x.int8", (), fail)
    assert not [path for path in cache.folder.iterdir() if path.is_dir()]
    (tmp_path / "file").touch()
    with pytest.raises(PeerError, match=r"cannot write .*: Not a directory"):
        ModelCache(tmp_path / "file" / "models").get("x.int8", (), Path.mkdir)


def test_models_belong_to_the_weights(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(b"1")
    cache = ModelCache(tmp_path / "models")
    before = cache.of_checkpoint(checkpoint)
    assert cache.of_checkpoint(checkpoint) == before
    weights.write_bytes(b"2")
    assert cache.of_checkpoint(checkpoint) != before
