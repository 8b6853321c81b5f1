"""Families by the ``model_type`` of config.json. A new one is one file and one line here."""

from __future__ import annotations

from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from . import (
    bart,
    bert,
    blenderbot,
    encoder_decoder,
    gpt2,
    m2m100,
    marian,
    mbart,
    moonshine,
    opennmt,
    pegasus,
    plbart,
    roberta,
    t5,
    whisper,
)
from .base import Config, Family

FAMILIES: tuple[Family[Any], ...] = (
    t5.FAMILY,
    bart.FAMILY,
    mbart.FAMILY,
    pegasus.FAMILY,
    marian.FAMILY,
    m2m100.FAMILY,
    opennmt.FAMILY,
    blenderbot.FAMILY,
    blenderbot.SMALL,
    plbart.FAMILY,
    bert.FAMILY,
    roberta.FAMILY,
    gpt2.FAMILY,
    encoder_decoder.FAMILY,
    whisper.FAMILY,
    moonshine.FAMILY,
)
_LOCAL = "its {} attends to parts of the source, and the graphs have whole attention"
#: Known, and why they are not exported.
REFUSED = {
    "led": _LOCAL.format("encoder (sliding windows and global tokens)"),
    "longt5": _LOCAL.format("encoder (local or transient-global)"),
    "bigbird_pegasus": _LOCAL.format("encoder (blocks of BigBird)"),
    "pegasus_x": _LOCAL.format("encoder (blocks and global tokens)"),
    "prophetnet": "its decoder predicts several tokens at once, with an attention for each",
    "xlm-prophetnet": "its decoder predicts several tokens at once, with an attention for each",
    "fsmt": "its tokenizer needs the scripts of Moses, which a device does not have; Marian models"
    " translate the same languages",
    "nllb-moe": "its layers are mixtures of experts; the dense NLLB checkpoints are m2m_100",
    "switch_transformers": "its layers are mixtures of experts",
    "mvp": "it may put trained prompts before every layer's keys and values",
    "gptsan-japanese": "it is a decoder whose prompt is seen from both sides",
    "seamless_m4t": "its sources are speech as well as text",
    "speech_to_text": "its sources are speech",
    "xlnet": "its attention adds a term of query and distance (Transformer-XL's relative"
    " positions), and the graphs add biases that depend on the distance alone",
}


def find_family(config: dict[str, Any]) -> tuple[Family[Any], Config]:
    """The family of a config.json, and the config with that family's defaults.

    Raises:
        CheckpointError: an unknown ``model_type``, with the known ones.
    """
    kind = config.get("model_type")
    for family in FAMILIES:
        if kind in family.model_types:
            defaults = {**family.defaults, **family.type_defaults.get(str(kind), {})}
            return family, Config(family.flattened(config), defaults)
    if isinstance(kind, str) and kind in REFUSED:
        raise CheckpointError(f"config.json: model_type {kind!r} is not supported: {REFUSED[kind]}")
    supported = ", ".join(sorted(name for family in FAMILIES for name in family.model_types))
    raise CheckpointError(f"config.json: model_type {kind!r} is not supported; known: {supported}")


def expected_names(family: Family[Any], config: Config, checkpoint: Checkpoint) -> frozenset[str]:
    """Names that a checkpoint of this config may give its tensors, with the head and without."""
    weight_map = family.weight_map(family.spec(config, checkpoint.without_tensors()))
    names = {name for mapping in weight_map for name in (*mapping.sources, *mapping.tied)}
    return frozenset(names | {name.removeprefix(family.prefix) for name in names})


def tied_names(family: Family[Any], config: Config, checkpoint: Checkpoint) -> list[frozenset[str]]:
    """Names that a checkpoint may give to one and the same tensor."""
    weight_map = family.weight_map(family.spec(config, checkpoint))
    return [frozenset((*mapping.sources, *mapping.tied)) for mapping in weight_map if mapping.tied]
