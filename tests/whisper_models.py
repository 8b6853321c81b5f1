"""Small Whisper checkpoints with random weights, of every shape that real ones have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Special tokens stand after so many ordinary ones.
WORDS = 80
EOS, START = WORDS, WORDS + 1
LANGUAGES = {"<|en|>": WORDS + 2, "<|de|>": WORDS + 3}
TASKS = {"translate": WORDS + 4, "transcribe": WORDS + 5}
PREVIOUS, NO_SPEECH, NO_TIMESTAMPS = WORDS + 7, WORDS + 8, WORDS + 9
#: As many times as a window of 30 s has, 0.02 s apart.
TIMES = 1501
VOCABULARY = NO_TIMESTAMPS + 1 + TIMES

_BASE = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_target_positions": 64,
    "pad_token_id": EOS,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
    "decoder_start_token_id": START,
    "begin_suppress_tokens": [0, EOS],
    "suppress_tokens": [1, 2, START],
}
_ALIGNMENT = {"alignment_heads": [[1, 3], [0, 1], [1, 0]]}

#: config values, and those of generation_config.json
SHAPES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "tiny": ({}, _ALIGNMENT),
    # large-v3 and turbo: more mels, and a decoder that is shallower than the encoder.
    "turbo": ({"num_mel_bins": 128, "encoder_layers": 3, "decoder_layers": 1}, {}),
    "distil": ({"encoder_layers": 4}, {"alignment_heads": [[1, 2]]}),
    "wide-ffn": ({"decoder_layers": 3, "decoder_ffn_dim": 48, "encoder_attention_heads": 2}, {}),
    "english": ({}, {**_ALIGNMENT, "is_multilingual": False}),
}


def make_whisper(shape: str, folder: Path, *, seed: int = 7, **changes: Any) -> Path:
    """Save a checkpoint of a shape to ``folder``, which has no tokenizer files."""
    import torch
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    values, own = SHAPES[shape]
    values = {**_BASE, **values, **changes}
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(WhisperConfig(**values))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # no tensor at its trivial initial value
                parameter.add_(0.1 * torch.randn_like(parameter))
            if "decoder" in name and name.endswith("final_layer_norm.weight"):
                # With a tied head a random model else repeats its token for ever.
                parameter.mul_(torch.randn_like(parameter).sign())
    settings = {
        "is_multilingual": True,
        "no_timestamps_token_id": NO_TIMESTAMPS,
        "prev_sot_token_id": PREVIOUS,
        "max_initial_timestamp_index": 50,
        "return_timestamps": False,
        "max_length": values["max_target_positions"],
        **own,
    }
    if settings["is_multilingual"]:
        settings |= {"lang_to_id": LANGUAGES, "task_to_id": TASKS}
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=values.get("num_mel_bins", 80))
    extractor.save_pretrained(folder)
    return folder
