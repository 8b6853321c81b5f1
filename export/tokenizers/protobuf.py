"""SentencePiece's model files. They are protocol buffers, of which few fields matter here.

They are read without a schema. Field numbers: google/sentencepiece, sentencepiece_model.proto
(ModelProto.pieces = 1, .trainer_spec = 2, .normalizer_spec = 3; SentencePiece.piece = 1,
.score = 2, .type = 3; TrainerSpec.model_type = 3; NormalizerSpec.precompiled_charsmap = 2,
.add_dummy_prefix = 3, .remove_extra_whitespaces = 4).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError

UNIGRAM, BPE = 1, 2
#: What stands for a space in pieces.
SPACE = "\u2581"
#: Kinds of pieces that texts are made of.
_NORMAL, _USER_DEFINED = 1, 4


@dataclass(frozen=True)
class Piece:
    """``in_texts``: texts are cut into such pieces (control symbols are put there by hand)."""

    text: str
    score: float
    in_texts: bool


@dataclass(frozen=True)
class PieceModel:
    """A model file.

    Attributes:
        name: the file's, for messages.
        pieces: by id.
        kind: ``UNIGRAM`` or ``BPE``.
        charsmap: SentencePiece's compiled normalization; empty: none.
        prefix: a space is put before each text.
        collapse: spaces at the ends are dropped, and several are one.
    """

    name: str
    pieces: tuple[Piece, ...]
    kind: int
    charsmap: bytes
    prefix: bool
    collapse: bool


def read_pieces(file: Path) -> PieceModel:
    """Read a model file.

    Raises:
        CheckpointError: not a SentencePiece model, or of a kind other than unigram and BPE.
    """
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for field, value in _fields(file.read_bytes()):
            if field == 1 and isinstance(value, bytes):
                pieces.append(_piece(dict(_fields(value))))
            elif field == 2 and isinstance(value, bytes):
                trainer = dict(_fields(value))
            elif field == 3 and isinstance(value, bytes):
                normalizer = dict(_fields(value))
        kind, charsmap = _integer(trainer.get(3, UNIGRAM)), _raw(normalizer.get(2, b""))
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise CheckpointError(f"{file.name} is not a SentencePiece model: {error}") from None
    if kind not in (UNIGRAM, BPE):
        raise CheckpointError(
            f"{file.name} is a SentencePiece model of words or characters; unigram and BPE models"
            " are read: save a tokenizer.json instead"
        )
    return PieceModel(
        name=file.name,
        pieces=tuple(pieces),
        kind=kind,
        charsmap=charsmap,
        prefix=bool(normalizer.get(3, True)),
        collapse=bool(normalizer.get(4, True)),
    )


def _piece(fields: dict[int, int | bytes]) -> Piece:
    (score,) = struct.unpack("<f", _raw(fields.get(2, b"\0\0\0\0")))
    kind = _integer(fields.get(3, _NORMAL))
    return Piece(_raw(fields[1]).decode(), score, kind in (_NORMAL, _USER_DEFINED))


def _raw(value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    raise ValueError("a field has an unexpected type")


def _integer(value: int | bytes) -> int:
    if isinstance(value, int):
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
