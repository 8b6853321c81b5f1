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
import gc
import importlib.util
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
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from seq2edge.runtime.errors import Seq2EdgeError

sys.path.insert(0, str(Path(__file__).parents[2]))  # where this is a script

from tests.fuzz.cases import KINDS, Case, Kind
from tests.fuzz.seeds import make_seeds

SECONDS, WALL_SECONDS, MEMORY = 5.0, 60.0, 1 << 30
#: Cases of one child.
BATCH = 400
#: Of a child's peak, after which the peak begins anew.
_GROWN = 256 << 20
#: Begins the details of what is a fault of this program.
_OURS = "in this program"
Outcome = tuple[int, str, str]


def make_case(kind: Kind, seed: str, seeds: Path, work: Path) -> tuple[Case, str]:
    """A case in a folder of its own: what to run, and what was changed."""
    restore(seeds, work, {kind.seed})
    return kind.make(work / kind.seed, random.Random(seed))


def restore(seeds: Path, work: Path, names: Collection[str] | None = None) -> None:
    """``work`` holds those of ``seeds`` and nothing else: links to files, where they are not yet.

    Cases change a file by writing another in its place, so what is still a link is unchanged.
    """
    wanted = {entry.name: entry for entry in os.scandir(seeds)}
    for entry in list(os.scandir(work)):
        seed = wanted.get(entry.name)
        if seed is None or (names is not None and entry.name not in names):
            _remove(entry)
        elif not entry.is_dir(follow_symlinks=False):
            if entry.inode() != seed.inode():
                _remove(entry)
            else:
                del wanted[entry.name]
        elif not seed.is_dir():
            _remove(entry)
    for name, seed in wanted.items():
        if names is not None and name not in names:
            continue
        if seed.is_dir():
            (work / name).mkdir(exist_ok=True)
            restore(seeds / name, work / name)
        else:
            os.link(seed.path, work / name)


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        Path(entry.path).unlink()


def run_cases(name: str, numbers: range, seed: str, seeds: Path, work: Path) -> Iterator[Outcome]:
    """Number, kind of end and details of each case, in order."""
    while numbers:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                _run_batch(name, numbers[:BATCH], seed, seeds, work, writer)
            except BaseException:
                told = json.dumps(["FOUND", f"{_OURS}: {traceback.format_exc()}"])
                os.write(writer, told.encode() + b"\n")
            finally:
                os._exit(1)
        os.close(writer)
        done, details = 0, ""
        with os.fdopen(reader, "rb") as answers:
            for number, (kind, details) in zip(
                numbers[:BATCH], _answers(answers, child), strict=False
            ):
                yield number, kind, details
                done += 1
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if done < len(numbers[:BATCH]) and not details.startswith(_OURS):
            ended = os.WTERMSIG(status)
            how = f"signal {ended}" if ended != signal.SIGKILL else f"{WALL_SECONDS:.0f} s, no end"
            yield numbers[done], "FOUND", how
            done += 1
        numbers = numbers[done:]


def _answers(reader: Any, child: int) -> Iterator[tuple[str, str]]:
    """What a child says, as long as it does: an answer a line.

    On a busy machine a case may wait long for a processor, so what counts is the time that it has
    had of one, and how long it has waited for something else.
    """
    said, (used, _), waited = b"", _state(child), 0.0
    last = used
    while used - last < WALL_SECONDS and waited < WALL_SECONDS:
        if not select.select([reader], [], [], WALL_SECONDS / 10)[0]:
            now, waits = _state(child)
            waited = waited + WALL_SECONDS / 10 if waits and now == used else 0.0
            used = now
            continue
        part = os.read(reader.fileno(), 1 << 16)
        if not part:
            return
        *lines, said = (said + part).split(b"\n")
        for line in lines:
            kind, details = json.loads(line)
            yield kind, details
        (used, _), waited = _state(child), 0.0
        last = used


def _state(child: int) -> tuple[float, bool]:
    """Processor time of a process in seconds, and whether it waits for anything else."""
    values = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK"), values[0] not in "RD"


