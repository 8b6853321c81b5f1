"""Options of ``seq2edge run`` do what the Python API does with options of the same names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Choices, GenerationConfig, Seq2SeqModel

Cli = Callable[..., Any]
Refuses = Callable[..., str]
TEXTS = ["one text", "another, ü", "third", "4"]


def results(cli: Cli, bundle: Path, *arguments: object, **options: Any) -> list[dict[str, Any]]:
    """The JSON lines of a run that ends well."""
    found = cli("run", bundle, *arguments, "--json", **options)
    assert found.returncode == 0, found.stderr.decode()
    return [json.loads(line) for line in found.stdout.decode().splitlines()]


def test_a_draft_changes_no_text(cli: Cli, byte_bundle: Path, refuses: Refuses) -> None:
    plain = results(cli, byte_bundle, *TEXTS, "--max-new-tokens", 12)
    drafted = [byte_bundle, *TEXTS, "--max-new-tokens", 12, "--draft", byte_bundle]
    assert results(cli, *drafted) == plain
    assert results(cli, *drafted, "--num-assistant-tokens", 2) == plain
    assert "num_beams=2" in refuses("run", *drafted, "--num-beams", 2)
    assert "no such bundle" in refuses("run", byte_bundle, "x", "--draft", "missing")


OPTIONS: list[tuple[list[object], dict[str, Any]]] = [
    (["--num-beams", 3], {"num_beams": 3}),
    (
        ["--num-beams", 3, "--num-return-sequences", 2, "--length-penalty", 0.5],
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    ),
    (["--num-beams", 2, "--early-stopping", "true"], {"num_beams": 2, "early_stopping": True}),
    (["--num-beams", 2, "--early-stopping", "never"], {"num_beams": 2, "early_stopping": "never"}),
    (["--sample", "--seed", 7, "--top-k", 9], {"do_sample": True, "seed": 7, "top_k": 9}),
    (
        ["--sample", "--seed", 7, "--temperature", 0.7, "--top-p", 0.9, "--min-p", 0.01],
        {"do_sample": True, "seed": 7, "temperature": 0.7, "top_p": 0.9, "min_p": 0.01},
    ),
    (
        ["--repetition-penalty", 1.5, "--no-repeat-ngram-size", 2, "--min-new-tokens", 11],
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 11},
    ),
    (["--encoder-no-repeat-ngram-size", 1], {"encoder_no_repeat_ngram_size": 1}),
    (["--prompt-lookup", 4], {"prompt_lookup_num_tokens": 4}),
    (["--choice", "yes", "--choice", "no, ü"], {"constraint": Choices(("yes", "no, ü"))}),
]


@pytest.mark.parametrize(("flags", "options"), OPTIONS, ids=lambda value: str(value)[:40])
def test_flags_are_the_options_of_their_names(
    flags: list[object], options: dict[str, Any], cli: Cli, byte_bundle: Path
) -> None:
    with Seq2SeqModel.load(byte_bundle) as model:
        config = replace(model.generation_config, max_new_tokens=12, **options)
        expected = model.generate(TEXTS, config)
    found = results(cli, byte_bundle, *TEXTS, "--max-new-tokens", 12, *flags)
    assert [row["source"] for row in found] == [TEXTS[row.source] for row in expected]
    assert [row["token_ids"] for row in found] == [row.token_ids for row in expected]
    assert [row.get("score") for row in found] == pytest.approx([row.score for row in expected])


def test_stop_string_is_reported(cli: Cli, byte_bundle: Path) -> None:
    with Seq2SeqModel.load(byte_bundle) as model:
        text = model.generate(TEXTS[0], max_new_tokens=12)[0].text
    assert text
    (found,) = results(
        cli, byte_bundle, TEXTS[0], "--max-new-tokens", 12, "--stop-string", text[:2]
    )
    assert found["finish_reason"] == "stop_string"
    assert found["text"] == text[:2]


def test_regex_and_json_schema_shape_the_text(cli: Cli, byte_bundle: Path, tmp_path: Path) -> None:
    (found,) = results(cli, byte_bundle, "a text", "--regex", "[0-9]{3}-[a-z]{2}")
    assert re.fullmatch("[0-9]{3}-[a-z]{2}", found["text"])
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["left", "right"]}')
    (found,) = results(cli, byte_bundle, "a text", "--json-schema", schema)
    assert json.loads(found["text"]) in ("left", "right")


def test_stream_prints_what_run_prints(cli: Cli, byte_bundle: Path) -> None:
    limit = ("--max-new-tokens", 40)
    plain = cli("run", byte_bundle, *TEXTS, *limit)
    streamed = cli("run", byte_bundle, *TEXTS, *limit, "--stream")
    assert streamed.returncode == 0
    assert streamed.stderr == b""
    # Both make one line of a text; only where its line breaks go may differ.
    assert [line.split() for line in streamed.stdout.decode().split("\n")] == [
        line.split() for line in plain.stdout.decode().split("\n")
    ]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_long_input_comes_back_in_order(size: int, cli: Cli, byte_bundle: Path) -> None:
    texts = ["x" * (1 + 7 * number % 23) + str(number) for number in range(60)]
    found = results(
        cli, byte_bundle, "--input", "-", "--batch-size", size, "--max-new-tokens", 3,
        input="\n".join(texts).encode(),
    )  # fmt: skip
    assert [row["source"] for row in found] == texts
    with Seq2SeqModel.load(byte_bundle) as model:
        expected = model.generate(texts, max_new_tokens=3)
    assert [row["token_ids"] for row in found] == [row.token_ids for row in expected]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-beams", 0], "num_beams must be at least 1, not 0"),
        (["--num-return-sequences", 2], "num_return_sequences=2 is more than num_beams=1"),
        (["--sample", "--typical-p", 2], "typical_p must be a number above 0 and at most 1, not 2"),
        (["--sample", "--temperature", 0], "temperature must be a number above 0, not 0.0"),
        (["--sample", "--top-p", "nan"], "top_p must be a number above 0 and at most 1, not nan"),
        (["--prompt-lookup", 3, "--num-beams", 2], "prompt_lookup_num_tokens works with greedy"),
        (["--regex", "(("], "the constraint's pattern cannot be used"),
        (["--json-schema", "/nowhere/schema.json"], "cannot read /nowhere/schema.json"),
        (["--stream", "--json"], "--stream prints text as it comes"),
        (["--stream", "--num-beams", 2, "--num-return-sequences", 2], "a stream has one result"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_impossible_options_are_one_line(
    flags: list[object], message: str, refuses: Refuses, byte_bundle: Path
) -> None:
    assert message in refuses("run", byte_bundle, "a text", *flags)


def test_a_bundle_that_asks_for_beams_gets_them(
    cli: Cli, byte_checkpoint: Path, tmp_path: Path
) -> None:
    import shutil

    from seq2edge.export import export_checkpoint

    shutil.copytree(byte_checkpoint, tmp_path / "checkpoint")
    own = tmp_path / "checkpoint" / "generation_config.json"
    own.write_text(json.dumps({**json.loads(own.read_text()), "num_beams": 3, "max_length": 13}))
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", validate=False)
    with Seq2SeqModel.load(tmp_path / "bundle") as model:
        assert model.generation_config == replace(GenerationConfig(), num_beams=3)
        expected = model.generate(
            TEXTS[0], GenerationConfig(num_beams=3, max_new_tokens=12, top_k=50)
        )
    (found,) = results(cli, tmp_path / "bundle", TEXTS[0])
    assert found["token_ids"] == expected[0].token_ids
    assert found["score"] == pytest.approx(expected[0].score)
