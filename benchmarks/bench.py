"""Bundles in turns, each in a fresh process, as a report."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from seq2edge.deploy.doctor.memory import examine_memory
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.progress import StageProgress

from .compiled import compile_modules
from .driver import Baseline, Result, alternate, merged
from .energy import EnergyMeter
from .latency import PARTS, LatencyRunner
from .memory import check_memory, measure_memory
from .profile import check_profile, measure_profile
from .report.machine import conditions, cores_for, machine_info, revision
from .report.positions import positions_of
from .report.schema import Entry, Report, Tokens
from .report.statistics import FEWEST_SAMPLES, Measurement
from .report.subjects import manifest_hash, names_of, scheme_of, unsteady
from .roofline import Roofline, measure_rooflines
from .sources import audio_seconds, check_sources
from .workload import Workload

#: Ends the name of a bundle whose encoder runs with ONNX Runtime, beside one where it does not.
PLAIN_ENCODER = ", encoder on onnxruntime"
#: Of each bundle, where they fit; and what one holds besides a bundle's weights.
_PROCESSES, _LIBRARY_BYTES = 3, 120_000_000
#: Over which energy is measured.
_ENERGY_SECONDS = 2.0
#: Shares of a bound beyond this are no noise of two medians any more.
_POSSIBLE = 1.05
_WORKER = Path(__file__).resolve().parent / "workers" / "latency_worker.py"


def bench(
    paths: Sequence[str | os.PathLike[str]],
    workloads: Sequence[Workload],
    *,
    roofline: bool = False,
    memory: bool = False,
    profile: bool = False,
    energy: EnergyMeter | None = None,
    load: bool = False,
    processes: int | None = None,
    command: Sequence[str] = (),
    progress: StageProgress | None = None,
) -> Report:
    """Measure bundles on this machine.

    For each workload every bundle gets a process of its own, and they take turns. Where another
    library is to run the encoder, there is a second process that leaves it to ONNX Runtime.

    Args:
        paths: the bundles' folders.
        workloads: one at least; they differ in lengths, batch and beams only.
        roofline: whether a step is timed beside the bandwidth (:mod:`.roofline`).
        memory: whether a process is looked at that generates once (:mod:`.memory`).
        profile: whether nodes are timed by kind and layer (:mod:`.profile`).
        energy: measures joules per token; None: nobody asked. Where it cannot, a note says why.
        load: whether loading is timed in fresh processes, after the bundle's files were dropped
            from the page cache (``load cold``) and with them in it (``load warm``).
        processes: of each bundle and workload, which share its runs: two processes differ more
            than two runs in one (where their memory lies, which core they got). None: 3, or 1
            where they would take half of the memory that is free, or do not run on the CPU.
        command: that repeats it, for the report.
        progress: told how far each stage is.

    Raises:
        BundleError, BackendError: a bundle cannot be loaded or run.
        InputError: a workload does not fit a model.
    """
    bundles = [Bundle.open(path) for path in paths]
    for bundle, workload in itertools.product(bundles, workloads):
        check_sources(bundle, workload)
        if memory:
            check_memory(bundle, workload)
        if profile:
            check_profile(workload)
    report = progress or _silent
    names = names_of(paths)
    before = conditions()
    entries: list[Entry] = []
    varied = _varied(workloads)
    for workload in workloads:
        title = ", ".join(f"{name} {getattr(workload, name)}" for name in varied)
        subjects = {
            f"{name}{ending}": (bundle, variant)
            for name, bundle in zip(names, bundles, strict=True)
            for ending, variant in _variants(workload)
        }
        count = min(processes or _fitting(bundles, workload), workload.runs)
        found = alternate(
            {
                f"{name} #{number}": _baseline(bundle.directory, own)
                for number in range(count)
                for name, (bundle, own) in subjects.items()
            },
            rounds=-(-workload.runs // count),
            warmup=workload.warmup,
            progress=_stage(report, title or "latency"),
        )
        results = {
            name: merged([found[f"{name} #{number}"] for number in range(count)], workload.runs)
            for name in subjects
        }
        owners = [bundle for bundle, _ in subjects.values()]
        entries += _entries(owners, results, workload, title)
    details: list[dict[str, Any]] = [{} for _ in entries]
    limit: dict[str, Any] | None = None
    if roofline:
        rooflines = [
            one
            for workload in workloads
            for one in measure_rooflines(paths, workload, _stage(report, "roofline"))
        ]
        for own, one in zip(details, rooflines, strict=True):
            own["roofline"] = one.to_json()
        limit = _limit(rooflines)
    if memory:
        for index, (workload, path) in enumerate(itertools.product(workloads, paths)):
            report("memory", index, len(entries))
            details[index]["memory"] = measure_memory(path, workload).to_json()
    pairs = list(itertools.product(workloads, paths))
    if profile:
        for index, (workload, path) in enumerate(pairs):
            report("profile", index, len(pairs))
            graphs = [graph.to_json() for graph in measure_profile(path, workload)]
            details[index]["profile"] = graphs
    if energy is not None and energy.problem is None:
        for index, (workload, path) in enumerate(pairs):
            report("energy", index, len(pairs))
            found_energy = _energy(path, workload, energy)
            details[index]["energy"] = found_energy
            tokens = found_energy["calls"] * workload.batch_size * workload.new_tokens
            entries[index].values["joules_per_token"] = found_energy["joules"] / tokens
    if load:
        for index, (workload, path) in enumerate(pairs):
            timed = _loads(path, workload, _stage(report, "load"))
            entries[index].measurements.update(timed)
    notes = (*unsteady(entries), *_disturbed(entries, details))
    if energy is not None and energy.problem is not None:
        notes += (f"energy was not measured: {energy.problem}",)
    return Report(
        kind="bench",
        title=", ".join(names),
        command=tuple(command),
        machine=machine_info(),
        before=before,
        after=conditions(),
        revision=revision(),
        settings=_settings(workloads, varied),
        limit=limit,
        notes=notes,
        entries=tuple(
            replace(entry, details=entry.details | more)
            for entry, more in zip(entries, details, strict=True)
        ),
    )


def _fitting(bundles: Sequence[Bundle], workload: Workload) -> int:
    """How many processes of each bundle fit, all of which are loaded at once."""
    if workload.backend != "onnxruntime" or workload.device not in (None, "cpu"):
        return 1
    free = examine_memory(Path("/")).available
    # Weights, once more for what an engine packs, and Python with its libraries.
    needed = sum(2 * bundle.size + _LIBRARY_BYTES for bundle in bundles)
    return _PROCESSES if free is None or _PROCESSES * needed < free / 2 else 1


def _variants(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """The workload, and where the encoder runs elsewhere what it is compared with; by a name."""
    yield "", workload
    if workload.encoder_backend is not None:
        plain = replace(workload, encoder_backend=None, precision=None, device=None)
        yield PLAIN_ENCODER, plain


def _limit(rooflines: Sequence[Roofline]) -> dict[str, Any] | None:
    """What the CPU can do at most, by what was measured in this run; None: steps ran on a GPU."""
    threads = max((one.threads or 0 for one in rooflines), default=0)
    most = [one for one in rooflines if one.threads == threads]
    if not threads:
        return None
    return {
        "memory_bandwidth": max(one.memory_bandwidth for one in most),
        "gemm": {
            **{name: max(one.gemm[name] for one in most) for name in most[0].gemm},
            "threads": threads,
        },
    }


def _disturbed(entries: Sequence[Entry], details: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A note where a step was faster than its bound, which cannot be."""
    names = [
        entry.name
        for entry, own in zip(entries, details, strict=True)
        if own.get("roofline", {}).get("share", 0.0) > _POSSIBLE
    ]
    if names:
        yield (
            f"steps of {', '.join(names)} were faster than what was measured as their limit: other"
            " programs took the processor meanwhile; measure again, or believe the best of each"
            " (best_share)"
        )


