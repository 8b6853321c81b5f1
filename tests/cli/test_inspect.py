"""``seq2edge inspect``: its numbers are those of the PyTorch model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def inspect(cli: Cli, bundle_of: Callable[[str], Path]) -> Callable[[str], dict[str, Any]]:
    """A function from a shape to what inspect --json says of its bundle."""

    def get(shape: str) -> dict[str, Any]:
        result = cli("inspect", bundle_of(shape), "--json")
        assert result.returncode == 0, result.stderr.decode()
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    return get


def load(checkpoint: Path) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(checkpoint)


@pytest.mark.parametrize("shape", ["t5", "t5-v1.1", "umt5", "bart"])
def test_parameters_are_those_of_the_torch_model(
    shape: str,
    inspect: Callable[[str], dict[str, Any]],
    checkpoint_of: Callable[[str], Path],
    bundle_of: Callable[[str], Path],
) -> None:
    manifest = json.loads((bundle_of(shape) / "seq2edge.json").read_text())
    # Relative biases are expanded from buckets to distances, so they have other sizes.
    expanded = sum(
        math.prod(info["shape"]) for name, info in manifest["weights"].items() if ".bias." in name
    )
    model = load(checkpoint_of(shape))
    expected = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()  # a tied tensor comes once
        if "relative_attention_bias" not in name
    )
    if shape == "bart":
        expected += model.final_logits_bias.numel()  # a buffer
        expected -= 2 * 2 * model.config.d_model  # two unused position rows on each side
    assert (expanded > 0) == (shape != "bart")
    assert inspect(shape)["parameters"] == expected + expanded


@pytest.mark.parametrize("shape", ["t5", "t5-v1.1"])
def test_bytes_read_per_token_are_those_of_the_decoder(
    shape: str,
    inspect: Callable[[str], dict[str, Any]],
    checkpoint_of: Callable[[str], Path],
) -> None:
    model = load(checkpoint_of(shape))
    # Cross-attention keys and values are the encoder graph's; tables are only looked up.
    other = ("EncDecAttention.k.", "EncDecAttention.v.", "relative_attention_bias", "embed_tokens")
    elements = model.lm_head.weight.numel() + sum(
        parameter.numel()
        for name, parameter in model.decoder.named_parameters()
        if not any(part in name for part in other)
    )
    assert inspect(shape)["bytes_read_per_token"] == 4 * elements


@pytest.mark.parametrize(
    ("shape", "layers", "width"), [("t5", 2, 3 * 24), ("umt5", 3, 3 * 24), ("bart", 3, 64)]
)
def test_cache_bytes_per_slot_are_keys_and_values_of_all_layers(
    shape: str, layers: int, width: int, inspect: Callable[[str], dict[str, Any]]
) -> None:
    assert inspect(shape)["cache_bytes_per_slot"] == 2 * layers * width * 4


def test_json_tells_files_limits_and_graphs(
    inspect: Callable[[str], dict[str, Any]], bundle_of: Callable[[str], Path]
) -> None:
    report = inspect("bart")
    sizes = {file.name: file.stat().st_size for file in bundle_of("bart").iterdir()}
    del sizes["seq2edge.json"]
    assert report["bundle"] == str(bundle_of("bart"))
    assert report["files"] == sizes
    assert report["bytes"] == sum(sizes.values())
    assert report["format_version"] == 4
    assert (report["encoder_layers"], report["decoder_layers"]) == (2, 3)
    assert (report["d_model"], report["vocab_size"]) == (64, 400)
    assert report["max_source_length"] == report["max_target_length"] == 80
    assert inspect("t5")["max_source_length"] is None
    assert report["tokenizer"] == "none"
    assert report["generation"]["forced_eos_token_id"] == 2
    assert report["graphs"]["decoder"]["operators"]["TensorScatter"] == 2 * 3
    assert report["graphs"]["encoder"]["opset"] == 24
    assert report["graphs"]["encoder"]["precision"] == "float32"
    assert report["verified"] is False


def test_text_tells_the_same_for_people(
    cli: Cli, byte_bundle: Path, inspect: Callable[[str], dict[str, Any]]
) -> None:
    result = cli("inspect", byte_bundle, "--verify")
    assert (result.returncode, result.stderr) == (0, b"")
    text = result.stdout.decode()
    rows = {line[:14].strip(): line[14:] for line in text.splitlines() if line[:14].strip()}
    report = inspect("t5-v1.1")
    assert rows["family"].startswith("t5: 3 + 2 layers, width 48, vocabulary 384")
    assert rows["parameters"] == f"{report['parameters']:,}"
    assert rows["size"].endswith(" kB")
    assert rows["source"] == "no fixed limit; target no fixed limit"
    assert rows["tokenizer"] == "byte"
    assert "              from tokenizer_config.json, bytes" in text.splitlines()
    assert rows["each token"] == f"reads {report['bytes_read_per_token'] / 1e3:.1f} kB of weights"
    assert rows["cache"].startswith(f"{report['cache_bytes_per_slot'] / 1e3:.1f} kB per slot")
    assert rows["decoder"].startswith("float32, opset 24: ")
    assert rows["verified"].startswith("every file has the SHA-256")


def test_text_does_not_claim_to_have_verified(cli: Cli, byte_bundle: Path) -> None:
    assert b"verified" not in cli("inspect", byte_bundle).stdout
