"""Files and programs that say nothing sensible are unknown, never an error."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from seq2edge.deploy.doctor import advise, examine

from .conftest import BOARDS, MakeSample, sample_commands, sample_files

GARBAGE = (
    b"",
    b"\xff\xfe\0\x01 : , \n\0",
    b"9" * 5000 + b"\n",
    b"processor : x\nflags\nMemTotal: many kB\n:::\n0::\n-1\n" * 3,
    "processor : \u0661\nMemTotal: \u0661\u0662 kB\n".encode(),  # digits, but not ASCII's
)


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("board", BOARDS)
def test_all_files_garbled(sample: MakeSample, board: str, garbage: bytes) -> None:
    machine = sample(board, dict.fromkeys(sample_files(board), garbage)).examine()
    assert machine.cpu.features == ()
    assert machine.memory.total is None
    assert machine.sensors.rails == ()
    assert machine.jetson is None
    json.dumps([asdict(machine), asdict(advise(machine))])


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("board", ["orin-nx", "x86-rtx"])
def test_one_file_garbled(sample: MakeSample, board: str, garbage: bytes) -> None:
    made = sample(board)
    for name in sample_files(board):
        path = made.root / name
        whole = path.read_bytes()
        path.write_bytes(garbage)
        machine = made.examine()
        assert machine.onnxruntime.runs("CPUExecutionProvider")
        advise(machine)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "said", ["", "null", "[]", '{"version": 1, "providers": [1]}', "{broken", "\0\x1b[31m, , , ,"]
)
@pytest.mark.parametrize("board", BOARDS)
def test_programs_that_say_nonsense(sample: MakeSample, board: str, said: str) -> None:
    machine = sample(board, commands=dict.fromkeys(sample_commands(board), said)).examine()
    assert not machine.onnxruntime.runs("CPUExecutionProvider")
    json.dumps([asdict(machine), asdict(advise(machine))])


def test_folders_where_files_should_be(sample: MakeSample, tmp_path: Path) -> None:
    for name in sample_files("agx-thor"):
        (tmp_path / name).mkdir(parents=True)
    made = sample("agx-thor")
    machine = examine(tmp_path, made.run, made.python)
    assert machine.memory.total is None
    assert machine.cpu.logical_cores is None


def test_a_machine_without_anything(sample: MakeSample, tmp_path: Path) -> None:
    machine = examine(tmp_path, sample("x86-rtx", commands={}).run)
    assert (machine.board, machine.jetson, machine.memory.usable()) == (None, None, None)
