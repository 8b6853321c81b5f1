"""Texts through a bundle's tokenizers and through the checkpoint's own, beside each other.

The checkpoint's own is what ``transformers.AutoTokenizer`` loads. Where that is known to be wrong,
the file that it was made from decides: SentencePiece runs its model, and a tokenizer.json says it
all itself.
"""
# ruff: noqa: RUF001 (letters that look like others are what is compared)

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from seq2edge.runtime.text.tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer

from ..errors import ParityError
from .files import TokenizerFile
from .from_transformers import quiet
from .pieces import read_pieces

#: What is compared besides all added tokens.
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "the THE The tHE ÄÖÜ äöü ß ẞ İstanbul ıi",
    " leading, trailing ",
    "two  spaces,   three    four",
    "a\ttab, a\nnewline, \r\n both\n\n",
    "non\u00a0breaking\u202fspaces\u3000and\u2003wide ones",
    "zero\u200bwidth\u200djoin\ufeffmark\u00adhyphen",
    "ﬁ ﬂ ﬀ ﬃ ﬁ\u0301 ligatures",
    "Ｆｕｌｌ ｗｉｄｔｈ １２３ Ａ\u0300",
    "e\u0301 a\u0308\u0323 n\u0303 o\u0302\u0301 marks",
    "㋿ ½ x² ™ Ω Å ℃ ①",
    "it's I'm don't they've we're n't , . ? !",
    "1 12 123 1234 1,234.56 3.14e-10 007 0x1F",
    "https://example.org/a?b=c&d=%20#e user@example.org",
    "👍🏽 👩\u200d👩\u200d👧\u200d👦 🇯🇵 ❤\ufe0f",
    "שלום עולם مرحبا بالعالم \u200fRTL\u200e",
    "日本語の文章。中文句子，繁體字。한국어 문장",
    "สวัสดีชาวโลก ภาษาไทย हिन्दी भाषा தமிழ்",
    "Привет, мир! Γειά σου Κόσμε Գրիգոր",
    "control\x00\x01\x07\x1b\x7f\x85 ends",
    "def f(x): return [x*2 for x in {1: 'a'}]",
    "▁ ▁▁ lower block",
    "<s> </s> <pad> <unk> <mask> [CLS] [SEP]",
    "\U0001f9ff\u2603\u20bf 𝔘𝔫𝔦 𐍈 \U00020000",
    "“quotes” ‘single’ – dash — em … dots",
    "x" * 300,
)
#: Around an added token: alone, with words, glued to them.
_AROUND = ("{}", "a {} b", "a{}b", " {} ", "{}{}")
#: Added tokens that are compared: the first and the last of more.
_TOKENS = 120
_SHOWN, _IDS = 4, 12


@dataclass(frozen=True)
class TextComparison:
    """How a bundle's tokenizer compares with the checkpoint's own.

    Attributes:
        texts: how many were compared.
        named: differences where the checkpoint's own is wrong, one line each.
    """

    texts: int
    named: tuple[str, ...]

    def summary(self) -> str:
        same = self.texts - len(self.named)
        return f"tokens identical on {same} of {self.texts} texts"


def compare_texts(found: TokenizerFile) -> TextComparison | None:
    """Compare a bundle's tokenizers with those of the folders that they were made from.

    Differences that are none of transformers' known errors are refused; others are warned of.

    Args:
        found: the bundle's, which has a folder.

    Returns:
        None: transformers cannot load the checkpoint's own, which is warned of.

    Raises:
        ParityError: a text has other tokens than those of the checkpoint's own tokenizer.
    """
    target = found.target or found
    own = _load(found.folder)
    writer = own if target.folder == found.folder else _load(target.folder)
    if own is None:
        return None
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers', about single texts
        ours, texts = _ours(found), [*TEXTS, *_with_tokens(own)]
        expected = {text: _ids(own, text) for text in texts}
        named, refused = _differences(found, own, ours, expected)
        if writer is not None:
            rows = list(expected.values()) if writer is own else [_ids(writer, t) for t in TEXTS]
            named += _decoded(ours if target is found else _ours(target), writer, rows)
    if refused:
        raise ParityError(
            f"the bundle's tokenizer reads texts otherwise than the checkpoint's own:"
            f" {_joined(refused)}. Nothing was written; --no-validate exports it all the same"
        )
    if named:
        warnings.warn(
            f"the bundle's tokenizer ({found.info.origin}) differs from what transformers makes of"
            f" {found.folder}, whose files say otherwise: {_joined(named)}",
            stacklevel=3,
        )
    return TextComparison(len(texts), tuple(named))


def _differences(
    found: TokenizerFile, own: Any, ours: Tokenizer, expected: Mapping[str, list[int]]
) -> tuple[list[str], list[str]]:
    """Texts with other ids than ``expected``, as lines: where the file says so, and the others."""
    differ = [(text, ids) for text in expected if (ids := ours.encode(text)) != expected[text]]
    right = _right(found, own, ours) if differ else None
    named: list[str] = []
    refused: list[str] = []
    for text, ids in differ:
        line = f"{_cut(text)}: {_list(ids)}, and by transformers {_list(expected[text])}"
        is_right = right is not None and right(text, ids, expected[text])
        (named if is_right else refused).append(line)
    return named, refused


