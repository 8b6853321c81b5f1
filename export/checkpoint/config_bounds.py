"""Numbers of config.json held against the tensors that are there.

Graphs are built from the numbers before any tensor is matched with them: a million layers that no
file has would take hours, and a table of a billion positions all memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import CheckpointError

_LAYERS = re.compile(r"(num_|n_)?(encoder_|decoder_|hidden_)?(layers?|blocks?)")
_SIZES = re.compile(
    r"d_\w+|n_\w+|\w*(size|dim|heads?|positions?|position_embeddings|distance|buckets|width|bins)"
)
#: Sizes that no tensor has to have: tables of positions and of distances are computed.
_LARGEST_COMPUTED = 1 << 20


def check_numbers(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse more layers than there are tensors, and sizes beyond all of theirs.

    Args:
        config: config.json, with those within it.
        shapes: of all tensors.

    Raises:
        CheckpointError: each number that is too large.
    """
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    most = {_LAYERS: len(shapes), _SIZES: max(largest, _LARGEST_COMPUTED)}
    wrong = []
    for name, value in _numbers(config):
        kind = next((kind for kind in most if kind.fullmatch(name)), None)
        if kind is not None and value > most[kind]:
            wrong.append(f"{name}={value:.0f}" if value < 1e20 else name)
    if wrong:
        raise CheckpointError(
            f"config.json says {', '.join(wrong)}, and the weights are {len(shapes)} tensors of"
            f" sizes up to {largest}: it is the config of another model, or damaged"
        )


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers of the model and of the models within it, which read_json has bounded in depth."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, value
