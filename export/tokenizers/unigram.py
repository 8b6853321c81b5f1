"""T5's SentencePiece unigram model (``spiece.model``) as a ``tokenizers`` tokenizer.

The file is a protocol buffer; only three of its fields matter, so they are read here and no
protobuf schema is needed. Field numbers: google/sentencepiece, sentencepiece_model.proto
(ModelProto.pieces = 1, .trainer_spec = 2, .normalizer_spec = 3; SentencePiece.piece = 1,
.score = 2; TrainerSpec.model_type = 3; NormalizerSpec.precompiled_charsmap = 2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ..errors import CheckpointError

_UNIGRAM = 1
_SPACE = "\u2581"  # SentencePiece's visible space


def build_unigram(data: bytes, extra_ids: int) -> Tokenizer:
    """T5's tokenizer: the pieces, ``extra_ids`` sentinels after them, ``</s>`` at the end.

    Raises:
        CheckpointError: not a SentencePiece model, or one that is not a unigram model.
    """
    pieces: list[tuple[str, float]] = []
    charsmap = b""
    model_type = _UNIGRAM
    try:
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                entry = dict(_fields(value))
                (score,) = struct.unpack("<f", _raw(entry.get(2, b"\0\0\0\0")))
                pieces.append((_raw(entry[1]).decode(), score))
            elif field == 2 and isinstance(value, bytes):
                kind = dict(_fields(value)).get(3, _UNIGRAM)
                model_type = kind if isinstance(kind, int) else _UNIGRAM
            elif field == 3 and isinstance(value, bytes):
                charsmap = _raw(dict(_fields(value)).get(2, b""))
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise CheckpointError(f"spiece.model is not a SentencePiece model: {error}") from None
    if model_type != _UNIGRAM:
        raise CheckpointError("spiece.model is not a unigram model; save a tokenizer.json instead")
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    if "<unk>" not in ids or "</s>" not in ids:
        raise CheckpointError("spiece.model has no <unk> or no </s> piece")
    sentinels = [f"<extra_id_{number}>" for number in range(extra_ids - 1, -1, -1)]
    pieces += [(token, 0.0) for token in sentinels]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=ids["<unk>"], byte_fallback=False))
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    special = [token for token in ("<pad>", "</s>", "<unk>") if token in ids]
    tokenizer.add_special_tokens([*special, *sentinels])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], special_tokens=[("</s>", ids["</s>"])]
    )
    return tokenizer


def _raw(value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    raise ValueError("a field has an unexpected type")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of one protocol-buffer message, as (number, value)."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + length > len(data):
            raise ValueError("truncated")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
