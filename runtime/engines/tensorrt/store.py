"""A folder of engines: the plans, and ``engines.json``, which says what they are for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...output import OutputFolder
from .profile import Limits
from .report import GraphReport

ENGINES_NAME = "engines.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class EngineFile:
    """One plan: its name in the folder, its bytes, and the report on it."""

    file: str
    size: int
    sha256: str
    report: GraphReport


@dataclass(frozen=True)
class EngineSet:
    """What ``engines.json`` says.

    Attributes:
        engine, version: the TensorRT that built them; a plan runs on no other version.
        compute_capabilities: of the GPUs that they are for; empty: of the building machine.
        limits: the largest shapes that they take.
        bundle_sha256: of the bundle's files that they were built from.
        engines: by graph, ``encoder`` and ``decoder``.
    """

    engine: str
    version: str
    compute_capabilities: tuple[str, ...]
    limits: Limits
    bundle_sha256: Mapping[str, str]
    engines: Mapping[str, EngineFile]

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``kept`` says of each GEMM whether it has the asked precision."""
        out = {"format_version": FORMAT_VERSION, **asdict(self)}
        for name, engine in self.engines.items():
            gemms = zip(out["engines"][name]["report"]["gemms"], engine.report.gemms, strict=True)
            for entry, gemm in gemms:
                entry["kept"] = gemm.kept
        return out


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

    def commit(self, made: EngineSet) -> None:
        """Write ``engines.json`` and put the folder in its place."""
        text = json.dumps(made.to_json(), indent=2, sort_keys=True) + "\n"
        self.write(ENGINES_NAME, text.encode())
        self.publish()
