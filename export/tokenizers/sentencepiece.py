"""SentencePiece models whose pieces have other ids in the model, as ``tokenizers`` tokenizers.

They cut texts as the SentencePiece library does, with which the models were trained. (transformers
5 keeps spaces at the ends of texts, normalizes nothing for mBART, reads NLLB's files as if they
were all BPE, and knows no byte fallback.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from seq2edge.runtime.text.decoder_steps import END_SPACES
from seq2edge.runtime.text.tokenizer import HIDDEN, NO_TOKEN

from ..errors import CheckpointError
from .charsmap import compiled_normalizers
from .pieces import BPE, SPACE, PieceModel
from .vocabulary import Vocabulary


def fairseq_ids(
    model: PieceModel, languages: Sequence[str], last: Sequence[str] = ("<mask>",)
) -> dict[str, int]:
    """Ids of fairseq's vocabularies: four symbols, the pieces, languages, and ``last``.

    The file's own first three pieces are its <unk>, <s> and </s>.
    """
    pieces = [piece.text for piece in model.pieces[3:]]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *pieces, *languages, *last]
    return {token: number for number, token in reversed(list(enumerate(tokens)))}


def build_pieces(model: PieceModel, vocabulary: Vocabulary, template: Sequence[str]) -> Tokenizer:
    """A tokenizer of the model's own ids.

    Pieces that the vocabulary lacks have ids from ``vocabulary.size`` on: whoever encodes takes
    those for ``unknown``. Tokens that are no pieces are hidden, so that no text is cut into them,
    and stand only for what is unknown to the pieces and is such a token as a whole;
    :func:`shows_all` says whether there are any.

    Args:
        model: the pieces and how texts are normalized.
        vocabulary: the tokens.
        template: tokens around the text, which is ``$A``.

    Raises:
        CheckpointError: a vocabulary without one of the special tokens.
    """
    return _build(model, vocabulary, template, _names(model, vocabulary, hide=True))


def build_decoder(model: PieceModel, vocabulary: Vocabulary, template: Sequence[str]) -> Tokenizer:
    """As :func:`build_pieces`, with no token hidden: for outputs."""
    return _build(model, vocabulary, template, _names(model, vocabulary, hide=False))


def shows_all(model: PieceModel, vocabulary: Vocabulary) -> bool:
    """Whether :func:`build_pieces` hides no token, so that its tokenizer decodes as well."""
    return not any(name.startswith(HIDDEN) for name in _names(model, vocabulary, hide=True))


def _decoding(*, byte_fallback: bool) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if byte_fallback:
        steps.append(decoders.ByteFallback())
    return decoders.Sequence([*steps, decoders.Fuse(), decoders.Replace(Regex(END_SPACES), "")])


def _names(model: PieceModel, vocabulary: Vocabulary, *, hide: bool) -> list[str]:
    """All tokens by id, those that only the model has last."""
    used = [piece.text for piece in model.pieces if piece.in_texts or piece.is_byte]
    shown = {*(token.content for token in vocabulary.added), vocabulary.unknown, *used}
    names = [f"{NO_TOKEN}{number}" for number in range(vocabulary.size)]
    for token, number in vocabulary.ids.items():
        names[number] = HIDDEN + token if hide and token not in shown else token
    return names + [text for text in used if text not in vocabulary.ids]


def _build(
    model: PieceModel, vocabulary: Vocabulary, template: Sequence[str], names: Sequence[str]
) -> Tokenizer:
    ids = {token: number for number, token in enumerate(names)}
    for token in (vocabulary.unknown, *(name for name in template if name != "$A")):
        if token not in ids:
            raise CheckpointError(f"the vocabulary that goes with {model.name} has no {token}")
    tokenizer = Tokenizer(_model(model, ids, vocabulary.unknown))
    with_pieces(tokenizer, model)
    none = [AddedToken(name, special=True) for name in names if name.startswith(NO_TOKEN)]
    added = [token for token in (*vocabulary.added, *none) if token.content in ids]
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=list(template),
        special_tokens=[(token, ids[token]) for token in template if token != "$A"],
    )
    return tokenizer


def with_pieces(tokenizer: Tokenizer, model: PieceModel) -> None:
    """Let a tokenizer with a model's pieces normalize and decode as SentencePiece does."""
    tokenizer.normalizer = _normalizer(model)
    user_defined = [piece.text for piece in model.pieces if piece.user_defined]
    split: pre_tokenizers.PreTokenizer = pre_tokenizers.Sequence([])
    if model.kind == BPE and user_defined:  # they are never merged with what is beside them
        longest_first = sorted(map(re.escape, user_defined), key=len, reverse=True)
        split = pre_tokenizers.Split(Regex("|".join(longest_first)), "isolated")
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = _decoding(byte_fallback=model.byte_fallback)


def _model(model: PieceModel, ids: Mapping[str, int], unknown: str) -> models.Model:
    scores = {piece.text: piece.score for piece in model.pieces if piece.in_texts}
    if model.kind == BPE:
        merged = {piece.text for piece in model.pieces if piece.in_texts and not piece.user_defined}
        return models.BPE(
            dict(ids),
            _merges({text: score for text, score in scores.items() if text in merged}),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
            ignore_merges=len(merged) < len(scores),
        )
    # The score of an unknown character depends on the lowest one, so others have the highest.
    other = max(scores.values(), default=0.0)
    listed = [(name, scores.get(name, other)) for name in ids]
    return models.Unigram(listed, unk_id=ids[unknown], byte_fallback=model.byte_fallback)


def _normalizer(model: PieceModel) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps += compiled_normalizers(model.charsmap)
    if model.collapse:
        steps += [
            normalizers.Replace(Regex(END_SPACES), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    if model.prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Merges of two pieces that make a third, in the order of the scores.

    SentencePiece merges any neighbours that make a piece, those of the highest score first.
    """
    merges = []
    for piece in sorted(scores, key=lambda text: -scores[text]):
        for cut in range(1, len(piece)):
            if piece[:cut] in scores and piece[cut:] in scores:
                merges.append((piece[:cut], piece[cut:]))
    return merges
