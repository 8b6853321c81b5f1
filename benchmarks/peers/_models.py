"""One checkpoint and the baselines' models of it.

CTranslate2's and optimum's models are made in the environment that has torch, seq2edge's by its
own command line in the caller's interpreter; PyTorch runs the checkpoint itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from seq2edge.benchmarks.peers._driver import PeerError, call
    from seq2edge.benchmarks.peers._names import Name
    from seq2edge.benchmarks.peers._report import Workload
else:
    from _driver import PeerError, call
    from _names import Name
    from _report import Workload

#: What `seq2edge quantize` is told for those whose precision is not a scheme's name.
_OPTIONS = {"int4-head4": ("--scheme", "int4", "--head-bits", "4")}
#: Sources that static ranges are taken from.
_CALIBRATION_SOURCES = 16
#: Special tokens of T5 and BART come first.
_FIRST_ORDINARY = 3

_MAKE = Path(__file__).resolve().parent / "_make.py"


@dataclass
class ModelMaker:
    """Makes the models of baselines, each bundle once.

    Attributes:
        folder: an empty one; up to 1.7 GB for a checkpoint of T5-small's size.
        checkpoint: the one that all are made of.
        torch: the interpreter of the environment that has torch, and optimum and ctranslate2 if
            they take part; None: neither does.
        workload: what engines of fixed shapes are built for.
        say: told what is being made.
    """

    folder: Path
    checkpoint: Path
    torch: Path | None
    workload: Workload
    say: Callable[[str], None]
    _bundles: dict[tuple[str, str], Path] = field(default_factory=dict)

    def make(self, name: Name) -> Path:
        """The folder of a baseline's model.

        Raises:
            PeerError: it cannot be made.
        """
        self.say(f"making {name.text}")
        if name.library == "transformers":
            return self.checkpoint
        if name.library == "seq2edge":
            bundle = self._bundle(name.precision, name.target)
            if name.built:
                self._build(bundle, str(name.mode))
            return bundle
        model = self.folder / f"{name.library}.{name.precision}"
        assert self.torch is not None  # these libraries have an environment
        precision = (name.precision,) if name.library == "ctranslate2" else ()
        _make(self.torch, name.library, self.checkpoint, model, *precision)
        return model

    def _bundle(self, precision: str, target: str) -> Path:
        # A float32 bundle is for all targets.
        key = (precision, "" if precision == "float32" else target)
        if key not in self._bundles:
            bundle = self.folder / ".".join(filter(None, ("seq2edge", *key)))
            if precision == "float32":
                _seq2edge("export", self.checkpoint, bundle, "--no-validate")
            else:
                self._quantize(self._bundle("float32", ""), bundle, precision, target)
            self._bundles[key] = bundle
        return self._bundles[key]

    def _quantize(self, float32: Path, bundle: Path, precision: str, target: str) -> None:
        options: list[object] = ["--target", target]
        options += _OPTIONS.get(precision, ("--scheme", precision))
        if precision == "int8-qdq":
            texts = self.folder / "calibration.jsonl"
            count, length = _CALIBRATION_SOURCES, self.workload.source_length
            sources = random_sources(self.checkpoint, count, length, seed=1)
            texts.write_text("".join(f"{json.dumps({'input_ids': ids})}\n" for ids in sources))
            options += ["--calibration", texts]
        _seq2edge("quantize", float32, bundle, *options)

    def _build(self, bundle: Path, backend: str) -> None:
        work = self.workload
        limits = {
            "--max-source-length": work.source_length,
            "--max-target-length": work.new_tokens * work.num_beams,
            "--max-num-tokens": work.num_beams,
        }
        options = [part for pair in limits.items() for part in pair]
        _seq2edge("build", bundle, "--backend", backend, *options)


def make_checkpoint(torch: Path, folder: Path) -> None:
    """T5-small's geometry with random weights.

    Raises:
        PeerError: the interpreter has no torch or transformers.
    """
    _make(torch, "checkpoint", folder)


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


def _make(python: Path, what: str, *arguments: object) -> None:
    call([python, _MAKE, what, *arguments], f"cannot make {what}'s model", PEER_VARIABLES)


def _seq2edge(command: str, *arguments: object) -> None:
    # By the command line, because benchmarks/ may not import export/ (docs/design.md). -P: the
    # folder that the caller is in may hold anything.
    program = [sys.executable, "-P", "-m", "seq2edge.cli.main", command]
    call([*program, *arguments], f"seq2edge cannot {command}")
