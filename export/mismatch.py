"""The error message for a checkpoint whose tensors are not those that its config asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches

#: What describes a checkpoint, unless a user does.
CONFIG = "its config.json"
#: Of each kind of problem, how many are listed.
_LISTED = 4
#: A checkpoint is of another architecture if it lacks more than so many times the tensors that fit.
_FOREIGN = 9
#: Tensors beside or in place of weights, and what has left them there.
_LEFT_BY = (
    (
        r"lora_|\.base_layer\.|modules_to_save\.|original_module\.",
        "the names are those of a model that a PEFT adapter is still in: save the adapter with"
        " save_pretrained, or merge_and_unload() before saving",
    ),
    (
        r"\.(qweight|qzeros|scales|g_idx|SCB|absmax|quant_map|quant_state.*|weight_scale\w*)$",
        "the weights are quantized (GPTQ, AWQ or bitsandbytes): export the float checkpoint and"
        " quantize the bundle",
    ),
    (
        r"(^|[._])ema[._]",
        "it also holds a moving average (EMA) of the weights: save one of the two",
    ),
)


@dataclass
class Mismatch:
    """Problems of a checkpoint, in the order in which they were seen.

    Attributes:
        described_by: what says which tensors there should be.
        known: sentences on what did not fit before the tensors were looked at.
        missing, unused: names of tensors.
        shapes, ties: sentences.
    """

    described_by: str = CONFIG
    known: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    ties: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.known or self.missing or self.shapes or self.ties or self.unused)

    def describe(self, fitting: int) -> str:
        """The first few of each kind, and the cause if it shows; ``fitting`` parameters had their
        tensors."""
        listed = [
            *self.known,
            *_listed(self._missing(), "missing"),
            *_listed(self.shapes, "of another shape"),
            *_listed(self.ties, "not tied"),
            *_listed([f"unused tensor {name}" for name in self.unused], "unused"),
        ]
        cause = self._cause(fitting)
        return "; ".join(listed) + (f". Probably {cause}" if cause else "")

    def _missing(self) -> list[str]:
        """Those that are listed with the most similar name among those that nothing uses."""
        listed = [f"missing tensor {name}" for name in self.missing]
        for index, name in enumerate(self.missing[:_LISTED]):
            similar = get_close_matches(name, self.unused, n=1, cutoff=0.75)
            listed[index] += f" (there is {similar[0]})" if similar else ""
        return listed

    def _cause(self, fitting: int) -> str | None:
        for pattern, cause in _LEFT_BY:
            if any(re.search(pattern, name) for name in self.unused):
                return cause
        if self.described_by != CONFIG:
            return None
        if self.unused and len(self.missing) > _FOREIGN * fitting:
            return "these are the weights of another architecture than config.json's model_type"
        if len(self.shapes) > 1 and not self.unused:
            return "these are the weights of another size than config.json's"
        deeper = self.unused and all(re.search(r"\.\d+\.", name) for name in self.unused)
        if deeper and fitting and not self.missing and len(self.unused) > _LISTED:
            return "config.json asks for fewer layers than the weights have"
        shallower = self.missing and all(re.search(r"\.\d+\.", name) for name in self.missing)
        if shallower and fitting and not self.unused and len(self.missing) > _LISTED:
            return "config.json asks for more layers than the weights have"
        return None


def _listed(problems: list[str], kind: str) -> list[str]:
    if len(problems) <= _LISTED:
        return problems
    first = problems[:_LISTED]
    return [*first[:-1], f"{first[-1]} and {len(problems) - _LISTED} more {kind}"]
