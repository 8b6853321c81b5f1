"""Text models of CTranslate2: which family of transformers one is, and its tensors by that name.

The file says what is computed (where norms stand, which tables there are) and not what the model
was called. Models that compute the same are the same family here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ...sinusoids import fairseq_sinusoids, halved_sinusoids
from .t5 import map_t5
from .tensors import Tensors
from .tokens import Tokens
from .transformer import MEANINGLESS, SIDES, activation, refuse_variants

#: Of the norms of all families that this file maps, and CTranslate2's default.
_EPSILON = 1e-5
#: BART and mBART keep so many rows before the position of the first token.
_OFFSET = 2
#: Positions of M2M100 where the file has no table, which is computed for any length.
_COMPUTED_POSITIONS = 1024


@dataclass(frozen=True)
class _Layout:
    """What tells families apart."""

    pre_norm: bool
    embedding_norm: bool
    shared: bool
    zero_start: bool

    def __str__(self) -> str:
        norms = "before" if self.pre_norm else "after"
        return (
            f"norms {norms} each part, {'a' if self.embedding_norm else 'no'} norm on the"
            f" embeddings, {'one token table' if self.shared else 'a token table for each side'}"
        )


def map_text(tensors: Tensors, told: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Map the tensors of an encoder-decoder; gives config.json as transformers has it.

    Args:
        tensors: filled.
        told: the folder's config.json, or what an old file says in its place.
        folder: with the vocabularies.

    Raises:
        CheckpointError: a layout that no supported family has, or a folder that lacks something.
    """
    stacks = {side: tensors.stack(side) for side in SIDES}
    tokens = Tokens(folder, told, tensors)
    if tensors.has("encoder/layer_0/self_attention/relative_attention_bias"):
        return map_t5(tensors, stacks, told, tokens)
    epsilon = told.get("layer_norm_epsilon")
    if epsilon is not None and epsilon != _EPSILON:
        raise CheckpointError(
            f"{folder}/config.json: layer_norm_epsilon {epsilon!r} is not supported; the family has"
            f" {_EPSILON}"
        )
    layout = _layout(tensors)
    kind = _kind(tensors, layout, tokens)
    config = {
        "model_type": kind,
        "is_encoder_decoder": True,
        "activation_function": activation(tensors),
        "d_model": stacks["decoder"].width,
        "scale_embedding": _scales_embeddings(tensors, stacks["decoder"].width),
        **_map_tables(tensors, layout, kind, tokens),
        **tokens.first_output(),
    }
    for side, stack in stacks.items():
        config |= {
            f"{side}_layers": stack.layers,
            f"{side}_attention_heads": stack.heads,
            f"{side}_ffn_dim": stack.ffn,
        }
        if layout.embedding_norm:
            tensors.norm(f"model.{side}.layernorm_embedding", f"{side}/layernorm_embedding")
        if layout.pre_norm:
            tensors.norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for index in range(stack.layers):
            _map_layer(tensors, side, index)
    refuse_variants(tensors)
    tensors.require("decoder/scale_outputs", 1, 1, "only T5's logits are scaled")
    tensors.finish(MEANINGLESS)
    return config


def _layout(tensors: Tensors) -> _Layout:
    flags = {side: tensors.scalar(f"{side}/pre_norm", 1) for side in SIDES}
    norms = {side: tensors.has(f"{side}/layernorm_embedding/gamma") for side in SIDES}
    finals = {side: tensors.has(f"{side}/layer_norm/gamma") for side in SIDES}
    pre_norm, embedding_norm = bool(flags["encoder"]), norms["encoder"]
    if (
        bool(flags["decoder"]) != pre_norm
        or norms["decoder"] != embedding_norm
        or set(finals.values()) != {pre_norm}
    ):
        raise CheckpointError(
            f"{tensors.model.path}: encoder and decoder have their norms in different places"
            f" (pre_norm {flags}, layernorm_embedding {norms}, layer_norm {finals}), which is not"
            " supported"
        )
    source = "encoder/embeddings_0/weight"
    source = source if tensors.has(source) else "encoder/embeddings/weight"
    return _Layout(
        pre_norm=pre_norm,
        embedding_norm=embedding_norm,
        shared=tensors.same(source, "decoder/embeddings/weight"),
        zero_start=bool(tensors.scalar("decoder/start_from_zero_embedding", 0)),
    )


def _kind(tensors: Tensors, layout: _Layout, tokens: Tokens) -> str:
    """The ``model_type``."""
    if not layout.embedding_norm and not layout.pre_norm:
        return "marian"
    if layout.embedding_norm and layout.shared and not layout.zero_start:
        return "mbart" if layout.pre_norm else "bart"
    if layout.embedding_norm:
        raise CheckpointError(
            f"{tensors.model.path}: no supported family has {layout}"
            + (", and starts outputs with zeros" if layout.zero_start else "")
        )
    plain = layout.shared and not layout.zero_start
    table = "encoder/position_encodings/encodings"
    if not tensors.has(table):
        if plain and tokens.pad() == 0:
            return "m2m_100"
        raise CheckpointError(
            f"{tensors.model.path} has no table of positions; models that were converted so"
            " (OpenNMT-tf) are supported with one token table whose first token is padding"
        )
    shape = tensors.shape(table)
    if len(shape) == 2 and plain:
        stored = tensors.model.load(table)
        if _close(stored, fairseq_sinusoids(*shape, first=tokens.pad() + 1)):
            return "m2m_100"
        if _close(stored, halved_sinusoids(*shape)):
            return "pegasus"
    return "opennmt"


