"""Mutated files of others, each used as a user would use it.

``python tests/fuzz/fuzz.py KIND... --cases N --seed S`` makes N cases of each kind (fewer of slow
ones), which are the same for the same seed, and prints each that ends otherwise than in a result or
in an error of ours: another exception, a signal, more than 5 s of processor time or 1 GB of memory.
``--case K`` makes only that one and shows where it ends. Exit code 1: something was found.

All is imported once; a child of that process does a hundred cases, so that one takes milliseconds.
A case that ends its child, or keeps it busy for a minute, is found, and another child goes on.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seq2edge.runtime.errors import Seq2EdgeError

try:
    from .cases import KINDS, Case, Kind
    from .seeds import make_seeds
except ImportError:  # as a script
    from cases import KINDS, Case, Kind  # type: ignore[import-not-found,no-redef]
    from seeds import make_seeds  # type: ignore[import-not-found,no-redef]

SECONDS, WALL_SECONDS, MEMORY = 5.0, 60.0, 1 << 30
#: Cases of one child.
BATCH = 100
Outcome = tuple[int, str, str]


def make_case(kind: Kind, seed: str, seeds: Path, work: Path) -> tuple[Case, str]:
    """A case in a folder of its own: what to run, and what was changed."""
    for folder in work.iterdir():
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds / kind.seed, work / kind.seed, copy_function=os.link)
    return kind.make(work / kind.seed, random.Random(seed))


def run_cases(name: str, numbers: range, seed: str, seeds: Path, work: Path) -> Iterator[Outcome]:
    """Number, kind of end and details of each case, in order."""
    while numbers:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _run_batch(name, numbers[:BATCH], seed, seeds, work, writer)
        os.close(writer)
        done = 0
        with os.fdopen(reader, "rb") as answers:
            for number, (kind, details) in zip(numbers[:BATCH], _answers(answers), strict=False):
                yield number, kind, details
                done += 1
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if done < len(numbers[:BATCH]):
            ended = os.WTERMSIG(status)
            how = f"signal {ended}" if ended != signal.SIGKILL else f"{WALL_SECONDS:.0f} s, no end"
            yield numbers[done], "FOUND", how
            done += 1
        numbers = numbers[done:]


def _answers(reader: Any) -> Iterator[tuple[str, str]]:
    """What a child says, as long as it does: an answer a line."""
    said = b""
    while select.select([reader], [], [], WALL_SECONDS)[0]:
        part = os.read(reader.fileno(), 1 << 16)
        if not part:
            return
        *lines, said = (said + part).split(b"\n")
        for line in lines:
            kind, details = json.loads(line)
            yield kind, details


def _run_batch(name: str, numbers: range, seed: str, seeds: Path, work: Path, writer: int) -> None:
    """In the child; does not return."""
    faulthandler.disable()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # panics of Rust code write there
    warnings.simplefilter("ignore")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEMORY, size + 2 * MEMORY))
    for number in numbers:
        case, what = make_case(KINDS[name], f"{seed}-{name}-{number}", seeds, work)
        kind, details = _run(case)
        if kind == "FOUND":
            details = f"({what}) {details}"[:20_000]
        os.write(writer, json.dumps([kind, details]).encode() + b"\n")
    time.sleep(WALL_SECONDS)  # until the parent has read all and ends this
    os._exit(0)


def _run(case: Case) -> tuple[str, str]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = _peak(), time.process_time()
    try:
        kind, details = case(), ""
    except (Seq2EdgeError, OSError) as error:
        kind, details = "refused", str(error)
        if len(details) > 20_000:
            kind, details = "FOUND", f"an error of {len(details)} letters"
    except BaseException:
        kind, details = "FOUND", traceback.format_exc()
    seconds, grown = time.process_time() - started, _peak() - before
    if seconds > SECONDS:
        kind, details = "FOUND", f"{seconds:.1f} s of processor time; {kind} {details}"
    if grown > MEMORY:
        kind, details = "FOUND", f"{grown >> 20} MB of memory; {kind} {details}"
    return kind, details


def _peak() -> int:
    """The most memory that this process has held, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; all")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seconds", type=float, help="of each kind, whatever --cases says")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--case", type=int, help="only this one")
    parser.add_argument("--seeds", type=Path, help="folder of seeds; made where they are missing")
    options = parser.parse_args()
    names = options.kinds or list(KINDS)
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        parser.error(f"unknown kind {unknown[0]!r}; there are: {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory() as folder:
        seeds = options.seeds or Path(folder) / "seeds"
        _make_seeds(seeds, sorted({KINDS[name].seed for name in names}))
        # Seeds are linked into the folder of a case, which must be on one file system with them.
        shutil.copytree(seeds, Path(folder) / "linked")
        work = Path(folder) / "work"
        work.mkdir()
        found = [_fuzz(name, options, Path(folder) / "linked", work) for name in names]
    return int(any(found))


def _make_seeds(folder: Path, names: list[str]) -> None:
    """In a child: what makes them starts threads, and children of such a process may hang."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            make_seeds(folder, names)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("the seeds cannot be made")


def _fuzz(name: str, options: argparse.Namespace, seeds: Path, work: Path) -> bool:
    for module in KINDS[name].modules:
        importlib.import_module(module)
    first = options.first if options.case is None else options.case
    count = -(-options.cases // KINDS[name].slowness) if options.case is None else 1
    end = None if options.seconds is None else time.monotonic() + options.seconds
    counts: Counter[str] = Counter()
    for number, kind, details in run_cases(
        name, range(first, first + count), options.seed, seeds, work
    ):
        counts[kind] += 1
        if kind == "FOUND" or options.case is not None:
            print(f"{name} seed {options.seed} case {number}: {kind} {details}", flush=True)
        if end is not None and time.monotonic() > end:
            break
    print(f"{name}: {sum(counts.values())} cases: {dict(counts)}", flush=True)
    return counts["FOUND"] > 0


if __name__ == "__main__":
    sys.exit(main())
