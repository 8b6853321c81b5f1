"""What the text models of CTranslate2 (``TransformerSpec``) have in common."""

from __future__ import annotations

from ...errors import CheckpointError
from .tensors import Tensors

SIDES = ("encoder", "decoder")
#: By CTranslate2's numbers.
_ACTIVATIONS = {0: "relu", 1: "gelu_new", 2: "silu", 3: "gelu"}
#: Variables that say how alignments are shown, and what is nothing to models that are supported.
MEANINGLESS = (
    r"(decoder/)?alignment_(heads|layer)",
    r"(encoder/)?embeddings_merge",
    r"decoder/(alibi_use_positive_positions|scale_alibi)",
)


def activation(tensors: Tensors) -> str:
    """The name of the feed-forward layers' function.

    Raises:
        CheckpointError: there are two, or one that is not supported.
    """
    found = {tensors.scalar(f"{side}/activation", 0) for side in SIDES}
    name = _ACTIVATIONS.get(int(found.pop())) if len(found) == 1 else None
    if name is None:
        raise CheckpointError(
            f"{tensors.model.path}: activation is not one of {_ACTIVATIONS} on both sides"
        )
    return name


def refuse_variants(tensors: Tensors) -> None:
    """Refuse what CTranslate2 can compute and no supported family does, where a flag says so.

    Raises:
        CheckpointError: one of them, by name.
    """
    for variable in ("encoder/multi_query_attention", "decoder/alibi"):
        tensors.require(variable, 0, 0, "only 0 is supported")
    tensors.require("decoder/final_logit_softcapping", 0, 0, "only 0 is supported")
