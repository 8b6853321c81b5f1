"""A BART saved without its head (``BartModel``): tensor names lack the ``model.`` prefix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import BartForConditionalGeneration

from seq2edge.export import ExportResult


def test_headless_checkpoint_gives_the_bundle_of_the_whole_model(
    editable: Callable[..., Path],
    edit_tensors: Callable[[Path, Callable[[dict[str, Any]], object]], None],
    export: Callable[..., ExportResult],
    greedy_tokens: Callable[[Path], list[list[int]]],
) -> None:
    checkpoint = editable("bart")
    model = BartForConditionalGeneration.from_pretrained(checkpoint)
    model.final_logits_bias.zero_()  # what transformers fills in where it is missing
    whole, headless = checkpoint.parent / "whole", checkpoint.parent / "headless"
    model.save_pretrained(whole)
    model.model.save_pretrained(headless)
    model.generation_config.save_pretrained(headless)

    def has_no_prefix(tensors: dict[str, Any]) -> None:
        assert not any(name.startswith("model.") for name in tensors)

    edit_tensors(headless, has_no_prefix)
    found = greedy_tokens(export(headless, "headless").path)
    assert found == greedy_tokens(export(whole, "whole").path)
    assert len({tuple(row) for row in found}) > 1
