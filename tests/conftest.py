"""Checkpoints made from configs, saved as transformers saves them, and their bundles."""

from __future__ import annotations

import json
import warnings
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: Small enough that a test takes milliseconds, odd enough that a mixed-up axis shows.
_T5 = {
    "vocab_size": 384,
    "d_model": 48,
    "d_kv": 24,
    "d_ff": 96,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 40,
}
_BART = {
    "vocab_size": 400,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 80,
    "init_std": 0.3,
}
_BARE = {**_BART, "decoder_start_token_id": 2}
#: Families of the BART line, two shapes each.
_BART_LINE: dict[str, tuple[str, dict[str, Any]]] = {
    "mbart": ("MBart", _BARE),
    "mbart-scaled": (
        "MBart",
        {**_BARE, "scale_embedding": True, "activation_function": "relu", "vocab_size": 401},
    ),
    "pegasus": ("Pegasus", _BART),
    "pegasus-scaled": (
        "Pegasus",
        {**_BART, "scale_embedding": True, "activation_function": "relu", "decoder_layers": 1},
    ),
    "marian": (
        "Marian",
        {
            **_BART,
            "activation_function": "swish",
            "scale_embedding": True,
            "pad_token_id": 399,
            "decoder_start_token_id": 399,
            "bad_words_ids": [[399]],
        },
    ),
    # Each side with tokens of its own, as the models of the tatoeba challenge have them.
    "marian-separate": (
        "Marian",
        {
            **_BART,
            "d_model": 36,
            "share_encoder_decoder_embeddings": False,
            "vocab_size": 380,
            "decoder_vocab_size": 311,
            "pad_token_id": 310,
            "decoder_start_token_id": 310,
        },
    ),
    "m2m100": ("M2M100", _BARE),
    "m2m100-unscaled": (
        "M2M100",
        {**_BARE, "scale_embedding": False, "activation_function": "gelu", "vocab_size": 401},
    ),
    "blenderbot": ("Blenderbot", _BART),
    "blenderbot-scaled": (
        "Blenderbot",
        {**_BART, "scale_embedding": True, "activation_function": "relu", "encoder_layers": 1},
    ),
    "blenderbot-small": ("BlenderbotSmall", _BART),
    "blenderbot-small-scaled": (
        "BlenderbotSmall",
        {**_BART, "scale_embedding": True, "activation_function": "relu", "vocab_size": 401},
    ),
    "plbart": ("PLBart", _BARE),
    "plbart-unscaled": (
        "PLBart",
        {**_BARE, "scale_embedding": False, "activation_function": "relu", "d_model": 32},
    ),
}
_MODEL_CLASS = {"Marian": "MTModel"}
#: name: (model class, config class, config values)
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "t5-v1.1": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "t5-deep-decoder": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**_T5, "num_layers": 1, "num_decoder_layers": 3, "feed_forward_proj": "gated-silu"},
    ),
    "mt5": (
        "MT5ForConditionalGeneration",
        "MT5Config",
        {**_T5, "feed_forward_proj": "gated-gelu"},
    ),
    "umt5": (
        "UMT5ForConditionalGeneration",
        "UMT5Config",
        {**_T5, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 3},
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", _BART),
    "bart-scaled": (
        "BartForConditionalGeneration",
        "BartConfig",
        {**_BART, "scale_embedding": True, "activation_function": "relu", "d_model": 32},
    ),
    # An odd vocabulary, as published ones often are.
    "bart-odd": (
        "BartForConditionalGeneration",
        "BartConfig",
        {**_BART, "vocab_size": 401, "encoder_layers": 1, "decoder_layers": 1},
    ),
    **{
        name: (
            f"{prefix}{_MODEL_CLASS.get(prefix, 'ForConditionalGeneration')}",
            f"{prefix}Config",
            values,
        )
        for name, (prefix, values) in _BART_LINE.items()
    },
}
#: A plain PyTorch module, whose bundle ``bundle_of`` makes as well (tests/translators.py).
MODULE = "torch"
#: Shapes whose head is a tensor of its own, as T5 1.1, FLAN and mT5 have it.
UNTIED = {"t5-v1.1", "mt5"}


def make_model(shape: str, seed: int = 0, **changes: Any) -> Any:
    """A model of one of SHAPES with random weights, no tensor at its trivial initial value.

    ``changes`` are config values other than the shape's.
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    model_class, config_class, values = SHAPES[shape]
    model = getattr(transformers, model_class)(
        getattr(transformers, config_class)(**{**values, **changes})
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if "decoder" in name and name.endswith("final_layer_norm.weight"):
                # With a tied head a state is most like its own token's embedding, and a random
                # model repeats that token for ever, unless some signs are turned.
                parameter.mul_(torch.randn_like(parameter).sign())
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
        if shape in UNTIED:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    return model.eval()


def made_once(folder: Path, make: Callable[[str, Path], Any]) -> Callable[[str], Path]:
    """A function from a name to what ``make`` writes to the path it is given, made when asked."""

    def get(name: str) -> Path:
        path = folder / name
        if not path.exists():
            make(name, path)
        return path

    return get


def export_unvalidated(checkpoint: Path, bundle: Path) -> None:
    """Export a checkpoint that has no tokenizer files."""
    from seq2edge.export import export_checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(checkpoint, bundle, validate=False)


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in SHAPES to its saved checkpoint; each is made once."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return made_once(folder, lambda shape, path: make_model(shape).save_pretrained(path))


@pytest.fixture(scope="session")
def bundle_of(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Callable[[str], Path]:
    """A function from a name in SHAPES, or MODULE, to its bundle; each is made once. Read only."""

    def make(shape: str, path: Path) -> None:
        if shape == MODULE:
            _export_translator(path)
        else:
            export_unvalidated(checkpoint_of(shape), path)

    return made_once(tmp_path_factory.mktemp("bundles"), make)


def _export_translator(path: Path) -> None:
    from seq2edge.export import export_module

    from .translators import TOKENS, Shape, make_translator, parts_of

    shape = Shape(head="bias")
    export_module(
        make_translator(shape), path, parts=parts_of(shape), tokens=TOKENS, validate=False
    )


@pytest.fixture(autouse=True, scope="session")
def _quiet_and_single_threaded() -> None:
    """Two threads of torch beside two of onnxruntime on two cores only wait for each other."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(scope="session")
def speaking_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Whisper with a tokenizer, which writes words, times and ends. Read only."""
    from .whisper_models import make_whisper, write_tokenizer

    path = make_whisper("tiny", tmp_path_factory.mktemp("speaking") / "checkpoint", speaks=True)
    write_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def speaking_bundle(speaking_checkpoint: Path) -> Path:
    """The bundle of ``speaking_checkpoint``. Read only."""
    path = speaking_checkpoint.parent / "bundle"
    export_unvalidated(speaking_checkpoint, path)
    return path


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON lines that name three WAV files beside them, of noise: 1, 2 and 33 s (two windows)."""
    folder = tmp_path_factory.mktemp("recordings")
    generator = np.random.default_rng(0)
    lines = []
    for seconds in (1, 2, 33):
        samples = 2000 * generator.standard_normal(16000 * seconds)
        with wave.open(str(folder / f"{seconds}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(samples.astype("<i2").tobytes())
        lines.append(json.dumps({"source": f"{seconds}.wav", "target": "Some, words."}))
    (folder / "data.jsonl").write_text("\n".join(lines))
    return folder / "data.jsonl"
