"""A manifest that contradicts itself is refused before anything is made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Bundle, BundleError
from seq2edge.runtime.bundle.checks.json_text import MAX_DEPTH, parse_json, read_json_object
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME

from .test_graph_checks import BundleOf, CopyOf, edit_manifest

Change = Callable[[Any], None]


def cache(**values: Any) -> Change:
    """Changes the first cache input of the decoder."""

    def change(raw: Any) -> None:
        specs = raw["graphs"]["decoder"]["inputs"]
        next(spec for spec in specs if spec["name"] == "past_key.0").update(values)

    return change


def put(path: str, value: Any) -> Change:
    """Sets a value by its path."""

    def change(raw: Any) -> None:
        *folders, last = path.split(".")
        for name in folders:
            raw = raw.setdefault(name, {})
        raw[last] = value

    return change


DEEP: Any = 1
for _ in range(MAX_DEPTH + 1):
    DEEP = [DEEP]
CHANGES: list[tuple[Change, str]] = [
    (cache(shape=[0]), "past_key.0 cannot have the shape"),
    (cache(shape=["batch", "heads", "slots", 24]), "past_key.0 cannot be float32"),
    (cache(shape=["batch", 3, "slots", "x"]), "past_key.0 cannot be float32"),
    (cache(shape=["batch", -3, "slots", 24]), "past_key.0 cannot have the shape"),
    (cache(shape=["batch", 3, "slots", 2**62]), "past_key.0 cannot have the shape"),
    (cache(shape=["batch", True, "slots", 24]), "past_key.0 cannot have the shape"),
    (cache(shape=["batch", 4, "slots", 24]), "past_key.0 and present_key.0 differ"),
    (cache(shape=[3] * 50), "past_key.0 cannot have the shape"),
    (cache(dtype="int4"), "past_key.0 cannot be int4"),
    (cache(dtype="float16"), "past_key.0 and present_key.0 differ"),
    (cache(name="past_other"), "inputs that nothing fills: past_other"),
    (put("graphs.decoder.inputs", []), "graphs.decoder lacks attention_mask, input_ids"),
    (put("graphs.encoder.file", "decoder.onnx"), "two graphs have the same file"),
    (put("special_tokens.pad", 2**64), "special_tokens.pad must be a non-negative integer"),
    (put("special_tokens.pad", 384), "special_tokens.pad is 384, outside the vocabulary of 384"),
    (put("special_tokens.decoder_start", 500), "decoder_start is 500, outside the vocabulary"),
    (put("special_tokens.eos", [1, 500]), r"special_tokens.eos\[1\] is 500, outside"),
    (put("dimensions.vocab_size", 10**15), "dimensions.vocab_size is 1000000000000000, and at"),
    (put("dimensions.vocab_size", 100), "logits are not over the vocabulary of 100"),
    (put("dimensions.decoder_layers", 10**6), "decoder_layers is 1000000; at most"),
    (put("dimensions.max_target_length", 0), "max_target_length must be at least 1"),
    (put("tokenizer.size", 10**9), "tokenizer.size is 1000000000, and at most"),
    (put("tokenizer.unknown", 10**6), "tokenizer.unknown is 1000000, outside the vocabulary"),
    (put("quantization", {"scheme": "x"}), "quantization.target must be a string"),
    (
        put("quantization", {"scheme": "int8", "target": {}, "summary": {}}),
        "quantization.target must be a string",
    ),
    (put("quantization", {"parameters": "x"}), "quantization.parameters must be"),
    (
        put("quantization", {"scheme": "a", "target": "cpu", "summary": {"a": "b"}}),
        "quantization.summary must hold numbers",
    ),
    (
        put("quantization", {"scheme": "a", "target": "cpu", "summary": {}, "opset_downgrade": 20}),
        "opset_downgrade must say its opset",
    ),
    (put("generation.stop_strings", DEEP), "more than 64 levels are nested"),
]


@pytest.mark.parametrize("number", range(len(CHANGES)), ids=lambda n: CHANGES[n][1][:40])
def test_what_contradicts_itself_is_refused(
    number: int, bundle_of: BundleOf, copy_of: CopyOf
) -> None:
    change, message = CHANGES[number]
    bundle = copy_of(bundle_of("t5"))
    edit_manifest(bundle, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_more_files_than_a_bundle_has_are_not_looked_for(
    bundle_of: BundleOf, copy_of: CopyOf
) -> None:
    """Fault: a manifest of 20 MB kept a processor busy for a minute."""
    bundle = copy_of(bundle_of("t5"))
    listed = {f"file-{n}": {"size": 0, "sha256": "0" * 64} for n in range(20_000)}
    edit_manifest(bundle, lambda raw: raw["files"].update(listed))
    with pytest.raises(BundleError, match=r"20\d\d\d files are listed; at most 10000"):
        Bundle.open(bundle)


def test_json_of_any_depth_is_an_error(tmp_path: Path) -> None:
    """Fault: RecursionError."""
    for text in ("[" * 2000 + "]" * 2000, '{"a":' * 100 + "1" + "}" * 100, "[" * 10**6):
        with pytest.raises(BundleError, match="nested"):
            parse_json(text.encode(), "it")
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(BundleError, match=r"config\.json is not valid JSON"):
            read_json_object(tmp_path / "config.json")
    assert parse_json(b'{"a": [[[1]], {}]}', "it") == {"a": [[[1]], {}]}


def test_an_integer_that_no_float_holds_is_an_error() -> None:
    with pytest.raises(BundleError, match=r"^it is not valid JSON: an integer has 301 digits$"):
        parse_json(f'{{"a": [1{"0" * 300}]}}', "it")
    assert float(parse_json("9" * 300, "it")) < 1.1e300


def test_a_key_twice_is_an_error(bundle_of: BundleOf, copy_of: CopyOf) -> None:
    """Readers differ in which of the values they take, so none is taken."""
    with pytest.raises(BundleError, match=r"^it has the key 'a' twice in one object$"):
        parse_json('{"b": [{"a": 1, "c": 2, "a": 1}]}', "it")
    assert parse_json('{"a": {"a": 1}, "b": {"a": 1}}', "it") == {"a": {"a": 1}, "b": {"a": 1}}
    bundle = copy_of(bundle_of("t5"))
    file = bundle / MANIFEST_NAME
    file.write_text(file.read_text().replace("{", '{"format_version": 4,', 1))
    with pytest.raises(BundleError, match=r"seq2edge\.json has the key 'format_version' twice"):
        Bundle.open(bundle)


def test_all_kinds_of_bundles_agree_with_themselves(bundle_of: BundleOf) -> None:
    for shape in ("t5", "bart", "marian-separate", "torch"):
        assert json.loads((bundle_of(shape) / MANIFEST_NAME).read_text())
        Bundle.open(bundle_of(shape))
