"""SentencePiece files of Marian, M2M100, PLBart, mBART, NLLB and Pegasus.

The references are transformers' own tokenizers where they run SentencePiece (Marian, M2M100,
PLBart), and else SentencePiece with the ids that the checkpoints have: transformers 5's other
classes keep spaces at the ends of a text, its mBART's normalizes nothing, and its NLLB gives the
mask token the first language's id.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unicodedata import combining

import pytest
import sentencepiece
import transformers
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB_LANGUAGES

from seq2edge.export import ExportResult
from seq2edge.runtime import Seq2SeqModel

Load = Callable[[Path], Seq2SeqModel]

#: Marks after letters that normalization changes, alone or with another mark, of which the
#: tokenizers library loses one.
MARKS = [
    "\ufb01\u0301\u0323",
    "\uff21\u0300 \uff41\u0332",
    "o\u0302\u0301 e\u0301\u0332",
    "\u2460\u20dd",
]


def train(sentences: Sequence[str], **options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        minloglevel=2,
        **{"vocab_size": 190, "hard_vocab_limit": False, **options},
    )
    return model.getvalue()


def pieces_of(model: bytes) -> tuple[sentencepiece.SentencePieceProcessor, list[str]]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return processor, [processor.id_to_piece(number) for number in range(len(processor))]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def texts(mixed_texts: list[str]) -> list[str]:
    plain = [*mixed_texts, *MARKS]
    return [*plain, *(f"{text} </s>{text[:5]}" for text in plain), " ▁ two  spaces ", "▁▁a"]


@pytest.fixture
def load(editable: Callable[..., Path], export: Callable[..., ExportResult]) -> Load:
    """A function from a folder of tokenizer files to a bundle's model; only for its tokenizers."""

    def make(folder: Path) -> Seq2SeqModel:
        checkpoint = editable("bart", f"{folder.name}-checkpoint")
        for file in folder.iterdir():
            (checkpoint / file.name).write_bytes(file.read_bytes())
        with Seq2SeqModel.load(export(checkpoint, folder.name).path) as model:
            return model

    return make


def write(folder: Path, **contents: dict[str, Any]) -> None:
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def assert_same(model: Seq2SeqModel, reference: Any, texts: Sequence[str]) -> None:
    """Ids of sources, and texts of those ids."""
    expected = [reference(text)["input_ids"] for text in texts]
    assert model.tokenizer is not None and model.target_tokenizer is not None
    assert [model.tokenizer.encode(text) for text in texts] == expected
    assert [model.target_tokenizer.decode(ids) for ids in expected] == [
        reference.decode(ids, skip_special_tokens=True) for ids in expected
    ]


def marian_files(folder: Path, corpus: Sequence[str], **settings: Any) -> dict[str, int]:
    """Files of two languages whose vocabulary lacks some pieces, as OPUS' vocabularies do."""
    middle = len(corpus) // 2
    source = train([line.split(" ", 3)[3] for line in corpus[:middle]], vocab_size=120)
    target = train([line.upper() for line in corpus[middle:]], vocab_size=120)
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    known = {*pieces_of(source)[1][3:-6], *pieces_of(target)[1][3:]}
    tokens = ["</s>", "<unk>", ">>fra<<", ">>deu<<", *sorted(known), "<pad>"]
    ids = {token: number for number, token in enumerate(tokens)}
    write(folder, vocab=ids, tokenizer_config={"tokenizer_class": "MarianTokenizer", **settings})
    return ids


def test_marians_files_give_the_ids_and_texts_of_transformers(
    corpus: list[str], files: Path, texts: list[str], load: Load
) -> None:
    marian_files(files, corpus)
    reference = transformers.MarianTokenizer.from_pretrained(files)
    model = load(files)
    assert_same(model, reference, [*texts, *(f">>fra<< {text}" for text in texts[:20])])
    # The target's pieces are in one vocabulary with the source's, and no source is cut into them.
    assert model.manifest.target_tokenizer is not None


