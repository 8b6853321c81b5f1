"""Calibration text is read from a file: a line each, or an object a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from seq2edge.quantize import CalibrationFiles, QuantizationError, quantize_bundle
from seq2edge.quantize.calibration.texts import Text, read_texts

from .conftest import BundleOf


def read(tmp_path: Path, name: str, data: bytes | str) -> list[Text]:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_texts(path)


def test_a_text_a_line(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "one\ntwo words\n") == ["one", "two words"]
    assert read(tmp_path, "a.txt", "no newline at the end") == ["no newline at the end"]
    assert read(tmp_path, "a.txt", "one\r\ntwo\r\n") == ["one", "two"]
    assert read(tmp_path, "a.txt", "\none\n \t\n\ntwo\n\n") == ["one", "two"]
    assert read(tmp_path, "a.txt", "größer\n世界\n") == ["größer", "世界"]
    # Whatever it looks like, it is text.
    assert read(tmp_path, "a.txt", '{"source": "x"}\n') == ['{"source": "x"}']


def test_an_object_a_line(tmp_path: Path) -> None:
    data = '{"source": "one", "target": "eins"}\r\n\n{"input_ids": [5, 3, 1]}\n'
    assert read(tmp_path, "a.jsonl", data) == ["one", [5, 3, 1]]
    assert read(tmp_path, "a.jsonl", '{"source": "a\\nb", "id": 3}') == ["a\nb"]
    assert read(tmp_path, "a.jsonl", '{"source": null, "input_ids": [7]}') == [[7]]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_byte_order_mark_is_no_text(name: str, tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"source": "one"}\n'
    expected = ["one"] if name == "a.jsonl" else ['{"source": "one"}']
    assert read(tmp_path, name, data) == expected


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0c"])
def test_only_newlines_end_a_line(separator: str, tmp_path: Path) -> None:
    text = f"one{separator}more"
    assert read(tmp_path, "a.txt", f"{text}\ntwo\n") == [text, "two"]
    if separator != "\x0c":  # JSON has it escaped
        assert read(tmp_path, "a.jsonl", f'{{"source": "{text}"}}\n') == [text]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_without_text_is_refused(name: str, tmp_path: Path) -> None:
    for data in ("", "\n \r\n\t\n"):
        with pytest.raises(QuantizationError, match=rf"{name} is empty: it needs a text per line"):
            read(tmp_path, name, data)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=r"latin\.txt, line 1 is not UTF-8"):
        read(tmp_path, "latin.txt", "größer".encode("latin-1"))
    with pytest.raises(QuantizationError, match=r"cannot read .*none\.txt: No such file"):
        read_texts(tmp_path / "none.txt")
    with pytest.raises(QuantizationError, match=r"cannot read .*: Is a directory"):
        read_texts(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        '{"source":',
        "plain text",
        "[5, 3]",
        "5",
        '{"text": "another name"}',
        '{"source": ""}',
        '{"source": 5}',
        '{"source": ["a"]}',
        '{"input_ids": []}',
        '{"input_ids": [5, "a"]}',
        '{"input_ids": [5.0]}',
        '{"input_ids": [true]}',
        '{"input_ids": "5 3"}',
        '{"source": "one", "source": "two"}',
    ],
)
def test_a_broken_line_is_named(line: str, tmp_path: Path) -> None:
    told = r"a\.jsonl, line 3(: expected| is not valid JSON| has the key 'source' twice)"
    with pytest.raises(QuantizationError, match=told):
        read(tmp_path, "a.jsonl", f'{{"source": "fine"}}\n\n{line}\n')


def test_a_line_that_nests_too_deeply_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="line 1"):
        read(tmp_path, "a.jsonl", "[" * 100_000)


def test_an_id_beyond_64_bits_is_refused(short_of: BundleOf, tmp_path: Path) -> None:
    text = tmp_path / "a.jsonl"
    text.write_text('{"input_ids": [100000000000000000000000]}\n')
    with pytest.raises(ValueError, match=r"input_ids|line 1"):
        quantize_bundle(
            short_of("t5"), tmp_path / "out", "int8-qdq", calibration=CalibrationFiles(text)
        )


def test_text_may_begin_with_any_letters(short_of: BundleOf, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("PKW is German for a car.\n")
    # The bundle has no tokenizer: that is found out once the text has been read.
    with pytest.raises(ValueError, match="no tokenizer"):
        quantize_bundle(
            short_of("t5"), tmp_path / "out", "int8-qdq", calibration=CalibrationFiles(text)
        )
