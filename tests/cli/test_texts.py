"""Every command reads text in one way, and line k of the output belongs to line k of the input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Seq2SeqModel
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME

Call = Callable[..., Any]
LIMIT = ("--max-new-tokens", 4)
#: Each kind of odd input with the texts that it holds.
INPUTS = {
    "plain": (b"one\ntwo\n", ["one", "two"]),
    "blank lines": (b"\none\n \t\n\ntwo\n\n", ["", "one", " \t", "", "two", ""]),
    "only blank lines": (b"\n\n", ["", ""]),
    "byte order mark": (b"\xef\xbb\xbfone\ntwo\n", ["one", "two"]),
    "CRLF": (b"one\r\n\r\ntwo\r\n", ["one", "", "two"]),
    "lone CR": (b"one\r\rtwo", ["one", "", "two"]),
    "no newline at the end": (b"one\ntwo", ["one", "two"]),
    "NUL": (b"o\0ne\ntwo\n", ["o\0ne", "two"]),
    "empty": (b"", []),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_line_for_each_line(
    kind: str, source: str, cli: Callable[..., Any], byte_bundle: Path, tmp_path: Path
) -> None:
    data, texts = INPUTS[kind]
    (tmp_path / "texts").write_bytes(data)
    where = ("--input", tmp_path / "texts") if source == "file" else ("--input", "-")
    options = {"input": data} if source == "stdin" else {}
    done = cli("run", byte_bundle, *where, "--json", "--batch-size", 1, *LIMIT, **options)
    assert (done.returncode, done.stderr) == (0, b"")
    found = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [row["source"] for row in found] == texts
    filled = [text for text in texts if text.strip()]
    with Seq2SeqModel.load(byte_bundle) as model:
        expected = iter([r.token_ids for r in model.generate(filled, max_new_tokens=4)])
    nothing = {"text": "", "token_ids": [], "finish_reason": None}
    for row in found:
        if row["source"].strip():
            assert row["token_ids"] == next(expected)
        else:
            assert row == {"source": row["source"], **nothing}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts"
    path.write_bytes(b"one\n\nthree\n")
    return path


def test_workers_answer_the_same_lines(call: Call, byte_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("".join(f"{'word ' * (n % 4 + 1)}{n}\n" for n in range(20)))
    where = ("run", byte_bundle, "--input", tmp_path / "texts", *LIMIT)
    one = call(*where, "--threads", 1)
    two = call(*where, "--threads", 1, "--workers", 2, "--batch-size", 20)
    assert one.code == two.code == 0 and len(one.out.splitlines()) == 20
    assert one.out == two.out


@pytest.mark.parametrize("flags", [(), ("--stream",), ("--num-beams", 2)])
def test_a_blank_line_is_answered_with_a_blank_line(
    flags: tuple[object, ...], call: Call, byte_bundle: Path, texts: Path
) -> None:
    done = call("run", byte_bundle, "--input", texts, *LIMIT, *flags)
    first, second, third = done.out.removesuffix("\n").split("\n")
    assert first == call("run", byte_bundle, "one", *LIMIT, *flags).out.removesuffix("\n")
    assert second == ""
    assert third == call("run", byte_bundle, "three", *LIMIT, *flags).out.removesuffix("\n")


@pytest.mark.parametrize("flags", [(), ("--stream",)])
def test_strict_stops_at_a_blank_line(
    flags: tuple[object, ...], refused: Call, byte_bundle: Path, texts: Path
) -> None:
    message = refused("run", byte_bundle, "--input", texts, "--strict", *flags)
    assert message == "line 2 is empty; without --strict its answer is a blank line"


def test_several_results_have_as_many_lines_for_each_line(
    call: Call, byte_bundle: Path, texts: Path
) -> None:
    several = ("--num-beams", 3, "--num-return-sequences", 3)
    plain = call("run", byte_bundle, "--input", texts, *LIMIT, *several).out.split("\n")
    assert len(plain) == 10
    with Seq2SeqModel.load(byte_bundle) as model:
        config = replace(model.generation_config, num_beams=3, num_return_sequences=3)
        found = model.generate(["one", "three"], config, max_new_tokens=4)
    expected = [" ".join((row.text or "").splitlines()) for row in found]
    assert plain == [*expected[:3], "", "", "", *expected[3:], ""]
    # Only two texts are allowed: the third line of each is blank.
    choices = ("--choice", "yes", "--choice", "no")
    done = call("run", byte_bundle, "--input", texts, *several, *choices, "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["source"] for row in rows] == ["one"] * 3 + [""] * 3 + ["three"] * 3
    assert {row["text"] for row in rows[:2]} == {"yes", "no"}
    assert [row["text"] for row in rows[2:6]] == [""] * 4


def test_a_bad_byte_is_found_before_anything_is_answered(
    refused: Call, byte_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "texts"
    path.write_bytes(b"text\n" * 200 + b"bad \xff\n")
    message = refused("run", byte_bundle, "--input", path, "--batch-size", 1, *LIMIT)
    assert message.startswith(f"{path}, line 201 is not UTF-8 text: byte 0xff at offset 4")


def test_bad_bytes_are_replaced_where_that_is_asked_for(
    cli: Callable[..., Any], byte_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "texts"
    path.write_bytes(b"fine\nbad \xff\n")
    replace = ("--encoding-errors", "replace", "--json", *LIMIT)
    done = cli("run", byte_bundle, "--input", path, *replace)
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [row["source"] for row in rows] == ["fine", "bad \ufffd"]
    assert done.stderr.decode() == (
        f"seq2edge: warning: {path}: bytes that are not UTF-8 were replaced by U+FFFD in line 2\n"
    )
    done = cli("run", byte_bundle, "bad \udcff", *replace)
    assert json.loads(done.stdout)["source"] == "bad \ufffd"


def test_a_text_that_is_too_long_is_named_by_its_line(
    call: Call, word_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "texts"
    path.write_text("a\n\n" * 20 + "a " * 81)
    done = call("run", word_bundle, "--input", path, "--batch-size", 1, *LIMIT)
    assert done.code == 2
    assert done.err.startswith("seq2edge: error: line 41 has 81 tokens and the model takes at most")
    assert done.out.count("\n") == 32  # those before it: whole windows of 16 batches


def test_a_warning_about_a_text_names_its_line(
    cli: Callable[..., Any], word_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(word_bundle, bundle)
    manifest = json.loads((bundle / MANIFEST_NAME).read_text())
    manifest["tokenizer"]["max_length"] = 10
    (bundle / MANIFEST_NAME).write_text(json.dumps(manifest))
    data = b"a\n\n" * 20 + b"a " * 11
    done = cli("run", bundle, "--input", "-", "--batch-size", 1, *LIMIT, input=data)
    assert done.returncode == 0
    assert done.stderr.startswith(b"seq2edge: warning: line 41 has 11 tokens, and the model's")


@pytest.mark.parametrize("flags", [(), ("--json",), ("--stream",)])
def test_special_tokens_are_printed_where_asked(
    flags: tuple[object, ...], call: Call, byte_bundle: Path
) -> None:
    # ByT5's tokenizer has <extra_id_N>; every text ends with </s> or at the limit.
    options = ("run", byte_bundle, "text", "--choice", "yes", *flags)
    kept, left = (call(*options, *keep).out for keep in (("--keep-special-tokens",), ()))
    assert kept == left.replace("yes", "yes</s>")


def test_marked_up_outputs_can_be_scored(call: Call, byte_bundle: Path, tmp_path: Path) -> None:
    """The targets are the model's own outputs with their special tokens."""
    done = call("run", byte_bundle, "text", "other", "--json", "--keep-special-tokens", *LIMIT)
    rows = [json.loads(line) for line in done.out.splitlines()]
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(json.dumps({"source": r["source"], "target": r["text"]}) + "\n" for r in rows)
    )
    command = ("eval", byte_bundle, "--data", data, "--metric", "cer", "--json", *LIMIT)
    assert json.loads(call(*command, "--keep-special-tokens").out)["value"] == 0


