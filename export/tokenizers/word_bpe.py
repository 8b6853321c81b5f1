"""Blenderbot-small's BPE within words (``vocab.json`` and ``merges.txt``).

Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units": a
piece within a word ends in "@@" in the vocabulary, the last one of a word in "</w>" in the merges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from seq2edge.runtime.bundle.checks.json_text import MAX_TOKENIZER_BYTES, read_file

from ..checkpoint import read_json
from ..errors import CheckpointError
from .built import Built
from .settings import text_of
from .vocabulary import read_vocabulary

_GOES_ON, _ENDS = "@@", "</w>"
_SPECIAL = {
    "unk_token": "__unk__",
    "bos_token": "__start__",
    "eos_token": "__end__",
    "pad_token": "__null__",
}
#: Punctuation begins a word, an apostrophe is one.
_WORD = r"'|[.,!?()]?[^\s.,!?()']+|[.,!?()]"
#: The end of a line is a word if something else than an apostrophe stands before it.
_LINE_END = r"(?<=[^\s'])\n"


def build_word_bpe(directory: Path, settings: Mapping[str, Any]) -> Built:
    """A tokenizer of lower-case words that puts nothing around the text.

    Raises:
        CheckpointError: a merge that is no pair, or a vocabulary without the unknown token.
    """
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    ids = read_json(vocabulary)
    special = {name: text_of(settings.get(name, token)) for name, token in _SPECIAL.items()}
    unknown = special["unk_token"]
    if unknown not in ids or not all(isinstance(number, int) for number in ids.values()):
        raise CheckpointError(f"{vocabulary} does not map tokens to ids, or lacks {unknown}")
    tokens = read_vocabulary(ids, list(special.values()), {}, directory, settings, unknown)
    added = [token for token in tokens.added if token.content in tokens.ids]
    named = {token.content: tokens.ids[token.content] for token in added}
    size = tokens.size
    pieces = {_piece(t): number for t, number in ids.items() if t not in named}
    pairs = _pairs(merges)
    # What merges go through and the vocabulary lacks is unknown where it is left.
    parts = dict.fromkeys(part for a, b in pairs for part in (a, b, a + b))
    unlisted = [part for part in parts if part not in pieces]
    pieces |= {part: size + number for number, part in enumerate(unlisted)}
    model = models.BPE(pieces | named, pairs, unk_token=unknown, end_of_word_suffix=_ENDS)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(_LINE_END), " __newln__ "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)
    tokenizer.decoder = decoders.BPEDecoder(_ENDS)
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])
    origin = "vocab.json and merges.txt, as Blenderbot-small cuts words"
    return Built(tokenizer, size=size, unknown=ids[unknown], origin=origin)


def _piece(token: str) -> str:
    """A token of the vocabulary, spelled as the merges spell it."""
    return token.removesuffix(_GOES_ON) if token.endswith(_GOES_ON) else token + _ENDS


def _pairs(merges: Path) -> list[tuple[str, str]]:
    """The pairs below the first line, which is a comment."""
    lines: Iterable[str] = read_file(merges, MAX_TOKENIZER_BYTES).decode().split("\n")[1:]
    pairs = []
    for line in filter(str.strip, lines):
        parts = line.split()
        if len(parts) != 2:
            raise CheckpointError(f"{merges}: {line!r} is no pair")
        pairs.append((parts[0], parts[1]))
    return pairs
