"""Machines from samples: their files under a folder, their programs' output."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from seq2edge.deploy.doctor import Machine, examine, gpu
from seq2edge.deploy.doctor.commands import ATTEMPT, Finished, Runner

SAMPLES = Path(__file__).parent / "samples"
BOARDS = sorted(path.name for path in SAMPLES.iterdir() if path.is_dir())

NVIDIA_SMI = " ".join(gpu.NVIDIA_SMI)

#: The Python of each sample, as its JetPack or its Ubuntu has it.
_PYTHONS = {"agx-thor": "3.12.3", "x86-rtx": "3.12.3"}


class Sample(NamedTuple):
    """What ``examine`` is given."""

    root: Path
    run: Runner
    python: str

    def examine(self) -> Machine:
        return examine(self.root, self.run, self.python)


class MakeSample(Protocol):
    def __call__(
        self,
        board: str,
        files: Mapping[str, str | bytes | None] = ...,
        commands: Mapping[str, str | None] = ...,
    ) -> Sample:
        """A sample, with these files and commands in place of its own (None: without)."""
        ...


def sections(text: str) -> dict[str, str]:
    """What stands after each ``-- name --`` line."""
    parts = re.split(r"^-- (.*) --\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def sample_files(board: str) -> dict[str, bytes]:
    text = sections((SAMPLES / board / "files.txt").read_text())
    return {name: content.replace("\\0", "\0").encode() for name, content in text.items()}


def sample_commands(board: str) -> dict[str, str]:
    return sections((SAMPLES / board / "commands.txt").read_text())


def runner(commands: Mapping[str, str]) -> Runner:
    """Answers as the commands of a sample do; all others are not installed."""
    known = {}
    for name, out in commands.items():
        command, _, code = name.partition(" -> ")
        known[command] = Finished(int(code or 0), out)

    def run(command: Sequence[str], _seconds: float) -> Finished:
        words = list(command)
        if words[: len(ATTEMPT)] == list(ATTEMPT):
            words = ["engine", *words[len(ATTEMPT) :]]
        return known.get(" ".join(words), Finished(None))

    return run


@pytest.fixture
def sample(tmp_path_factory: pytest.TempPathFactory) -> MakeSample:
    def make(
        board: str,
        files: Mapping[str, str | bytes | None] = {},
        commands: Mapping[str, str | None] = {},
    ) -> Sample:
        root = tmp_path_factory.mktemp(board)
        for name, content in {**sample_files(board), **files}.items():
            if content is not None:
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        answers = {**sample_commands(board), **commands}
        run = runner({name: out for name, out in answers.items() if out is not None})
        return Sample(root, run, _PYTHONS.get(board, "3.10.12"))

    return make


@pytest.fixture
def machine(sample: MakeSample) -> Callable[[str], Machine]:
    """A sample that was examined."""
    return lambda board: sample(board).examine()
