"""Folders of CTranslate2 as checkpoints: what ``config.json`` and tensors of transformers say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ..files import INDEX, WEIGHTS
from ..formats import TensorSource, optional_json
from .model_bin import ModelBin, is_model_bin
from .tensors import Tensors
from .text import map_text
from .whisper import map_whisper

FILE = "model.bin"
#: In a text model's config, what CTranslate2 was told of its tokens.
TOLD = "ctranslate2"
#: Beside the model's folder in a package of Argos Translate.
PACKAGE = "metadata.json"
#: What a text model's file says of its tokens before version 6, which has config.json for it.
_OLD_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_OLD_FLAGS = (
    "with_source_bos",
    "with_source_eos",
    "with_target_bos",
    "user_decoder_start_tokens",
)
#: The version of the file from which config.json says what variables said before.
_HAS_CONFIG = 6
#: Older ones leave the number of heads to the model's kind.
_OLDEST = 3
#: Revisions from here on name heads, norms and activation on each side.
_OWN_NAMES = 5


@dataclass(frozen=True)
class Converted:
    """A model of CTranslate2 by the names of transformers.

    Attributes:
        config: as config.json; under ``TOLD``, what CTranslate2 was told of a text model's tokens.
        generation_config: as generation_config.json; {} if nothing is known.
        tensors: by their names in transformers' models.
    """

    config: dict[str, Any]
    generation_config: dict[str, Any]
    tensors: TensorSource


def find_model(path: Path) -> Path | None:
    """The ``model.bin`` of a folder, or of an Argos Translate package; None: it has none.

    Args:
        path: a folder, or the file itself. Weights of transformers in the same folder come first.
    """
    if path.is_file():
        return path if path.name == FILE and is_model_bin(path) else None
    if any((path / name).is_file() for own in WEIGHTS for name in (own, own + INDEX)):
        return None
    # A package of Argos Translate: metadata.json, a tokenizer and the model in a folder.
    places = [path / FILE, *([path / "model" / FILE] if _is_package(path) else [])]
    return next((place for place in places if is_model_bin(place)), None)


def _is_package(path: Path) -> bool:
    return (path / PACKAGE).is_file()


def read_model(file: Path) -> Converted:
    """Read a model's configuration and where its tensors are.

    Args:
        file: of :func:`find_model`.

    Raises:
        CheckpointError: a kind of model, or a layout, that is not supported; by name.
    """
    folder, model = file.parent, ModelBin(file)
    told = optional_json(folder / "config.json")
    if model.version >= _HAS_CONFIG and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json, which says the model's tokens; copy it beside"
            f" {file.name}"
        )
    if told.get("quantization_type"):
        raise CheckpointError(
            f"{folder} is quantized with AWQ, which is not read; export the checkpoint that it was"
            " converted from"
        )
    oldest = {"WhisperSpec": 1, "TransformerSpec": _OLDEST}.get(model.spec)
    if oldest is None or model.revision < oldest:
        raise CheckpointError(
            f"{file} is a model of CTranslate2's {model.spec} (revision {model.revision}), which is"
            " not supported: WhisperSpec and TransformerSpec are; export the checkpoint that it was"
            " converted from"
        )
    tensors = Tensors(model)
    tensors.refuse_others()
    if model.spec == "WhisperSpec":
        config, generation = map_whisper(tensors, told, folder)
        return Converted(config, generation, tensors)
    _name_sides(model)
    package = optional_json(folder.parent / PACKAGE) if _is_package(folder.parent) else {}
    told = {**_old_told(tensors), **told, "target_prefix": package.get("target_prefix")}
    return Converted({**map_text(tensors, told, folder), TOLD: told}, {}, tensors)


def _name_sides(model: ModelBin) -> None:
    """Name for each side what old revisions say once for both."""
    if model.revision >= _OWN_NAMES:
        return
    for side in ("encoder", "decoder"):
        for name in ("num_heads", "pre_norm", "activation"):
            model.add_alias(f"{side}/{name}", name)


def _old_told(tensors: Tensors) -> dict[str, Any]:
    """What files before version 6 say in place of config.json."""
    if tensors.model.version >= _HAS_CONFIG:
        return {}
    flags = {name: bool(tensors.scalar(name, name == "with_target_bos")) for name in _OLD_FLAGS}
    told = {
        name: tensors.text(name) if tensors.has(name) else token
        for name, token in _OLD_TOKENS.items()
    }
    start = told["bos_token" if flags["with_target_bos"] else "eos_token"]
    return {
        **told,
        "decoder_start_token": None if flags["user_decoder_start_tokens"] else start,
        "add_source_bos": flags["with_source_bos"],
        "add_source_eos": flags["with_source_eos"],
    }
