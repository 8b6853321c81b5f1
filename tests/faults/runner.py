"""One command, run again and again with a fault at one of its calls."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import hashlib
import importlib
import io
import itertools
import os
import pickle
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from .commands import Command

#: Names the library that counts calls, in the environment.
LIBRARY = "SEQ2EDGE_FAULTS"
#: A name to the error that a call ends with; 0: the process is killed before it.
FAULTS = {"kill": 0, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO}


class Runner:
    """Runs one command in children, in ``work``.

    Attributes:
        old, new: whole results, kept beside, that runs begin with and end in.
    """

    def __init__(self, command: Command, work: Path) -> None:
        self._command, self._work = command, work
        self._folder = work / "out"
        self._path = self._folder / command.output
        self._injection = ctypes.CDLL(os.environ[LIBRARY])
        for module in ("seq2edge.cli.main", *command.modules):
            importlib.import_module(module)
        self._begin()
        _, said, _ = self._run(command.old)
        assert self._path.exists(), said
        self._old = work / "old"
        _copy(self._path, self._old)

    def calls(self, *, there: bool, also: bool) -> int:
        """How many calls a run makes; ``there``: it replaces an old result."""
        self._begin(there)
        code, said, hits = self._run(self._arguments(there), removals=also)
        assert code == 0, said
        self._command.check(self._path)
        return hits

    def problem(self, fault: str, number: int, *, there: bool) -> str | None:
        """What is wrong after a run with a fault at that call, and the run after it."""
        self._begin(there)
        code, said, _ = self._run(
            self._arguments(there), number, FAULTS[fault], removals=fault != "ENOSPC"
        )
        if fault == "kill":
            if code != -9:
                return f"it ended with {code}, and was to be killed: {said}"
        elif "Traceback" in said or code not in (0, 2) or (code == 2 and _is_no_error(said)):
            return f"it ended with {code} and says: {said}"
        elif fault == "ENOSPC" and self._left():
            return f"it has left {self._left()}"
        state = self._state(there)
        if state not in ({"old", "new"} if there else {"nothing", "new"}):
            return f"the destination is {state}"
        if code == 0 and state != "new":
            return f"it says that it is done, and the destination is {state}"
        code, said, _ = self._run(self._arguments(True))
        if code != 0:
            return f"the next run ends with {code}: {said}"
        state = self._state(False)
        if state != "new" or self._left():
            return f"after the next run the destination is {state}, and there is {self._left()}"
        return None

    def _arguments(self, there: bool) -> tuple[str, ...]:
        return (*self._command.arguments, "--force") if there else self._command.arguments

    def _begin(self, there: bool = False) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        if there:
            _copy(self._old, self._path)

    def _state(self, there: bool) -> str:
        if not self._path.exists():
            return "nothing"
        if there and _signature(self._path) == _signature(self._old):
            return "old"
        try:
            self._command.check(self._path)
        except Exception as error:
            return f"broken: {type(error).__name__}: {error}"
        return "new"

    def _left(self) -> list[str]:
        return sorted({entry.name for entry in self._folder.iterdir()} - {self._command.output})

    def _run(
        self, arguments: tuple[str, ...], number: int = 0, error: int = 0, *, removals: bool = True
    ) -> tuple[int, str, int]:
        """Exit code, what it says on stderr, and how many calls were counted."""
        said = self._work / "stderr"
        child = os.fork()
        if child == 0:
            os.chdir(self._work)
            for name in self._command.known:
                _know(name, self._work / f"known {' '.join(arguments)}".replace("/", "."))
            code = 70
            with said.open("w") as stream:
                os.dup2(stream.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                sys.stderr, sys.stdout = stream, io.StringIO()
                self._injection.fault_arm(os.fsencode(self._folder), number, error, int(removals))
                try:
                    code = _main(arguments)
                except BaseException:
                    traceback.print_exc(file=stream)
                stream.write(f"\n{self._injection.fault_hits()}")
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        text, _, hits = said.read_text(errors="replace").rpartition("\n")
        return code, text.strip(), int(hits) if hits.isdigit() else 0


def _know(name: str, folder: Path) -> None:
    """The function's results are those of the run that made ``folder``, call by call."""
    folder.mkdir(exist_ok=True)
    module = importlib.import_module(name.rpartition(".")[0])
    function, numbers = getattr(module, name.rpartition(".")[2]), itertools.count()

    def known(*arguments: Any, **named: Any) -> Any:
        file = folder / f"{name}-{next(numbers)}"
        if not file.exists():
            result = function(*arguments, **named)
            if dataclasses.is_dataclass(result) and hasattr(result, "data"):
                result = dataclasses.replace(result, data=bytes(result.data))
            file.write_bytes(pickle.dumps(result))
        return pickle.loads(file.read_bytes())

    setattr(module, function.__name__, known)


def _main(arguments: tuple[str, ...]) -> int:
    from seq2edge.cli.main import main

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return main(arguments)


def _is_no_error(said: str) -> bool:
    return not said.startswith("seq2edge: error: ") or "\n" in said or "cannot" not in said


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _signature(path: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        found.update(str(file.relative_to(path)).encode())
        found.update(file.read_bytes() if file.is_file() else b"")
    return found.hexdigest()
