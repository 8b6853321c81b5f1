"""T5 and its line: RMS norms, relative positions as a bias, no other biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError
from .tensors import Stack, Tensors
from .tokens import Tokens
from .transformer import MEANINGLESS, activation, refuse_variants


def map_t5(
    tensors: Tensors, stacks: Mapping[str, Stack], told: Mapping[str, Any], tokens: Tokens
) -> dict[str, Any]:
    """Map the tensors; gives config.json as transformers has it.

    Raises:
        CheckpointError: what T5 does not have.
    """
    path = tensors.model.path
    embeddings = "decoder/embeddings/weight"
    if not tensors.same(tokens.encoder_table, embeddings):
        raise CheckpointError(f"{path}: T5 has one token table, and the file one for each side")
    tensors.whole("shared.weight", embeddings)
    tied = tensors.same(embeddings, "decoder/projection/weight")
    if not tied:
        tensors.whole("lm_head.weight", "decoder/projection/weight")
    width, heads = stacks["decoder"].width, stacks["decoder"].heads
    scaled = tensors.has("decoder/scale_outputs")
    if scaled:
        tensors.require("decoder/scale_outputs", width**-0.5, 1, f"not {width} ** -0.5, as T5's")
    gated = tensors.has("encoder/layer_0/ffn/linear_0_noact/weight")
    bias = "self_attention/relative_attention_bias"
    per_layer = any(
        not tensors.same(f"{side}/layer_0/{bias}", f"{side}/layer_{index}/{bias}")
        for side, stack in stacks.items()
        for index in range(1, stack.layers)
    )
    for side, stack in stacks.items():
        tensors.require(f"{side}/pre_norm", 1, 1, "T5's norms are before each part")
        tensors.require(f"{side}/scale_embeddings", 0, 0, "T5's embeddings are not scaled")
        tensors.norm(f"{side}.final_layer_norm", f"{side}/layer_norm", bias=False)
        for index in range(stack.layers):
            _map_t5_layer(tensors, side, index, gated=gated, own_bias=per_layer or index == 0)
    distances = {
        tensors.integer(f"{side}/layer_{index}/self_attention/relative_attention_max_distance")
        for side, stack in stacks.items()
        for index in range(stack.layers)
    }
    if (
        len(distances) > 1
        or stacks["encoder"].heads != heads
        or stacks["encoder"].ffn != (stacks["decoder"].ffn)
    ):
        raise CheckpointError(f"{path}: T5's two sides have the same heads, widths and distances")
    refuse_variants(tensors)
    tensors.require("decoder/start_from_zero_embedding", 0, 0, "T5 starts with a token")
    config = {
        # mT5 is the T5 whose logits are not scaled though its tables are tied.
        "model_type": "umt5" if per_layer else "mt5" if tied and not scaled else "t5",
        "is_encoder_decoder": True,
        "vocab_size": tokens.rows[1],
        "d_model": width,
        "d_kv": tensors.shape("decoder/layer_0/self_attention/linear_1/weight")[1] // heads,
        "d_ff": stacks["decoder"].ffn,
        "num_layers": stacks["encoder"].layers,
        "num_decoder_layers": stacks["decoder"].layers,
        "num_heads": heads,
        "feed_forward_proj": _t5_activation(tensors, gated=gated),
        "relative_attention_num_buckets": tensors.shape(f"decoder/layer_0/{bias}")[0],
        "relative_attention_max_distance": distances.pop(),
        # CTranslate2's default for this norm.
        "layer_norm_epsilon": told.get("layer_norm_epsilon") or 1e-6,
        "tie_word_embeddings": scaled,
        "scale_decoder_outputs": scaled,
        **tokens.config(),
    }
    tensors.finish(MEANINGLESS)
    return config


def _t5_activation(tensors: Tensors, *, gated: bool) -> str:
    name = activation(tensors)
    if gated and name == "gelu":
        raise CheckpointError(
            f"{tensors.model.path}: T5's gated layers with the exact gelu are not supported"
        )
    return f"gated-{name.removesuffix('_new')}" if gated else name


def _map_t5_layer(tensors: Tensors, side: str, index: int, *, gated: bool, own_bias: bool) -> None:
    scope, name = f"{side}/layer_{index}", f"{side}.block.{index}.layer"
    attentions = [("self_attention", "SelfAttention", False)]
    if side == "decoder":
        attentions.append(("attention", "EncDecAttention", True))
    for number, (theirs, ours, cross) in enumerate(attentions):
        layer = f"{scope}/{theirs}"
        tensors.attention(f"{name}.{number}.{ours}", layer, "{}", "o", bias=False, cross=cross)
        tensors.norm(f"{name}.{number}.layer_norm", f"{layer}/layer_norm", bias=False)
        tensors.require(f"{layer}/queries_scale", 1, 0, "T5's queries are not scaled")
    if own_bias:
        tensors.whole(
            f"{name}.0.SelfAttention.relative_attention_bias.weight",
            f"{scope}/self_attention/relative_attention_bias",
        )
    last = f"{name}.{len(attentions)}"
    tensors.norm(f"{last}.layer_norm", f"{scope}/ffn/layer_norm", bias=False)
    dense = f"{last}.DenseReluDense"
    if gated:
        tensors.linear([f"{dense}.wi_0"], f"{scope}/ffn/linear_0", bias=False)
        tensors.linear([f"{dense}.wi_1"], f"{scope}/ffn/linear_0_noact", bias=False)
    else:
        tensors.linear([f"{dense}.wi"], f"{scope}/ffn/linear_0", bias=False)
    tensors.linear([f"{dense}.wo"], f"{scope}/ffn/linear_1", bias=False)
