"""One checkpoint and the baselines' models of it.

Others' models are made in environments that have torch, seq2edge's by its own command line in the
caller's interpreter; PyTorch runs the checkpoint itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from seq2edge.runtime.errors import InputError

from ..driver import PeerError, call
from .environments import MADE_IN, REQUIREMENTS, TIMED_IN, Environments
from .model_cache import ModelCache, seq2edge_parts
from .names import Name
from .workload import PeerWorkload

#: What `seq2edge quantize` is told for those whose precision is not a scheme's name.
_OPTIONS = {"int4-head4": ("--scheme", "int4", "--head-bits", "4")}
#: Sources that static ranges are taken from.
_CALIBRATION_SOURCES = 16
#: Special tokens of T5 and BART come first.
_FIRST_ORDINARY = 3

#: Sizes of known models (workers/make.py).
GEOMETRIES = ("t5-small", "marian-base", "bart-base")

_WORKERS = Path(__file__).resolve().parents[1] / "workers"
_MAKE = _WORKERS / "make.py"
#: Of libraries whose models another script makes.
_SCRIPTS = {
    "onnx-asr": _WORKERS / "make_onnx_asr.py",
    "onnxruntime-genai": _WORKERS / "make_onnxruntime_genai.py",
    "whisper-cpp": _WORKERS / "make_whisper_cpp.py",
}
_OF_ONE_PRECISION = ("optimum", "onnx-asr")


@dataclass
class ModelMaker:
    """Makes the models of baselines, each once.

    Attributes:
        cache: keeps them; up to 2.5 GB for a checkpoint of T5-small's size.
        checkpoint: the one that all are made of.
        environments: where others' models are made.
        workload: what engines of fixed shapes are built for.
    """

    cache: ModelCache
    checkpoint: Path
    environments: Environments
    workload: PeerWorkload

    def make(self, name: Name) -> Path:
        """The folder of a baseline's model.

        Raises:
            PeerError: it, or the environment that makes it, cannot be made.
        """
        if name.library == "transformers":
            return self.checkpoint
        if name.library == "seq2edge":
            bundle = self._bundle(name.precision, name.target)
            if name.built:
                self._build(bundle, str(name.mode))
            return bundle
        precision = () if name.library in _OF_ONE_PRECISION else (name.precision,)
        environment = MADE_IN[name.library]
        script = _SCRIPTS.get(name.library, _MAKE)

        def write(folder: Path) -> None:
            python = self.environments.python(environment)
            _make(python, script, name.library, self.checkpoint, folder, *precision)

        parts = (script.read_text(encoding="utf-8"), REQUIREMENTS[environment], *precision)
        return self.cache.get(f"{name.library}.{name.precision}", parts, write)

    def _bundle(self, precision: str, target: str) -> Path:
        # A float32 bundle is for all targets.
        if precision == "float32":
            return self.cache.get(
                "seq2edge.float32",
                seq2edge_parts(),
                lambda folder: _seq2edge("export", self.checkpoint, folder, "--no-validate"),
            )
        options: list[object] = ["--target", target]
        options += _OPTIONS.get(precision, ("--scheme", precision))
        sources = self._calibration() if precision == "int8-qdq" else ""

        def write(folder: Path) -> None:
            float32 = self._bundle("float32", "")
            with tempfile.TemporaryDirectory(prefix="seq2edge-peers-") as temporary:
                texts = Path(temporary) / "calibration.jsonl"
                texts.write_text(sources)
                calibration = ("--calibration", texts) if sources else ()
                _seq2edge("quantize", float32, folder, *options, *calibration)

        parts = (*seq2edge_parts(), *options, sources)
        return self.cache.get(f"seq2edge.{precision}.{target}", parts, write)

    def _calibration(self) -> str:
        """Sources, a line of JSON each."""
        count, length = _CALIBRATION_SOURCES, self.workload.source_length
        sources = random_sources(self.checkpoint, count, length, seed=1)
        return "".join(f"{json.dumps({'input_ids': ids})}\n" for ids in sources)

    def _build(self, bundle: Path, backend: str) -> None:
        work = self.workload
        limits = {
            "--max-source-length": work.source_length,
            "--max-target-length": work.new_tokens * work.num_beams,
            "--max-num-tokens": work.num_beams,
        }
        options = [part for pair in limits.items() for part in pair]
        _seq2edge("build", bundle, "--backend", backend, *options)


def make_checkpoint(environments: Environments, cache: ModelCache, geometry: str) -> Path:
    """One of :data:`GEOMETRIES` with random weights, made by this interpreter if it has torch.

    Raises:
        PeerError: there is none with torch and transformers, and none can be made.
    """
    here = all(find_spec(name) is not None for name in ("torch", "transformers"))
    environment = TIMED_IN["transformers"]

    def write(folder: Path) -> None:
        python = Path(sys.executable) if here else environments.python(environment)
        _make(python, _MAKE, "checkpoint", folder, geometry)

    made_by = [version(name) for name in ("torch", "transformers")] if here else environment
    return cache.get(geometry, (_MAKE.read_text(encoding="utf-8"), made_by), write)


def model_type(checkpoint: Path) -> str:
    """As its config says.

    Raises:
        InputError: ``checkpoint`` has none.
    """
    config = checkpoint / "config.json"
    try:
        return str(json.loads(config.read_bytes())["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{config} has no model_type: is it a Hugging Face folder?") from None


def random_sources(checkpoint: Path, count: int, length: int, *, seed: int = 0) -> list[list[int]]:
    """Token ids of so many sources; none of the special tokens that come first.

    Raises:
        PeerError: ``checkpoint`` has no config with a vocabulary.
    """
    config = checkpoint / "config.json"
    try:
        size = json.loads(config.read_bytes())["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PeerError(f"{config} has no vocab_size: is it a checkpoint?") from None
    generator = np.random.default_rng(seed)
    sources: list[list[int]] = generator.integers(_FIRST_ORDINARY, size, (count, length)).tolist()
    return sources


def size(folder: Path) -> int:
    """Bytes on disk."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


#: Of a peer's process: the caller's packages stay out, and nothing is downloaded.
PEER_VARIABLES: Mapping[str, str | None] = {"PYTHONPATH": None, "HF_HUB_OFFLINE": "1"}


def _make(python: Path, script: Path, what: str, *arguments: object) -> None:
    call([python, script, what, *arguments], f"cannot make {what}'s model", PEER_VARIABLES)


def _seq2edge(command: str, *arguments: object) -> None:
    # By the command line, because benchmarks/ may not import export/ (docs/design.md). -P: the
    # folder that the caller is in may hold anything.
    program = [sys.executable, "-P", "-m", "seq2edge.cli.main", command]
    call([*program, *arguments], f"seq2edge cannot {command}")
