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
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # where this is a script

from tests.faults.commands import COMMANDS
from tests.faults.runner import FAULTS, LIBRARY, Runner


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
        added = {"LD_PRELOAD": str(library), LIBRARY: str(library), "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *sys.argv], env={**os.environ, **added}, check=False)
        raise SystemExit(done.returncode)
    yield


def prepare(work: Path) -> None:
    """Two checkpoints and their bundles, and one in float16. It needs torch, so in a child."""
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
    if LIBRARY not in os.environ:
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
