"""Commands that are killed, or whose disk fails, at each call that changes a file of the output.

``python tests/faults/faults.py [COMMAND...]`` runs each command again and again, and before the
first, second, ... of those calls kills it with SIGKILL, or lets the call fail with ENOSPC or EIO.
After each run the destination must be the old result or the new one, and whole (or nothing, where
there was none); a run that failed must say so in one line; and the next run must succeed and leave
nothing but its result. Exit code 1: something was found. ``--share N``: only every Nth call.

Calls are counted by a library that is preloaded, ``injection.c``; commands run in children of one
process that has imported them, so that a run takes milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import errno
import hashlib
import importlib
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_LIBRARY = "SEQ2EDGE_FAULTS"
#: A name to the error that a call ends with; 0: the process is killed before it.
FAULTS = {"kill": 0, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO}


def _bundle(path: Path) -> None:
    from seq2edge.runtime import Bundle

    Bundle.open(path).verify()


def _archive(path: Path) -> None:
    with tarfile.open(path) as tar:
        read = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        content = {name: file.read() for name, file in read.items() if file is not None}
    top = next(iter(content)).partition("/")[0]
    for name, info in json.loads(content[f"{top}/manifest.json"])["files"].items():
        found = hashlib.sha256(content[f"{top}/{name}"]).hexdigest()
        assert found == info["sha256"], name


def _triton(path: Path) -> None:
    _bundle(path / "1" / "bundle")
    assert (path / "config.pbtxt").read_text().rstrip().endswith("]")
    assert "class TritonPythonModel" in (path / "1" / "model.py").read_text()


def _report(path: Path) -> None:
    from seq2edge.benchmarks.quality.report import REPORT_FILES

    assert {entry.name for entry in path.iterdir()} == set(REPORT_FILES)
    assert json.loads((path / "report.json").read_text())
    for kind in ("svg", "html"):
        assert (path / f"report.{kind}").read_text().rstrip().endswith(f"</{kind}>")


def _engines(path: Path) -> None:
    from seq2edge.runtime.backends.tensorrt.engine_store import read_engines, read_plan

    for engine in read_engines(path).engines.values():
        read_plan(path, engine)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, run in a folder with ``checkpoint``, bundles ``own``, ``other`` and ``half``.

    Attributes:
        arguments: those that make the new result; the old one is made with ``old``.
        output: what it writes, in the folder ``out``.
        check: raises if a result is not whole.
        modules: imported once.
        known: functions of modules that write nothing and take long. Their results of the first
            whole run are those of all others.
    """

    arguments: tuple[str, ...]
    old: tuple[str, ...]
    output: str
    check: Callable[[Path], None]
    modules: tuple[str, ...]
    known: tuple[str, ...] = ()


_EXPORT = ("seq2edge.export",)
_BUILD = ("--compute-capability", "8.6", "--max-source-length", "16", "--max-target-length", "16")
_DATA = ("--data", "data.jsonl", "--metric", "wer")
_COMPARE = (*_DATA, "--output", "out/made", "--speed-texts", "1", "--max-new-tokens", "2")
COMMANDS = {
    "export": Command(
        ("export", "checkpoint", "out/made", "--no-validate"),
        ("export", "another", "out/made", "--no-validate"),
        "made",
        _bundle,
        _EXPORT,
    ),
    "quantize": Command(
        ("quantize", "own", "out/made", "--scheme", "int8", "--no-check"),
        ("quantize", "other", "out/made", "--scheme", "int8", "--no-check"),
        "made",
        _bundle,
        ("seq2edge.quantize", "seq2edge.quantize.pipeline"),
    ),
    "downgrade": Command(
        ("downgrade", "own", "out/made"),
        ("downgrade", "other", "out/made"),
        "made",
        _bundle,
        ("seq2edge.quantize",),
    ),
    "pack": Command(
        ("pack", "own", "--for", "cpu", "-o", "out/made.tar"),
        ("pack", "other", "--for", "cpu", "-o", "out/made.tar"),
        "made.tar",
        _archive,
        ("seq2edge.deploy",),
    ),
    "triton": Command(
        ("triton", "own", "out", "--name", "made"),
        ("triton", "other", "out", "--name", "made"),
        "made",
        _triton,
        ("seq2edge.deploy",),
    ),
    "compare": Command(
        ("compare", "own", "other", *_COMPARE),
        ("compare", "own", "own", *_COMPARE),
        "made",
        _report,
        (
            "seq2edge.benchmarks.quality.report",
            "seq2edge.benchmarks.quality.compare",
            "matplotlib.figure",
        ),
        (
            "seq2edge.benchmarks.quality.compare.compare",
            "seq2edge.benchmarks.quality.report.svg",
            "seq2edge.benchmarks.report.page.svg",
        ),
    ),
    "build": Command(
        ("build", "half", *_BUILD, "--output", "out/made"),
        ("build", "half", *_BUILD, "--output", "out/made", "--max-num-tokens", "1"),
        "made",
        _engines,
        ("seq2edge.runtime.backends.tensorrt.builder.engines",),
        ("seq2edge.runtime.backends.tensorrt.builder.engines.build_plan",),
    ),
}  # fmt: skip


