"""Small Moonshine checkpoints with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BASE: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 40,
    "intermediate_size": 56,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 2,
}
#: Config values. Heads of 10 turn 8 dimensions (an even number), 9 (an odd one), or all.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"partial_rotary_factor": 0.8},
    "odd": {"encoder_num_hidden_layers": 3, "partial_rotary_factor": 0.9},
    "whole": {
        "decoder_num_hidden_layers": 1,
        "partial_rotary_factor": 1.0,
        "tie_word_embeddings": False,
    },
}


def write_tokenizer(folder: Path) -> None:
    """A tokenizer.json of a word for each token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(3, _BASE["vocab_size"]))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:3]])
    tokenizer.save(str(folder / "tokenizer.json"))


def make_moonshine(shape: str, folder: Path, *, seed: int = 3, **changes: Any) -> Path:
    """Save a checkpoint of a shape to ``folder``, which has no tokenizer files."""
    import torch
    from transformers import MoonshineConfig, MoonshineForConditionalGeneration

    torch.manual_seed(seed)
    values = {**_BASE, **SHAPES[shape], **changes}
    model = MoonshineForConditionalGeneration(MoonshineConfig(**values))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # no tensor at its trivial initial value
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "attn" in name:  # or every position is attended to alike
                parameter.mul_(8)
            if name.endswith("final_layernorm.weight"):
                # With a tied head a random model else repeats its token for ever.
                parameter.mul_(torch.randn_like(parameter).sign())
    model.save_pretrained(folder)
    return folder
