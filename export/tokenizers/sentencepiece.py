"""SentencePiece models whose pieces have other ids in the model, as ``tokenizers`` tokenizers.

Unlike :mod:`.unigram`, which is the tokenizer that T5's checkpoints have had for long, these cut
texts as the SentencePiece library does, with which the models were trained. One thing differs:
the ``tokenizers`` library loses a combining mark after a character that normalization changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

from seq2edge.runtime.text.tokenizer import HIDDEN, NO_TOKEN

from ..errors import CheckpointError
from .protobuf import BPE, SPACE, PieceModel

_END_SPACES = r"\A +| +\z"


@dataclass(frozen=True)
class Vocabulary:
    """The model's tokens.

    Attributes:
        ids: token to id.
        unknown: the token of what has none.
        special: tokens that texts may name as they are and that decoding leaves out.
        named: tokens that texts may name and that decoding keeps.
    """

    ids: Mapping[str, int]
    unknown: str
    special: Sequence[str | AddedToken]
    named: Sequence[str] = ()

    @property
    def size(self) -> int:
        return 1 + max(self.ids.values())


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


def clean_up_spaces(tokenizer: Tokenizer) -> None:
    """Let decoding drop spaces before English punctuation and contractions.

    As ``clean_up_tokenization_spaces`` of transformers does, for what it calls so.
    """
    ends = (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")
    pairs = [(f" {end}", end) for end in ends]
    pairs.insert(4, (" ' ", "'"))
    steps = [decoders.Replace(found, better) for found, better in pairs]
    tokenizer.decoder = decoders.Sequence([*_decoding(), *steps])


def _decoding() -> list[decoders.Decoder]:
    return [
        decoders.Replace(SPACE, " "),
        decoders.Fuse(),
        decoders.Replace(Regex(_END_SPACES), ""),
    ]


def _names(model: PieceModel, vocabulary: Vocabulary, *, hide: bool) -> list[str]:
    """All tokens by id, those that only the model has last."""
    shown = {str(token) for token in (*vocabulary.special, *vocabulary.named)}
    shown |= {vocabulary.unknown, *(piece.text for piece in model.pieces if piece.in_texts)}
    names = [f"{NO_TOKEN}{number}" for number in range(vocabulary.size)]
    for token, number in vocabulary.ids.items():
        names[number] = HIDDEN + token if hide and token not in shown else token
    return names + [p.text for p in model.pieces if p.in_texts and p.text not in vocabulary.ids]


def _build(
    model: PieceModel, vocabulary: Vocabulary, template: Sequence[str], names: Sequence[str]
) -> Tokenizer:
    ids = {token: number for number, token in enumerate(names)}
    special = [token for token in vocabulary.special if str(token) in ids]
    special += [name for name in names if name.startswith(NO_TOKEN)]  # decoding leaves them out
    for token in (vocabulary.unknown, *(name for name in template if name != "$A")):
        if token not in ids:
            raise CheckpointError(f"the vocabulary that goes with {model.name} has no {token}")
    scores = {piece.text: piece.score for piece in model.pieces if piece.in_texts}
    if model.kind == BPE:
        tokenizer = Tokenizer(
            models.BPE(ids, _merges(scores), unk_token=vocabulary.unknown, fuse_unk=True)
        )
    else:
        # The score of an unknown character depends on the lowest one, so others have the highest.
        other = max(scores.values(), default=0.0)
        listed = [(name, scores.get(name, other)) for name in names]
        tokenizer = Tokenizer(models.Unigram(listed, unk_id=ids[vocabulary.unknown]))
    tokenizer.normalizer = _normalizer(model)
    tokenizer.decoder = decoders.Sequence(_decoding())
    tokenizer.add_special_tokens(
        [t if isinstance(t, AddedToken) else AddedToken(t, normalized=False) for t in special]
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in vocabulary.named if t in ids])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=list(template),
        special_tokens=[(token, ids[token]) for token in template if token != "$A"],
    )
    return tokenizer


def _normalizer(model: PieceModel) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.collapse:
        steps += [
            normalizers.Replace(Regex(_END_SPACES), ""),
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
