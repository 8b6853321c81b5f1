"""What peft's ``adapter_config.json`` says of a LoRA; what cannot be merged is refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import ADAPTER_CONFIG
from .formats import read_json

_MERGE = (
    "merge it with peft (AutoPeftModelForSeq2SeqLM.from_pretrained(FOLDER).merge_and_unload()) and"
    " export what save_pretrained writes then"
)
#: Options that are read here, by what they say.
_MERGED = {
    *("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias"),
    *("target_modules", "modules_to_save", "trainable_token_indices", "init_lora_weights"),
    *("base_model_name_or_path", "revision", "peft_type"),
}
#: Options of the training alone, or that the tensors show (which layers, which way around).
_OF_TRAINING = {
    *("task_type", "auto_mapping", "inference_mode", "peft_version", "lora_dropout", "lora_bias"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
    *("loftq_config", "eva_config", "corda_config", "megatron_core", "runtime_config"),
    "qalora_group_size",
}
#: Kinds of peft that train inputs or cache entries, which nothing can be merged with.
_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT")
#: Initializations that leave the base model as it is; others change it before the training.
_PLAIN_INITIALIZATIONS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA's ``adapter_config.json``, checked."""

    values: Mapping[str, Any]
    path: Path

    @property
    def use_dora(self) -> bool:
        return bool(self.values.get("use_dora"))

    @property
    def base(self) -> str | None:
        """The base model's folder or hub id."""
        name = self.values.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    @property
    def revision(self) -> str | None:
        """Of the base model on the hub."""
        revision = self.values.get("revision")
        return revision if isinstance(revision, str) else None

    def base_hint(self) -> str:
        return "" if self.base is None else f" (adapter_config.json names {self.base})"

    def scaling(self, module: str, rank: int) -> float:
        """What B A is multiplied by.

        Raises:
            CheckpointError: the tensors have another rank than the config says.
        """
        expected = self._pattern("rank_pattern", module, self._number("r", 8))
        alpha = self._pattern("alpha_pattern", module, self._number("lora_alpha", 8))
        if rank != expected:
            raise CheckpointError(
                f"{self.path}: {module} has the rank {expected}, and its tensors have {rank}; the"
                " adapter's two files are not of one training"
            )
        return alpha / math.sqrt(rank) if self.values.get("use_rslora") else alpha / rank

    def _number(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise CheckpointError(f"{self.path}: {key} must be a positive number, not {value!r}")
        return value

    def _pattern(self, key: str, module: str, default: float) -> float:
        """The value of the first pattern that the end of a module's name matches."""
        patterns = self.values.get(key) or {}
        for pattern, value in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return float(value)
        return default

    def targets(self, module: str) -> bool:
        """Whether ``target_modules`` names the module."""
        modules = self.values.get("target_modules")
        if isinstance(modules, str):
            return modules == "all-linear" or re.fullmatch(modules, module) is not None
        return modules is None or _ends_with(module, modules)

    def names_exactly(self, module: str) -> bool:
        """Whether ``target_modules`` lists the module, and nothing else restricts the list."""
        modules = self.values.get("target_modules")
        limits = ("exclude_modules", "layers_to_transform", "layers_pattern")
        limited = any(self.values.get(key) is not None for key in limits)
        return isinstance(modules, list) and not limited and _ends_with(module, modules)

    def is_module_to_save(self, tensor: str) -> bool:
        """Whether a tensor is of a module that was trained as a whole, in a copy of its own."""
        module = tensor.rpartition(".")[0]
        return any(module.endswith(name) for name in self.values.get("modules_to_save") or ())

    def token_indices(self, module: str) -> list[int] | None:
        """Rows of an embedding that were trained; None: the config names none."""
        indices = self.values.get("trainable_token_indices")
        if isinstance(indices, Mapping):
            return next((rows for key, rows in indices.items() if _ends_with(module, [key])), None)
        return indices


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check ``adapter_config.json``.

    Raises:
        CheckpointError: unreadable, not a LoRA, or with an option that cannot be merged; by name.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has an adapter's weights and no {ADAPTER_CONFIG}, which says how they are"
            " scaled; copy it there"
        )
    values = read_json(path)
    kind = values.get("peft_type")
    if kind in _PROMPTS:
        raise CheckpointError(
            f"{path}: peft_type {kind!r} trains inputs or cache entries, which no weights can be"
            " merged with and a bundle has no place for; train a LORA instead"
        )
    if kind != "LORA":
        raise CheckpointError(
            f"{path}: peft_type {kind!r} is not merged at export, only LORA is (with rsLoRA and"
            f" DoRA): {_MERGE}"
        )
    initialization = values.get("init_lora_weights")
    if initialization not in _PLAIN_INITIALIZATIONS:
        raise CheckpointError(
            f"{path}: init_lora_weights {initialization!r} changes the base model too: {_MERGE}"
        )
    unknown = [key for key in sorted(values.keys() - _MERGED - _OF_TRAINING) if values[key]]
    if unknown:
        raise CheckpointError(
            f"{path}: {', '.join(f'{key} {values[key]!r}' for key in unknown)} is not supported:"
            f" {_MERGE}"
        )
    return AdapterConfig(values, path)


def _ends_with(module: str, names: Sequence[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)