def test_marians_two_vocabularies_give_the_ids_and_texts_of_transformers(
    corpus: list[str], files: Path, texts: list[str], load: Load
) -> None:
    ids = marian_files(files, corpus, separate_vocabs=True)
    # The special tokens are the same, and other ids mean other tokens.
    last = len(ids) - 2
    shifted = {t: n if n < 4 or n > last else 4 + (n + 9) % (last - 3) for t, n in ids.items()}
    write(files, target_vocab=shifted)
    reference = transformers.MarianTokenizer.from_pretrained(files)
    model = load(files)
    assert model.tokenizer is not None and model.target_tokenizer is not None
    assert [model.tokenizer.encode(text) for text in texts] == [
        reference(text)["input_ids"] for text in texts
    ]
    outputs = [reference(text_target=text.upper())["input_ids"] for text in texts]
    assert [model.target_tokenizer.decode(ids) for ids in outputs] == [
        reference.decode(ids, skip_special_tokens=True) for ids in outputs
    ]


def test_m2m100s_files_give_the_ids_and_texts_of_transformers(
    corpus: list[str], files: Path, texts: list[str], load: Load
) -> None:
    model = train(corpus, model_type="bpe")
    (files / "sentencepiece.bpe.model").write_bytes(model)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *pieces_of(model)[1][3:-5], "not a piece"]
    listed = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    write(
        files,
        vocab={token: number for number, token in enumerate(tokens)},
        tokenizer_config={
            "tokenizer_class": "M2M100Tokenizer",
            "additional_special_tokens": listed,
        },
    )
    reference = transformers.M2M100Tokenizer.from_pretrained(files)
    ours = load(files)
    assert_same(ours, reference, [*texts, *(f"{text} __fr__ x" for text in texts[:20])])
    languages = ours.manifest.tokenizer.languages
    assert languages is not None
    assert languages.codes == reference.lang_code_to_id


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("codes", ["base", "multi"])
def test_plbarts_file_gives_the_ids_and_texts_of_transformers(
    kind: str, codes: str, corpus: list[str], files: Path, texts: list[str], load: Load
) -> None:
    (files / "sentencepiece.bpe.model").write_bytes(train(corpus, model_type=kind))
    settings = {"tokenizer_class": "PLBartTokenizer", "language_codes": codes}
    write(files, tokenizer_config=settings)
    reference = transformers.PLBartTokenizer.from_pretrained(files)
    model = load(files)
    assert_same(model, reference, texts)
    languages = model.manifest.tokenizer.languages
    assert languages is not None
    ids = {code.strip("_"): number for code, number in reference.lang_code_to_id.items()}
    assert languages.codes == ids


class Fairseq:
    """SentencePiece with fairseq's ids, and a language token where ``single`` has one."""

    def __init__(self, model: bytes, single: Callable[[list[int]], list[int]]) -> None:
        self.processor = pieces_of(model)[0]
        self.single = single

    def __call__(self, text: str) -> dict[str, list[int]]:
        parts = [self.processor.encode(part) for part in text.split("</s>")]
        ids = [[3 if number == 0 else number + 1 for number in part] for part in parts]
        joined = ids[0] if len(ids) == 1 else [*ids[0], 2, *ids[1]]
        return {"input_ids": self.single(joined)}

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        size = len(self.processor)
        text = self.processor.decode([number - 1 for number in ids if 4 <= number <= size])
        return str(text).strip(" ")


@pytest.mark.parametrize(
    ("kind", "count", "first"),
    [("MBartTokenizer", 25, "ar_AR"), ("MBart50Tokenizer", 52, "ar_AR"), ("NllbTokenizer", 3, "")],
)
def test_fairseqs_file_gives_the_ids_of_sentencepiece_and_languages_after_them(
    kind: str, count: int, first: str, corpus: list[str], files: Path, texts: list[str], load: Load
) -> None:
    data = train(corpus, model_type="bpe" if kind == "NllbTokenizer" else "unigram")
    (files / "sentencepiece.bpe.model").write_bytes(data)
    settings: dict[str, Any] = {"tokenizer_class": kind}
    if kind == "NllbTokenizer":
        settings["additional_special_tokens"] = ["ace_Arab", "eng_Latn", "zul_Latn"]
    write(files, tokenizer_config=settings)
    model = load(files)
    languages = model.manifest.tokenizer.languages
    assert languages is not None
    after = len(pieces_of(data)[1]) + 1
    assert sorted(languages.codes.values()) == list(range(after, after + count))
    assert languages.codes[first or "ace_Arab"] == after
    default = languages.codes["eng_Latn" if kind == "NllbTokenizer" else "en_XX"]
    single = {
        "MBartTokenizer": lambda ids: [*ids, 2, default],
    }.get(kind, lambda ids: [default, *ids, 2])
    assert_same(model, Fairseq(data, single), texts)
    assert model.tokenizer is not None
    assert model.tokenizer.encode("a <mask>", special_tokens=False)[-1] == after + count


