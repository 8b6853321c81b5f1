"""Read a Hugging Face folder: configs at once, tensors one at a time.

safetensors files need no torch. ``pytorch_model.bin`` does, and is read with
``weights_only=True`` so that a pickle cannot run code.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Protocol

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors asks for
import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.bundle import hf_config as configs
from seq2edge.runtime.errors import BundleError, MissingDependencyError

from .errors import CheckpointError

FloatArray = NDArray[np.float32]
_FLOATS = {"F64", "F32", "F16", "BF16"}


class TensorSource(Protocol):
    """Named tensors of one file."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def load(self, name: str) -> FloatArray: ...


class Checkpoint:
    """A folder with ``config.json`` and weights. Use it as a context manager.

    Attributes:
        directory: the folder.
        config: ``config.json``.
        generation_config: ``generation_config.json``, or {} if there is none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.directory = Path(path)
        if not self.directory.exists():
            raise CheckpointError(f"no such checkpoint folder: {self.directory}")
        if not self.directory.is_dir():
            raise CheckpointError(f"{self.directory} is not a folder; give the checkpoint's folder")
        if not (self.directory / "config.json").is_file():
            raise CheckpointError(
                f"{self.directory} has no config.json; give the folder that save_pretrained wrote"
            )
        self.config = read_json(self.directory / "config.json")
        generation = self.directory / "generation_config.json"
        self.generation_config = optional_json(generation)
        self._stack = ExitStack()
        self._where: dict[str, tuple[TensorSource, str]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> Checkpoint:
        with ExitStack() as stack:
            for source in _sources(self.directory, stack):
                for name, shape in source.shapes().items():
                    self._where[name], self._shapes[name] = (source, name), shape
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._where.clear()
        self._stack.close()

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def load(self, name: str) -> FloatArray:
        """One tensor as float32."""
        source, stored = self._where[name]
        return source.load(stored)

    def assume_prefix(self, prefix: str) -> None:
        """Put ``prefix`` before all names if it is before none of them.

        A model saved without its head (``BartModel``) has names without the prefix that the
        whole model (``BartForConditionalGeneration``) gives them.
        """
        if not any(name.startswith(prefix) for name in self._where):
            self._where = {prefix + name: place for name, place in self._where.items()}
            self._shapes = {prefix + name: shape for name, shape in self._shapes.items()}

    def rename_suffixes(self, renamed: Mapping[str, str]) -> None:
        """Give names that end in a key of ``renamed`` its value as their end."""

        def new(name: str) -> str:
            old = next((end for end in renamed if name.endswith(end)), None)
            return name if old is None else name.removesuffix(old) + renamed[old]

        self._where = {new(name): place for name, place in self._where.items()}
        self._shapes = {new(name): shape for name, shape in self._shapes.items()}

    def equal(self, first: str, second: str) -> bool:
        """Whether two tensors hold the same numbers (tied weights saved twice)."""
        if self.shape(first) != self.shape(second):
            return False
        return bool(np.array_equal(self.load(first), self.load(second)))


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


def _sources(directory: Path, stack: ExitStack) -> list[TensorSource]:
    for single, opener in (
        ("model.safetensors", SafetensorsFile),
        ("pytorch_model.bin", TorchFile),
    ):
        if (directory / single).is_file():
            return [opener(directory / single, stack)]
        index = directory / f"{single}.index.json"
        if index.is_file():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not all(map(_is_file_name, shards.values())):
                raise CheckpointError(f"{index} has no weight_map of tensor names to file names")
            files = [directory / name for name in sorted(set(shards.values()))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise CheckpointError(f"{directory} lacks shards: {', '.join(missing)}")
            return [opener(file, stack) for file in files]
    raise CheckpointError(
        f"{directory} has no weights: looked for model.safetensors and pytorch_model.bin,"
        " whole or sharded"
    )


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value == PurePosixPath(value).name


def _refuse_integers(path: Path, name: str, dtype: object) -> CheckpointError:
    return CheckpointError(
        f"{path}: {name} is {dtype}; only floating-point checkpoints are exported (quantize the"
        " bundle instead)"
    )


class SafetensorsFile:
    def __init__(self, path: Path, stack: ExitStack) -> None:
        from safetensors import SafetensorError, safe_open

        self._path = path
        try:
            self._file = stack.enter_context(safe_open(path, framework="np"))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is truncated or not a safetensors file ({error}); copy it again"
            ) from None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        names = self._file.keys()
        return {name: tuple(self._file.get_slice(name).get_shape()) for name in names}

    def load(self, name: str) -> FloatArray:
        dtype = self._file.get_slice(name).get_dtype()
        if dtype not in _FLOATS:
            raise _refuse_integers(self._path, name, dtype)
        array: FloatArray = self._file.get_tensor(name).astype(np.float32, copy=False)
        return array


class TorchFile:
    def __init__(self, path: Path, stack: ExitStack) -> None:
        try:
            import torch
        except ImportError:
            raise MissingDependencyError(
                f"{path.name} needs torch: pip install 'seq2edge[torch]', or save the model"
                " as safetensors"
            ) from None
        try:
            # Files from before torch 1.6 are no zip archives and cannot be mapped.
            state = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
        except Exception as error:  # torch raises many classes for a damaged file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{path} cannot be read safely: {reason}") from None
        if not isinstance(state, dict):
            raise CheckpointError(f"{path} does not hold a state dict")
        self._path = path
        self._state = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
        stack.callback(self._state.clear)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._state.items()}

    def load(self, name: str) -> FloatArray:
        tensor = self._state[name]
        if not tensor.is_floating_point():
            raise _refuse_integers(self._path, name, tensor.dtype)
        array: FloatArray = tensor.float().numpy()
        return array
