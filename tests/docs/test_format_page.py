"""docs/bundle-format.md names what bundles have: keys, graphs, files, inputs and outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seq2edge.export import export_checkpoint
from seq2edge.quantize import quantize_bundle
from seq2edge.runtime.bundle.manifest import DTYPE_BITS, FORMAT_VERSION

from ..whisper_models import make_whisper, write_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "bundle-format.md"
NAMED = set(re.findall(r"`([\w.]+)`", PAGE.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def manifests(
    bundle_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Of text and of speech, as exported and as quantized for the CPU."""
    folder = tmp_path_factory.mktemp("format")
    checkpoint = make_whisper("tiny", folder / "whisper")
    write_tokenizer(checkpoint)
    speech = folder / "whisper.bundle"
    export_checkpoint(checkpoint, speech, validate=False)
    quantized = folder / "t5.int8.bundle"
    quantize_bundle(bundle_of("t5"), quantized, "int8")
    found = (bundle_of("t5"), bundle_of("bart"), speech, quantized)
    return [json.loads((bundle / "seq2edge.json").read_text()) for bundle in found]


def test_the_page_is_of_this_version() -> None:
    assert f"# Bundle format, version {FORMAT_VERSION}\n" in PAGE.read_text(encoding="utf-8")


def test_every_key_of_a_manifest_is_on_the_page(manifests: list[dict[str, Any]]) -> None:
    for manifest in manifests:
        assert set(manifest) <= NAMED
        for part in ("dimensions", "special_tokens", "tokenizer"):
            assert set(manifest[part]) <= NAMED, part
        for graph in manifest["graphs"].values():
            assert set(graph) <= NAMED


def test_every_file_and_graph_is_on_the_page(manifests: list[dict[str, Any]]) -> None:
    for manifest in manifests:
        assert set(manifest["files"]) <= NAMED
        assert {f"{name}.onnx" for name in manifest["graphs"]} <= NAMED


def canonical(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Graph, and each of its inputs and outputs; lowered graphs are not for others to write."""
    for name, graph in manifest["graphs"].items():
        if not name.endswith("_cpu"):
            for value in (*graph["inputs"], *graph["outputs"]):
                yield name, re.sub(r"\.\d+$", ".i", value["name"])


def test_every_input_and_output_is_on_the_page(manifests: list[dict[str, Any]]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    _, *parts = re.split(r"^### (\w+)$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    for manifest in manifests:
        for graph, name in canonical(manifest):
            assert f"`{name}`" in sections[graph], f"{graph}: {name}"


def test_no_dtype_is_missing() -> None:
    assert {"int4", "uint4", "bfloat16"} <= set(DTYPE_BITS) & NAMED