def test_a_killed_run_leaves_whole_lines(
    byte_bundle: Path, environment: dict[str, str], program: list[str]
) -> None:
    command = [*program, "run", byte_bundle, "--input", "-", "--json", "--batch-size", "1"]
    with subprocess.Popen(
        [*map(str, command), "--max-new-tokens", "8"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"text\n" * 20)  # more than a window, and no end
        process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        written = first + process.stdout.read()
    assert written.endswith(b"\n")
    assert all(json.loads(line)["source"] == "text" for line in written.splitlines())


def test_a_long_input_takes_the_memory_of_a_window(
    byte_bundle: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Peak memory is that of a short input, within what allocators do."""
    script = (
        "import sys; from pathlib import Path; from seq2edge.cli.main import main;"
        " main(sys.argv[1:]); status = Path('/proc/self/status').read_text();"
        " print(status.partition('VmHWM:')[2].split()[0], file=sys.stderr)"
    )
    line = b"x" * 40 + b"\n" + b" " * 20_000 + b"\n"  # mostly blank lines: they cost nothing
    peaks = []
    for count in (16, 2000):
        (tmp_path / "texts").write_bytes(line * count)
        options = ("--input", tmp_path / "texts", "--batch-size", "1", "--max-new-tokens", "1")
        command = [sys.executable, "-c", script, "run", byte_bundle, *options]
        done = subprocess.run(
            list(map(os.fspath, command)), env=environment, capture_output=True, check=True
        )
        assert done.stdout.count(b"\n") == 2 * count
        peaks.append(int(done.stderr) * 1024)
    assert peaks[1] - peaks[0] < 20e6  # the longer file has 40 MB


@pytest.mark.parametrize("kind", ["byte order mark", "CRLF", "lone CR"])
def test_data_and_calibration_are_read_alike(kind: str, tmp_path: Path) -> None:
    from seq2edge.benchmarks.quality.data import read_examples
    from seq2edge.quantize.calibration.texts import read_texts

    data, texts = INPUTS[kind]
    (tmp_path / "texts.txt").write_bytes(data)
    texts = [text for text in texts if text]
    assert read_texts(tmp_path / "texts.txt") == texts
    for text in (b"one", b"two"):
        data = data.replace(text, b'{"source": "%s", "target": "x"}' % text)
    data = data.replace(b"\r\r", b"\r").replace(b"\r\n\r\n", b"\r\n")  # an example is never blank
    (tmp_path / "texts.jsonl").write_bytes(data)
    assert read_texts(tmp_path / "texts.jsonl") == texts
    assert [example.source for example in read_examples(tmp_path / "texts.jsonl")] == texts


BAD = {
    "eval": ("--data", "FILE.jsonl", "--metric", "exact"),
    "compare": ("BUNDLE", "--data", "FILE.jsonl", "--metric", "exact"),
    "quantize": ("OUT", "--scheme", "int8-qdq", "--calibration", "FILE.txt"),
    "run": ("--input", "FILE.txt"),
}


@pytest.mark.filterwarnings("always:.*U.FFFD:UserWarning")
@pytest.mark.parametrize("command", BAD)
def test_each_command_names_the_line_and_takes_the_option(
    command: str, call: Call, byte_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "FILE.txt").write_bytes(b"one\ntw\xff\n")
    example = b'{"source": "%s", "target": "x"}\n'
    (tmp_path / "FILE.jsonl").write_bytes(example % b"one" + example % b"tw\xff")
    files = {"BUNDLE": byte_bundle, "OUT": tmp_path / "out"}
    files |= {name: tmp_path / name for name in ("FILE.txt", "FILE.jsonl")}
    words = [files.get(word, word) for word in BAD[command]]
    done = call(command, byte_bundle, *words)
    assert done.code == 2
    assert "line 2 is not UTF-8 text: byte 0xff at offset" in done.err
    assert "--encoding-errors replace" in done.err
    done = call(command, byte_bundle, *words, "--encoding-errors", "replace")
    assert done.code == 0, done.err
    assert "U+FFFD in line 2" in done.err
