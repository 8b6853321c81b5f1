"""The models of a service by name, and the work that requests give them."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from seq2edge.runtime import Bundle, InputError, Manifest, Seq2SeqModel, SpeechModel

from .errors import ApiError, OverloadedError, stopping
from .jobs import Job
from .keys import KeyRing
from .metrics import Metrics, ModelMetrics
from .settings import Limits, Settings
from .speech_runner import SpeechRunner
from .text_runner import TextRunner
from .worker import Worker

_log = logging.getLogger(__name__)

#: Of a bundle, in ``NAME=PATH`` and in paths of requests.
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")

#: That each model's thread may take to end.
THREAD_SECONDS = 5

M = TypeVar("M", Seq2SeqModel, SpeechModel)
R = TypeVar("R")


@dataclass
class Served:
    """A bundle that is served.

    Attributes:
        name: what requests call it.
        model: is called by the worker's thread; in the event loop only what runs nothing.
        created: when it was loaded, in seconds since 1970.
    """

    name: str
    model: Seq2SeqModel | SpeechModel
    worker: Worker
    metrics: ModelMetrics
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def manifest(self) -> Manifest:
        return self.model.manifest


class Service:
    """All that requests share.

    Attributes:
        draining: whether the service is being stopped: nothing new is taken.
        active: requests that are being answered.
        parts: of bodies, those that are waited for.
        paths: of all routes, for metrics.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.limits: Limits = settings.limits
        self.keys = KeyRing(settings.keys)
        self.metrics = Metrics()
        self.models: dict[str, Served] = {}
        self.jobs: set[Job[Any]] = set()
        self.parts: set[asyncio.Future[Any]] = set()
        self._cut = False
        #: Whether requests must be for this machine by name, as a web page's are not that has
        #: its own name lead here (DNS rebinding).
        self.local_only = not (settings.keys or settings.without_keys or settings.unix_socket)
        self.draining = False
        self.active = 0
        self.paths: frozenset[str] = frozenset()

    def load(self, bundles: Mapping[str, Path], **options: Any) -> None:
        """Load the bundles, by name; ``options`` are those of ``load``.

        Raises:
            InputError: a bundle that this service cannot use.
            BundleError, BackendError: it cannot be loaded.
        """
        for name, path in bundles.items():
            model = _open(path, options)
            metrics = self.metrics.of(name)
            runner: Any
            if isinstance(model, SpeechModel):
                runner = SpeechRunner(model, self.limits, metrics)
            else:
                runner = TextRunner(model, self.limits, metrics)
            worker = Worker(name, runner, self.limits, metrics)
            self.models[name] = Served(name, model, worker, metrics)
        for name in self.settings.pairs:
            if name not in self.models:
                raise InputError(f"no bundle is named {name!r}; there are: {self._names()}")

    def start(self) -> None:
        """Start the threads of the models."""
        for served in self.models.values():
            served.worker.start()

    def stop(self) -> None:
        """End the threads and free the models."""
        for served in self.models.values():
            served.worker.stop(THREAD_SECONDS)

    @property
    def problem(self) -> str | None:
        """Why the service is not ready; None: it is."""
        if self.draining:
            return "the service is being stopped"
        dead = [name for name, served in self.models.items() if not served.worker.alive]
        return f"the thread of {dead[0]} has ended" if dead else None

    def find(self, name: object, kind: type[M]) -> tuple[Served, M]:
        """The model that a request names; None: the only one of its kind.

        Raises:
            ApiError: there is none of that name or kind, or there are several and none is named.
        """
        if name is not None and not isinstance(name, str):
            raise ApiError(400, f"model must be a text, not {name!r}", param="model")
        what = "speech" if kind is SpeechModel else "text"
        fitting = {n: s for n, s in self.models.items() if isinstance(s.model, kind)}
        if name is None and len(fitting) == 1:
            name = next(iter(fitting))
        if name is None and fitting:
            names = ", ".join(fitting)
            raise ApiError(400, f"model must be one of: {names}", param="model")
        served = fitting.get(name or "")
        if served is None:
            there = ", ".join(fitting) or "none"
            asked = "is served" if name is None else f"named {name!r} is served"
            raise ApiError(404, f"no {what} model {asked}; there are: {there}", param="model")
        model = served.model
        assert isinstance(model, kind)
        return served, model

    def refuses(self, kind: type[M]) -> bool:
        """Whether no model of a kind has room for even the smallest request."""
        workers = self._workers(kind)
        return bool(workers) and all(worker.is_full for worker in workers)

    def overloaded(self, kind: type[M]) -> OverloadedError:
        """The error of all of that kind, counted for the first of them."""
        return self._workers(kind)[0].refuse()

    def _workers(self, kind: type[M]) -> list[Worker]:
        return [served.worker for served in self.models.values() if isinstance(served.model, kind)]

    def submit(self, served: Served, job: Job[Any]) -> None:
        """Let a job wait for its model.

        Raises:
            OverloadedError: there are too many before it.
            ApiError: the service was stopped since the request came.
        """
        if self._cut:
            raise stopping()
        served.worker.submit(job)
        self.jobs.add(job)

    async def wait(self, request: Request, served: Served, job: Job[R]) -> R:
        """The result of a job, which is left when the client goes away.

        Raises:
            ApiError, Seq2EdgeError: why there is none.
        """
        self.submit(served, job)
        result = asyncio.ensure_future(job.result())
        watch = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait({result, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                served.metrics.cancelled.inc()
                raise ApiError(499, "the client has gone")
            return result.result()
        finally:
            watch.cancel()
            result.cancel()
            self.left(served, job)

    def left(self, served: Served, job: Job[Any]) -> None:
        """Nobody waits for a job any more, done or not."""
        job.cancel()
        self.jobs.discard(job)
        if job.started is not None:
            served.worker.took(time.monotonic() - job.started)

    def cut_off(self) -> int:
        """End all that is still worked on or not yet there whole; how many requests."""
        self._cut = True
        for job in self.jobs:
            job.fail(stopping())
        for part in self.parts:
            part.cancel()
        return len(self.jobs) + len(self.parts)

    def _names(self) -> str:
        return ", ".join(self.models)


async def disconnected(request: Request) -> None:
    """Wait for the end of the connection; the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _open(path: Path, options: dict[str, Any]) -> Seq2SeqModel | SpeechModel:
    manifest = Bundle.open(path, single_stack=("decoder", "encoder")).manifest
    if manifest.single_stack == "encoder":
        raise InputError(f"{path} makes vectors of texts, which this service does not serve")
    if manifest.speech is not None:
        return SpeechModel.load(path, **options)
    model = Seq2SeqModel.load(path, **options)
    if model.tokenizer is None:
        model.close()
        raise InputError(f"{path} has no tokenizer, and a service takes texts")
    return model
