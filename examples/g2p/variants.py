"""Every quantized variant of the demo model against its float32 bundle, on the test words.

    python variants.py --output report

Exports the checkpoint, calibrates on training words, quantizes, and compares: a table, JSON and
a picture in the folder of --output. Needs the cpu, export and quality extras; some minutes.
Variants for CUDA and TensorRT run on the CPU here: their quality is what counts, not their time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data import load_splits
from jsonl import lines

MODEL = Path(__file__).resolve().parent / "model"
#: Words of the training split, evenly spaced in it.
CALIBRATION_WORDS = 512


@dataclass(frozen=True)
class Variant:
    """Arguments of ``seq2edge quantize``; ``calibrated`` adds --calibration."""

    name: str
    scheme: str
    options: tuple[str, ...] = ()
    calibrated: bool = False


_TENSORRT = ("--target", "tensorrt")
VARIANTS = (
    Variant("fp16", "fp16"),
    Variant("int8", "int8"),
    Variant("int8-dynamic", "int8-dynamic"),
    Variant("int8-qdq", "int8-qdq", calibrated=True),
    Variant(
        "int8-qdq-smoothquant", "int8-qdq", ("--method", "minmax", "--smoothquant", "0.5"), True
    ),
    Variant("int4", "int4"),
    Variant("int4-k-quant-32", "int4", ("--algorithm", "k-quant", "--block-size", "32")),
    Variant("int4-gptq-32", "int4", ("--algorithm", "gptq", "--block-size", "32"), True),
    Variant("trt-fp16", "fp16", _TENSORRT, True),
    Variant("trt-int8-qdq", "int8-qdq", _TENSORRT, True),
    Variant("trt-int4", "int4", _TENSORRT, True),
)


def seq2edge(*arguments: object) -> None:
    """Run the command line, which says itself what is wrong."""
    command = [sys.executable, "-m", "seq2edge.cli.main", *map(str, arguments)]
    done = subprocess.run(command).returncode
    if done:
        sys.exit(done)


def make(variants: Sequence[Variant], folder: Path) -> list[Path]:
    """The float32 bundle and the variants, in ``folder``."""
    words = list(load_splits()["train"])
    text = folder / "calibration.txt"
    step = len(words) // CALIBRATION_WORDS
    text.write_text("\n".join(words[::step][:CALIBRATION_WORDS]), encoding="utf-8")
    reference = folder / "float32"
    seq2edge("export", MODEL, reference)
    made = [reference]
    for variant in variants:
        made.append(folder / variant.name)
        calibration = ("--calibration", text) if variant.calibrated else ()
        arguments = ("--scheme", variant.scheme, *variant.options, *calibration)
        seq2edge("quantize", reference, made[-1], *arguments)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    parser.add_argument("--limit", type=int, help="only the first N test words")
    parser.add_argument("--speed-texts", type=int, default=100, help="words that are timed")
    parser.add_argument("--force", action="store_true", help="replace an existing report")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seq2edge-variants-") as name:
        folder = Path(name)
        bundles = make(VARIANTS, folder)
        data = folder / "test.jsonl"
        test = load_splits()["test"]
        data.write_text(lines(dict(islice(test.items(), args.limit))), encoding="utf-8")
        force = ("--force",) if args.force else ()
        report = ("--output", args.output, "--speed-texts", args.speed_texts, *force)
        seq2edge("compare", *bundles, "--data", data, "--metric", "per", *report)


if __name__ == "__main__":
    main()
