"""SentencePiece's model files, read with the schema that SentencePiece ships."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from seq2edge.runtime.bundle.checks.json_text import MAX_TOKENIZER_BYTES, read_file
from seq2edge.runtime.errors import MissingDependencyError

from ..errors import CheckpointError

UNIGRAM, BPE = 1, 2
#: What stands for a space in pieces.
SPACE = "\u2581"
#: Kinds of pieces, as sentencepiece_model.proto numbers them.
_NORMAL, _USER_DEFINED, _BYTE = 1, 4, 6


@dataclass(frozen=True)
class Piece:
    """``kind`` is SentencePiece's: normal, user-defined, byte, and others."""

    text: str
    score: float
    kind: int

    @property
    def in_texts(self) -> bool:
        """Whether texts are cut into such pieces; control symbols are put there by hand."""
        return self.kind in (_NORMAL, _USER_DEFINED)

    @property
    def user_defined(self) -> bool:
        return self.kind == _USER_DEFINED

    @property
    def is_byte(self) -> bool:
        return self.kind == _BYTE


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
        byte_fallback: a character that no piece has is cut into bytes.
    """

    name: str
    pieces: tuple[Piece, ...]
    kind: int
    charsmap: bytes
    prefix: bool
    collapse: bool
    byte_fallback: bool


def read_pieces(file: Path) -> PieceModel:
    """Read a model file.

    Raises:
        CheckpointError: not a SentencePiece model, or one that the ``tokenizers`` library cannot
            stand for.
        MissingDependencyError: sentencepiece or protobuf is not installed.
    """
    try:
        from google.protobuf.message import DecodeError

        schema: Any = import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError as error:
        raise MissingDependencyError(
            f"{file} is read with sentencepiece and protobuf: pip install sentencepiece protobuf"
            f" ({error})"
        ) from None
    proto = schema.ModelProto()
    try:
        proto.ParseFromString(read_file(file, MAX_TOKENIZER_BYTES))
    except (DecodeError, OSError) as error:
        raise CheckpointError(f"{file} is not a SentencePiece model: {error}") from None
    if not proto.pieces:
        raise CheckpointError(f"{file} is not a SentencePiece model: there are no pieces in it")
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type not in (UNIGRAM, BPE):
        raise CheckpointError(
            f"{file.name} is a SentencePiece model of words or characters; unigram and BPE models"
            " are read: save a tokenizer.json instead"
        )
    if trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces:
        raise CheckpointError(
            f"{file.name} was trained with treat_whitespace_as_suffix or without"
            " escape_whitespaces, which is not supported; save a tokenizer.json instead"
        )
    return PieceModel(
        name=file.name,
        pieces=tuple(Piece(piece.piece, piece.score, piece.type) for piece in proto.pieces),
        kind=trainer.model_type,
        charsmap=normalizer.precompiled_charsmap,
        prefix=normalizer.add_dummy_prefix,
        collapse=normalizer.remove_extra_whitespaces,
        byte_fallback=trainer.byte_fallback,
    )
