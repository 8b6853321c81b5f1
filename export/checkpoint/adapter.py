"""LoRA adapters of peft, merged into the base model's tensors while these are read.

The arithmetic is that of peft's ``merge_and_unload`` (Hu et al. 2021, "LoRA"; Kalajdzievski 2023,
rank stabilization; Liu et al. 2024, "DoRA"), in numpy.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import CheckpointError
from .adapter_config import AdapterConfig, read_adapter_config
from .files import ADAPTER_WEIGHTS
from .formats import FloatArray, TensorSource, optional_json
from .names import unwrapped
from .reader import Checkpoint

#: ``encoder.block.0.layer.0.SelfAttention.q.lora_A.default.weight``; files of save_pretrained leave
#: out the adapter's name, state dicts of a whole model keep it.
_LORA = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(\.(?!weight$|bias$)[^.]+)?(\.(?P<kind>weight|bias))?"
)
_TOKENS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(\.[^.]+)?")
#: Ends of the names that output embeddings have.
_HEADS = ("lm_head.weight", "predictions.decoder.weight")
#: GPT-2's layers that keep their weight [in, out].
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")


def merge_adapter(folder: Path, checkpoint: Checkpoint, tied: Iterable[frozenset[str]]) -> None:
    """Change the tensors of ``checkpoint`` by the adapter in ``folder`` when they are loaded.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors`` or ``.bin``.
        checkpoint: the base model, its names as the family gives them.
        tied: names of one and the same tensor; it is changed under all of them, as in peft.

    Raises:
        CheckpointError: another kind of adapter, one for another model, or an option that changes
            the result and is not supported; by name.
    """
    config = read_adapter_config(folder)
    path = next((folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"{folder} has an adapter_config.json and no {' or '.join(ADAPTER_WEIGHTS)}; copy the"
            " adapter's weights there"
        )
    _Merge(config, path, checkpoint.open(path), checkpoint, list(tied)).run()
    own = optional_json(folder / "generation_config.json")
    checkpoint.generation_config = own or checkpoint.generation_config


class _Merge:
    def __init__(
        self,
        config: AdapterConfig,
        path: Path,
        source: TensorSource,
        checkpoint: Checkpoint,
        tied: list[frozenset[str]],
    ) -> None:
        self._config, self._path, self._source = config, path, source
        self._checkpoint, self._tied = checkpoint, tied
        self._shapes = source.shapes()
        self._is_expected = checkpoint.names.union(*tied).__contains__

    def run(self) -> None:
        whole, updates, tokens = self._sorted()
        self._check(whole, updates, tokens)
        for name, stored in whole.items():
            self._replace(name, stored)
        low_rank = {module: self._pair(parts) for module, parts in updates.items()}
        ranks = {module: self._rank(first) for module, (first, _) in low_rank.items()}
        for module, scaling in self._config.scalings(ranks).items():
            self._add(module, updates[module], low_rank[module], scaling)
        for name, stored in tokens.items():
            self._set_rows(name, stored)

    def _sorted(self) -> tuple[dict[str, str], dict[str, dict[str, str]], dict[str, str]]:
        """Tensors of the adapter by what they do: those that replace one of the base, those of
        a LoRA by module and part, rows of embeddings; each with its name in the file."""
        targets = {stored: _target(stored) for stored in self._shapes}
        short = unwrapped(set(targets.values()), self._is_expected, str(self._path))
        whole: dict[str, str] = {}
        tokens: dict[str, str] = {}
        updates: dict[str, dict[str, str]] = defaultdict(dict)
        for stored, target in targets.items():
            lora, name = _LORA.fullmatch(stored), short[target]
            if lora is not None:
                part = lora["part"] + ("_bias" if lora["kind"] == "bias" else "")
                parts = updates[name.rpartition(".")[0]]
                if part in parts:
                    raise CheckpointError(
                        f"{self._path} holds {parts[part]} and {stored}, of two adapters; save"
                        " the one that is to be merged"
                    )
                parts[part] = stored
            elif _TOKENS.fullmatch(stored):
                tokens[name] = stored
            elif ".original_module." not in stored:
                whole[name] = stored
        return whole, dict(updates), tokens

    def _check(
        self,
        whole: Mapping[str, str],
        updates: Mapping[str, Mapping[str, str]],
        tokens: Mapping[str, str],
    ) -> None:
        lost = [stored for name, stored in {**whole, **tokens}.items() if not self._has(name)]
        lost += [
            stored
            for module, parts in updates.items()
            for part, stored in parts.items()
            if not self._has(f"{module}.{'bias' if part.endswith('_bias') else 'weight'}")
        ]
        if lost:
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            raise CheckpointError(
                f"{self._path} changes tensors that {self._checkpoint.directory} does not have:"
                f" {', '.join(sorted(lost)[:3])}{more}; give the base model that the adapter was"
                f" trained on{self._config.base_hint()}"
            )
        for module in self._config.not_targeted(updates):
            raise CheckpointError(
                f"{self._path} has tensors for {module}, which target_modules of"
                " adapter_config.json does not name; the two files are not of one adapter"
            )
        untouched = [
            name.removesuffix(".weight")
            for name in sorted(self._checkpoint.names)
            if name.endswith(".weight")
            and self._config.names_exactly(name.removesuffix(".weight"))
            and name.removesuffix(".weight") not in updates
        ]
        if untouched:
            raise CheckpointError(
                f"{self._path} has no tensors for {untouched[0]} (of {len(untouched)} modules),"
                " which target_modules of adapter_config.json names; the file is incomplete"
            )

    def _has(self, name: str) -> bool:
        return bool(self._members(name)) or self._is_expected(name)

    def _group(self, name: str) -> frozenset[str]:
        return next((group for group in self._tied if name in group), frozenset((name,)))

    def _members(self, name: str) -> list[str]:
        """Names under which the base stores the tensor ``name``."""
        return sorted(self._group(name) & self._checkpoint.names)

    def _replace(self, name: str, stored: str) -> None:
        members, group = self._members(name), self._group(name)
        if members and self._shapes[stored] != self._checkpoint.shape(members[0]):
            raise CheckpointError(
                f"{self._path}: {stored} has shape {list(self._shapes[stored])}, and the base"
                f" model's tensor {list(self._checkpoint.shape(members[0]))}; if the vocabulary was"
                " resized, merge on the resized model (merge_and_unload) and export what"
                " save_pretrained writes then"
            )
        if not self._config.is_module_to_save(name):
            for member in members or [name]:
                self._checkpoint.put(member, self._source, stored)
            return
        tables = {other for other in group if not other.endswith(_HEADS)}
        if members and name in tables and len(tables) > 1:
            self._refuse_unless_equal(name, stored, members[0])
            return
        # A trained copy of one of several tied modules is no longer tied to the others.
        for other in group - {name} - self._checkpoint.names if members else ():
            self._checkpoint.copy(members[0], other)
        self._checkpoint.put(name, self._source, stored)

    def _refuse_unless_equal(self, name: str, stored: str, member: str) -> None:
        """A head need not be tied to an embedding, but those of encoder and decoder are one."""
        if not np.array_equal(self._source.load(stored), self._checkpoint.load(member)):
            module = name.removesuffix(".weight")
            raise CheckpointError(
                f"{self._path}: modules_to_save trained {module} apart from"
                f" {_others(self._group(name), module)}, with which the model shares it, and a"
                " bundle has one table for them; train it with target_modules or"
                " trainable_token_indices instead"
            )

    def _pair(self, parts: Mapping[str, str]) -> tuple[str, str]:
        """The names of A and B."""
        kind = _kind(parts)
        first, second = parts.get(f"{kind}A"), parts.get(f"{kind}B")
        if first is None or second is None:
            lacking, other = ("A", second) if first is None else ("B", first)
            raise CheckpointError(
                f"{self._path} has {other} and no {kind}{lacking} of it; the file is incomplete"
            )
        return first, second

    def _add(
        self, module: str, parts: Mapping[str, str], pair: tuple[str, str], scaling: float
    ) -> None:
        first, second = pair
        if "lora_magnitude_vector" in parts and not self._config.use_dora:
            raise CheckpointError(
                f"{self._path} has {parts['lora_magnitude_vector']}, and adapter_config.json does"
                " not say use_dora; the two files are not of one adapter"
            )
        magnitude = parts.get("lora_magnitude_vector")
        if self._config.use_dora and magnitude is None:
            raise CheckpointError(f"{self._path} has no lora_magnitude_vector for {module} (DoRA)")
        low_rank = _LowRank(
            self._source,
            (first, second, magnitude),
            scaling=scaling,
            embedding=_kind(parts) == "lora_embedding_",
            transposed=self._keeps_inputs_first(module, first, second),
        )
        members = self._members(f"{module}.weight")
        if len(self._group(f"{module}.weight")) > 1:
            warnings.warn(
                f"{module} is tied to {_others(self._group(f'{module}.weight'), module)}: merged,"
                " the adapter changes them too, as with peft's merge_and_unload",
                stacklevel=5,
            )
        for member in members:
            self._checkpoint.change(member, low_rank.merged)
        if "lora_B_bias" in parts:
            bias = parts["lora_B_bias"]
            self._checkpoint.change(
                f"{module}.bias", lambda base: base + self._source.load(bias) * np.float32(scaling)
            )

    def _rank(self, first: str) -> int:
        shape = self._shapes[first]
        if len(shape) != 2:
            raise CheckpointError(
                f"{self._path}: {first} has shape {list(shape)}; LoRA of convolutions is not"
                " supported: merge_and_unload() it and export what save_pretrained writes then"
            )
        return shape[0]

    def _keeps_inputs_first(self, module: str, first: str, second: str) -> bool:
        """Whether the weight is [in, out]; peft decides it by the layer, not by fan_in_fan_out."""
        member = self._members(f"{module}.weight")[0]
        expected = (self._shapes[second][0], self._shapes[first][1])
        transposed = module.rpartition(".")[2] in _CONV1D or "embedding" in first
        if (expected[::-1] if transposed else expected) != self._checkpoint.shape(member):
            raise CheckpointError(
                f"{self._path}: the change to {module} has shape {list(expected)}, and its weight"
                f" {list(self._checkpoint.shape(member))}; give the base model that the adapter"
                f" was trained on{self._config.base_hint()}"
            )
        return transposed

    def _set_rows(self, name: str, stored: str) -> None:
        module = name.rpartition(".")[0]
        rows = self._config.token_indices(module)
        shape = self._shapes[stored]
        if rows is None or shape[0] != len(rows):
            raise CheckpointError(
                f"{self._path}: {stored} has {shape[0]} rows, and trainable_token_indices of"
                f" adapter_config.json names {len(rows or ())} for {module}"
            )
        members = self._members(name)
        head = next(
            (n for n in self._checkpoint.names - self._group(name) if n.endswith(_HEADS)), None
        )
        if head is not None:
            raise CheckpointError(
                f"{self._path} trains tokens of {module} (trainable_token_indices), and whether"
                f" {head} has the same depends on the version of transformers:"
                " merge_and_unload() it and export what save_pretrained writes then"
            )
        count = self._checkpoint.shape(members[0])[0]
        if max(rows, default=0) >= count:
            raise CheckpointError(
                f"{self._path} trains token {max(rows)}, and the base model has {count}; if the"
                " vocabulary was resized, merge on the resized model (merge_and_unload)"
            )

        def set_rows(base: FloatArray) -> FloatArray:
            changed = base.copy()
            changed[rows] = self._source.load(stored)
            return changed

        for member in members:
            self._checkpoint.change(member, set_rows)


@dataclass(frozen=True)
class _LowRank:
    """W + s B A, [out, in], or with DoRA its rows scaled to the trained magnitudes.

    ``names`` are those of A [rank, in], B [out, rank] and the magnitudes [out], or None.
    ``transposed``: the weight is kept [in, out].
    """

    source: TensorSource
    names: tuple[str, str, str | None]
    scaling: float
    embedding: bool
    transposed: bool

    def merged(self, base: FloatArray) -> FloatArray:
        first, second, magnitude = self.names
        delta = self.source.load(second) @ self.source.load(first)
        delta *= np.float32(self.scaling)
        if self.transposed:
            delta = delta.T
        result = base + delta
        if magnitude is not None:
            # An output's weights are a row, or a column of a weight that is kept [in, out].
            norm = np.linalg.norm(result, axis=0 if self.transposed else 1)
            factor = self.source.load(magnitude).reshape(-1) / norm
            result *= factor if self.transposed else factor[:, None]
        return result


def _kind(parts: Mapping[str, str]) -> str:
    return "lora_embedding_" if "lora_embedding_A" in parts else "lora_"


def _target(stored: str) -> str:
    """The model's tensor that an adapter's tensor changes, still with peft's prefix."""
    lora = _LORA.fullmatch(stored)
    if lora is not None:
        return f"{lora['module']}.{'bias' if lora['kind'] == 'bias' else 'weight'}"
    tokens = _TOKENS.fullmatch(stored)
    if tokens is not None:
        return f"{tokens['module']}.weight"
    stored = stored.replace(".base_layer.", ".")
    return re.sub(r"\.(modules_to_save\.[^.]+|original_module)\.", ".", stored)


def _others(group: frozenset[str], module: str) -> str:
    return ", ".join(sorted(name.removesuffix(".weight") for name in group - {f"{module}.weight"}))
