"""Running other programs, and engines in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

#: TensorRT's provider compiles even a small graph for seconds, on a Jetson for tens of them.
ENGINE_SECONDS = 120.0
PROGRAM_SECONDS = 20.0

#: The program that tries an engine; it is given what to try.
ATTEMPT = (sys.executable or "python3", "-m", f"{__package__}.attempt")

_LONGEST_REASON = 300


@dataclass(frozen=True)
class Finished:
    """A program that has ended.

    Attributes:
        code: its exit code, minus the signal that ended it; None: it could not be started.
        timed_out: it took too long and was ended.
    """

    code: int | None
    out: str = ""
    err: str = ""
    timed_out: bool = False


#: Runs a command line with a time limit in seconds. Never raises for what the command does.
Runner = Callable[[Sequence[str], float], Finished]


def run_command(command: Sequence[str], seconds: float) -> Finished:
    """Run a program of this machine without a terminal; see :data:`Runner`."""
    # The current folder could hold a module of a library's name (Python 3.11 and newer heed it).
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "LC_ALL": "C.UTF-8"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,  # so that what it starts can be ended with it
        )
    except (OSError, ValueError):
        return Finished(None)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        return Finished(process.wait(), timed_out=True)
    except BaseException:
        _end(process)
        raise
    return Finished(process.returncode, out, err)


def attempt(run: Runner, *what: str) -> tuple[dict[str, Any], str | None]:
    """Try an engine in a process of its own.

    Args:
        what: as :mod:`.attempt` takes it.

    Returns:
        What it answered, and why it did not; one of them is empty.
    """
    done = run([*ATTEMPT, *what], ENGINE_SECONDS)
    for line in reversed(done.out.splitlines()):  # libraries may print before it
        with suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                problem = answer.pop("problem", None)
                return answer, None if problem is None else short(str(problem))
    return {}, _reason(done)


def short(text: str) -> str:
    """A library's message on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} ..."


def _reason(done: Finished) -> str:
    if done.timed_out:
        return f"gave no answer within {ENGINE_SECONDS:.0f} s"
    if done.code is None:
        return "Python could not be started"
    if done.code < 0:
        try:
            name = signal.Signals(-done.code).name
        except ValueError:
            name = f"signal {-done.code}"
        return f"crashed ({name})"
    lines = done.err.strip().splitlines()
    return short(lines[-1]) if lines else f"ended with exit code {done.code} and no answer"


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
