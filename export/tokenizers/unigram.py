"""T5's SentencePiece unigram model (``spiece.model``) as a ``tokenizers`` tokenizer."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ..errors import CheckpointError
from .protobuf import SPACE, UNIGRAM, read_pieces


def build_unigram(file: Path, extra_ids: int) -> Tokenizer:
    """T5's tokenizer: the pieces, ``extra_ids`` sentinels after them, ``</s>`` at the end.

    Raises:
        CheckpointError: not a SentencePiece model, or one that is not a unigram model.
    """
    model = read_pieces(file)
    if model.kind != UNIGRAM:
        raise CheckpointError(f"{file.name} is not a unigram model; save a tokenizer.json instead")
    pieces = [(piece.text, piece.score) for piece in model.pieces]
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    if "<unk>" not in ids or "</s>" not in ids:
        raise CheckpointError(f"{file.name} has no <unk> or no </s> piece")
    sentinels = [f"<extra_id_{number}>" for number in range(extra_ids - 1, -1, -1)]
    pieces += [(token, 0.0) for token in sentinels]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=ids["<unk>"], byte_fallback=False))
    if model.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(model.charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    special = [token for token in ("<pad>", "</s>", "<unk>") if token in ids]
    tokenizer.add_special_tokens([*special, *sentinels])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], special_tokens=[("</s>", ids["</s>"])]
    )
    return tokenizer