def _close(stored: Any, computed: Any) -> bool:
    """Whether a table that may be stored in float16 or bfloat16 holds such sinusoids."""
    return bool(np.allclose(stored, computed, rtol=0, atol=1e-2))


def _scales_embeddings(tensors: Tensors, width: int) -> bool:
    """A flag, or the factor itself."""
    scales = set()
    for side in SIDES:
        old = [f"{side}/embeddings{n}/multiply_by_sqrt_depth" for n in ("", "_0")]
        name = next((n for n in (f"{side}/scale_embeddings", *old) if tensors.has(n)), "")
        value = tensors.scalar(name, 1)
        flag = not name or tensors.model.variables[name].dtype.kind == "i"
        scales.add(bool(value) if flag else _is_root(tensors, value, width))
    if len(scales) > 1:
        raise CheckpointError(f"{tensors.model.path}: only one side scales its embeddings")
    return scales.pop()


def _is_root(tensors: Tensors, value: float, width: int) -> bool:
    if np.isclose(value, width**0.5, rtol=1e-2):
        return True
    if value == 1:
        return False
    raise CheckpointError(
        f"{tensors.model.path}: embeddings are scaled by {value:g}, which is neither 1 nor the"
        f" root of their width {width}"
    )


def _map_tables(tensors: Tensors, layout: _Layout, kind: str, tokens: Tokens) -> dict[str, Any]:
    """Tokens, positions and the head; gives what config.json says of them."""
    # A model of Marian starts with an embedding of zeros, which transformers keeps as the last
    # row: that of <pad>, which is never generated.
    below = 1 if layout.zero_start else 0
    source, target = (rows + below for rows in tokens.rows)
    decoder = "decoder/embeddings/weight"
    config: dict[str, Any] = {"vocab_size": source}
    if layout.shared:
        tensors.whole("model.shared.weight", decoder, below=below)
    else:
        tensors.whole("model.encoder.embed_tokens.weight", tokens.encoder_table, below=below)
        tensors.whole("model.decoder.embed_tokens.weight", decoder, below=below)
        config |= {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": target}
    head = "decoder/projection/weight"
    tied = tensors.same(decoder, head)
    config["tie_word_embeddings"] = tied
    if not tied:
        tensors.whole("lm_head.weight", head, below=below)
    if tensors.has("decoder/projection/bias"):
        tensors.row("final_logits_bias", "decoder/projection/bias", below=below)
    if layout.zero_start:
        pad = {"pad_token_id": source - 1, "decoder_start_token_id": target - 1}
        end = tokens.named("eos_token", "</s>")
        config |= {**pad, "eos_token_id": end, "forced_eos_token_id": end}
        config["bad_words_ids"] = [[target - 1]]
    else:
        config |= tokens.config()
    config["max_position_embeddings"] = _map_positions(tensors, kind)
    return config


def _map_positions(tensors: Tensors, kind: str) -> int:
    tables = [f"{side}/position_encodings/encodings" for side in SIDES]
    if not tensors.has(tables[0]):
        return _COMPUTED_POSITIONS
    lengths = {tensors.shape(table)[0] for table in tables}
    if len(lengths) > 1:
        raise CheckpointError(
            f"{tensors.model.path}: the two sides have tables of {sorted(lengths)} positions; one"
            " length is supported"
        )
    for side, table in zip(SIDES, tables, strict=True):
        above = _OFFSET if kind in ("bart", "mbart") else 0
        name = f"model.{side}.embed_positions.weight"
        # The table of M2M100 is computed, and its checkpoints may keep one by another name.
        name += "s" if kind == "m2m_100" else ""
        tensors.whole(name, table, above=above)
    return lengths.pop()


def _map_layer(tensors: Tensors, side: str, index: int) -> None:
    scope, name = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
    attentions = [("self_attention", "self_attn", False)]
    if side == "decoder":
        attentions.append(("attention", "encoder_attn", True))
    for theirs, ours, cross in attentions:
        tensors.attention(
            f"{name}.{ours}", f"{scope}/{theirs}", "{}_proj", "out_proj", bias=True, cross=cross
        )
        tensors.norm(f"{name}.{ours}_layer_norm", f"{scope}/{theirs}/layer_norm")
    for number in (1, 2):
        tensors.linear([f"{name}.fc{number}"], f"{scope}/ffn/linear_{number - 1}", bias=True)
    tensors.norm(f"{name}.final_layer_norm", f"{scope}/ffn/layer_norm")