def _run_batch(name: str, numbers: range, seed: str, seeds: Path, work: Path, writer: int) -> None:
    """In the child."""
    faulthandler.disable()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # panics of Rust code write there
    warnings.simplefilter("ignore")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEMORY, size + 2 * MEMORY))
    # What is asked for and not touched is no part of the peak.
    held = _status("VmData") + MEMORY + (64 << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (held, held))
    memory = _Memory()
    for number in numbers:
        case, what = make_case(KINDS[name], f"{seed}-{name}-{number}", seeds, work)
        kind, details = _run(case, memory)
        if kind == "FOUND":
            details = f"({what}) {details}"[:20_000]
        os.write(writer, json.dumps([kind, details]).encode() + b"\n")
    time.sleep(WALL_SECONDS)  # until the parent has read all and ends this


def _run(case: Case, memory: _Memory) -> tuple[str, str]:
    started = time.process_time()
    try:
        kind, details = case(), ""
    except (Seq2EdgeError, OSError) as error:
        kind, details = "refused", str(error)
        if len(details) > 20_000:
            kind, details = "FOUND", f"an error of {len(details)} letters"
    except BaseException:
        kind, details = "FOUND", traceback.format_exc()
    seconds, grown = time.process_time() - started, memory.grown()
    if seconds > SECONDS:
        kind, details = "FOUND", f"{seconds:.1f} s of processor time; {kind} {details}"
    if grown > MEMORY:
        kind, details = "FOUND", f"{grown >> 20} MB of memory; {kind} {details}"
    return kind, details


class _Memory:
    """How much a process has grown at most since it held least."""

    def __init__(self) -> None:
        self._before = _status("VmRSS")

    def grown(self) -> int:
        """At most, since this was made: at least what the last case took. In bytes."""
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - self._before
        if grown > _GROWN:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        return grown


def _status(name: str) -> int:
    """Of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) << 10


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND[=CASES]", help=", ".join(KINDS))
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--rounds", type=int, default=1, help="of all kinds, each with its part")
    parser.add_argument("--seconds", type=float, help="of each kind, whatever --cases says")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--case", type=int, help="only this one")
    parser.add_argument("--seeds", type=Path, help="folder of seeds; made where they are missing")
    options = parser.parse_args()
    wanted: dict[str, int] = {}
    for text in options.kinds or list(KINDS):
        name, _, cases = text.partition("=")
        if name not in KINDS:
            parser.error(f"unknown kind {name!r}; there are: {', '.join(KINDS)}")
        wanted[name] = int(cases) if cases else -(-options.cases // KINDS[name].slowness)
        if options.case is not None:
            wanted[name] = 1
    for name in [name for name in wanted if _lacks(KINDS[name])]:
        print(f"{name}: left out, {KINDS[name].needs} is not installed")
        del wanted[name]
    with tempfile.TemporaryDirectory() as folder:
        seeds = options.seeds or Path(folder) / "seeds"
        make_seeds_apart(seeds, sorted({KINDS[name].seed for name in wanted}))
        # Seeds are linked into the folder of a case, which must be on one file system with them.
        shutil.copytree(seeds, Path(folder) / "linked")
        work = Path(folder) / "work"
        work.mkdir()
        found = False
        first = options.first if options.case is None else options.case
        for turn in range(options.rounds):
            for name, cases in wanted.items():
                part = [first + cases * edge // options.rounds for edge in (turn, turn + 1)]
                found |= _fuzz(name, range(*part), options, Path(folder) / "linked", work)
    return int(found)


def _lacks(kind: Kind) -> bool:
    return kind.needs is not None and importlib.util.find_spec(kind.needs) is None


def make_seeds_apart(folder: Path, names: list[str]) -> None:
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


def _fuzz(name: str, numbers: range, options: argparse.Namespace, seeds: Path, work: Path) -> bool:
    for module in KINDS[name].modules:
        importlib.import_module(module)
    gc.freeze()  # children need not look through, and so copy, what was imported
    end = None if options.seconds is None else time.monotonic() + options.seconds
    counts: Counter[str] = Counter()
    for number, kind, details in run_cases(name, numbers, options.seed, seeds, work):
        counts[kind] += 1
        if kind == "FOUND" or options.case is not None:
            print(f"{name} seed {options.seed} case {number}: {kind} {details}", flush=True)
        if end is not None and time.monotonic() > end:
            break
    print(f"{name}: {sum(counts.values())} cases: {dict(counts)}", flush=True)
    return counts["FOUND"] > 0


if __name__ == "__main__":
    sys.exit(main())
