"""Where results of steps are kept: under a name that says what they were made from."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seq2edge.runtime.bundle.atomic_write import output_file, write_error
from seq2edge.runtime.bundle.checks.json_text import read_json_object
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import BundleError, OutputError

_DIGITS = 12
#: The file that tells what outputs were when they were written last.
_WRITTEN = "output.json"


def digest(*parts: Any) -> str:
    """Of plain values; the same for the same ones."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def fingerprint(path: Path) -> Any:
    """Sizes and times of a file or of a folder's files, to tell whether they have changed."""
    if path.is_file():
        return _stamp(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): _stamp(file) for file in files}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


@dataclass(frozen=True)
class CommandStep:
    """One command and what its result depends on.

    Attributes:
        words: the command's, without ``seq2edge``, the output and options that change nothing.
        key: of all that the result depends on.
        output: what it writes; None: only its report.
    """

    words: tuple[str, ...]
    key: str
    output: Path | None = None

    @property
    def name(self) -> str:
        return self.words[0]


class Workspace:
    """A folder of bundles and of the reports of the commands that made them.

    A report is written after what it tells of is complete, so that what was interrupted is not
    taken for done. The folder may be deleted at any time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bundle(self, label: str, key: str) -> Path:
        """The path of a bundle that is made from what ``key`` stands for."""
        return self.folder / f"{label}-{key}.bundle"

    def report(self, step: CommandStep) -> dict[str, Any] | None:
        """The report of a step's command, if it and the step's result exist and are whole."""
        try:
            kept = read_json_object(self._file(step))
        except BundleError:
            return None
        report = kept.get("report")
        if not isinstance(report, dict) or kept.get("digest") != digest(report):
            return None
        if step.output is not None and "failed" not in report:
            try:
                Bundle.open(step.output)
            except BundleError:
                return None
        return report

    def keep(self, step: CommandStep, report: dict[str, Any]) -> None:
        """Remember that a step is done."""
        with output_file(self._file(step)) as file:
            kept = {"report": report, "digest": digest(report)}
            file.write(json.dumps(kept, indent=2).encode())

    def remember(self, output: Path, state: Any) -> None:
        """Keep the state of the output that was written last."""
        states = {**self._written(), str(output.absolute()): state}
        with output_file(self.folder / _WRITTEN) as file:
            file.write(json.dumps(states, indent=2).encode())

    def written(self, output: Path) -> Any:
        """The state that :meth:`remember` kept; None: nothing."""
        return self._written().get(str(output.absolute()))

    def _written(self) -> dict[str, Any]:
        try:
            return read_json_object(self.folder / _WRITTEN)
        except BundleError:
            return {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in the folder; what a killed run has left half written is removed.

        Raises:
            OutputError: another process works there, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("w")
        except OSError as error:
            raise write_error(self.folder, error) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(
                    f"another seq2edge make works in {self.folder}: wait for it, or name another"
                    " folder with --work"
                ) from None
            for partial in (*self.folder.glob(".*.partial"), *self.folder.glob(".*.old")):
                if partial.is_dir():
                    shutil.rmtree(partial, ignore_errors=True)
                else:
                    partial.unlink(missing_ok=True)
            yield

    def _file(self, step: CommandStep) -> Path:
        return self.folder / f"{step.name}-{step.key}.json"


def command(words: Sequence[str]) -> str:
    """As a shell takes it."""
    return shlex.join(["seq2edge", *words])
