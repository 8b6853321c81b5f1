"""Virtual environments of the peers, each made once."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.peers._driver import PeerError, call
else:
    from _driver import PeerError, call

_CTRANSLATE2 = "ctranslate2==4.8.5"
_NUMPY = "numpy==2.4.6"
#: By the folder's name. ``torch`` makes the peers' models and times optimum: optimum-onnx 0.1.0
#: takes transformers below 4.58; the rest as in constraints.txt.
REQUIREMENTS = {
    "torch": (
        "optimum-onnx==0.1.0",
        "optimum==2.1.0",
        "transformers==4.57.6",
        "torch==2.13.0",
        "onnx==1.23.2",
        "onnxruntime==1.32.0",
        _CTRANSLATE2,
        _NUMPY,
    ),
    # PyTorch as a baseline. The Python index's torch for Linux on x86-64 runs on GPUs, too.
    "transformers": ("transformers==5.24.0", "torch==2.13.0", _NUMPY),
    # Without torch, whose threads and libraries would be in CTranslate2's process.
    "ctranslate2": (_CTRANSLATE2, _NUMPY),
}
#: In the environment's folder, once it is complete: what it was made of. Empty until then.
_STAMP = "seq2edge-peer.txt"


def prepare(folder: Path, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment, which is made if it is not there yet.

    Raises:
        PeerError: ``folder`` is something else, or the packages cannot be installed.
    """
    python, stamp = folder / "bin" / "python", folder / _STAMP
    contents = "\n".join([f"python {platform.python_version()}", *requirements, ""])
    if stamp.is_file():
        if stamp.read_text() == contents and python.exists():
            return python
        shutil.rmtree(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PeerError(f"{folder} was not made by this script; name a new folder")
    print(f"making the environment {folder} (once, minutes) ...", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.touch()
    try:
        call([sys.executable, "-m", "venv", folder], "cannot make a virtual environment")
        call(
            [python, "-m", "pip", "install", "--quiet", *requirements],
            "cannot install the peers (is the package index within reach?)",
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    stamp.write_text(contents)
    return python
