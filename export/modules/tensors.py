"""The tensors of a module or of a state dict's file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint import Checkpoint, FloatArray, TensorSource, open_tensors
from ..errors import CheckpointError
from .parts import ModuleParts

if TYPE_CHECKING:
    import torch


class StateDict(Checkpoint):
    """A checkpoint without a folder: nothing but named tensors.

    Args:
        name: what messages call it.
        opener: gives the tensors; the stack closes what it opens.
        parts: those of the model; what wrappers put before their names is left out. None: the
            names are the model's own.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[ExitStack], TensorSource],
        parts: ModuleParts | None = None,
    ) -> None:
        self.directory = Path(name)
        self.as_saved, self._parts = True, parts
        self.config, self.generation_config = {}, {}
        self._opener = opener
        self._stack = ExitStack()
        self._tensors = {}

    def __enter__(self) -> StateDict:
        with ExitStack() as stack:
            self._add(self._opener(stack))
            if self._parts is not None:
                paths = (self._parts.encoder, self._parts.decoder, self._parts.source_embedding)
                prefixes = tuple(f"{path}." for path in paths)
                self.unwrap(lambda name: name.startswith(prefixes))
            self._stack = stack.pop_all()
        return self


def file_tensors(path: Path, parts: ModuleParts) -> StateDict:
    """The tensors of ``torch.save(model.state_dict(), path)``, of what a training loop saved with
    the state dict in it, or of a safetensors file.

    Raises:
        CheckpointError: here there is no such file; on entering, it cannot be read, or it
            holds no tensors.
        MissingDependencyError: on entering, a file of torch's without torch.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}; give the file with the model's state dict")

    def opened(stack: ExitStack) -> TensorSource:
        source = open_tensors(path, stack)
        if not source.shapes():
            raise CheckpointError(
                f"{path} holds no tensors by name; save the state dict itself:"
                " torch.save(model.state_dict(), ...)"
            )
        return source

    return StateDict(str(path), opened, parts)


def own_module(model: torch.nn.Module) -> torch.nn.Module:
    """The module within what torch.compile and DataParallel put around it."""
    import torch

    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while True:
        inner = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, torch.nn.Module):
            return model
        model = inner


def module_tensors(model: torch.nn.Module, parts: ModuleParts) -> StateDict:
    """The tensors of a module: its state dict, and position tables that are not part of it."""
    state: dict[str, torch.Tensor] = dict(model.state_dict())
    for positions in (parts.positions, parts.target_positions):
        if positions is not None and positions.table is not None and positions.table not in state:
            table = _attribute(model, positions.table)
            if table is not None:
                state[positions.table] = table
    return StateDict(f"the {type(model).__name__}", lambda _stack: _ModuleTensors(state))


def _attribute(model: torch.nn.Module, name: str) -> torch.Tensor | None:
    """A tensor by its dotted name: a buffer that is not persistent, or a plain attribute."""
    import torch

    found: object = model
    for step in name.split("."):
        found = getattr(found, step, None)
    return found if isinstance(found, torch.Tensor) else None


class _ModuleTensors:
    nested = False

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        self._state = state

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._state.items()}

    def load(self, name: str) -> FloatArray:
        tensor = self._state[name]
        if not tensor.is_floating_point():
            raise CheckpointError(f"{name} is {tensor.dtype}; only floating-point is exported")
        array: FloatArray = tensor.detach().cpu().float().numpy()
        return array