def _load(folder: Path) -> Any:
    """What ``AutoTokenizer`` loads; None: it cannot, which is warned of."""
    from transformers import AutoTokenizer

    with quiet():
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises many classes
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    warnings.warn(
        f"transformers cannot load the tokenizer of {folder}, so the bundle's was not compared with"
        f" it: {reason}",
        stacklevel=4,
    )
    return None


def _ours(found: TokenizerFile) -> Tokenizer:
    info = found.info
    if found.data is None:
        return ByteTokenizer(info.byte_offset, info.added_tokens)
    return JsonTokenizer(found.data, size=info.size, unknown=info.unknown)


def _ids(own: Any, text: str) -> list[int]:
    ids: list[int] = own(text)["input_ids"]
    return ids


def _with_tokens(own: Any) -> list[str]:
    """Texts with each added token in them."""
    tokens = [token.content for token in own.added_tokens_decoder.values() if token.content]
    if len(tokens) > _TOKENS:
        tokens = [*tokens[: _TOKENS // 2], *tokens[-_TOKENS // 2 :]]
    return [around.replace("{}", token) for token in tokens for around in _AROUND]


def _decoded(ours: Tokenizer, own: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Rows whose text is another one, as lines."""
    lines = []
    names = [token.content for token in own.added_tokens_decoder.values() if token.content]
    named = re.compile(rf"\s*({'|'.join(map(re.escape, sorted(names, key=len)[::-1]))})\s*")
    for ids in rows:
        for skip in (True, False):
            expected = own.decode(ids, skip_special_tokens=skip)
            text = ours.decode(ids, skip_special_tokens=skip)
            # Spaces beside special tokens and at the ends mean nothing; classes differ in them.
            if named.sub(r"\1", text).strip() != named.sub(r"\1", expected).strip():
                lines.append(f"{_list(ids)}: {_cut(text)}, and by transformers {_cut(expected)}")
    return lines


def _right(
    found: TokenizerFile, own: Any, ours: Tokenizer
) -> Callable[[str, list[int], list[int]], bool]:
    """Whether the first of two rows of ids is what the file itself gives for a text."""
    ready = found.folder / "tokenizer.json"
    if ready.is_file():
        file = FastTokenizer.from_file(str(ready))
        bare = _ours(found)
        return lambda text, *_: bool(
            file.encode(text, add_special_tokens=False).ids
            == bare.encode(text, special_tokens=False)
        )
    for name in ("source.spm", "sentencepiece.bpe.model", "spiece.model"):
        if (found.folder / name).is_file():
            return _SentencePiece(found.folder / name, found, own, ours).agrees
    if "BlenderbotTokenizer" in found.info.origin:  # transformers 5 forgets the end token
        return lambda _, ids, expected: ids[:-1] == expected
    return lambda *_: False


class _SentencePiece:
    """SentencePiece itself on a model file, with the ids of a bundle's tokens."""

    def __init__(self, file: Path, found: TokenizerFile, own: Any, ours: Tokenizer) -> None:
        from sentencepiece import SentencePieceProcessor

        self._pieces = SentencePieceProcessor(model_file=str(file))
        self._ours = ours
        defined = {piece.text for piece in read_pieces(file).pieces if piece.user_defined}
        self._added: dict[str, AddedToken] = {
            token.content: token
            for token in own.added_tokens_decoder.values()
            if token.content and token.content not in defined
        }
        longest_first = sorted(self._added, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        word = self._ours.encode("a", special_tokens=False)
        self._before = self._ours.encode("a").index(word[0])
        unknown = found.info.unknown
        self._unknown = self._ours.token_id("<unk>") if unknown is None else unknown

    def agrees(self, text: str, ids: list[int], expected: list[int]) -> bool:
        """Whether ``ids`` are SentencePiece's, and around them the special tokens are the same.

        One that transformers does not know (NLLB's languages, where no file lists them) is none.
        """
        bare = self._ours.encode(text, special_tokens=False)
        before, after = ids[: self._before], ids[self._before + len(bare) :]
        theirs = expected[: len(before)] + expected[len(expected) - len(after) :]
        around = zip([*before, *after], theirs, strict=True)
        same = all(token in (number, self._unknown) for number, token in around)
        return same and bare == self._encode(text)

    def _encode(self, text: str) -> list[int | None]:
        found: list[int | None] = []
        parts = self._split.split(text)
        for place, part in enumerate(parts):
            if part in self._added:
                found.append(self._ours.token_id(part))
                continue
            after = self._added.get(parts[place + 1]) if place + 1 < len(parts) else None
            for piece in self._pieces.encode(
                part.rstrip() if after is not None and after.lstrip else part, out_type=str
            ):
                number = self._ours.token_id(piece)
                found.append(self._unknown if number is None else number)
        return found


def _list(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:_IDS]))
    return f"[{shown}{', ...' if len(ids) > _IDS else ''}]"


def _cut(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")


def _joined(lines: Sequence[str]) -> str:
    rest = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + rest
