"""seq2edge beside other libraries on this machine, in turns, as a report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import InputError, Seq2EdgeError
from seq2edge.runtime.progress import StageProgress

from ..driver import Result
from ..report.machine import conditions, machine_info, revision
from ..report.schema import Entry, Report, Tokens
from ..report.statistics import Measurement
from ..report.subjects import manifest_hash, unsteady
from ..report.verdict import RANDOM_WEIGHTS
from ..roofline import measure_rooflines
from ..workload import Workload
from .comparison import PeerComparison
from .environments import Environments
from .gpu import missing_gpu
from .model_cache import ModelCache
from .models import GEOMETRIES, make_checkpoint, model_type, random_sources, size
from .names import Name
from .recordings import write_windows
from .workload import PeerWorkload, Setting


@dataclass(frozen=True)
class PeerRequest:
    """What is asked for.

    Attributes:
        names: who takes part.
        workload: what they do.
        environments: where peers live.
        checkpoint: what all run; None: ``geometry`` with random weights.
        geometry: see :data:`.GEOMETRIES`.
        roofline: whether seq2edge's steps are timed beside the bandwidth afterwards.
        command: that repeats it, for the report.
    """

    names: Sequence[Name]
    workload: PeerWorkload
    environments: Environments
    checkpoint: Path | None = None
    geometry: str = GEOMETRIES[0]
    roofline: bool = False
    command: tuple[str, ...] = ()

    @property
    def made_up(self) -> str:
        """The checkpoint that is made where none is named, in words."""
        return f"{self.geometry} geometry, {RANDOM_WEIGHTS}"


def prepare_peers(request: PeerRequest, progress: StageProgress) -> dict[str, str]:
    """Make the environments and models that are not there yet; who has none, and why.

    Raises:
        InputError, PeerError: as :func:`compare_peers`.
    """
    _check(request)
    return _made(request, progress).left_out


def compare_peers(request: PeerRequest, progress: StageProgress) -> Report:
    """Make the models that are not in the cache, find CTranslate2's settings, and time all.

    Raises:
        InputError: there is no GPU for one, or the checkpoint is none.
        PeerError: nobody can be made or started.
    """
    hears = _check(request)
    before = conditions()
    with tempfile.TemporaryDirectory(prefix="seq2edge-peers-") as temporary:
        audio = write_windows(request.workload.audio, Path(temporary))
        comparison = _made(request, progress, audio)
        tried = comparison.settings()
        usual = Setting(request.workload.threads)
        best = {
            name: min(found, key=lambda one: found[one].p50, default=usual)
            for name, found in tried.items()
        }
        results = comparison.results(best)
        texts = _texts(results) if hears else {}
        if hears:
            results = _as_words(results, texts)
        entries = _entries(request, comparison, results, best, tried, texts)
    return Report(
        kind="peers",
        title=request.made_up if request.checkpoint is None else request.checkpoint.name,
        command=request.command,
        machine=machine_info(),
        before=before,
        after=conditions(),
        revision=revision(),
        settings={
            **asdict(request.workload),
            "checkpoint": str(request.checkpoint or request.made_up),
        },
        entries=entries,
        left_out=comparison.left_out,
        notes=unsteady(entries),
    )


def _check(request: PeerRequest) -> bool:
    """Refuse what does not fit, before anything is made; whether the checkpoint hears."""
    _check_gpu(request.names)
    hears = request.checkpoint is not None and model_type(request.checkpoint) == "whisper"
    _check_sources(request, hears)
    return hears


def _made(
    request: PeerRequest, progress: StageProgress, audio: tuple[str, ...] = ()
) -> PeerComparison:
    """The comparison, with its models."""
    environments = request.environments
    cache = ModelCache(environments.folder / "models")
    checkpoint = request.checkpoint
    if checkpoint is None:
        progress("making the checkpoint", 0, 0)
        checkpoint = make_checkpoint(environments, cache, request.geometry)
    work = replace(request.workload, audio=audio)
    comparison = PeerComparison(request.names, work, checkpoint, environments, progress)
    progress("reading the checkpoint", 0, 0)
    comparison.make_models(cache)
    return comparison


def _entries(
    request: PeerRequest,
    comparison: PeerComparison,
    results: dict[str, Result],
    best: dict[str, Setting],
    tried: dict[str, dict[Setting, Measurement]],
    texts: dict[str, list[str]],
) -> tuple[Entry, ...]:
    names = {name.text: name for name in request.names}
    exact = {name: found.tokens for name, found in results.items() if names[name].exact}
    reference, disputed = reference_of(exact) if exact else (next(iter(results)), False)
    entries = []
    for text, result in results.items():
        name, model = names[text], comparison.models[text]
        ours = name.library == "seq2edge"
        values = {"load_ms": result.load_ms}
        if result.peak_bytes is not None:
            values["peak_bytes"] = result.peak_bytes
        details: dict[str, object] = {
            "tried": {str(setting): found.p50 for setting, found in tried[text].items()}
        }
        if texts:
            details["texts"] = texts[text]
        if request.roofline and ours:
            details["roofline"] = _roofline(name, model, request.workload, comparison)
        entries.append(
            Entry(
                name=text,
                library=name.library,
                precision=name.precision,
                settings={
                    **asdict(best[text]),
                    "setting": str(best[text]),
                    "warmup_rounds": result.warmup_rounds,
                    "steady": result.steady,
                },
                versions=result.versions,
                sha256=manifest_hash(Bundle.open(model)) if ours else None,
                disk_bytes=size(model),
                loaded_bytes=result.loaded_bytes,
                measurements={
                    part: Measurement.of(times) for part, times in result.milliseconds.items()
                },
                values=values,
                tokens=Tokens.of(
                    result.tokens,
                    reference,
                    results[reference].tokens,
                    exact=name.exact,
                    disputed=disputed,
                ),
                details=details,
                notes=result.notes,
            )
        )
    return tuple(entries)


def _check_sources(request: PeerRequest, hears: bool) -> None:
    """At once, and not after the environments."""
    for name in request.names:
        name.check_source(hears)
    if hears and not request.workload.audio:
        raise InputError(f"{request.checkpoint} hears speech: name recordings with --audio")
    if request.workload.audio and not hears:
        raise InputError("--audio is for a checkpoint that hears speech, a Whisper")
    if hears and request.roofline:
        raise InputError("--roofline of speech: use seq2edge bench --roofline")
    if request.checkpoint is not None and not hears:
        random_sources(request.checkpoint, 1, 1)


def _texts(results: Mapping[str, Result]) -> dict[str, list[str]]:
    """What was heard; white space does not count."""
    return {
        name: [" ".join(bytes(row).decode("utf-8", "replace").split()) for row in result.tokens]
        for name, result in results.items()
    }


def _as_words(results: Mapping[str, Result], texts: dict[str, list[str]]) -> dict[str, Result]:
    """Numbers of words in place of bytes: libraries do not all tell their tokens."""
    numbers: dict[str, int] = {}
    return {
        name: replace(
            result,
            tokens=[
                [numbers.setdefault(word, len(numbers)) for word in text.split()]
                for text in texts[name]
            ],
        )
        for name, result in results.items()
    }


def reference_of(tokens: Mapping[str, list[list[int]]]) -> tuple[str, bool]:
    """Whose float32 tokens are right, and whether nobody can tell.

    PyTorch's are; without it those that most others have. Two camps of one size leave it open.
    """
    if "transformers:float32" in tokens:
        return "transformers:float32", False
    camps = [[name for name in tokens if tokens[name] == tokens[other]] for other in tokens]
    largest = max(camps, key=len)
    rivals = [camp for camp in camps if len(camp) == len(largest) and camp != largest]
    return largest[0], bool(rivals)


def _roofline(
    name: Name, model: Path, work: PeerWorkload, comparison: PeerComparison
) -> dict[str, object] | None:
    workload = Workload(
        source_length=work.source_length,
        new_tokens=work.new_tokens,
        runs=work.runs,
        threads=work.threads,
        backend=name.mode or "onnxruntime",
        device=name.device,
    )
    try:
        (found,) = measure_rooflines([model], workload)
    except Seq2EdgeError as error:
        comparison.left_out[f"{name.text} (roofline)"] = str(error)
        return None
    return found.to_json()


def _check_gpu(names: Sequence[Name]) -> None:
    """Say at once what would otherwise fail after minutes."""
    first = next((name for name in names if name.device == "cuda"), None)
    missing = None if first is None else missing_gpu()
    if first is not None and missing is not None:
        raise InputError(
            f"{first.text} needs an NVIDIA GPU, and CUDA finds none on this machine: {missing}"
        )