def _loads(
    path: str | os.PathLike[str], workload: Workload, progress: Callable[[int, int], None]
) -> dict[str, Measurement]:
    """Times of loading, in turns: as after a boot, and again."""
    files = [file for file in Path(path).rglob("*") if file.is_file()]
    times: dict[str, list[float]] = {"load cold": [], "load warm": []}
    compile_modules()
    for number in range(FEWEST_SAMPLES):
        for name, samples in times.items():
            if name == "load cold":
                for file in files:
                    _drop(file)
            baseline = _baseline(path, replace(workload, new_tokens=1))
            samples.append(alternate({name: baseline}, rounds=1, warmup=0)[name].load_ms)
        progress(number + 1, FEWEST_SAMPLES)
    return {name: Measurement.of(samples) for name, samples in times.items()}


def _drop(file: Path) -> None:
    """Drop a file's pages from the page cache: those that are written and that nobody maps."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _energy(path: str | os.PathLike[str], workload: Workload, meter: EnergyMeter) -> dict[str, Any]:
    """Generations for two seconds, in this process: a sensor needs some time."""
    runner = LatencyRunner(path, workload)
    calls = 0

    def work() -> None:
        nonlocal calls
        start = time.monotonic()
        while calls < 3 or time.monotonic() - start < _ENERGY_SECONDS:
            runner.generate()
            calls += 1

    try:
        runner.generate()
        found = meter.measure(work)
    finally:
        runner.close()
    return {**asdict(found), "calls": calls}


def _baseline(path: str | os.PathLike[str], workload: Workload) -> Baseline:
    task = json.dumps({"path": os.fspath(path), "workload": asdict(workload)})
    on_cpu = workload.backend == "onnxruntime" and workload.device in (None, "cpu")
    cores = cores_for(workload.threads) if on_cpu else None
    # -P would hide the worker's neighbours, which it imports by file name.
    return Baseline((sys.executable, str(_WORKER), task), cores=cores)


def _entries(
    bundles: Sequence[Bundle], results: Mapping[str, Result], workload: Workload, title: str
) -> Iterator[Entry]:
    first = next(iter(results))
    for bundle, (name, result) in zip(bundles, results.items(), strict=True):
        seconds = audio_seconds(bundle, workload)
        positions = positions_of(result.milliseconds)
        measurements = {
            part: Measurement.of(times)
            for part, times in result.milliseconds.items()
            if part in PARTS
        }
        total = measurements["all"].p50 / 1e3
        values = {
            "tokens_per_second": workload.batch_size * workload.new_tokens / total,
            "load_ms": result.load_ms,
        }
        if result.peak_bytes is not None:
            values["peak_bytes"] = result.peak_bytes
        if seconds is not None:
            values["audio_seconds"] = seconds
            values["real_time_factor"] = total / (workload.batch_size * seconds)
        yield Entry(
            name=f"{name} ({title})" if title else name,
            library="seq2edge",
            precision=scheme_of(bundle),
            settings={
                **_lengths(workload),
                "threads": result.threads,
                "parameters": bundle.manifest.parameter_count or None,
                "processes": result.processes,
                "warmup_rounds": result.warmup_rounds,
                "steady": result.steady,
            },
            versions=result.versions,
            sha256=manifest_hash(bundle),
            disk_bytes=bundle.size,
            loaded_bytes=result.loaded_bytes,
            measurements=measurements,
            values=values,
            tokens=Tokens.of(result.tokens, first, results[first].tokens, exact=False),
            details={"positions": positions} if positions else {},
            notes=result.notes,
        )


def _lengths(workload: Workload) -> dict[str, Any]:
    names = ("new_tokens", "batch_size", "num_beams")
    source = (
        {"source_length": workload.source_tokens}
        if workload.audio_seconds is None and workload.audio is None
        else {"audio_seconds": workload.audio_seconds, "audio": workload.audio}
    )
    return {**source, **{name: getattr(workload, name) for name in names}}


def _varied(workloads: Sequence[Workload]) -> list[str]:
    """Names of the fields in which workloads differ."""
    return [
        field.name
        for field in fields(Workload)
        if len({getattr(workload, field.name) for workload in workloads}) > 1
    ]


def _settings(workloads: Sequence[Workload], varied: Sequence[str]) -> dict[str, Any]:
    settings = asdict(workloads[0])
    for name in varied:
        settings[name] = list(dict.fromkeys(getattr(work, name) for work in workloads))
    return settings


def _stage(progress: StageProgress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Where nobody asked for progress."""
