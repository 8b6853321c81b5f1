"""A folder of engines: the plans, and ``engines.json``, which says what they are for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...bundle.atomic_write import OutputFolder
from ...bundle.checks.json_text import parse_json, read_file
from ...bundle.json_schema import FieldReader
from ...bundle.manifest import Manifest
from ...errors import BackendError, BundleError
from ..limits import Limits
from .builder.network import Precision
from .builder.report import Gemm, GraphReport, ProfileReport

ENGINES_NAME = "engines.json"
FORMAT_VERSION = 1

#: The graphs that become engines: of every bundle, and of those that hear.
GRAPHS, SPEECH_GRAPHS = ("encoder", "decoder"), ("features", "alignment")


@dataclass(frozen=True)
class EngineKey:
    """The key of engines: what they were built from, with and for; all of it must match.

    Attributes:
        engine, version: the TensorRT that built them; a plan runs on no other version.
        compute_capabilities: of the GPUs that they are for.
        gpu: the GPU's name where they were built on it, for it alone; else None.
        limits: the largest shapes that they take.
        workspace_bytes: device memory that their kernels may use while they run; None: any.
        bundle_sha256: of the bundle's files that they were built from.
    """

    engine: str
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    limits: Limits
    workspace_bytes: int | None
    bundle_sha256: Mapping[str, str]

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with anything above."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class EngineFile:
    """One plan: its name in the folder, its bytes, and the report on it."""

    file: str
    size: int
    sha256: str
    report: GraphReport


@dataclass(frozen=True)
class EngineSet:
    """The contents of ``engines.json``: the engines' key, and each engine by its graph."""

    key: EngineKey
    engines: Mapping[str, EngineFile]

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``kept`` says of each GEMM whether it has the asked precision."""
        engines = {name: asdict(engine) for name, engine in self.engines.items()}
        for name, engine in self.engines.items():
            gemms = zip(engines[name]["report"]["gemms"], engine.report.gemms, strict=True)
            for entry, gemm in gemms:
                entry["kept"] = gemm.kept
        return {"format_version": FORMAT_VERSION, **asdict(self.key), "engines": engines}


class EngineWriter(OutputFolder):
    """Writes engines that are there whole or not at all.

    ``with EngineWriter(path) as out:`` write plans, then ``out.commit``.

    Raises:
        OutputExistsError, OutputError: see :class:`...output.OutputFolder`.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        kind = "a folder of engines"
        super().__init__(path, overwrite=overwrite, marker=ENGINES_NAME, kind=kind)

    def __enter__(self) -> EngineWriter:
        super().__enter__()
        return self

    def write(self, name: str, data: Any) -> tuple[str, int, str]:
        """Write one file from a buffer; its name, size and SHA-256."""
        view = memoryview(data)
        (self.directory / name).write_bytes(view)
        return name, view.nbytes, hashlib.sha256(view).hexdigest()

    def commit(self, engines: EngineSet) -> None:
        """Write ``engines.json`` and put the folder in its place."""
        text = json.dumps(engines.to_json(), indent=2, sort_keys=True) + "\n"
        self.write(ENGINES_NAME, text.encode())
        self.publish()


def engine_graphs(manifest: Manifest) -> list[str]:
    """The graphs of a bundle that become engines."""
    return [name for name in (*GRAPHS, *SPEECH_GRAPHS) if name in manifest.graphs]


def read_engines(folder: Path) -> EngineSet:
    """Read ``engines.json`` and check that the plans are there with the right sizes.

    Raises:
        BackendError: the folder holds no engines, or not whole ones.
    """
    file = folder / ENGINES_NAME
    try:
        raw = parse_json(read_file(file), file)
    except BundleError as error:
        raise BackendError(f"{folder} holds no engines: {error}") from None
    if not isinstance(raw, dict) or raw.get("format_version") != FORMAT_VERSION:
        raise BackendError(f"{file} is of another format than this seq2edge reads")
    reader = FieldReader()
    engines = _engine_set(reader, raw)
    if reader.problems:
        raise BackendError(f"{file} is malformed: " + "; ".join(reader.problems))
    for engine in engines.engines.values():
        plan = folder / engine.file
        if Path(engine.file).name != engine.file:
            raise BackendError(f"{file}: {engine.file!r} leads out of the folder")
        size = plan.stat().st_size if plan.is_file() else None
        if size != engine.size:
            state = "missing" if size is None else f"truncated: {size} of {engine.size} bytes"
            raise BackendError(f"{plan} is {state}")
    return engines


