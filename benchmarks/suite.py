"""All headline measurements one after the other: ``make bench``.

Each task is a `seq2edge` command in a process of its own, so that one that fails or hangs is named
and the rest goes on. Pages are written after each task: what is there when a run is stopped counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from seq2edge.runtime.bundle.atomic_write import output_file
from seq2edge.runtime.errors import Seq2EdgeError

from .report.headline import conditions, headline, not_first, not_measured, update_page
from .report.page import html_page, markdown_page
from .report.schema import Report, read_report

#: By the task's name: geometry and beams.
_TEXT = {
    "t5-small": ("t5-small", 1),
    "t5-small-beam4": ("t5-small", 4),
    "marian-base": ("marian-base", 1),
    "bart-base": ("bart-base", 1),
}
#: New tokens at most; its own end comes earlier.
_SPEECH_TOKENS = 200
#: Of measured rounds, by kind; eight rounds are the least.
_TEXT_SECONDS, _SPEECH_SECONDS = 100, 130
#: A task that takes longer hangs. Making environments and models downloads gigabytes.
_TASK_SECONDS, _PREPARE_SECONDS = 1200, 7200
_SEQ2EDGE = (sys.executable, "-P", "-m", "seq2edge.cli.main")
#: Models of so many checkpoints are made at once, at 3 GB of memory each.
_MOST_MAKERS = 2
#: A float32 peer gave wrong tokens: measured, and said.
_WRONG = 3


@dataclass(frozen=True)
class Task:
    """One page of results.

    Attributes:
        name: of its files.
        commands: words after ``seq2edge``, one after the other.
        peers: whether the last one is `peers`, whose models are made beforehand.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    peers: bool = True


