"""Folders that ``optimum-cli export onnx`` wrote, read as bundles with a concatenating cache.

Layouts, by optimum-onnx 0.1.0: ``encoder_model.onnx``, and either ``decoder_model_merged.onnx``
(one graph for the prompt and for what follows, told apart by ``use_cache_branch``) or
``decoder_model.onnx`` and ``decoder_with_past_model.onnx``. Beside them lie the checkpoint's
config.json, generation_config.json and tokenizer files.

The manifest that is made here says what those files say. What only the graphs know (operators,
types, how much a step reads) it leaves empty: reading it needs the onnx package, which a device
does not have. ``seq2edge import`` (:mod:`seq2edge.export.optimum`) fills it in.
"""

from __future__ import annotations

import warnings
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import BundleError
from .checks.graphs import external_locations
from .generation_options import Getter, generation_defaults, warnings_about
from .hf_config import model_max_length, optional_json, read_json, special_tokens
from .manifest import (
    CONCAT,
    Dimensions,
    FileInfo,
    GraphInfo,
    Manifest,
)
from .tokenizer_info import TokenizerInfo

_ENCODER, _MERGED = "encoder_model.onnx", "decoder_model_merged.onnx"
_PROMPT, _NEXT = "decoder_model.onnx", "decoder_with_past_model.onnx"
#: Tokenizer files that the device cannot read, because they have to be converted.
_UNREADY = ("spiece.model", "vocab.json", "sentencepiece.bpe.model", "source.spm")
#: Such a tokenizer's kind.
UNREADY = "unready"
_BYTE_CLASS, _BYTE_OFFSET = "ByT5Tokenizer", 3

#: What families call their sizes, the name that decides first.
_SIZES = {
    "d_model": ("d_model", "hidden_size"),
    "encoder_layers": ("encoder_layers", "num_layers", "num_hidden_layers"),
    "decoder_layers": ("decoder_layers", "num_decoder_layers", "num_layers"),
    "decoder_heads": ("decoder_attention_heads", "num_heads", "num_attention_heads"),
}
_SOURCE_LIMITS = ("max_encoder_position_embeddings", "max_position_embeddings")
_TARGET_LIMITS = ("max_decoder_position_embeddings", "max_position_embeddings")


def is_optimum_folder(directory: Path) -> bool:
    """Whether it has a configuration and an encoder as optimum names them."""
    return all((directory / name).is_file() for name in ("config.json", _ENCODER))


def read_optimum_folder(directory: Path) -> Manifest:
    """The manifest of such a folder, without hashes and without what only the graphs know.

    Raises:
        BundleError: a decoder without a cache, or a configuration that does not say what is
            needed.
    """
    found = find_graphs(directory)
    stored = {name: graph_files(directory, file) for name, file in found.items()}
    graphs = {
        name: GraphInfo(
            file=file,
            opset=0,
            precision="",
            inputs=(),
            outputs=(),
            operators={},
            weight_bytes=sum(path.stat().st_size for path in stored[name]),
        )
        for name, file in found.items()
    }
    config = read_json(directory / "config.json").get
    generation = optional_json(directory / "generation_config.json")
    for text in warnings_about(generation, config):
        warnings.warn(text, stacklevel=2)
    dimensions = _dimensions(config)
    tokenizer = ready_tokenizer(directory)
    files = [path for paths in stored.values() for path in paths]
    if tokenizer.file is not None:
        files.append(directory / tokenizer.file)
    return Manifest(
        family=str(config("model_type")),
        dimensions=dimensions,
        special_tokens=special_tokens(generation, config, dimensions.vocab_size, directory),
        tokenizer=tokenizer,
        graphs=graphs,
        weights={},
        files={path.name: FileInfo(path.stat().st_size, "") for path in files},
        generation=generation_defaults(generation, config),
        producer="optimum",
        cache=CONCAT,
    )


def find_graphs(directory: Path) -> dict[str, str]:
    """File names of the graphs: ``encoder``, ``decoder``, and ``prompt`` where it has its own.

    Raises:
        BundleError: there is no decoder, or only one without a cache.
    """

    def there(*names: str) -> bool:
        return all((directory / name).is_file() for name in names)

    if there(_MERGED):
        return {"encoder": _ENCODER, "decoder": _MERGED}
    if there(_PROMPT, _NEXT):
        return {"encoder": _ENCODER, "decoder": _NEXT, "prompt": _PROMPT}
    if there(_PROMPT):
        raise BundleError(
            f"{directory}: {_PROMPT} has no cache; export it again with"
            " 'optimum-cli export onnx --task text2text-generation-with-past'"
        )
    raise BundleError(
        f"{directory} has {_ENCODER} and neither {_MERGED} nor {_PROMPT}; copy the whole folder"
    )


def graph_files(directory: Path, name: str) -> list[Path]:
    """A graph's file, and those of the folder that it reads its weights from."""
    found = sorted(external_locations(directory / name))
    there = [directory / data for data in found if data == PurePosixPath(data).name]
    return [directory / name, *(path for path in there if path.is_file())]


def byte_tokenizer(directory: Path) -> TokenizerInfo | None:
    """ByT5's tokenizer, if tokenizer_config.json asks for it; it needs no file of its own."""
    settings = optional_json(directory / "tokenizer_config.json")
    if settings.get("tokenizer_class") != _BYTE_CLASS:
        return None
    return TokenizerInfo(
        kind="byte", byte_offset=_BYTE_OFFSET, max_length=model_max_length(settings)
    )


def ready_tokenizer(directory: Path) -> TokenizerInfo:
    """The tokenizer of a folder, if a device can read it as it is.

    UNREADY stands for one that 'seq2edge import' has to convert, ``none`` for no files at all.
    """
    info = byte_tokenizer(directory)
    if info is not None:
        return info
    if (directory / "tokenizer.json").is_file():
        settings = optional_json(directory / "tokenizer_config.json")
        return TokenizerInfo(
            kind="tokenizers", file="tokenizer.json", max_length=model_max_length(settings)
        )
    unready = any((directory / name).is_file() for name in _UNREADY)
    return TokenizerInfo(kind=UNREADY if unready else "none")


def _dimensions(config: Getter) -> Dimensions:
    sizes: dict[str, Any] = {name: _first(config, keys) for name, keys in _SIZES.items()}
    vocabulary = _first(config, ("vocab_size",))
    if vocabulary is None:
        raise BundleError("config.json: vocab_size must be a positive integer")
    # Marian's decoder may have a vocabulary of its own.
    target = _first(config, ("decoder_vocab_size",)) or vocabulary
    head_dim = _first(config, ("d_kv",))
    if head_dim is None and sizes["d_model"] and sizes["decoder_heads"]:
        head_dim = sizes["d_model"] // sizes["decoder_heads"]
    return Dimensions(
        vocab_size=target,
        source_vocab_size=None if target == vocabulary else vocabulary,
        **{name: value or 0 for name, value in sizes.items()},
        decoder_head_dim=head_dim or 0,
        max_source_length=_first(config, _SOURCE_LIMITS),
        max_target_length=_first(config, _TARGET_LIMITS),
    )


def _first(config: Getter, keys: tuple[str, ...]) -> int | None:
    """The first of ``keys`` that is a positive integer."""
    values = (config(key) for key in keys)
    return next((v for v in values if isinstance(v, int) and v is not True and v > 0), None)
