"""Virtual environments of the peers, each made once, when it is first needed."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..driver import PeerError, call
from .lock import locked

_CTRANSLATE2 = "ctranslate2==4.8.5"
_NUMPY = "numpy==2.4.6"
_TORCH = "torch==2.13.0"
#: By the folder's name, which has the version of the library that it is for.
REQUIREMENTS = {
    # optimum-onnx 0.1.0 takes transformers below 4.58. It converts for CTranslate2 as well.
    "optimum-onnx-0.1.0": (
        "optimum-onnx==0.1.0",
        "optimum==2.1.0",
        "transformers==4.57.6",
        _TORCH,
        "onnx==1.23.2",
        "onnxruntime==1.32.0",
        _CTRANSLATE2,
        _NUMPY,
    ),
    # PyTorch as a baseline. The Python index's torch for Linux on x86-64 runs on GPUs, too.
    "transformers-5.24.0": ("transformers==5.24.0", _TORCH, _NUMPY),
    # Without torch, whose threads and libraries would be in CTranslate2's process.
    "ctranslate2-4.8.5": (_CTRANSLATE2, _NUMPY),
    "openvino-2026.4.1": (
        "optimum-intel==2.2.0",
        "openvino==2026.4.1",
        "nncf==3.4.0",
        "transformers==5.5.4",
        _TORCH,
        _NUMPY,
    ),
    "faster-whisper-1.2.1": ("faster-whisper==1.2.1", _CTRANSLATE2, _NUMPY),
    "openvino-genai-2026.4.1": (
        "openvino-genai==2026.4.1.0",
        "openvino==2026.4.1",
        "openvino-tokenizers==2026.4.1.0",
        _NUMPY,
    ),
    "onnx-asr-0.12.0": ("onnx-asr==0.12.0", "onnxruntime==1.32.0", _NUMPY),
    # With what its model builder needs. Only numpy and onnxruntime are loaded while it is timed.
    "onnxruntime-genai-0.18.0": (
        "onnxruntime-genai==0.18.0",
        "onnxruntime==1.32.0",
        "onnx-ir==1.1.0",
        "onnx==1.23.2",
        "transformers==5.24.0",
        _TORCH,
        _NUMPY,
    ),
    "whisper-cpp-1.8.5": ("pywhispercpp==1.5.1", "safetensors==0.8.0", _NUMPY),
}
#: The environment in which a library is timed, and the one in which its models are made.
TIMED_IN = {
    "optimum": "optimum-onnx-0.1.0",
    "ctranslate2": "ctranslate2-4.8.5",
    "transformers": "transformers-5.24.0",
    "openvino": "openvino-2026.4.1",
    "faster-whisper": "faster-whisper-1.2.1",
    "openvino-genai": "openvino-genai-2026.4.1",
    "onnx-asr": "onnx-asr-0.12.0",
    "onnxruntime-genai": "onnxruntime-genai-0.18.0",
    "whisper-cpp": "whisper-cpp-1.8.5",
}
MADE_IN = {
    **TIMED_IN,
    "ctranslate2": "optimum-onnx-0.1.0",
    "faster-whisper": "optimum-onnx-0.1.0",
    "openvino-genai": "openvino-2026.4.1",
    "onnx-asr": "optimum-onnx-0.1.0",
}
#: What a requirement brings and nobody here needs. torchvision (of optimum-intel) has a compiled
#: part that breaks transformers where it is not of torch's build, such as beside a CPU's torch.
_UNWANTED = {"openvino-2026.4.1": ("torchvision",)}
#: In the environment's folder, once it is complete: what it was made of. Empty until then.
_STAMP = "seq2edge-peer.txt"


def default_cache() -> Path:
    """Where environments are kept (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "seq2edge" / "peers"


@dataclass
class Environments:
    """Interpreters of the peers.

    Attributes:
        folder: holds an environment per library and version, and in ``models`` what is made there.
        torch: an interpreter with torch and transformers, such as a Jetson's, in place of such
            an environment; None: one is made.
    """

    folder: Path
    torch: Path | None = None
    _failed: dict[str, PeerError] = field(default_factory=dict)

    def python(self, name: str) -> Path:
        """The interpreter of an environment of :data:`REQUIREMENTS`, made if it is not there.

        Raises:
            PeerError: it cannot be made. It is not tried again.
        """
        if name == TIMED_IN["transformers"] and self.torch is not None:
            return self.torch
        if name in self._failed:
            raise self._failed[name]
        try:
            return prepare(self.folder / name, REQUIREMENTS[name])
        except PeerError as error:
            self._failed[name] = error
            raise


def prepare(folder: Path, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment, which is made if it is not there yet.

    Raises:
        PeerError: ``folder`` is something else, or the packages cannot be installed.
    """
    try:
        with locked(folder):
            return _prepare(folder, requirements)
    except OSError as error:
        raise PeerError(f"cannot write {folder}: {error.strerror}") from None


def _prepare(folder: Path, requirements: Sequence[str]) -> Path:
    python, stamp = folder / "bin" / "python", folder / _STAMP
    contents = "\n".join([f"python {platform.python_version()}", *requirements, ""])
    if stamp.is_file():
        if stamp.read_text() == contents and python.exists():
            return python
        shutil.rmtree(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PeerError(f"{folder} was not made by this command; name a new folder (--cache)")
    print(f"making the environment {folder} (once, minutes) ...", file=sys.stderr, flush=True)
    folder.mkdir(exist_ok=True)
    stamp.touch()
    try:
        call([sys.executable, "-m", "venv", folder], "cannot make a virtual environment")
        call(
            [python, "-m", "pip", "install", "--quiet", *requirements],
            "cannot install the peers (is the package index within reach?)",
        )
        for package in _UNWANTED.get(folder.name, ()):
            call([python, "-m", "pip", "uninstall", "--yes", package], "cannot remove a package")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    stamp.write_text(contents)
    return python
