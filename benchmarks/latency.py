"""Latency of one loaded bundle, by parts.

The end token is ignored, so that every run makes the same number of tokens. The time of a
token is what each token after the first adds: (all tokens - first token) / (tokens - 1).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.generation import GenerationConfig, Generator
from seq2edge.runtime.generation.batch import Hypothesis

from .fixed_length import fixed_length, without_end
from .report.positions import at_positions
from .sources import check_sources, extract, make_batch, read_audio
from .workload import Workload

#: In the order in which they are shown.
PARTS = ("features", "encoder", "first token", "token", "all")


#: The whole work, with what it is to poll once a step.
Generate = Callable[[Callable[[], bool] | None], list[list[Hypothesis]]]


class LatencyRunner:
    """A loaded bundle that does its work once per :meth:`turn`.

    Args:
        path: the bundle's folder.
        workload: ``runs`` and ``warmup`` are the caller's business.

    Raises:
        BundleError, BackendError: it cannot be loaded.
        InputError: the workload does not fit the model.
    """

    def __init__(self, path: str | os.PathLike[str], workload: Workload) -> None:
        bundle = Bundle.open(path)
        check_sources(bundle, workload)
        self._backend = workload.load(bundle)
        #: None: all cores.
        self.threads = self._backend.num_threads
        #: Version, device and precision of another library that runs the encoder; "": none.
        self.encoder = self._backend.capabilities.encoder
        try:
            self._prepare(bundle, workload)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._backend.close()

    def turn(self) -> tuple[dict[str, float], list[list[int]]]:
        """Milliseconds by part (:data:`PARTS`, those there are), and each source's new tokens.

        Single tokens are parts as well: see :func:`.at_positions`.
        """
        times: dict[str, float] = {}
        for name, part in self._parts.items():
            start = time.perf_counter()
            part()
            times[name] = 1e3 * (time.perf_counter() - start)
        stamps: list[float] = []

        def stamp() -> bool:
            """Polled once a step, which is when a call can be cancelled."""
            stamps.append(time.perf_counter())
            return False

        start = time.perf_counter()
        found = self._generate(stamp)
        stamps.append(time.perf_counter())
        times["all"] = 1e3 * (stamps[-1] - start)
        if self._new_tokens > 1:
            times["token"] = (times["all"] - times["first token"]) / (self._new_tokens - 1)
        for name in ("first token", "all"):
            times[name] += times.get("features", 0.0)
        tokens = [list(hypotheses[0].token_ids) for hypotheses in found]
        parts = {name: times[name] for name in PARTS if name in times}
        return parts | at_positions(stamps, self._new_tokens), tokens

    def generate(self) -> list[list[Hypothesis]]:
        """The whole work but a recording's features."""
        return self._generate(None)

    def _prepare(self, bundle: Bundle, workload: Workload) -> None:
        backend, manifest = self._backend, bundle.manifest
        batch = make_batch(backend, bundle, workload)
        generator = Generator(backend, without_end(manifest), None)
        several = fixed_length(workload.new_tokens, workload.num_beams)

        def generate(config: GenerationConfig) -> Generate:
            call = generator.prepare(config, batch.sources, prompts=batch.prompts)
            return lambda polled: generator.run(call, cancelled=polled)

        self._new_tokens = workload.new_tokens
        self._parts: dict[str, Callable[[], object]] = {}
        if "features" in manifest.graphs and manifest.speech is not None:
            audio = read_audio(manifest.speech, workload)
            self._parts["features"] = lambda: extract(backend, manifest, audio)
        self._parts["encoder"] = lambda: backend.encode(batch.inputs)
        self._parts["first token"] = partial(generate(replace(several, max_new_tokens=1)), None)
        self._generate = generate(several)
