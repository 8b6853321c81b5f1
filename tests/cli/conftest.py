"""The real command in a process of its own, and what it works on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

#: The prefix of every message about a failed command.
ERROR = "seq2edge: error: "


class Cli(Protocol):
    """Runs ``seq2edge`` with arguments; keywords go to ``subprocess.run``."""

    def __call__(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Both streams are captured unless ``stdout`` is given."""
        ...


class Refuses(Protocol):
    """Runs a command that must fail cleanly; gives its message."""

    def __call__(self, *arguments: object, parent: Path | None = None, **options: Any) -> str:
        """``parent`` is the folder in which nothing may be added, changed or lost."""
        ...


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """What a user's shell has: standard output is buffered."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}


@pytest.fixture(scope="session")
def program() -> list[str]:
    """The start of every command line."""
    return [sys.executable, "-m", "seq2edge.cli.main"]


@pytest.fixture(scope="session")
def cli(environment: dict[str, str], program: list[str]) -> Cli:
    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
        streams = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        options = {"env": environment, **streams, **options}
        if "input" in options:
            del options["stdin"]
        command = [*program, *(a if isinstance(a, bytes) else str(a) for a in arguments)]
        return subprocess.run(command, stderr=subprocess.PIPE, check=False, **options)

    return run


@pytest.fixture(scope="session")
def refuses(cli: Cli) -> Refuses:
    def run(*arguments: object, parent: Path | None = None, **options: Any) -> str:
        before = _contents(parent)
        result = cli(*arguments, **options)
        message = result.stderr.decode()
        assert result.returncode == 2, message
        assert "Traceback" not in message
        assert message.startswith(ERROR)
        assert message.count("\n") == 1
        assert message.endswith("\n")
        assert not result.stdout
        assert _contents(parent) == before
        return message[len(ERROR) : -1]

    return run


def _contents(folder: Path | None) -> dict[str, bytes | None]:
    paths = [] if folder is None else folder.rglob("*")
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture(scope="session")
def byte_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Path:
    """A T5 with ByT5's tokenizer. Read only."""
    path = tmp_path_factory.mktemp("cli") / "checkpoint"
    shutil.copytree(checkpoint_of("t5-v1.1"), path)
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    return path


@pytest.fixture(scope="session")
def byte_bundle(byte_checkpoint: Path) -> Path:
    """The bundle of ``byte_checkpoint``. Read only."""
    from seq2edge.export import export_checkpoint

    path = byte_checkpoint.parent / "bundle"
    export_checkpoint(byte_checkpoint, path, validate=False)
    return path


@pytest.fixture(scope="session")
def word_bundle(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Path:
    """A BART of 80 positions whose tokenizer takes a word as one token. Read only."""
    from seq2edge.export import export_checkpoint

    folder = tmp_path_factory.mktemp("words")
    shutil.copytree(checkpoint_of("bart-scaled"), folder / "checkpoint")
    model = {"type": "WordLevel", "vocab": {"<unk>": 3, "a": 4}, "unk_token": "<unk>"}
    settings = {"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}
    (folder / "checkpoint" / "tokenizer.json").write_text(json.dumps(settings))
    export_checkpoint(folder / "checkpoint", folder / "bundle", validate=False)
    return folder / "bundle"


class Done(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Done]]:
    """Runs a command line in this process, which has imported what it needs."""
    from seq2edge.cli.main import main

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        return Done(main([str(argument) for argument in arguments]), *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def refused(call: Callable[..., Done], tmp_path: Path) -> Callable[..., str]:
    """Runs a command line that must fail and leave ``tmp_path`` as it is; gives its message."""

    def run(*arguments: object) -> str:
        before = contents(tmp_path)
        done = call(*arguments)
        assert done.code == 2, done
        assert done.out == ""
        assert done.err.startswith(ERROR)
        assert done.err.endswith("\n")
        assert done.err.count("\n") == 1
        assert contents(tmp_path) == before
        return done.err[len(ERROR) : -1]

    return run


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
