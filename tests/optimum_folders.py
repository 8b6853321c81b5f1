"""Folders with the names, inputs and outputs that ``optimum-cli export onnx`` gives its graphs.

optimum does not install beside the transformers that the tests pin, so PyTorch traces the same
graphs here. ``tests/export/test_optimum.py`` makes real ones where an environment has it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, compose, helper
from torch import Tensor, nn

LAYOUTS = ("merged", "split")
_BATCH, _SOURCE, _PAST = 2, 5, 3


class _Encoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        encoder = self.model.get_encoder()
        states: Tensor = encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        return states


class _Decoder(_Encoder):
    """``pasts`` are key and value of self-attention, then of cross-attention, layer by layer."""

    def forward(  # type: ignore[override]
        self, mask: Tensor, input_ids: Tensor, states: Tensor, *pasts: Tensor
    ) -> tuple[Tensor, ...]:
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        own, cross = DynamicCache(), DynamicCache()
        for layer in range(len(pasts) // 4):
            own.update(*pasts[4 * layer : 4 * layer + 2], layer)
            cross.update(*pasts[4 * layer + 2 : 4 * layer + 4], layer)
        cache = EncoderDecoderCache(own, cross)
        out = self.model(
            encoder_outputs=(states,),
            attention_mask=mask,
            decoder_input_ids=input_ids,
            past_key_values=cache,
            use_cache=True,
        )
        presents = []
        for mine, theirs in zip(own.layers, cross.layers, strict=True):
            presents += [mine.keys, mine.values]
            presents += [] if pasts else [theirs.keys, theirs.values]
        return (out.logits, *presents)


class _Step(_Decoder):
    """With a cache nothing is read of the states but that there are some."""

    def forward(  # type: ignore[override]
        self, mask: Tensor, input_ids: Tensor, *pasts: Tensor
    ) -> tuple[Tensor, ...]:
        states = torch.zeros(*mask.shape, self.model.config.d_model)
        return super().forward(mask, input_ids, states, *pasts)


def make_marian() -> Any:
    """A Marian with random weights, whose pad token starts sequences and is never generated."""
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(4)
    config = MarianConfig(
        vocab_size=400,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        scale_embedding=True,
        init_std=0.3,
        pad_token_id=58,
        eos_token_id=0,
        decoder_start_token_id=58,
        forced_eos_token_id=0,
    )
    model = MarianMTModel(config).eval()
    model.final_logits_bias.normal_()
    model.generation_config.bad_words_ids = [[58]]
    return model


def write_optimum_folder(checkpoint: Path, folder: Path, layout: str) -> None:
    """Write the graphs of a checkpoint and its configs; ``layout`` is one of LAYOUTS."""
    from transformers import AutoModelForSeq2SeqLM

    model: Any = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, attn_implementation="eager")
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    ids = torch.randint(3, 50, (_BATCH, _SOURCE))
    mask = torch.ones_like(ids)
    names = ["input_ids", "attention_mask"]
    _trace(
        _Encoder(model), (ids, mask), folder / "encoder_model.onnx", names, ["last_hidden_state"]
    )
    states = model.get_encoder()(ids, attention_mask=mask).last_hidden_state
    targets = torch.randint(3, 50, (_BATCH, _PAST))
    _, *presents = _Decoder(model)(mask, targets, states)
    parts = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
    every = [f"{layer}.{part}" for layer in range(len(presents) // 4) for part in parts]
    names = ["encoder_attention_mask", "input_ids", "encoder_hidden_states"]
    outputs = ["logits", *(f"present.{name}" for name in every)]
    prompt, step = folder / "decoder_model.onnx", folder / "decoder_with_past_model.onnx"
    _trace(_Decoder(model), (mask, targets, states), prompt, names, outputs)
    names = [*names[:2], *(f"past_key_values.{name}" for name in every)]
    outputs = ["logits", *(f"present.{name}" for name in every if "decoder" in name)]
    _trace(_Step(model), (mask, targets[:, :1], *presents), step, names, outputs)
    if layout == "merged":
        _merge(prompt, step, folder / "decoder_model_merged.onnx")
        prompt.unlink()
        step.unlink()


def _trace(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
) -> None:
    def axes(name: str) -> dict[int, str]:
        if name == "last_hidden_state" or name.startswith("encoder_"):
            return {0: "batch_size", 1: "encoder_sequence_length"}
        if name.startswith(("past_key_values", "present")):
            length = "encoder_sequence_length" if ".encoder." in name else f"{name}_length"
            return {0: "batch_size", 2: length}
        return {0: "batch_size", 1: f"{name}_length"}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            arguments,
            path,
            dynamo=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: axes(name) for name in (*inputs, *outputs)},
            opset_version=18,
        )


def _merge(prompt: Path, step: Path, path: Path) -> None:
    """One graph of both: an ``If`` on ``use_cache_branch``, as optimum merges them."""
    first, later = onnx.load(prompt), onnx.load(step)
    inputs = {value.name: value for model in (first, later) for value in model.graph.input}
    outputs = list(first.graph.output)
    branches = {}
    for name, model in (("else_branch", first), ("then_branch", later)):
        graph = compose.add_prefix_graph(
            model.graph, f"{name}/", rename_inputs=False, rename_outputs=False
        )
        there = {value.name for value in graph.output}
        for value in outputs:
            if value.name not in there:  # what a step does not make anew
                past = value.name.replace("present", "past_key_values", 1)
                graph.node.append(helper.make_node("Identity", [past], [value.name]))
        given = {value.name: value for value in graph.output}
        made = [given.get(value.name, value) for value in outputs]
        # A branch reads the inputs of the whole graph, and its names are its own.
        renamed = [helper.make_node("Identity", [v.name], [f"{name}/{v.name}/out"]) for v in made]
        infos = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in made]
        for info in infos:
            info.name = f"{name}/{info.name}/out"
        branches[name] = helper.make_graph(
            [*graph.node, *renamed], name, [], infos, list(graph.initializer)
        )
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    node = helper.make_node("If", [flag.name], [value.name for value in outputs], **branches)
    graph = helper.make_graph([node], "merged", [*inputs.values(), flag], outputs)
    onnx.save(helper.make_model(graph, opset_imports=first.opset_import, ir_version=8), path)
