"""Baselines in turns: each a process of its own that generates when it is asked.

A baseline may be of any interpreter and with any environment variables, and no library meets
another. Only one of them runs at a time: the others are stopped (SIGSTOP), because threads of
OpenMP and of ONNX Runtime may spin after their work, with OMP_WAIT_POLICY=active for ever.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any

import numpy as np


class PeerError(Exception):
    """The comparison cannot be made; the message says why, in one line."""


@dataclass(frozen=True)
class Spread:
    """Percentiles over the rounds."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        p10, p50, p90 = np.percentile(values, [10, 50, 90])
        return cls(float(p10), float(p50), float(p90))


@dataclass(frozen=True)
class Baseline:
    """A process to start.

    Attributes:
        command: speaks as _worker.serve does.
        variables: its environment besides the caller's; None takes a variable away.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Times and tokens of one baseline.

    Attributes:
        milliseconds: of a generation: each round's mean over the sources.
        tokens: of each source, in the last round.
        versions: of its packages, and of a GPU its name.
        loaded_bytes: of the files that it opened.
        notes: what it has to say of its times.
    """

    milliseconds: list[float]
    tokens: list[list[int]]
    versions: dict[str, str]
    loaded_bytes: int
    notes: list[str]


def alternate(
    baselines: Mapping[str, Baseline],
    *,
    rounds: int,
    warmup: int,
    progress: Callable[[int, int], None] | None = None,
    leave_out: Callable[[str, PeerError], None] | None = None,
) -> dict[str, Result]:
    """Start all baselines, then let each generate from all sources once per round.

    Args:
        baselines: by name; they take turns in this order.
        rounds: those that count.
        warmup: rounds before the first that counts.
        progress: called after each round with how many are done and how many there are.
        leave_out: told of those that do not start, without which the others go on; None: they
            do not.

    Raises:
        PeerError: a baseline failed; the message has its name and its last line on stderr.
    """
    with ExitStack() as stack:
        running: dict[str, _Process] = {}
        # One after the other: each loads undisturbed.
        for name, baseline in baselines.items():
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            try:
                running[name] = stack.enter_context(_Process(name, baseline, errors))
            except PeerError as error:
                if leave_out is None:
                    raise
                leave_out(name, error)
        times: dict[str, list[float]] = {name: [] for name in running}
        tokens: dict[str, list[list[int]]] = {}
        for number in range(warmup + rounds):
            for name, process in running.items():
                answer = process.turn()
                tokens[name] = answer["tokens"]
                if number >= warmup:
                    times[name].append(answer["milliseconds"])
            if progress is not None:
                progress(number + 1, warmup + rounds)
        return {
            name: Result(times[name], tokens[name], **process.facts)
            for name, process in running.items()
        }


def call(
    command: Sequence[object], failure: str, variables: Mapping[str, str | None] | None = None
) -> str:
    """Run a command quietly; what it printed on stdout.

    Raises:
        PeerError: ``failure`` and the command's last error line.
    """
    done = subprocess.run(
        [str(part) for part in command],
        env=_environment(variables or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise PeerError(f"{failure}: {_reason(done.stderr, done.returncode)}")
    return done.stdout


class _Process:
    """A running baseline, stopped but for its turns; ``errors`` takes its stderr."""

    def __init__(self, name: str, baseline: Baseline, errors: IO[str]) -> None:
        self._name = name
        self._errors = errors
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

    def __enter__(self) -> _Process:
        try:
            #: All of a Result but times and tokens, once the model is loaded.
            self.facts = self._read()
        except BaseException:
            self._close()
            raise
        self._process.send_signal(signal.SIGSTOP)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def turn(self) -> dict[str, Any]:
        """One round: ``milliseconds`` and ``tokens``."""
        process = self._process
        process.send_signal(signal.SIGCONT)
        try:
            assert process.stdin is not None  # it was asked for
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; _read says why
        answer = self._read()
        process.send_signal(signal.SIGSTOP)
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # it was asked for
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self._errors.seek(0)
        raise PeerError(f"{self._name} failed: {_reason(self._errors.read(), code)}")

    def _close(self) -> None:
        self._process.kill()  # ends a stopped process too; there is nothing to save
        self._process.wait()
        for stream in (self._process.stdout, self._process.stdin):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass  # a line that nobody will read


def _environment(variables: Mapping[str, str | None]) -> dict[str, str]:
    merged: dict[str, str | None] = {**os.environ, **variables}
    return {name: value for name, value in merged.items() if value is not None}


def _reason(stderr: str, code: int) -> str:
    """The line that says most: pip's own error, or the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return errors[-1] if errors else f"exit status {code}"
