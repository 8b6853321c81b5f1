"""Read a checkpoint's folder: configs at once, tensors one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import CheckpointError
from . import ctranslate2
from .files import INDEX, SUFFIXES, inner_models, listing, weights_files, weights_name, what_else
from .formats import FloatArray, TensorSource, open_tensors, optional_json, read_json
from .names import unwrapped

Change = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor is, and what is done to it when it is loaded."""

    source: TensorSource
    stored: str
    shape: tuple[int, ...]
    changes: tuple[Change, ...] = ()

    def load(self) -> FloatArray:
        array = self.source.load(self.stored)
        for change in self.changes:
            array = change(array)
        return array


class Checkpoint:
    """A folder with ``config.json`` and weights. Use it as a context manager.

    A folder of CTranslate2 is read as the checkpoint that it was converted from.

    Args:
        path: the folder, or a file of weights beside its ``config.json``.

    Attributes:
        directory: the folder.
        config: ``config.json``.
        generation_config: ``generation_config.json``, or {} if there is none.
        as_saved: transformers reads the same tensors from the folder, by the same names.
        of_transformers: transformers knows the folder, whose config.json is its own.

    Raises:
        CheckpointError: there is no such folder, or no config.json in it; a model of CTranslate2
            that is damaged or of a kind that is not supported.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        if not path.exists():
            raise CheckpointError(f"no such checkpoint folder: {path}")
        if path.is_file() and not path.name.endswith((*SUFFIXES, INDEX)):
            packed = path.suffix == ".argosmodel"
            give = "unpack it and give its folder" if packed else "give the checkpoint's folder"
            raise CheckpointError(
                f"{path} is not a folder, and not a file of weights ({', '.join(SUFFIXES)}); {give}"
            )
        self._stack = ExitStack()
        self._tensors: dict[str, _Tensor] = {}
        self._weights = None if path.is_dir() else path.name
        model = ctranslate2.find_model(path)
        self.of_transformers = model is None
        self._converted = None if model is None else ctranslate2.read_model(model)
        if model is not None and self._converted is not None:
            self.directory, self.as_saved = model.parent, False
            self.config = self._converted.config
            self.generation_config = self._converted.generation_config
            return
        self.directory = path if path.is_dir() else path.parent
        names = listing(self.directory)
        if "config.json" not in names:
            raise CheckpointError(
                f"{self.directory} has no config.json; give the folder that save_pretrained wrote,"
                " or put the model's config.json beside its weights"
                + (what_else(names) or inner_models(self.directory))
            )
        self.config = read_json(self.directory / "config.json")
        self.generation_config = optional_json(self.directory / "generation_config.json")
        self.as_saved = path.is_dir()

    def __enter__(self) -> Checkpoint:
        if self._converted is not None:
            self._add(self._converted.tensors)
            return self
        weights = self._weights or weights_name(listing(self.directory), self.directory)
        self.as_saved &= weights.startswith(("model.safetensors", "pytorch_model.bin"))
        with ExitStack() as stack:
            for file in weights_files(self.directory, weights):
                self._add(open_tensors(file, stack))
            self._stack = stack.pop_all()
        return self

    def _add(self, source: TensorSource) -> None:
        self.as_saved &= not source.nested
        for name, shape in source.shapes().items():
            self._tensors[name] = _Tensor(source, name, shape)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tensors.clear()
        self._stack.close()

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def load(self, name: str) -> FloatArray:
        """One tensor as float32.

        Raises:
            CheckpointError: it is of integers, or has values that are NaN or infinite.
        """
        array = self._tensors[name].load()
        _refuse_non_finite(array, name, self.directory)
        return array

    def without_tensors(self) -> Checkpoint:
        """The same folder, as if no tensor had been read."""
        return Checkpoint(self.directory)

    def unwrap(self, is_expected: Callable[[str], bool]) -> None:
        """Take from all names what wrappers of the model put there: see :func:`unwrapped`."""
        short = unwrapped(self.names, is_expected, str(self.directory))
        self.as_saved &= all(name == new for name, new in short.items())
        self._rename(short.__getitem__)

    def assume_prefix(self, prefix: str) -> None:
        """Put ``prefix`` before all names if it is before none of them.

        A model saved without its head (``BartModel``) has names without the prefix that the
        whole model (``BartForConditionalGeneration``) gives them.
        """
        if not any(name.startswith(prefix) for name in self._tensors):
            self._rename(lambda name: prefix + name)

    def rename_suffixes(self, renamed: Mapping[str, str]) -> None:
        """Give names that end in a key of ``renamed`` its value as their end."""

        def new(name: str) -> str:
            old = next((end for end in renamed if name.endswith(end)), None)
            return name if old is None else name.removesuffix(old) + renamed[old]

        self._rename(new)

    def _rename(self, new: Callable[[str], str]) -> None:
        self._tensors = {new(name): tensor for name, tensor in self._tensors.items()}

    def open(self, path: Path) -> TensorSource:
        """The tensors of another file, which is closed with the checkpoint."""
        return open_tensors(path, self._stack)

    def put(self, name: str, source: TensorSource, stored: str) -> None:
        """Take a tensor from another file, in place of the one of that name or as a new one."""
        self.as_saved = False
        self._tensors[name] = _Tensor(source, stored, source.shapes()[stored])

    def copy(self, name: str, new: str) -> None:
        """Give a tensor a second name; a change under one name is none under the other."""
        self._tensors[new] = self._tensors[name]

    def change(self, name: str, change: Change) -> None:
        """Change a tensor, in its shape, whenever it is loaded."""
        self.as_saved = False
        tensor = self._tensors[name]
        self._tensors[name] = replace(tensor, changes=(*tensor.changes, change))

    def equal(self, first: str, second: str) -> bool:
        """Whether two tensors hold the same numbers (tied weights saved twice)."""
        if self.shape(first) != self.shape(second):
            return False
        return bool(np.array_equal(self.load(first), self.load(second)))


def _refuse_non_finite(array: FloatArray, name: str, directory: Path) -> None:
    # A sum is finite only if all its terms are, and needs no memory; it may overflow, though.
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum()):
            return
    bad = ~np.isfinite(array)
    if bad.any():
        place = np.unravel_index(int(bad.argmax()), bad.shape)
        raise CheckpointError(
            f"{directory}: {name} has {int(bad.sum())} of {bad.size} values that are NaN or"
            f" infinite, the first at {[int(i) for i in place]} ({float(array[place])}); a training"
            " in float16 that overflowed leaves such weights: take an earlier checkpoint, or train"
            " in bfloat16 or float32"
        )
