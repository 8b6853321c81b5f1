"""What is run to make the baselines' models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.benchmarks.peers import models
from seq2edge.benchmarks.peers.environments import Environments
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
        commands.append([str(part).replace(f"{tmp_path}/", "") for part in command][4:])
        return ""

    def get(*wanted: str) -> list[list[str]]:
        work = PeerWorkload(source_length=9, new_tokens=12, num_beams=3, threads=1, runs=1)
        checkpoint = checkpoint_of("t5")
        maker = models.ModelMaker(tmp_path, checkpoint, Environments(tmp_path / "peers"), work)
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
    assert command[-2:] == ["--calibration", "calibration.jsonl"]
    lines = (tmp_path / "calibration.jsonl").read_text().splitlines()
    texts = [json.loads(line)["input_ids"] for line in lines]
    timed = models.random_sources(checkpoint_of("t5"), 16, 9)
    assert {len(ids) for ids in texts} == {9}
    assert not [ids for ids in texts if ids in timed]
    assert all(3 <= token < 384 for ids in texts for token in ids)