@dataclass
class Suite:
    """What is measured and where it goes.

    Attributes:
        results: folder of JSON and Markdown.
        work: folder of pages with plots and of the demo model's bundles.
        options: of every `peers`.
        failed: by task or peer, why.
        wrong: tasks in which somebody gave wrong tokens.
    """

    results: Path
    work: Path
    options: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def text(self, name: str) -> Task:
        geometry, beams = _TEXT[name]
        words = ("--geometry", geometry, "--num-beams", str(beams), "--search-runs", "3")
        return self._peers(name, (*words, "--seconds", str(_TEXT_SECONDS)))

    def speech(self, model: str, checkpoint: str, recording: str) -> Task:
        words = (checkpoint, "--audio", recording, "--new-tokens", str(_SPEECH_TOKENS))
        return self._peers(f"whisper-{model}", (*words, "--seconds", str(_SPEECH_SECONDS)))

    def demo(self, checkpoint: Path, data: Path) -> Task:
        folder = self.work / "g2p"
        float32, *others = (str(folder / scheme) for scheme in ("float32", "int8", "int4"))
        commands: list[tuple[str, ...]] = []
        commands.append(("export", str(checkpoint), float32, "--no-validate", "--force"))
        for path in others:
            scheme = ("--scheme", Path(path).name, "--no-check", "--force")
            commands.append(("quantize", float32, path, *scheme))
        what = ("--metric", "per", "--data", str(data), "--threads", "1", "--speed-texts", "200")
        output = ("--output", str(self.results / "g2p"), "--force")
        commands.append(("compare", float32, *others, *what, *output))
        return Task("g2p", tuple(commands), peers=False)

    def _peers(self, name: str, words: tuple[str, ...]) -> Task:
        output = ("--output", str(self._measured(name)), "--force")
        return Task(name, (("peers", *words, *self.options, *output),))

    def _measured(self, name: str) -> Path:
        """The report as `peers` writes it, with paths of this machine."""
        return self.work / f"{name}.json"

    def _publish(self, name: str) -> None:
        """JSON and pages of a task that say how `make bench` repeats it."""
        found = read_report(self._measured(name))
        settings = dict(found.settings)
        settings["checkpoint"] = Path(settings["checkpoint"]).name
        settings["audio"] = [Path(path).name for path in settings["audio"]]
        command = ("make", "bench", f"BENCH=--tasks {name}")
        report = replace(found, title=name, command=command, settings=settings)
        document = json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n"
        files = {
            self.results / f"{name}.json": document,
            self.results / f"{name}.md": markdown_page(report),
        }
        if _draws():
            files[self.work / f"{name}.html"] = html_page(report)
        for path, text in files.items():
            with output_file(path) as file:
                file.write(text.encode())

    def _set_page_apart(self, name: str) -> None:
        """Move the page with plots that ``compare`` wrote to those of the others."""
        page = self.results / name / "report.html"
        if page.exists():
            shutil.move(page, self.work / f"{name}.html")

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Make environments and models, so that measuring is not held up."""
        # Two tasks of one checkpoint have the same models.
        distinct = {task.commands[-1][1:3]: task for task in reversed(tasks) if task.peers}

        def make(task: Task) -> None:
            _say(f"{task.name}: environments and models")
            self._call(task, (*task.commands[-1], "--prepare"), _PREPARE_SECONDS)

        # Making a model keeps a core busy at a time.
        with ThreadPoolExecutor(min(_MOST_MAKERS, len(os.sched_getaffinity(0)))) as pool:
            list(pool.map(make, reversed(distinct.values())))

    def measure(self, tasks: Sequence[Task], pages: Sequence[Path]) -> None:
        for number, task in enumerate(tasks, 1):
            if task.name in self.failed:
                continue
            _say(f"[{number}/{len(tasks)}] {task.name}: measuring")
            start = time.monotonic()
            if all(self._call(task, command, _TASK_SECONDS) for command in task.commands):
                _say(f"[{number}/{len(tasks)}] {task.name}: {time.monotonic() - start:.0f} s")
                if task.peers:
                    self._publish(task.name)
                else:
                    self._set_page_apart(task.name)
            self.write(pages)

    def write(self, pages: Sequence[Path]) -> None:
        """The tables of all that there is, into :attr:`results` and ``pages``."""
        reports: dict[str, Report] = {}
        for name in (*_TEXT, *(path.stem for path in sorted(self.results.glob("whisper-*.json")))):
            path = self.results / f"{name}.json"
            if path.exists():
                reports[name] = read_report(path)
        left_out = [f"- {line}" for line in not_measured(reports)]
        left_out += [f"- {name}: {reason}" for name, reason in self.failed.items()]
        behind = not_first(reports)
        for page in pages:
            whole = page.resolve().parent == self.results.resolve()
            folder = os.path.relpath(self.results, page.parent)
            table = headline(reports, "" if folder == "." else f"{folder}/")
            text = f"{table}\n\n{conditions(reports)}" if reports else "Not measured yet."
            if whole:
                text += f"\n\nNot first in:\n\n{behind}\n\nNot measured:\n\n"
                text += "\n".join(left_out or ["- nobody"])
            update_page(page, text)

    def _call(self, task: Task, command: tuple[str, ...], seconds: int) -> bool:
        """Whether it worked."""
        try:
            done = subprocess.run(
                [*_SEQ2EDGE, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                timeout=seconds,
                check=False,
                text=True,
            )
        except subprocess.TimeoutExpired:
            self.failed[task.name] = f"stopped after {seconds} s"
            _say(f"{task.name}: {self.failed[task.name]}")
            return False
        print(done.stdout, end="", flush=True)
        if done.returncode == _WRONG:
            self.wrong.append(task.name)
        elif done.returncode:
            self.failed[task.name] = f"`seq2edge {command[0]}` ended with {done.returncode}"
            _say(f"{task.name}: {self.failed[task.name]}")
            return False
        return True


def main(words: Sequence[str] | None = None) -> int:
    """Measure; 0: all, 3: somebody gave wrong tokens, 1: a task failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder of JSON and Markdown")
    parser.add_argument("--work", type=Path, required=True, help="folder of pages and bundles")
    parser.add_argument("--cache", help="of the peers: environments and models")
    parser.add_argument("--runs", default="15", help="measured rounds (default: 15)")
    parser.add_argument("--warmup", help="rounds of warm-up (default: until times are steady)")
    parser.add_argument("--threads", default="2", help="of each (default: 2)")
    parser.add_argument("--tasks", nargs="+", help="those alone")
    parser.add_argument("--peers", nargs="+", help="those alone, such as seq2edge:int8")
    parser.add_argument(
        "--speech", type=Path, help="JSON: models, missing (by name: folder, reason), recording"
    )
    parser.add_argument("--demo", type=Path, nargs=2, metavar=("CHECKPOINT", "DATA"))
    parser.add_argument("--pages", type=Path, nargs="+", default=[], help="with a marked block")
    parser.add_argument("--prepare", action="store_true", help="measure nothing")
    given = parser.parse_args(words)
    options = ["--threads", given.threads, "--runs", given.runs]
    for name in ("warmup", "cache"):
        if getattr(given, name):
            options += [f"--{name}", getattr(given, name)]
    if given.peers:
        options += ["--peers", *given.peers]
    suite = Suite(given.results, given.work, tuple(options))
    for folder in (given.results, given.work):
        folder.mkdir(parents=True, exist_ok=True)
    tasks = [suite.text(name) for name in _TEXT]
    if given.speech:
        speech = json.loads(given.speech.read_bytes())
        suite.failed.update({f"whisper-{name}": why for name, why in speech["missing"].items()})
        for model, folder in speech["models"].items():
            tasks.append(suite.speech(model, folder, speech["recording"]))
    if given.demo:
        tasks.append(suite.demo(*given.demo))
    known = [task.name for task in tasks] + list(suite.failed)
    unknown = [name for name in given.tasks or () if name not in known]
    if unknown:
        parser.error(f"no such task: {', '.join(unknown)}; there are: {', '.join(known)}")
    tasks = [task for task in tasks if not given.tasks or task.name in given.tasks]
    try:
        suite.prepare(tasks)
        if not given.prepare:
            suite.measure(tasks, given.pages)
    except Seq2EdgeError as error:
        _say(f"error: {error}")
        return 2
    for name, why in suite.failed.items():
        _say(f"not measured: {name}: {why}")
    return _WRONG if suite.wrong else int(bool(suite.failed))


def _draws() -> bool:
    """Whether there is what draws plots."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _say(line: str) -> None:
    width = shutil.get_terminal_size().columns - 1 if sys.stderr.isatty() else None
    print(line[:width], file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
