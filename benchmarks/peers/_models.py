"""One checkpoint and the contenders' models of it.

A contender is named ``library:precision``. CTranslate2's and optimum's models are made in the
environment that has torch, seq2edge's by its own command line in the caller's interpreter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.peers._driver import call
else:
    from _driver import call

#: In the order in which they take turns.
CONTENDERS = (
    "optimum:float32",
    "ctranslate2:float32",
    "ctranslate2:int8",
    "seq2edge:float32",
    "seq2edge:int8",
    "seq2edge:int8-dynamic",
    "seq2edge:int4",
    "seq2edge:int4-head4",
)
#: What `seq2edge quantize` is told for those whose precision is not a scheme's name.
_OPTIONS = {"int4-head4": ("--scheme", "int4", "--head-bits", "4")}
#: Of T5-small's geometry.
VOCAB_SIZE = 32128

_MAKE = Path(__file__).resolve().parent / "_make.py"


def make_models(
    contenders: Sequence[str], folder: Path, torch: Path, say: Callable[[str], None]
) -> dict[str, Path]:
    """Make the models of ``contenders``, with one checkpoint of random weights.

    Args:
        contenders: names in CONTENDERS.
        folder: an empty one; up to 1.7 GB.
        torch: the interpreter of the environment that has torch.
        say: told what is being made.

    Returns:
        The folder of each contender's model.

    Raises:
        PeerError: a model cannot be made.
    """
    checkpoint = folder / "checkpoint"
    say("making the checkpoint")
    _make(torch, "checkpoint", checkpoint)
    models: dict[str, Path] = {}
    for name in contenders:
        library, precision = name.split(":")
        models[name] = folder / f"{library}.{precision}"
        say(f"making {name}")
        if library == "optimum":
            _make(torch, "optimum", checkpoint, models[name])
        elif library == "ctranslate2":
            _make(torch, "ctranslate2", checkpoint, models[name], precision)
        elif precision == "float32":
            _seq2edge("export", checkpoint, models[name], "--no-validate")
        else:
            float32 = models.get("seq2edge:float32", folder / "seq2edge.float32")
            if not float32.exists():
                _seq2edge("export", checkpoint, float32, "--no-validate")
            options = _OPTIONS.get(precision, ("--scheme", precision))
            _seq2edge("quantize", float32, models[name], *options)
    return models


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
