"""Processes in turns: each loads a model and generates when it is asked.

A process may be of any interpreter and with any environment variables, and no library meets
another. Only one of them runs at a time: the others are stopped (SIGSTOP), because threads of
OpenMP and of ONNX Runtime may spin after their work, with OMP_WAIT_POLICY=active for ever. In
each round the order is drawn anew, so that none always follows the same one, whose weights fill
the caches.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import IO, Any

import numpy as np

from seq2edge.runtime.errors import (
    BackendError,
    BundleError,
    InputError,
    MissingDependencyError,
    Seq2EdgeError,
)

#: Warm-up ends when the medians of this many rounds and of as many before agree this well, in
#: all processes; or after so many rounds or seconds.
_WINDOW, _AGREES, _MOST_ROUNDS, _MOST_SECONDS = 3, 0.02, 30, 60.0
#: Rounds that count at least, however long they take: bench-diff needs as many.
_FEWEST_ROUNDS = 8
#: A process that does not answer for so long hangs. Compiling, a part of loading, takes minutes.
_ANSWERS_WITHIN = 900.0


class PeerError(BackendError):
    """A process cannot be started or has failed; the message says why, in one line."""


@dataclass(frozen=True)
class Baseline:
    """A process to start.

    Attributes:
        command: speaks as workers/worker.py does.
        variables: its environment besides the caller's; None takes a variable away.
        cores: that it may use; None: all of the caller's.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str | None] = field(default_factory=dict)
    cores: Collection[int] | None = None


@dataclass(frozen=True)
class Result:
    """Times and tokens of one process.

    Attributes:
        milliseconds: of each round that counts, by what was timed; ``all`` is there always.
        tokens: of each source, in the last round.
        versions: of its packages, and of a GPU its name.
        loaded_bytes: of the files that it opened.
        load_ms: from its start to a loaded model, without the interpreter.
        peak_bytes: the most memory that it held.
        notes: what it has to say of its times.
        warmup_rounds: before the first round that counts.
        steady: whether times of all processes were, when warm-up ended (True if nobody asked).
        threads: that its engine took; None: it does not say, or all cores.
    """

    milliseconds: dict[str, list[float]]
    tokens: list[list[int]]
    versions: dict[str, str]
    loaded_bytes: int
    load_ms: float = 0.0
    peak_bytes: int | None = None
    notes: tuple[str, ...] = ()
    warmup_rounds: int = 0
    threads: int | None = None
    steady: bool = True
    processes: int = 1


def merged(results: Sequence[Result], most: int) -> Result:
    """Several processes of one kind as one: samples round by round, and in a round by process.

    ``most``: samples that are kept; the last round may have made more.
    """
    first = results[0]
    notes = list(dict.fromkeys(note for one in results for note in one.notes))
    if any(one.tokens != first.tokens for one in results):
        notes.append("its processes do not all generate the same tokens")
    peaks = [one.peak_bytes for one in results if one.peak_bytes is not None]
    return replace(
        first,
        milliseconds={
            name: [
                sample
                for samples in zip(*(one.milliseconds[name] for one in results), strict=True)
                for sample in samples
            ][:most]
            for name in first.milliseconds
        },
        load_ms=float(np.median([one.load_ms for one in results])),
        peak_bytes=max(peaks, default=None),
        notes=tuple(notes),
        processes=len(results),
    )


def alternate(
    baselines: Mapping[str, Baseline],
    *,
    rounds: int,
    warmup: int | None,
    seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    leave_out: Callable[[str, Seq2EdgeError], None] | None = None,
) -> dict[str, Result]:
    """Start all processes, then let each do its work once per round.

    Args:
        baselines: by name.
        rounds: those that count.
        warmup: rounds before the first that counts; None: until times are steady, or are
            not after 30 rounds or a minute.
        seconds: after which no further round begins, once eight have counted; None: no limit.
        progress: called after each round with how many are done and how many there are.
        leave_out: told of those that do not start or fail later, without which the others go on;
            None: they do not.

    Raises:
        PeerError: one failed; the message has its name and its last line on stderr.
        InputError, BundleError, BackendError: as a process of ours says.
    """
    with ExitStack() as stack:
        running: dict[str, _Process] = {}
        # One after the other: each loads undisturbed.
        for name, baseline in baselines.items():
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            try:
                running[name] = stack.enter_context(_Process(name, baseline, errors))
            except Seq2EdgeError as error:
                if leave_out is None:
                    raise
                leave_out(name, error)
        random = np.random.default_rng(0)

        def go_round() -> None:
            for name in [list(running)[index] for index in random.permutation(len(running))]:
                try:
                    running[name].turn()
                except Seq2EdgeError as error:
                    if leave_out is None:
                        raise
                    running.pop(name).end()
                    leave_out(name, error)

        steady = _warm_up(running, go_round, warmup)
        warmed = max((len(process.answers) for process in running.values()), default=0)
        start = time.monotonic()
        for number in range(rounds if running else 0):
            late = seconds is not None and time.monotonic() - start > seconds
            if late and number >= _FEWEST_ROUNDS:
                break
            go_round()
            if progress is not None:
                progress(number + 1, rounds)
        return {name: _result(one, warmed, steady) for name, one in running.items()}


