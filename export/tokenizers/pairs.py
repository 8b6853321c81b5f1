"""The two tokenizers of an encoder-decoder pair: one folder each within the checkpoint's.

``EncoderDecoderModel.save_pretrained`` saves none. Where outputs have other tokens than sources,
``encoder/`` and ``decoder/`` hold what ``AutoTokenizer.save_pretrained`` wrote of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .files import TokenizerFile, find_tokenizer


def find_tokenizers(
    directory: Path, config: Mapping[str, Any] | None = None
) -> TokenizerFile | None:
    """The tokenizer of sources, with that of outputs if they have one of their own.

    Each is that of its subfolder, or else the folder's own.

    Args:
        directory: the checkpoint's.
        config: as for :func:`.files.find_tokenizer`, of the folder's own.

    Raises:
        CheckpointError: files that cannot be read.
    """
    own = find_tokenizer(directory, config)
    source = find_tokenizer(directory / "encoder") or own
    target = find_tokenizer(directory / "decoder") or own
    if source is None or target is None or source.data == target.data:
        return source if target is not None else None
    return replace(source, target=target)
