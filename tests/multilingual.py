"""Bundles of several languages: a tiny model with a word tokenizer that has language tokens."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "home"]
#: Id of the first language token.
FIRST = 300
#: By tokenizer class: a shape, and tokens of languages by code, the default source's first.
CLASSES: dict[str, tuple[str, dict[str, str]]] = {
    "MBartTokenizer": ("mbart", {"en_XX": "en_XX", "fr_XX": "fr_XX", "de_DE": "de_DE"}),
    "MBart50Tokenizer": ("mbart", {"en_XX": "en_XX", "fr_XX": "fr_XX", "gl_ES": "gl_ES"}),
    "NllbTokenizer": ("m2m100", {"eng_Latn": "eng_Latn", "fra_Latn": "fra_Latn"}),
    "M2M100Tokenizer": ("m2m100", {"en": "__en__", "fr": "__fr__", "zu": "__zu__"}),
    "PLBartTokenizer": (
        "plbart",
        {"en_XX": "__en_XX__", "python": "__python__", "java": "__java__"},
    ),
    "MarianTokenizer": ("marian", {"fra": ">>fra<<", "deu": ">>deu<<"}),
}


def export_multilingual(kind: str, checkpoint: Path, folder: Path, **settings: Any) -> Path:
    """The bundle of a checkpoint of the shape of ``kind``, in ``folder``; nothing is warned of."""
    from seq2edge.export import export_checkpoint

    copy = folder / "checkpoint"
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).symlink_to(file)
    _tokenizer(list(CLASSES[kind][1].values())).save(str(copy / "tokenizer.json"))
    config = {"tokenizer_class": f"{kind}Fast", **settings}
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return export_checkpoint(copy, folder / "bundle", validate=False).path


def _tokenizer(languages: list[str]) -> Tokenizer:
    known = ["<s>", "<pad>", "</s>", "<unk>", *WORDS]
    known += [f"<{number}>" for number in range(len(known), FIRST)]
    ids = {token: number for number, token in enumerate([*known, *languages])}
    made = Tokenizer(models.WordLevel(ids, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", *languages])
    return made
