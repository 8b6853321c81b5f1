"""How safe a head in two stages is on text is measured on what the bundle is checked on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.quantize import (
    Options,
    QuantizationWarning,
    candidates,
    proposals,
    quantize_bundle,
)
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends.onnxruntime import OrtBackend
from seq2edge.runtime.generation.divergence import TokenPair
from seq2edge.runtime.generation.proposal_ranks import proposal_ranks

TWO_STAGES = "64 tokens proposed by 4 bits"


ASKED = Options(two_stage_head=True)


@pytest.fixture
def source(bundle_of: Callable[[str], Path]) -> Path:
    """A float32 bundle of text."""
    return bundle_of("t5-v1.1")


def lowering_of(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    result = quantize_bundle(source, out, "int8", **options)
    lowering: dict[str, Any] = result.manifest.quantization["lowering"]
    found = "If" in result.manifest.graphs["decoder_cpu"].operators
    assert found == (lowering["head"] == TWO_STAGES)
    return lowering


def test_of_text_only_who_asks_for_it_has_two_stages(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "_LARGE_HEAD", 0)
    for name, options in (("default", Options()), ("no", Options(two_stage_head=False))):
        lowering = lowering_of(source, tmp_path / name, options=options)
        assert lowering["head"] == "whole"
        assert "proposals" not in lowering


def test_the_check_records_how_early_the_right_token_is_proposed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(proposals, "LOWEST_PLACE", 64)
    lowering = lowering_of(source, tmp_path / "int8", options=ASKED)
    assert lowering["head"] == TWO_STAGES
    found = lowering["proposals"]
    assert found["passed"] is True
    assert found["positions"] >= 128
    assert 1 <= found["worst"] <= found["lowest_allowed"] == 64
    assert not [w for w in recwarn if "two stages" in str(w.message)]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "LOWEST_PLACE",
            0,
            r"int8 has .* two stages .*: the whole head's choice is the \d+\.",
        ),
        ("_ENOUGH", 10**6, r"two stages.*: \d+ choices are too few"),
    ],
)
def test_what_is_not_safe_is_warned_of(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: int,
    message: str,
) -> None:
    monkeypatch.setattr(proposals, name, value)
    with pytest.warns(QuantizationWarning, match=message):
        lowering = lowering_of(source, tmp_path / "int8", options=ASKED)
    assert lowering["head"] == TWO_STAGES
    assert lowering["proposals"]["passed"] is False
    assert lowering["proposals"]["worst"] > 0


def test_nothing_is_measured_without_a_check(source: Path, tmp_path: Path) -> None:
    lowering = lowering_of(source, tmp_path / "unchecked", options=ASKED, check=False)
    assert lowering["head"] == TWO_STAGES
    assert "proposals" not in lowering


def test_places_are_those_of_the_whole_heads_choice(source: Path, tmp_path: Path) -> None:
    quantize_bundle(source, tmp_path / "int8", "int8", options=ASKED, check=False)
    bundle = Bundle.open(tmp_path / "int8")
    backend = OrtBackend(bundle, num_threads=1)
    pairs = [TokenPair([7, 8, 1], [5, 9, 200, 1]), TokenPair([30, 1], []), TokenPair([9, 1], [3])]
    ranks = proposal_ranks(backend, bundle.manifest, pairs)
    assert len(ranks) == 5
    # 4 bits move the best of 384 tokens a little, not to the other end.
    assert all(0 <= rank < 64 for rank in ranks)
    assert 0 in ranks
    quantize_bundle(source, tmp_path / "whole", "int8", check=False)
    whole = Bundle.open(tmp_path / "whole")
    assert proposal_ranks(OrtBackend(whole, num_threads=1), whole.manifest, pairs) == []
