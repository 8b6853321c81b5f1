"""Pieces are final, end where words and characters do, and add up to the text of all tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models

from seq2edge.export.tokenizers.spaces import clean_up_spaces
from seq2edge.runtime.text.decoder_steps import END_SPACES
from seq2edge.runtime.text.detokenizer import Detokenizer
from seq2edge.runtime.text.tokenizer import HIDDEN, NO_TOKEN, ByteTokenizer, JsonTokenizer

from ..pieces import assert_cut_well, byte_level_bpe

BPE = JsonTokenizer(byte_level_bpe().to_str().encode())


def pieces_of(tokenizer: Any, ids: list[int], several: int = 1, **options: Any) -> list[str]:
    """What each of ``ids`` gives, or ``several`` of them, and what is given at the end."""
    detokenizer = Detokenizer(tokenizer, **options)
    ends = range(several, len(ids) + 1, several)
    return [*(detokenizer.push(ids[:end]) for end in ends), detokenizer.finish(ids)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ü x", [*("", "", "ü"), "", " x"]),
        ("👍 y", [*("", "", "", "", "👍"), "", " y"]),
        ("日本", [*("", "", "", "", "", "日"), "本"]),
        ("日本 x", [*("", "", "", "", "", "日"), "本", "", " x"]),
        ("aあb", [*("", "", "", ""), "aあ", "b"]),
        ("ab", ["", "", "ab"]),
        ("a  b", ["", "a", " ", "", " b"]),
        ("\n\n", ["", "\n", "\n"]),
        ("한글x", [*("", "", "", "", "", "한"), "글", "x"]),
    ],
)
def test_bytes_give_a_piece_when_it_is_final(text: str, pieces: list[str]) -> None:
    tokenizer = ByteTokenizer()
    assert pieces_of(tokenizer, tokenizer.encode(text, special_tokens=False)) == pieces


def test_bytes_that_are_no_character_are_left_out_and_hold_nothing_back() -> None:
    ids = [byte + 3 for byte in b"a \xe6\x97 b \xff c"]
    pieces = pieces_of(ByteTokenizer(), ids)
    assert "".join(pieces) == ByteTokenizer().decode(ids) == "a  b  c"
    assert_cut_well([piece for piece in pieces if piece])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("ab \n.ü日本あ한👍\u0301\u200d\u3000"), max_size=12), st.booleans())
def test_any_text_comes_whole_and_cut_well(text: str, by_byte: bool) -> None:
    tokenizer: Any = ByteTokenizer() if by_byte else BPE
    pieces = pieces_of(tokenizer, tokenizer.encode(text, special_tokens=False))
    assert "".join(pieces) == text
    assert_cut_well([piece for piece in pieces if piece])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 383), max_size=16), st.booleans())
def test_any_tokens_add_up_to_their_text(ids: list[int], by_byte: bool) -> None:
    """Random tokens are mostly no characters at all."""
    tokenizer: Any = ByteTokenizer() if by_byte else BPE
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert_cut_well([piece for piece in pieces if piece])


def test_a_text_cut_within_a_character_adds_up_with_byte_fallback() -> None:
    """Llama's kind of tokenizer: a run of bytes is one that is valid to its end, or none is."""
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    fallback = JsonTokenizer(tokenizer.to_str().encode())
    ids = [1 + byte for byte in "日本語".encode()[:-1]]  # as max_new_tokens may cut it
    assert "".join(pieces_of(fallback, ids)) == fallback.decode(ids)


# Streams that are longer than what a push decodes.

_SPACES = decoders.Replace("▁", " ")


def _sequence(*steps: Any) -> Callable[[], Any]:
    return lambda: decoders.Sequence(list(steps))