@pytest.mark.parametrize("kind", ["MBart50Tokenizer", "PegasusTokenizer"])
def test_transformers_agrees_on_all_texts_without_spaces_at_the_ends(
    kind: str, corpus: list[str], files: Path, mixed_texts: list[str], load: Load
) -> None:
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    options, name = (special, "spiece") if kind == "PegasusTokenizer" else ({}, "sentencepiece.bpe")
    (files / f"{name}.model").write_bytes(train(corpus, **options))
    write(files, tokenizer_config={"tokenizer_class": kind})
    reference = getattr(transformers, kind).from_pretrained(files)
    model = load(files)
    assert model.tokenizer is not None
    # transformers loses marks.
    words = [f"a{text}a" for text in mixed_texts if not any(map(combining, text))]
    assert len(words) > 100
    assert [model.tokenizer.encode(text) for text in words] == [
        reference(text)["input_ids"] for text in words
    ]
    languages = model.manifest.tokenizer.languages
    if kind == "MBart50Tokenizer":
        assert languages is not None
        assert languages.codes == reference.lang_code_to_id


def test_nllb_without_a_list_of_languages_has_those_of_the_paper(
    corpus: list[str], files: Path, load: Load
) -> None:
    """transformers 5 gives it none; the ids are those of the published checkpoints."""
    data = train(corpus, model_type="bpe")
    (files / "sentencepiece.bpe.model").write_bytes(data)
    write(files, tokenizer_config={"tokenizer_class": "NllbTokenizer"})
    model = load(files)
    languages = model.manifest.tokenizer.languages
    assert languages is not None
    after = len(pieces_of(data)[1]) + 1
    assert languages.codes == {code: after + n for n, code in enumerate(NLLB_LANGUAGES)}
    assert model.tokenizer is not None
    assert model.tokenizer.encode("<mask>") == [languages.codes["eng_Latn"], after + 202, 2]


def test_pegasus_file_gives_the_pieces_after_103_tokens(
    corpus: list[str], files: Path, texts: list[str], load: Load
) -> None:
    data = train(corpus, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (files / "spiece.model").write_bytes(data)
    write(files, tokenizer_config={"tokenizer_class": "PegasusTokenizer"})
    processor, _ = pieces_of(data)
    model = load(files)
    tokenizer = model.tokenizer
    assert tokenizer is not None
    plain = [text for text in texts if "</s>" not in text]
    expected = [[*(number + 103 for number in processor.encode(text)), 1] for text in plain]
    assert [tokenizer.encode(text) for text in plain] == expected
    assert [tokenizer.decode(ids) for ids in expected] == [
        processor.decode([number - 103 for number in ids if number > 105]).strip(" ")
        for ids in expected
    ]
    marks = {"<pad>": 0, "</s>": 1, "<mask_1>": 2, "<mask_2>": 3, "<unk_2>": 4, "<unk_102>": 104}
    assert {mark: tokenizer.encode(mark)[0] for mark in marks} == marks


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("source.spm", b"\xff" * 64, "source.spm is not a SentencePiece model"),
        ("vocab.json", b'{"a": "b"}', "does not map tokens to ids"),
        ("vocab.json", b'{"a": 0, "</s>": 1}', "has no <unk>"),
        ("vocab.json", b"[]", "must hold a JSON object"),
    ],
)
def test_damaged_files_are_refused(
    name: str,
    data: bytes,
    reason: str,
    corpus: list[str],
    editable: Callable[..., Path],
    refusal: Callable[..., str],
) -> None:
    checkpoint = editable("marian")
    marian_files(checkpoint, corpus)
    (checkpoint / name).write_bytes(data)
    assert reason in refusal(checkpoint)


@pytest.mark.parametrize("kind", ["word", "char"])
def test_models_of_words_and_characters_are_refused(
    kind: str, corpus: list[str], editable: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    checkpoint = editable("plbart")
    (checkpoint / "sentencepiece.bpe.model").write_bytes(train(corpus, model_type=kind))
    assert "words or characters" in refusal(checkpoint)
