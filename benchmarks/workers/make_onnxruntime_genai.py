"""Makes what onnxruntime-genai runs of a checkpoint of Whisper, by its own model builder.

python make_onnxruntime_genai.py onnxruntime-genai CHECKPOINT FOLDER PRECISION
"""

from __future__ import annotations

import runpy
import sys
import tempfile

_PRECISIONS = {"float32": "fp32", "int4": "int4"}


def write(checkpoint: str, folder: str, precision: str) -> None:
    """Run the command ``python -m onnxruntime_genai.models.builder``."""
    with tempfile.TemporaryDirectory() as cache:
        options = {"-i": checkpoint, "-o": folder, "-p": _PRECISIONS[precision], "-c": cache}
        words = [word for pair in options.items() for word in pair]
        sys.argv = ["builder", "-e", "cpu", *words]
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    write(*sys.argv[2:])
