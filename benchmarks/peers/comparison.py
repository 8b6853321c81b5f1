"""How the models of those who take part are made, and how they are timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from seq2edge.runtime.errors import Seq2EdgeError
from seq2edge.runtime.progress import StageProgress

from ..compiled import compile_modules
from ..driver import Baseline, PeerError, Result, alternate
from ..report.machine import cores_for
from ..report.statistics import Measurement
from ..workers.worker import Task
from .environments import TIMED_IN, Environments
from .model_cache import ModelCache
from .models import PEER_VARIABLES, ModelMaker, random_sources
from .names import Name
from .workload import PeerWorkload, Setting

_WORKERS = Path(__file__).resolve().parents[1] / "workers"
#: Rounds before a search's.
_SEARCH_WARMUP = 2


@dataclass
class PeerComparison:
    """Baselines over one checkpoint. Those that cannot be made or started are left out.

    Attributes:
        names: who takes part.
        workload: what they do.
        checkpoint: its folder.
        environments: their interpreters.
        progress: told how far each stage is.
        left_out: those that were, and why.
        models: the folder of each one's model, once it is made.
    """

    names: Sequence[Name]
    workload: PeerWorkload
    checkpoint: Path
    environments: Environments
    progress: StageProgress
    left_out: dict[str, str] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)

    def make_models(self, cache: ModelCache) -> None:
        """Make the baselines' models, those that are not in the cache, and their environments.

        Raises:
            InputError: the checkpoint cannot be read.
        """
        kept = cache.of_checkpoint(self.checkpoint)
        maker = ModelMaker(kept, self.checkpoint, self.environments, self.workload)
        for number, name in enumerate(self.names):
            self.progress(f"making {name.text}", number, len(self.names))
            try:
                if name.library == "seq2edge":
                    compile_modules()
                else:
                    self._python(name)
                self.models[name.text] = maker.make(name)
            except PeerError as error:
                self._leave_out(name.text, error)

    def settings(self) -> dict[str, dict[Setting, Measurement]]:
        """Times of the settings that each may take; empty where there is one.

        Raises:
            PeerError: nobody is left.
        """
        tried: dict[str, dict[Setting, Measurement]] = {}
        for name in self._running():
            try:
                tried[name.text] = self._search(name)
            except PeerError as error:
                self._leave_out(name.text, error)
        return tried

    def results(self, best: Mapping[str, Setting]) -> dict[str, Result]:
        """Time all, each with its setting.

        Raises:
            PeerError: none is left.
        """
        results = alternate(
            {name.text: self._start(name, best[name.text]) for name in self._running()},
            rounds=self.workload.runs,
            warmup=self.workload.warmup,
            seconds=self.workload.seconds,
            progress=lambda done, total: self.progress("timing", done, total),
            leave_out=self._leave_out,
        )
        self._running()
        for name, result in list(results.items()):
            wrong = {len(tokens) for tokens in result.tokens} - {self.workload.new_tokens}
            if wrong and not self.workload.audio:
                self.left_out[name] = (
                    f"it generated {min(wrong)} tokens instead of {self.workload.new_tokens}, so"
                    " its times cannot be compared"
                )
                del results[name]
        return results

    def _running(self) -> list[Name]:
        running = [name for name in self.names if name.text not in self.left_out]
        if not running:
            raise PeerError(f"nobody is left to compare: {'; '.join(self.left_out.values())}")
        return running

    def _leave_out(self, name: str, error: Seq2EdgeError) -> None:
        self.left_out[name] = str(error)

    def _search(self, name: Name) -> dict[Setting, Measurement]:
        work = self.workload
        if name.library != "ctranslate2":
            return {}
        # Each is a process of its own, because the variable is read when OpenMP starts.
        settings = {
            str(setting): setting
            for threads in sorted({1, work.threads})
            for policy in ("passive", "active")
            for setting in [Setting(threads, policy)]
        }
        results = alternate(
            {label: self._start(name, setting) for label, setting in settings.items()},
            rounds=work.search_runs,
            warmup=_SEARCH_WARMUP,
            progress=lambda done, total: self.progress(f"settings of {name.text}", done, total),
        )
        return {
            settings[label]: Measurement.of(result.milliseconds["all"])
            for label, result in results.items()
        }

    def _start(self, name: Name, setting: Setting) -> Baseline:
        work = self.workload
        sources = []
        if not work.audio:
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
            audio=work.audio,
        )
        ours = name.library == "seq2edge"
        variables: dict[str, str | None] = {} if ours else dict(PEER_VARIABLES)
        if setting.wait_policy is not None:
            variables["OMP_WAIT_POLICY"] = setting.wait_policy
        python = Path(sys.executable) if ours else self._python(name)
        worker = _WORKERS / f"{name.library.replace('-', '_')}_worker.py"
        # The same cores for all, also for one that does best with fewer threads.
        cores = cores_for(work.threads) if name.device == "cpu" else None
        return Baseline((str(python), str(worker), json.dumps(asdict(task))), variables, cores)

    def _python(self, name: Name) -> Path:
        return self.environments.python(TIMED_IN[name.library])