def call(
    command: Sequence[object], failure: str, variables: Mapping[str, str | None] | None = None
) -> str:
    """Run a command quietly; what it printed on stdout.

    Raises:
        PeerError: ``failure`` and the command's last error line.
    """
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=_environment(variables or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        raise PeerError(f"{failure}: {error}") from None
    if done.returncode:
        raise PeerError(f"{failure}: {_reason(done.stderr, done.returncode)}")
    return done.stdout


def _warm_up(
    running: Mapping[str, _Process], go_round: Callable[[], None], warmup: int | None
) -> bool:
    """Rounds that do not count; whether times were steady at the end (True if nobody asked)."""
    if warmup is not None:
        for _ in range(warmup):
            go_round()
        return True
    start = time.monotonic()
    for number in range(_MOST_ROUNDS):
        go_round()
        if number + 1 >= 2 * _WINDOW and all(map(_is_steady, running.values())):
            return True
        if time.monotonic() - start > _MOST_SECONDS:
            break
    return False


def _is_steady(process: _Process) -> bool:
    times = [answer["milliseconds"]["all"] for answer in process.answers]
    now, before = np.median(times[-_WINDOW:]), np.median(times[-2 * _WINDOW : -_WINDOW])
    return bool(abs(now - before) <= _AGREES * before)


def _result(process: _Process, warmed: int, steady: bool) -> Result:
    counted, last = process.answers[warmed:], process.answers[-1]
    facts = dict(process.facts)
    notes = facts.pop("notes", ())
    return Result(
        milliseconds={
            name: [answer["milliseconds"][name] for answer in counted]
            for name in last["milliseconds"]
        },
        tokens=last["tokens"],
        notes=tuple(notes),
        warmup_rounds=warmed,
        steady=steady,
        **{**facts, "peak_bytes": last["peak_bytes"]},
    )


class _Process:
    """A running process, stopped but for its turns; ``errors`` takes its stderr."""

    def __init__(self, name: str, baseline: Baseline, errors: IO[str]) -> None:
        self._name = name
        self._errors = errors
        #: Of all turns.
        self.answers: list[dict[str, Any]] = []
        try:
            self._process = subprocess.Popen(
                baseline.command,
                env=_environment(baseline.variables),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        except OSError as error:
            raise PeerError(f"cannot start {name}: {error}") from None
        if baseline.cores is not None:
            # Before its libraries start threads, which inherit it.
            os.sched_setaffinity(self._process.pid, baseline.cores)

    def __enter__(self) -> _Process:
        try:
            #: Of a Result, once the model is loaded.
            self.facts = self._read()
        except BaseException:
            self.end()
            raise
        self._process.send_signal(signal.SIGSTOP)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def turn(self) -> None:
        """One round, whose answer is added to ``answers``."""
        process = self._process
        process.send_signal(signal.SIGCONT)
        try:
            assert process.stdin is not None  # it was asked for
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; _read says why
        self.answers.append(self._read())
        process.send_signal(signal.SIGSTOP)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # it was asked for
        if not select.select([self._process.stdout], [], [], _ANSWERS_WITHIN)[0]:
            raise PeerError(f"{self._name} failed: no answer within {_ANSWERS_WITHIN:.0f} s")
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise _error_of(*answer["error"])
            return answer
        code = self._process.wait()
        self._errors.seek(0)
        raise PeerError(f"{self._name} failed: {_reason(self._errors.read(), code)}")

    def end(self) -> None:
        """Stop it for good; nothing happens the second time."""
        self._process.kill()  # ends a stopped process too; there is nothing to save
        self._process.wait()
        for stream in (self._process.stdout, self._process.stdin):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass  # a line that nobody will read


def _error_of(kinds: Sequence[str], message: str) -> Seq2EdgeError:
    """An error of ours, of the first of its kinds that is told by a message alone."""
    known = (InputError, BundleError, MissingDependencyError, BackendError)
    ours = {kind.__name__: kind for kind in known}
    kind = next((ours[name] for name in kinds if name in ours), BackendError)
    return kind(message)


def _environment(variables: Mapping[str, str | None]) -> dict[str, str]:
    merged: dict[str, str | None] = {**os.environ, **variables}
    return {name: value for name, value in merged.items() if value is not None}


def _reason(stderr: str, code: int) -> str:
    """The line that says most: pip's own error, or the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return errors[-1] if errors else f"exit status {code}"
