"""What peft's ``adapter_config.json`` says of a LoRA; what cannot be merged is refused by name."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import ADAPTER_CONFIG
from .formats import read_json
from .patterns import matching

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

    def scalings(self, ranks: Mapping[str, int]) -> dict[str, float]:
        """What each module's B A is multiplied by.

        Args:
            ranks: of the modules' tensors.

        Raises:
            CheckpointError: the tensors have another rank than the config says, or a pattern cannot
                be matched.
        """
        expected = self._by_pattern("rank_pattern", ranks, self.values.get("r", 8))
        alphas = self._by_pattern("alpha_pattern", ranks, self.values.get("lora_alpha", 8))
        for module, rank in ranks.items():
            if rank != expected[module]:
                raise CheckpointError(
                    f"{self.path}: {module} has the rank {expected[module]:g}, and its tensors have"
                    f" {rank}; the adapter's two files are not of one training"
                )
        power = 0.5 if self.values.get("use_rslora") else 1
        return {module: alphas[module] / max(rank, 1) ** power for module, rank in ranks.items()}

    def _by_pattern(self, key: str, modules: Iterable[str], default: float) -> dict[str, float]:
        """For each module the value of the first pattern that the end of its name matches."""
        patterns = {rf"(.*\.)?({name})": value for name, value in self._table(key).items()}
        found = matching(list(patterns), modules, f"{self.path}: {key}")
        values = dict.fromkeys(modules, float(default))
        for pattern, value in reversed(patterns.items()):
            values.update(dict.fromkeys(found[pattern], float(value)))
        return values

    def _table(self, key: str) -> dict[str, float]:
        return self.values.get(key) or {}

    def not_targeted(self, modules: Iterable[str]) -> list[str]:
        """Those that ``target_modules`` does not name.

        Raises:
            CheckpointError: it is a pattern that cannot be matched.
        """
        targets = self.values.get("target_modules")
        if targets is None or targets == "all-linear":
            return []
        if isinstance(targets, str):
            found = matching([targets], modules, f"{self.path}: target_modules")[targets]
            return [module for module in modules if module not in found]
        return [module for module in modules if not _ends_with(module, targets)]

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
    wrong = [
        f"{key} must be {what}, not {reprlib.repr(values[key])}"
        for key, (what, fits) in _TYPES.items()
        if key in values and not fits(values[key])
    ]
    if wrong:
        raise CheckpointError(f"{path}: {'; '.join(wrong)}")
    return AdapterConfig(values, path)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1 << 53


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_numbers(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))


def _is_names(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    )


def _is_tokens(value: Any) -> bool:
    if isinstance(value, dict):
        return all(rows is not None and _is_tokens(rows) for rows in value.values())
    return value is None or (
        isinstance(value, list) and all(type(row) is int and 0 <= row < 1 << 31 for row in value)
    )


#: What is merged by, and what it must be.
_TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("r", "lora_alpha"), ("a positive number", _is_number)),
    **dict.fromkeys(("use_rslora", "use_dora"), ("true or false", _is_switch)),
    **dict.fromkeys(
        ("rank_pattern", "alpha_pattern"), ("an object of positive numbers", _is_numbers)
    ),
    "modules_to_save": ("a list of names", _is_names),
    "target_modules": (
        "a pattern or a list of names",
        lambda value: isinstance(value, str) or _is_names(value),
    ),
    "trainable_token_indices": ("tokens, or an object of lists of tokens", _is_tokens),
}


def _ends_with(module: str, names: Sequence[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)