#: Decoders of which a push decodes the last tokens only.
NEAR: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "metaspace": decoders.Metaspace,
    "metaspace, first space kept": lambda: decoders.Metaspace(prepend_scheme="never"),
    "wordpiece": decoders.WordPiece,
    "bpe": lambda: decoders.BPEDecoder("</w>"),
    "byte level": decoders.ByteLevel,
    "sentencepiece": _sequence(_SPACES, decoders.Fuse(), decoders.Replace(Regex(END_SPACES), "")),
    "llama": _sequence(
        _SPACES, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    ),
    "byte fallback": decoders.ByteFallback,
    "replaced twice": _sequence(
        decoders.Metaspace(),
        decoders.Fuse(),
        decoders.Replace(" b", "X"),
        decoders.Replace(" ", ""),
    ),
}
#: Others, whose text may change anywhere.
FAR: dict[str, Callable[[], Any]] = {
    "ctc": decoders.CTC,
    "far": _sequence(decoders.Metaspace(), decoders.Fuse(), decoders.Replace(Regex("a.*b"), "X")),
    "everywhere": _sequence(decoders.Metaspace(), decoders.Fuse(), decoders.Replace("", "-")),
}
#: One that rewrites what it wrote.
REWRITING = {"ends within tokens": lambda: decoders.BPEDecoder("t")}
CLEANED = ["metaspace", "none", "bpe", "byte level", "wordpiece"]
TOKENS = [
    *("<pad>", "</s>", "<unk>", f"{NO_TOKEN}3", "<keep>", f"{HIDDEN}<k>", "[日]"),
    *(f"<0x{byte:02X}>" for byte in (0x41, 0x20, 0xE6, 0x97, 0xA5, 0xF0, 0x9F, 0xC3, 0xBC)),
    *("▁", "▁▁", "a", "b", "▁a", "▁bb", "a▁", "▁.", ".", "!", "▁n't", "n't", "'", "▁'", "▁'s", "s"),
    *(" ", " a", " .", "\n", "a\n", "##", "##b", "##.", "a</w>", "'</w>", ".</w>", "t", "tbt"),
    *("日", "本a", "한", "👍", "\u0301", "\u3000", "\ufffd", "\ufffda", "x" * 9, "X"),
]
#: Of byte level alone: others have no such letters.
BYTES = [*("æĹ¥", "æ", "Ĺ", "¥", "Ġ", "Ġa", "Ġ'", "Ġn't", "ðŁ", "ĳ", "į", "Ã", "¼", "Ċ")]


def of_words(decoder: Any, words: Sequence[str], *, clean: bool = False) -> JsonTokenizer:
    """A tokenizer whose tokens are ``words`` and that decodes so."""
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    if decoder is not None:
        made.decoder = decoder
    made.add_special_tokens([*words[:4]])
    made.add_tokens([AddedToken(word, special=False) for word in words[4:7]])
    if clean:
        clean_up_spaces(made, "", {"clean_up_tokenization_spaces": True})
    return JsonTokenizer(made.to_str().encode())


def made(name: str) -> tuple[Any, int]:
    """A tokenizer, and how many tokens it has; some more ids have none."""
    if name == "bytes":
        return ByteTokenizer(), 384
    clean, kind = name.startswith("cleaned "), name.removeprefix("cleaned ")
    words = [*TOKENS, *BYTES] if kind == "byte level" else TOKENS
    return of_words({**NEAR, **FAR, **REWRITING}[kind](), words, clean=clean), len(words)


KINDS = [*NEAR, *FAR, *REWRITING, *(f"cleaned {name}" for name in CLEANED), "bytes"]
#: Mostly one token after another, some of them often.
RUNS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([1, 1, 1, 2, 9])), min_size=12, max_size=40
)


