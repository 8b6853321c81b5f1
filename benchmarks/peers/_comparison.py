"""Who takes part, with which interpreter and model, and how they are timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq2edge.benchmarks.peers._driver import (
        Baseline,
        PeerError,
        Result,
        Spread,
        alternate,
        call,
    )
    from seq2edge.benchmarks.peers._environments import REQUIREMENTS, prepare
    from seq2edge.benchmarks.peers._models import PEER_VARIABLES, ModelMaker, random_sources
    from seq2edge.benchmarks.peers._names import Name
    from seq2edge.benchmarks.peers._report import Setting, Workload
    from seq2edge.benchmarks.peers._worker import Task
else:
    from _driver import Baseline, PeerError, Result, Spread, alternate, call
    from _environments import REQUIREMENTS, prepare
    from _models import PEER_VARIABLES, ModelMaker, random_sources
    from _names import Name
    from _report import Setting, Workload
    from _worker import Task

_FOLDER = Path(__file__).resolve().parent
_WARMUP_ROUNDS = 3


@dataclass(frozen=True)
class Interpreters:
    """Of each library, and of what makes the models.

    Attributes:
        of: by library.
        models: has torch and transformers, and optimum and ctranslate2 if they take part.
    """

    of: Mapping[str, Path]
    models: Path

    @classmethod
    def prepare(cls, names: list[Name], environments: Path, torch: Path | None) -> Interpreters:
        """Make the environments that are missing; ``torch`` takes the place of PyTorch's own.

        Raises:
            PeerError: an environment cannot be made.
        """

        def environment(name: str) -> Path:
            return prepare(environments / name, REQUIREMENTS[name])

        libraries = {name.library for name in names}
        interpreters = {"seq2edge": Path(sys.executable)}
        if "ctranslate2" in libraries:
            interpreters["ctranslate2"] = environment("ctranslate2")
        if "transformers" in libraries:
            interpreters["transformers"] = torch or environment("transformers")
        if libraries & {"optimum", "ctranslate2"}:
            interpreters["optimum"] = models = environment("torch")
        else:
            models = interpreters.get("transformers") or torch or environment("transformers")
        return cls(interpreters, models)


@dataclass
class PeerComparison:
    """Baselines over one checkpoint.

    Attributes:
        names: who takes part, in turns.
        workload: what they do.
        checkpoint: its folder.
        interpreters: of their libraries.
        go_on: whether the others go on without one that cannot be made or started.
        left_out: those, and why.
        models: the folder of each one's model, once it is made.
    """

    names: list[Name]
    workload: Workload
    checkpoint: Path
    interpreters: Interpreters
    go_on: bool
    left_out: dict[str, str] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)

    def make_models(self, folder: Path) -> None:
        """Make the baselines' models in ``folder``.

        Raises:
            PeerError: one cannot be made, or none.
        """
        torch = self.interpreters.models
        maker = ModelMaker(folder, self.checkpoint, torch, self.workload, _say)
        for name in self.names:
            try:
                self.models[name.text] = maker.make(name)
            except PeerError as error:
                self._leave_out(name.text, error)

    def settings(self) -> dict[str, dict[Setting, Spread]]:
        """Times of the settings that each may take; one setting is not timed.

        Raises:
            PeerError: a baseline failed.
        """
        return {name.text: self._settings(name) for name in self._running()}

    def results(self, best: Mapping[str, Setting]) -> dict[str, Result]:
        """Time all, each with its setting.

        Raises:
            PeerError: a baseline failed, or none is left.
        """
        results = alternate(
            {name.text: self._start(name, best[name.text]) for name in self._running()},
            rounds=self.workload.rounds,
            warmup=_WARMUP_ROUNDS,
            progress=_progress("timing"),
            leave_out=self._leave_out,
        )
        for name, result in results.items():
            for tokens in result.tokens:
                if len(tokens) != self.workload.new_tokens:
                    raise PeerError(
                        f"{name} generated {len(tokens)} tokens instead of"
                        f" {self.workload.new_tokens}; the times cannot be compared"
                    )
        return results

    def rooflines(self) -> dict[str, dict[str, Any]]:
        """Each seq2edge baseline's step beside the bandwidth, one after the other.

        Raises:
            PeerError: it cannot be measured.
        """
        work = self.workload
        reports: dict[str, dict[str, Any]] = {}
        for name in self._running():
            if name.library != "seq2edge":
                continue
            _say(f"roofline of {name.text}")
            numbers = (work.source_length, work.new_tokens, work.threads, work.rounds)
            what = (self.models[name.text], name.mode or "onnxruntime", name.device, *numbers)
            script = _FOLDER / "_roofline_worker.py"
            try:
                text = call([sys.executable, script, *what], f"no roofline of {name.text}")
            except PeerError as error:
                self._leave_out(f"{name.text} (roofline)", error)
            else:
                reports[name.text] = json.loads(text)
        return reports

    def _running(self) -> list[Name]:
        running = [name for name in self.names if name.text not in self.left_out]
        if not running:
            raise PeerError(f"no baseline is left: {'; '.join(self.left_out.values())}")
        return running

    def _leave_out(self, name: str, error: PeerError) -> None:
        if not self.go_on:
            raise error
        self.left_out[name] = str(error)
        _say(f"going on without {name}: {error}")

    def _settings(self, name: Name) -> dict[Setting, Spread]:
        work = self.workload
        if name.library != "ctranslate2":
            return {Setting(work.threads): Spread(0.0, 0.0, 0.0)}
        # Each is a process of its own, because the variable is read when OpenMP starts.
        settings = {
            str(setting): setting
            for threads in sorted({1, work.threads})
            for policy in ("passive", "active")
            for setting in [Setting(threads, policy)]
        }
        results = alternate(
            {label: self._start(name, setting) for label, setting in settings.items()},
            rounds=work.search_rounds,
            warmup=_WARMUP_ROUNDS,
            progress=_progress(f"settings of {name.text}"),
        )
        return {
            settings[label]: Spread.of(result.milliseconds) for label, result in results.items()
        }

    def _start(self, name: Name, setting: Setting) -> Baseline:
        work = self.workload
        sources = random_sources(self.checkpoint, work.sources, work.source_length)
        task = Task(
            model=str(self.models[name.text]),
            precision=name.precision,
            mode=name.mode,
            device=name.device,
            sources=tuple(tuple(source) for source in sources),
            new_tokens=work.new_tokens,
            num_beams=work.num_beams,
            threads=setting.threads,
        )
        variables = dict(PEER_VARIABLES) if name.library != "seq2edge" else {}
        if setting.wait_policy is not None:
            variables["OMP_WAIT_POLICY"] = setting.wait_policy
        python, worker = self.interpreters.of[name.library], _FOLDER / f"_{name.library}_worker.py"
        return Baseline((str(python), str(worker), json.dumps(asdict(task))), variables)


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


def _progress(title: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{title}: round {done} of {total}", end=end, file=sys.stderr, flush=True)

    return show
