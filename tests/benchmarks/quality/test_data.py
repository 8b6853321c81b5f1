"""Examples come from JSON lines; a line that is none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from seq2edge.benchmarks.quality.data import Example, read_examples, sample
from seq2edge.runtime import InputError

GOOD = b'{"source": "a", "target": "b"}\n'


def test_one_target_or_several(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"source": "a", "target": "b"}\r\n'
        b'{"id": 7, "source": "\xc3\xa9", "target": ["c", "d e"]}\r\n'
        b'{"source": "two\xe2\x80\xa8lines", "target": "\\u2028x"}\n\n'
    )
    assert read_examples(file) == [
        Example("a", ("b",)),
        Example("é", ("c", "d e")),
        Example("two\u2028lines", ("\u2028x",)),
    ]


def test_what_follows_the_limit_is_not_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(GOOD + GOOD + b"no JSON\n")
    assert len(read_examples(file, limit=2)) == 2
    with pytest.raises(InputError, match="line 3 is not valid JSON"):
        read_examples(file)
    with pytest.raises(InputError, match="limit"):
        read_examples(file, limit=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"source": "a"', "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"source": "a", "source": "b", "target": "c"}', "has the key 'source' twice"),
        (b'["a", "b"]', "holds no JSON object"),
        (b'{"target": "b"}', "has no 'source'"),
        (b'{"source": "a"}', "has no 'target'"),
        (b'{"source": 1, "target": "b"}', "source must be a string, not 1"),
        (b'{"source": "a", "target": null}', "target must be a string or a list of strings"),
        (b'{"source": "a", "target": ["b", 2]}', "target must be a string or a list of strings"),
        (b'{"source": "a", "target": []}', "the list of targets is empty"),
        (b'{"source": " ", "target": "b"}', "source is empty"),
        (b'{"source": "a", "target": ["b", ""]}', "target is empty"),
        (b'{"source": "\\ud800", "target": "b"}', "half of a surrogate pair"),
        (b'{"source": "\xff", "target": "b"}', "is not UTF-8"),
        (b"", "is blank"),
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(InputError) as caught:
        read_examples(file)
    assert f"{file}, line 2" in str(caught.value)
    assert message in str(caught.value)


def test_a_file_without_examples(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"\n\n")
    with pytest.raises(InputError, match="holds no examples; expected"):
        read_examples(empty)
    with pytest.raises(InputError, match="cannot read"):
        read_examples(tmp_path / "none.jsonl")


def test_a_sample_is_spread_over_all_examples() -> None:
    assert sample(3, 5) == [0, 1, 2]
    assert sample(10, 4) == [0, 2, 5, 7]
