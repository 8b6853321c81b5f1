"""SentencePiece's compiled normalization, with the marks that the ``tokenizers`` library loses.

``Precompiled`` normalizes a letter with its combining marks as one, if they have less than six
bytes: when the letter alone, or with the first mark, has a replacement, the marks after it are
dropped. Noncharacters between them make two of one for as long as it takes. Where the letter has
become another one (full-width A), the mark may join that, in a second pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from unicodedata import decomposition, normalize

from tokenizers import Regex, normalizers

#: Stand between a letter and its marks; texts hold no noncharacters.
_BETWEEN, _JOINED_LATER = "\ufffe", "\ufdd0"
_MARKS = r"(?=[\p{M}\x{200d}])"


def compiled_normalizers(charsmap: bytes) -> list[normalizers.Normalizer]:
    """Steps that normalize as SentencePiece does with ``precompiled_charsmap``."""
    compiled = normalizers.Precompiled(charsmap)
    # Longer letters make graphemes of six bytes and more.
    letters = {c: compiled.normalize_str(c) for c in _characters(0x20, 0x10000)}
    others = [c for c, found in letters.items() if found != c and len(found) == 1]
    several = [c for c, found in letters.items() if found != c and len(found) != 1]
    composed: dict[str, list[str]] = {}
    for letter, mark in _pairs():
        if letters.get(letter) == letter and len(compiled.normalize_str(letter + mark)) == 1:
            composed.setdefault(mark, []).append(letter)
    pairs = [f"(?<=[{_ranges(found)}]{mark})" for mark, found in composed.items()]
    if not others and not several and not pairs:
        return [compiled]

    def cut(after: list[str], between: str) -> list[normalizers.Normalizer]:
        pattern = Regex(f"(?:{'|'.join(after)}){_MARKS}") if after else None
        return [] if pattern is None else [normalizers.Replace(pattern, between)]

    # A letter with two marks is one only as a whole: the first mark alone would join it.
    whole = [
        normalizers.Replace(parts, letter)
        for letter, parts in _with_two_marks()
        if letters[letter] == letter and compiled.normalize_str(parts[:2]) != parts[:2]
    ]
    return [
        *whole,
        *cut([f"(?<=[{_ranges(several)}])"] if several else [], _BETWEEN),
        *cut([f"(?<=[{_ranges(others)}])", *pairs] if others else pairs, _JOINED_LATER),
        compiled,
        normalizers.Replace(_JOINED_LATER, ""),
        *cut(pairs, _BETWEEN),
        compiled,
        normalizers.Replace(_BETWEEN, ""),
    ]


def _characters(first: int, last: int) -> Iterator[str]:
    return (chr(code) for code in range(first, last) if not 0xD800 <= code < 0xE000)


def _pairs() -> Iterator[tuple[str, str]]:
    """Letters and marks that Unicode has as one."""
    for character in _characters(0xC0, 0x10000):
        parts = decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            yield chr(int(parts[0], 16)), chr(int(parts[1], 16))


def _with_two_marks() -> Iterator[tuple[str, str]]:
    """Letters that Unicode makes of a letter and two marks or more, and what they are made of."""
    for character in _characters(0xC0, 0x2000):
        parts = normalize("NFD", character)
        if len(parts) > 2 and normalize("NFC", parts) == character:
            yield character, parts


def _ranges(characters: Iterable[str]) -> str:
    """The inside of a character class of a regular expression."""
    runs: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in runs)