class Whole:
    """A tokenizer of which every push decodes all tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def restart(self, *_: Any, **__: Any) -> int:
        return 0


class Counting(Whole):
    """A tokenizer that counts the tokens that it decodes."""

    count = 0

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        self.count += len(ids)
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def restart(self, *arguments: Any, **options: Any) -> int:
        place: int = self._tokenizer.restart(*arguments, **options)
        return place


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_those_of_decoding_all_tokens_at_every_push(kind: str) -> None:
    tokenizer, size = made(kind)

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(RUNS, st.booleans(), st.sampled_from([1, 1, 3]))
    def check(runs: list[tuple[int, int]], skip: bool, several: int) -> None:
        ids = [number % (size + 2) for number, times in runs for _ in range(times)]
        pieces = pieces_of(tokenizer, ids, several, skip_special_tokens=skip)
        assert pieces == pieces_of(Whole(tokenizer), ids, several, skip_special_tokens=skip)
        if kind in NEAR and kind != "replaced twice":  # others may rewrite what was given out
            assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)

    check()


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.text(st.sampled_from("a#本\ufffd\u0301 "), min_size=12, max_size=50))
def test_a_replacement_character_that_was_written_delays_no_piece(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text, special_tokens=False)
    assert pieces_of(tokenizer, ids) == pieces_of(Whole(tokenizer), ids)


def test_a_first_token_that_loses_its_space_is_not_where_a_decoding_begins() -> None:
    tokenizer, _ = made("replaced twice")
    tokens = ["s", *["</s>"] * 14, "a▁", *["</s>"] * 4, "b", "\n", "a"]
    ids = [TOKENS.index(token) for token in tokens]
    assert pieces_of(tokenizer, ids) == pieces_of(Whole(tokenizer), ids)


def test_no_piece_comes_late_from_a_decoder_that_rewrites_what_it_wrote() -> None:
    tokenizer, _ = made("ends within tokens")
    ids = [TOKENS.index(token) for token in [*["a"] * 15, "tbt", "\n", *["a", "\n"] * 20]]
    assert pieces_of(tokenizer, ids) == pieces_of(Whole(tokenizer), ids)


TEXT = "so it goes on, word by word. it is n't over yet! " * 8


@pytest.mark.parametrize("text", [TEXT, "日本語" * 60, "한글 " * 60, "👍🏽" * 60, "unbroken" * 30])
def test_a_push_decodes_a_few_tokens_of_bytes(text: str) -> None:
    for plain in (ByteTokenizer(), BPE):
        tokenizer = Counting(plain)
        ids = plain.encode(text, special_tokens=False)
        assert "".join(pieces_of(tokenizer, ids)) == text
        assert tokenizer.count < 40 * len(ids)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (*FAR, "bytes")])
def test_a_push_decodes_a_few_tokens_of_words(kind: str) -> None:
    plain, _ = made(kind)
    words = [TOKENS.index(word) for word in ("a", "▁a", "▁.", "b", "▁bb", "a</w>", "n't")]
    tokenizer, ids = Counting(plain), words * 40
    assert "".join(pieces_of(tokenizer, ids)) == plain.decode(ids)
    assert tokenizer.count < 40 * len(ids)


@pytest.mark.parametrize("kind", FAR)
def test_a_decoder_that_looks_far_is_given_all_tokens(kind: str) -> None:
    plain, _ = made(kind)
    tokenizer, ids = Counting(plain), [TOKENS.index("x" * 9), TOKENS.index("▁a")] * 20
    pieces_of(tokenizer, ids)
    assert tokenizer.count > len(ids) ** 2 / 2


def test_special_tokens_between_bytes_do_not_end_their_run() -> None:
    """Fault: the second run spoiled characters that were given out already."""
    tokenizer, _ = made("llama")
    tokens = "<0xE6> <0x97> <0xA5> <0xE6> <0x97> <0xA5> </s> <0xE6> a"
    ids = [TOKENS.index(token) for token in tokens.split()]
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


def test_the_demo_tokenizer_takes_a_few_tokens_a_push() -> None:
    file = Path(__file__).parents[3] / "examples" / "g2p" / "model" / "tokenizer.json"
    plain = JsonTokenizer(file.read_bytes())
    tokenizer, ids = Counting(plain), [*range(3, 60)] * 6
    assert "".join(pieces_of(tokenizer, ids)) == plain.decode(ids)
    assert tokenizer.count < 40 * len(ids)
