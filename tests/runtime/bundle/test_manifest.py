"""seq2edge.json: its exact bytes, and what is refused on reading."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import BundleError, Manifest
from seq2edge.runtime.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    Dimensions,
    FileInfo,
    GraphInfo,
    SpecialTokens,
    TensorSpec,
    WeightInfo,
)
from seq2edge.runtime.bundle.tokenizer_info import Languages, TokenizerInfo

MANIFEST = Manifest(
    producer="seq2edge 0.1.0",
    family="t5",
    dimensions=Dimensions(
        vocab_size=7,
        d_model=6,
        encoder_layers=1,
        decoder_layers=1,
        decoder_heads=2,
        decoder_head_dim=3,
        max_target_length=80,
    ),
    special_tokens=SpecialTokens(pad=0, decoder_start=0, eos=(1, 2)),
    tokenizer=TokenizerInfo(kind="tokenizers", file="tokenizer.json"),
    graphs={
        "encoder": GraphInfo(
            file="encoder.onnx",
            opset=24,
            precision="float32",
            inputs=(TensorSpec("input_ids", "int64", ("batch", "source")),),
            outputs=(TensorSpec("cross_key.0", "float32", ("batch", 2, "source", 3)),),
            operators={"MatMul": 2, "Gather": 1},
            weight_bytes=144,
        ),
        "decoder": GraphInfo(
            file="decoder.onnx",
            opset=24,
            precision="float32",
            inputs=(
                TensorSpec("past_key.0", "float32", ("batch", 2, "slots", 3)),
                TensorSpec("past_value.0", "float16", ("batch", 2, "slots", 3)),
            ),
            outputs=(TensorSpec("next_token_ids", "int64", ("batch", "queries")),),
            operators={"Gemm": 1},
            weight_bytes=168,
        ),
    },
    weights={
        "embedding.weight": WeightInfo("float32", (7, 6), 0, 168),
        "encoder.norm.weight": WeightInfo("float32", (6,), 192, 24),
    },
    files={
        "weights.bin": FileInfo(216, "ab"),
        "encoder.onnx": FileInfo(10, "cd"),
        "decoder.onnx": FileInfo(11, "ef"),
    },
    generation={"max_length": 20, "do_sample": False, "name": "é"},
    quantization={"scheme": "int8", "layers": {"embedding": "int8"}},
)

GOLDEN = rb"""{
  "cache": "slots",
  "dimensions": {
    "d_model": 6,
    "decoder_head_dim": 3,
    "decoder_heads": 2,
    "decoder_layers": 1,
    "encoder_layers": 1,
    "max_source_length": null,
    "max_target_length": 80,
    "source_vocab_size": null,
    "vocab_size": 7
  },
  "family": "t5",
  "files": {
    "decoder.onnx": {
      "sha256": "ef",
      "size": 11
    },
    "encoder.onnx": {
      "sha256": "cd",
      "size": 10
    },
    "weights.bin": {
      "sha256": "ab",
      "size": 216
    }
  },
  "format_version": 4,
  "generation": {
    "do_sample": false,
    "max_length": 20,
    "name": "\u00e9"
  },
  "graphs": {
    "decoder": {
      "file": "decoder.onnx",
      "inputs": [
        {
          "dtype": "float32",
          "name": "past_key.0",
          "shape": [
            "batch",
            2,
            "slots",
            3
          ]
        },
        {
          "dtype": "float16",
          "name": "past_value.0",
          "shape": [
            "batch",
            2,
            "slots",
            3
          ]
        }
      ],
      "operators": {
        "Gemm": 1
      },
      "opset": 24,
      "outputs": [
        {
          "dtype": "int64",
          "name": "next_token_ids",
          "shape": [
            "batch",
            "queries"
          ]
        }
      ],
      "precision": "float32",
      "weight_bytes": 168
    },
    "encoder": {
      "file": "encoder.onnx",
      "inputs": [
        {
          "dtype": "int64",
          "name": "input_ids",
          "shape": [
            "batch",
            "source"
          ]
        }
      ],
      "operators": {
        "Gather": 1,
        "MatMul": 2
      },
      "opset": 24,
      "outputs": [
        {
          "dtype": "float32",
          "name": "cross_key.0",
          "shape": [
            "batch",
            2,
            "source",
            3
          ]
        }
      ],
      "precision": "float32",
      "weight_bytes": 144
    }
  },
  "parameter_count": 0,
  "producer": "seq2edge 0.1.0",
  "quantization": {
    "layers": {
      "embedding": "int8"
    },
    "scheme": "int8"
  },
  "special_tokens": {
    "bos": null,
    "decoder_start": 0,
    "eos": [
      1,
      2
    ],
    "pad": 0
  },
  "target_tokenizer": null,
  "tokenizer": {
    "added_tokens": [],
    "byte_offset": 0,
    "file": "tokenizer.json",
    "kind": "tokenizers",
    "languages": null,
    "max_length": null,
    "origin": "",
    "size": null,
    "unknown": null
  },
  "weights": {
    "embedding.weight": {
      "dtype": "float32",
      "length": 168,
      "offset": 0,
      "shape": [
        7,
        6
      ]
    },
    "encoder.norm.weight": {
      "dtype": "float32",
      "length": 24,
      "offset": 192,
      "shape": [
        6
      ]
    }
  }
}
"""


def edited(change: Callable[[Any], None]) -> bytes:
    """The golden manifest after ``change`` has edited its JSON value."""
    raw = json.loads(GOLDEN)
    change(raw)
    return json.dumps(raw).encode()


def test_bytes_are_exactly_these() -> None:
    assert MANIFEST.to_bytes() == GOLDEN


def test_reading_gives_back_what_was_written() -> None:
    assert Manifest.from_bytes(GOLDEN) == MANIFEST


def test_an_exported_manifest_is_canonical(bundle_of: Callable[[str], Path]) -> None:
    data = (bundle_of("t5") / MANIFEST_NAME).read_bytes()
    assert Manifest.from_bytes(data).to_bytes() == data


def test_parameters_count_every_tensor_once() -> None:
    assert MANIFEST.parameters == 7 * 6 + 6


def test_cache_bytes_per_slot_follow_each_cache_dtype() -> None:
    assert MANIFEST.cache_bytes_per_slot == 2 * 3 * 4 + 2 * 3 * 2


def test_newer_format_says_upgrade_or_export_again() -> None:
    newer = FORMAT_VERSION + 1
    data = edited(lambda raw: raw.update(format_version=newer))
    message = rf"format {newer} is newer .*\({FORMAT_VERSION}\); upgrade seq2edge, or export"
    with pytest.raises(BundleError, match=message):
        Manifest.from_bytes(data)


def test_an_older_format_says_export_again() -> None:
    data = edited(lambda raw: raw.update(format_version=3))
    with pytest.raises(BundleError, match=r"format 3 is of an older seq2edge.*export the check"):
        Manifest.from_bytes(data)


def test_newer_format_is_refused_before_its_fields_are_read() -> None:
    with pytest.raises(BundleError, match="newer"):
        Manifest.from_bytes(b'{"format_version": 9}')


@pytest.mark.parametrize("version", [None, "1", 0, 1.5])
def test_format_version_must_be_a_positive_integer(version: object) -> None:
    with pytest.raises(BundleError, match="no valid format_version"):
        Manifest.from_bytes(edited(lambda raw: raw.update(format_version=version)))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe{}", GOLDEN[:-3]])
def test_broken_json_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"seq2edge\.json is not valid JSON"):
        Manifest.from_bytes(data)


@pytest.mark.parametrize("data", [b"[]", b"null", b'"text"'])
def test_json_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="must hold a JSON object"):
        Manifest.from_bytes(data)


def test_all_malformed_fields_are_listed_at_once() -> None:
    def damage(raw: Any) -> None:
        del raw["family"]
        raw["dimensions"]["d_model"] = "6"
        raw["dimensions"]["vocab_size"] = -7
        raw["dimensions"]["max_target_length"] = 1.5
        raw["special_tokens"]["eos"] = [1, True]
        raw["tokenizer"] = []
        raw["graphs"]["encoder"]["inputs"] = {}
        raw["graphs"]["encoder"]["outputs"][0]["shape"] = [None]
        raw["graphs"]["encoder"]["outputs"][0]["dtype"] = "complex64"
        raw["graphs"]["encoder"]["operators"]["MatMul"] = "two"
        del raw["graphs"]["decoder"]
        raw["weights"]["embedding.weight"]["dtype"] = "float31"
        raw["weights"]["encoder.norm.weight"] = None
        raw["files"]["weights.bin"] = {"size": True}
        raw["generation"] = None

    with pytest.raises(BundleError) as caught:
        Manifest.from_bytes(edited(damage))
    for problem in (
        "family must be a string",
        "dimensions.d_model must be a non-negative integer",
        "dimensions.vocab_size must be a non-negative integer",
        "dimensions.max_target_length must be a non-negative integer",
        "special_tokens.eos must hold non-negative integers",
        "tokenizer must be an object",
        "graphs.encoder.inputs must be a list",
        "graphs.encoder.outputs.shape must hold integers and names",
        "graphs.encoder.outputs.dtype 'complex64' is unknown",
        "graphs.encoder.operators.MatMul must be a non-negative integer",
        "weights.embedding.weight.dtype 'float31' is unknown",
        "weights.encoder.norm.weight.shape must be a list",
        "files.weights.bin.size must be a non-negative integer",
        "files.weights.bin.sha256 must be a string",
        "generation must be an object",
    ):
        assert problem in str(caught.value)


MULTILINGUAL = replace(
    MANIFEST,
    tokenizer=replace(
        MANIFEST.tokenizer,
        size=5,
        unknown=3,
        languages=Languages({"en": 4, "fr": 5}, "start", "forced_bos", "en"),
    ),
)


def test_languages_and_unknown_pieces_come_back_as_written() -> None:
    assert Manifest.from_bytes(MULTILINGUAL.to_bytes()) == MULTILINGUAL


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("codes", {"en": -1}, "languages.codes.en must be a non-negative integer"),
        ("codes", [], "languages.codes must be an object"),
        ("source", "middle", "languages.source 'middle' is unknown"),
        ("target", 7, "languages.target must be a string"),
        ("default_source", 3, "languages.default_source must be a string"),
    ],
)
def test_malformed_languages_are_refused(key: str, value: object, problem: str) -> None:
    raw = json.loads(MULTILINGUAL.to_bytes())
    raw["tokenizer"]["languages"][key] = value
    with pytest.raises(BundleError, match=re.escape(problem)):
        Manifest.from_bytes(json.dumps(raw).encode())
