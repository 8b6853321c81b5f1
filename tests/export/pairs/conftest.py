"""Checkpoints of BERT's and GPT-2's line, alone and in pairs, made from configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ...conftest import export_unvalidated, made_once

#: Small enough that a test takes milliseconds, odd enough that a mixed-up axis shows.
_BERT = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 80,
    "max_position_embeddings": 90,
    "initializer_range": 0.3,
}
_ROBERTA = {**_BERT, "vocab_size": 290, "hidden_size": 32, "num_attention_heads": 4}
_GPT2 = {
    "vocab_size": 310,
    "n_embd": 40,
    "n_layer": 2,
    "n_head": 5,
    "n_positions": 100,
    "initializer_range": 0.3,
    "bos_token_id": 309,
    "eos_token_id": 309,
}
_BERT_DECODER = {**_BERT, "bos_token_id": 1, "eos_token_id": 2}
#: name: (model_type, config values), or two of them.
Config = tuple[str, dict[str, Any]]
ENCODERS: dict[str, Config] = {
    "bert": ("bert", _BERT),
    "bert-relu": ("bert", {**_BERT, "hidden_act": "relu", "layer_norm_eps": 1e-3}),
    "roberta": ("roberta", _ROBERTA),
    "roberta-pad": ("roberta", {**_ROBERTA, "pad_token_id": 4, "type_vocab_size": 1}),
}
DECODERS: dict[str, Config] = {
    "gpt2": ("gpt2", _GPT2),
    "gpt2-unscaled": (
        "gpt2",
        {**_GPT2, "scale_attn_weights": False, "n_inner": 70, "activation_function": "relu"},
    ),
}
PAIRS: dict[str, tuple[Config, Config]] = {
    "bert-bert": (("bert", _BERT), ("bert", _BERT_DECODER)),
    # Other tokens, other heads, another activation before the head.
    "bert-bert-odd": (
        ("bert", {**_BERT, "num_hidden_layers": 1}),
        (
            "bert",
            {
                **_BERT_DECODER,
                "vocab_size": 257,
                "num_attention_heads": 4,
                "num_hidden_layers": 3,
                "hidden_act": "gelu_new",
            },
        ),
    ),
    "roberta-roberta": (("roberta", _ROBERTA), ("roberta", _ROBERTA)),
    "roberta-roberta-wide": (
        ("roberta", {**_ROBERTA, "pad_token_id": 3}),
        ("roberta", {**_ROBERTA, "hidden_size": 60, "num_hidden_layers": 3}),
    ),
    "bert-gpt2": (("bert", _BERT), ("gpt2", {**_GPT2, "n_embd": 48, "n_head": 4})),
    "bert-gpt2-narrow": (("bert", _BERT), ("gpt2", _GPT2)),
}
#: Pairs whose head is a tensor of its own.
UNTIED = {"bert-bert-odd", "gpt2-unscaled"}
_ATTENTION_OUTPUTS = ("attention.output.dense.weight", "attn.c_proj.weight")
CheckpointOf = Callable[[str], Path]


def make_model(shape: str, seed: int = 0) -> Any:
    """A model of one of the shapes with random weights, none at its trivial initial value."""
    import torch
    import transformers

    torch.manual_seed(seed)

    def config(kind: str, values: dict[str, Any], **more: Any) -> Any:
        found = transformers.AutoConfig.for_model(kind, **values, **more)
        found.tie_word_embeddings = shape not in UNTIED
        return found

    if shape in ENCODERS:
        model = transformers.AutoModel.from_config(config(*ENCODERS[shape]))
    elif shape in DECODERS:
        model = transformers.AutoModelForCausalLM.from_config(config(*DECODERS[shape]))
    else:
        (encoder, read), (decoder, written) = PAIRS[shape]
        model = transformers.EncoderDecoderModel(
            transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
                config(encoder, read),
                config(decoder, written, is_decoder=True, add_cross_attention=True),
                decoder_start_token_id=5,
                pad_token_id=0 if encoder == "bert" else read.get("pad_token_id", 1),
            )
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            last = name.endswith(("ln_f.weight", "transform.LayerNorm.weight", "layer_norm.weight"))
            if last:
                # With a tied head a state is most like its own token's embedding, and a random
                # model repeats that token for ever, unless some signs are turned.
                parameter.mul_(torch.randn_like(parameter).sign())
            if name.startswith("decoder."):
                # Attention over random states is much the same everywhere; with less of it what
                # is written depends on its place and on what was written.
                if name.endswith(_ATTENTION_OUTPUTS):
                    parameter.mul_(0.1)
                elif name.endswith(("output.dense.weight", "position_embeddings.weight")):
                    parameter.mul_(2.0)
            if name.endswith(("predictions.bias", "lm_head.bias")):
                parameter[[0, 1]] = -100.0  # pad tokens, which no trained model writes
    return model.eval()


@pytest.fixture(scope="session")
def pair_checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> CheckpointOf:
    """A function from a shape to its saved checkpoint; each is made once."""
    folder = tmp_path_factory.mktemp("pair-checkpoints")
    return made_once(folder, lambda shape, path: make_model(shape).save_pretrained(path))


@pytest.fixture(scope="session")
def pair_bundle_of(
    tmp_path_factory: pytest.TempPathFactory, pair_checkpoint_of: CheckpointOf
) -> CheckpointOf:
    """A function from a shape to its bundle; each is made once. Read only."""
    folder = tmp_path_factory.mktemp("pair-bundles")
    return made_once(
        folder, lambda shape, path: export_unvalidated(pair_checkpoint_of(shape), path)
    )
