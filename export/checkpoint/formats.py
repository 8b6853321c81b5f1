"""Files of named tensors, read one tensor at a time: safetensors and what ``torch.save`` wrote.

safetensors files need no torch. Files of torch's do, and are read with ``weights_only=True`` so
that a pickle cannot run code.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.bundle import hf_config as configs
from seq2edge.runtime.dependencies import needs
from seq2edge.runtime.errors import BundleError

from ..errors import CheckpointError
from .safetensors_file import SafetensorsFile, refuse_integers

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float32]
#: How files that hold no tensors of ours begin, and what they are.
_FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"GGUF": "a GGUF file, whose weights are quantized; export the checkpoint that it was made of",
    b"lmgg": "a GGML file; export the checkpoint that it was made of",
    b"\x89HDF": "an HDF5 file (TensorFlow or Keras); save the model with PyTorch",
}
#: Where training loops keep the model's tensors in what they save, most usual first.
_STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "module", "weights")
#: What unpickles to plain values, and trainers keep beside the tensors: hyperparameters, paths,
#: and metrics as numpy's scalars and arrays. Their own contents are restricted in the same way.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.float64(0).__reduce__()[0],
    np.zeros(0).__reduce__()[0],
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "u1", "?")),
]


class TensorSource(Protocol):
    """Named tensors of one file; ``nested`` in a dictionary within what the file holds."""

    nested: bool

    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def load(self, name: str) -> FloatArray: ...


def open_tensors(path: Path, stack: ExitStack) -> TensorSource:
    """The tensors of a file, by its suffix; ``stack`` closes it.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
        MissingDependencyError: a file of torch's without torch.
    """
    _refuse_foreign(path)
    return (SafetensorsFile if path.suffix == ".safetensors" else TorchFile)(path, stack)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: unreadable, not JSON, or not an object.
    """
    try:
        return configs.read_json(path)
    except BundleError as error:
        raise CheckpointError(str(error)) from None


def optional_json(path: Path) -> dict[str, Any]:
    """:func:`read_json`; {} if there is no such file."""
    return read_json(path) if path.is_file() else {}


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_file():  # a named pipe would never end
        raise CheckpointError(f"cannot read {path}: it is no file")
    try:
        with path.open("rb") as file:
            start = file.read(24)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            raise CheckpointError(f"{path} is {what}")


class TorchFile:
    """A state dict, alone or among what a training loop saved beside it."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._file = stack.enter_context(path.open("rb"))
        self._size = path.stat().st_size
        saved = _load(path)
        self._state = _state_dict(saved, path)
        self.nested = not self._state.keys() <= saved.keys()
        stack.callback(self._state.clear)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._state.items()}

    def load(self, name: str) -> FloatArray:
        tensor = self._state[name]
        if not tensor.is_floating_point():
            raise refuse_integers(self._path, name, tensor.dtype)
        if os.fstat(self._file.fileno()).st_size < self._size:  # it is mapped into memory
            raise CheckpointError(f"{self._path} was cut while it was read; copy it again")
        array: FloatArray = tensor.detach().float().numpy()
        return array


def _load(path: Path) -> Any:
    with needs(path.name, instead=", or save the model as safetensors"):
        import torch
    torch.serialization.add_safe_globals(_HARMLESS)
    try:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch raises many classes for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = ""
        if "weights only" in reason.lower():
            if not _may_be_torchs(path):
                raise CheckpointError(
                    f"{path} is damaged, or no file of torch's; copy it again"
                ) from None
            reason = "it holds Python objects beside tensors, and unpickling those can run code"
            advice = (
                "; if you trust it, save its state dict alone: saved = torch.load(path,"
                " weights_only=False), then torch.save(saved['state_dict'], 'pytorch_model.bin'),"
                " or saved.state_dict() where it is the whole module"
            )
        raise CheckpointError(f"{path} cannot be read safely: {reason}{advice}") from None


def _may_be_torchs(path: Path) -> bool:
    """Whether a file is a zip archive or begins as a pickle of protocol 2 or newer."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)


def _state_dict(saved: Any, path: Path) -> dict[str, torch.Tensor]:
    """The tensors by name; those of a training loop's other dictionaries are named in a warning.

    Raises:
        CheckpointError: there are none, or several dictionaries of them without a usual name.
    """
    if not isinstance(saved, Mapping):
        raise CheckpointError(f"{path} does not hold a state dict, but a {type(saved).__name__}")
    tensors = _tensors(saved)
    nested = {
        key: value
        for key, value in saved.items()
        if isinstance(value, Mapping) and _holds_tensors(value)
    }
    # A training loop may keep a tensor of its own (the last loss) beside the model's.
    if len(tensors) >= max(map(len, nested.values()), default=0):
        _warn_of_others(path, nested)
        return tensors
    usual = [key for key in _STATE_KEYS if key in nested]
    if not usual and len(nested) > 1:
        raise CheckpointError(
            f"{path} holds tensors in {', '.join(map(repr, nested))}, none of which is usually the"
            " model's; save the one state dict that is to be exported"
        )
    chosen = usual[0] if usual else next(iter(nested))
    _warn_of_others(path, {key: value for key, value in nested.items() if key != chosen})
    return _state_dict(nested[chosen], path)


def _tensors(state: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    import torch

    return {
        key: value
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }


def _holds_tensors(state: Mapping[Any, Any]) -> bool:
    """Whether tensors have names in it, or in a dictionary of it; an optimizer numbers its own."""
    return bool(_tensors(state)) or any(
        isinstance(key, str) and isinstance(value, Mapping) and bool(_tensors(value))
        for key, value in state.items()
    )


def _warn_of_others(path: Path, others: Mapping[Any, Any]) -> None:
    if others:
        warnings.warn(
            f"{path} also holds tensors in {', '.join(map(repr, others))}, which are not exported",
            stacklevel=7,
        )