class Runner:
    """Runs one command in children, in ``work``.

    Attributes:
        old, new: whole results, kept beside, that runs begin with and end in.
    """

    def __init__(self, command: Command, work: Path) -> None:
        self._command, self._work = command, work
        self._folder = work / "out"
        self._path = self._folder / command.output
        self._injection = ctypes.CDLL(os.environ[_LIBRARY])
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


@contextlib.contextmanager
def _preloaded() -> Iterator[None]:
    """This program again, with the library before all others."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("there is no C compiler (cc)")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "injection.so"
        source = Path(__file__).with_name("injection.c")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
        subprocess.run(command, check=True)
        added = {"LD_PRELOAD": str(library), _LIBRARY: str(library), "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *sys.argv], env={**os.environ, **added}, check=False)
        raise SystemExit(done.returncode)
    yield


def prepare(work: Path) -> None:
    """Two checkpoints and their bundles, and one in float16. It needs torch, so in a child."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _prepare(work)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("what the commands work on cannot be made")


def _prepare(work: Path) -> None:
    from seq2edge.export import export_checkpoint
    from seq2edge.quantize import CalibrationFiles, quantize_bundle
    from tests.conftest import make_model

    for seed, (checkpoint, bundle) in enumerate((("checkpoint", "own"), ("another", "other"))):
        model: Any = make_model("t5-v1.1", seed)
        model.save_pretrained(work / checkpoint)
        settings = work / checkpoint / "tokenizer_config.json"
        settings.write_text('{"tokenizer_class": "ByT5Tokenizer"}')
        export_checkpoint(work / checkpoint, work / bundle, validate=False)
    lines = [{"source": "a word", "target": "another"}, {"source": "b", "target": "c"}]
    (work / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (work / "text").write_text("a word\nanother\n")
    calibration = CalibrationFiles(work / "text")
    quantize_bundle(work / "own", work / "half", "fp16", target="tensorrt", calibration=calibration)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("--share", type=int, default=1, help="only every Nth call")
    options = parser.parse_args()
    if _LIBRARY not in os.environ:
        with _preloaded():
            pass
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        prepare(work)
        for name in options.commands or COMMANDS:
            shutil.rmtree(work / "old", ignore_errors=True)
            (work / "old").unlink(missing_ok=True)
            found += _faults(name, work, options.share)
    return int(found > 0)


def _faults(name: str, work: Path, share: int) -> int:
    command = COMMANDS[name]
    runner, runs, problems = Runner(command, work), Counter[str](), 0
    for way, (there, fault) in enumerate(itertools.product((True, False), FAULTS)):
        calls = runner.calls(there=there, also=fault != "ENOSPC")
        over = "an old result" if there else "nothing"
        # A share begins elsewhere each time, so that together they are at many calls.
        for number in range(1 + 7 * way % min(share, calls), calls + 1, share):
            problem = runner.problem(fault, number, there=there)
            runs[fault] += 1
            if problem is not None:
                problems += 1
                print(f"{name}, {fault} at call {number} of {calls}, over {over}: {problem}")
        print(f"{name}, {fault}, {calls} calls, over {over}: done", flush=True)
    print(f"{name}: {dict(runs)}, {problems} found", flush=True)
    return problems


if __name__ == "__main__":
    sys.exit(main())