def read_plan(folder: Path, engine: EngineFile) -> bytes:
    """The bytes of a plan.

    Raises:
        BackendError: they cannot be read, or are not those that were written.
    """
    plan = folder / engine.file
    try:
        data = plan.read_bytes()
    except OSError as error:
        raise BackendError(f"cannot read {plan}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != engine.sha256:
        raise BackendError(f"{plan} has changed since it was written (SHA-256 differs)")
    return data


def _engine_set(r: FieldReader, raw: dict[str, Any]) -> EngineSet:
    limits = r.table(raw, "limits")
    hashes = r.table(raw, "bundle_sha256")
    engines = r.table(raw, "engines")
    r.problems += [f"engines.{name} is missing" for name in GRAPHS if name not in engines]
    r.problems += [
        f"engines.{name} is of no graph"
        for name in engines
        if name not in (*GRAPHS, *SPEECH_GRAPHS)
    ]
    return EngineSet(
        EngineKey(
            engine=r.text(raw, "engine", ""),
            version=r.text(raw, "version", ""),
            compute_capabilities=tuple(
                str(name) for name in r.items(raw, "compute_capabilities", "")
            ),
            gpu=None if raw.get("gpu") is None else r.text(raw, "gpu", ""),
            limits=Limits(
                **{name: r.number(limits, name, "limits.") for name in Limits.__dataclass_fields__}
            ),
            workspace_bytes=r.limit(raw, "workspace_bytes", ""),
            bundle_sha256={name: r.text(hashes, name, "bundle_sha256.") for name in hashes},
        ),
        {name: _engine_file(r, r.table(engines, name), f"engines.{name}.") for name in engines},
    )


def _engine_file(r: FieldReader, raw: dict[str, Any], where: str) -> EngineFile:
    return EngineFile(
        file=r.text(raw, "file", where),
        size=r.number(raw, "size", where),
        sha256=r.text(raw, "sha256", where),
        report=_report(r, r.table(raw, "report", where), f"{where}report."),
    )


def _report(r: FieldReader, raw: dict[str, Any], where: str) -> GraphReport:
    def precision(gemm: dict[str, Any], key: str) -> Precision:
        table = r.table(gemm, key, f"{where}gemms.")
        return Precision(*(r.text(table, part, where) for part in ("weights", "inputs")))

    def number(table: dict[str, Any], key: str) -> int:
        return r.number(table, key, where)

    gemms = [gemm for gemm in r.items(raw, "gemms", where) if isinstance(gemm, dict)]
    profiles = [p for p in r.items(raw, "profiles", where) if isinstance(p, dict)]
    return GraphReport(
        plan_bytes=number(raw, "plan_bytes"),
        weight_bytes=r.limit(raw, "weight_bytes", where),
        activation_bytes=r.limit(raw, "activation_bytes", where),
        gemms=tuple(
            Gemm(
                r.text(gemm, "name", where),
                precision(gemm, "asked"),
                None if gemm.get("built") is None else precision(gemm, "built"),
                r.text(gemm, "kind", where),
            )
            for gemm in gemms
        ),
        attentions=number(raw, "attentions"),
        cache_updates=number(raw, "cache_updates"),
        profiles=tuple(
            ProfileReport(
                number(profile, "fused_attentions"),
                number(profile, "cache_copies"),
                {
                    kind: r.number(profile["layers"], kind, where)
                    for kind in r.table(profile, "layers", where)
                },
            )
            for profile in profiles
        ),
    )
