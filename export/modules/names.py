"""What the sublayers of a model's layers are called: patterns that give a name for each layer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Parts of an attention, and which of query, key and value (0, 1, 2) each gives.
PROJECTIONS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"qkv": (0, 3), "query": (0, 1), "kv": (1, 3), "key": (1, 2), "value": (2, 3)}
)
_ATTENTIONS = {"encoder": ("self_attention",), "decoder": ("self_attention", "cross_attention")}
_FFN = ("ffn.up", "ffn.down", "ffn_norm")
#: A gate makes the feed-forward ``down(activation(gate(x)) * up(x))``.
FFN_GATE = "ffn.gate"

#: ``nn.TransformerEncoderLayer`` and ``nn.TransformerDecoderLayer``.
PYTORCH: Mapping[str, Mapping[str, str]] = {
    "encoder": {
        "self_attention.qkv": "self_attn.in_proj",
        "self_attention.out": "self_attn.out_proj",
        "self_attention_norm": "norm1",
        "ffn.up": "linear1",
        "ffn.down": "linear2",
        "ffn_norm": "norm2",
    },
    "decoder": {
        "self_attention.qkv": "self_attn.in_proj",
        "self_attention.out": "self_attn.out_proj",
        "self_attention_norm": "norm1",
        "cross_attention.qkv": "multihead_attn.in_proj",
        "cross_attention.out": "multihead_attn.out_proj",
        "cross_attention_norm": "norm2",
        "ffn.up": "linear1",
        "ffn.down": "linear2",
        "ffn_norm": "norm3",
    },
}

_NUMBER = re.compile(r"\{(?:(\d+)\s*\*\s*)?layer(?:\s*\+\s*(\d+))?\}")
#: What modules call a norm's weight and bias.
NORM_TENSORS = (
    ("weight", "bias"),
    ("a_2", "b_2"),
    ("alpha", "bias"),
    ("gamma", "beta"),
    ("g", "b"),
    ("scale", "shift"),
)
#: Of these, names whose norms mostly divide by the deviation and not by the root of a variance.
DEVIATION_TENSORS = ("a_2", "alpha")


@dataclass(frozen=True)
class Pattern:
    """A name with one number in it, which is ``factor * layer + offset``."""

    before: str
    factor: int
    offset: int
    after: str

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """None: there is no ``{layer}``, or more than one."""
        numbers = list(_NUMBER.finditer(text))
        if len(numbers) != 1 or "{" in _NUMBER.sub("", text):
            return None
        (number,) = numbers
        factor, offset = number.groups()
        return cls(text[: number.start()], int(factor or 1), int(offset or 0), text[number.end() :])

    def name(self, layer: int) -> str:
        return f"{self.before}{self.factor * layer + self.offset}{self.after}"

    def layers(self, names: Iterable[str]) -> set[int]:
        """Layers whose name is one of ``names``, or begins one."""
        found = re.compile(
            re.escape(self.before) + r"(\d+)" + re.escape(self.after) + r"(?:[._]|$)"
        )
        numbers = (int(match.group(1)) for name in names if (match := found.match(name)))
        places = (divmod(number - self.offset, self.factor) for number in numbers)
        return {layer for layer, rest in places if not rest and layer >= 0}


def sublayers(side: str) -> tuple[str, ...]:
    """All names that a map of that side may have."""
    attentions = [
        f"{attention}.{part}" for attention in _ATTENTIONS[side] for part in (*PROJECTIONS, "out")
    ]
    norms = [f"{attention}_norm" for attention in _ATTENTIONS[side]]
    return (*attentions, *norms, *_FFN, FFN_GATE)


def norms(side: str) -> tuple[str, ...]:
    return (*(f"{attention}_norm" for attention in _ATTENTIONS[side]), "ffn_norm")


def merged_names(usual: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """``usual``, changed by ``given``: a fused ``qkv`` takes the place of query, key and value."""

    def replaced(name: str) -> bool:
        attention, _, part = name.rpartition(".")
        if part not in PROJECTIONS:
            return False
        start, stop = PROJECTIONS[part]
        return any(
            f"{attention}.{other}" in given and first < stop and last > start
            for other, (first, last) in PROJECTIONS.items()
        )

    return {**{name: text for name, text in usual.items() if not replaced(name)}, **given}


def check_names(side: str, names: Collection[str]) -> list[str]:
    """What a map lacks or has too much, as messages."""
    missing = [name for name in (*norms(side), *_FFN[:2]) if name not in names]
    problems = []
    for attention in _ATTENTIONS[side]:
        given = [part for part in PROJECTIONS if f"{attention}.{part}" in names]
        times = [
            sum(start <= part < stop for start, stop in map(PROJECTIONS.__getitem__, given))
            for part in range(3)
        ]
        if 0 in times:
            absent = [
                what for what, n in zip(("query", "key", "value"), times, strict=True) if not n
            ]
            missing += [f"{attention}.{what}" for what in absent]
        if max(times) > 1:
            problems.append(
                f"the names of the {side} have {attention}.{f' and {attention}.'.join(given)},"
                " which give the same twice"
            )
        if f"{attention}.out" not in names:
            missing.append(f"{attention}.out")
    if missing:
        problems.insert(0, f"the names of the {side} lack {', '.join(missing)}")
    return problems


def providers(names: Collection[str], attention: str, first: int, last: int) -> list[str]:
    """The parts of the map that give query, key and value from ``first`` to before ``last``."""
    given: list[str] = []
    covered: set[int] = set()
    for part, (start, stop) in PROJECTIONS.items():
        if f"{attention}.{part}" in names and covered.isdisjoint(range(start, stop)):
            covered.update(range(start, stop))
            given.append(part)
    wanted = (
        part for part in given if PROJECTIONS[part][0] < last and PROJECTIONS[part][1] > first
    )
    return sorted(wanted, key=PROJECTIONS.__getitem__)
